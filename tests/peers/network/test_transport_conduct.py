"""Who misbehaves through a real p2pd is counted, and in the end neither answered nor asked."""

from __future__ import annotations

import contextlib

import pytest
from p2pd_peers import OpenPeer, Told, answer_to, echo, open_peer

from peers.network.peer_scores import ALLOWANCES, OF_A_LATER_BUILD, STRIKES, Allowance, Conduct
from peers.network.token_bucket import Rate
from peers.network.transport import RemoteError, Request
from peers.protocol.events import Banned
from recipes.errors import MessageError, Offence, UnreachableError
from recipes.keys.keys import PeerId

__all__ = ["open_peer"]  # the fixture


async def test_a_peer_that_sends_garbage_again_and_again_is_neither_answered_nor_asked(
    open_peer: OpenPeer,
) -> None:
    told = Told()
    anna = await open_peer("anna", listener=told)
    bert = await open_peer("bert", via=anna)
    cleo = await open_peer("cleo", via=anna)
    anna.serve("echo", echo, limit=20)
    for _ in range(STRIKES):
        with pytest.raises(RemoteError, match="1 to 32 are allowed"):
            await answer_to(b"\xffgarbage", asker=bert, answerer=anna)
    ban = await told.next(Banned)
    assert (ban.peer, ban.seconds, ban.reasons) == (bert.peer_id, 120.0, {"malformed": STRIKES})
    with pytest.raises(UnreachableError, match="hung up"):
        await bert.call(anna.peer_id, Request("echo", b"", limit=10, timeout=10))
    with pytest.raises(UnreachableError, match="is banned for 1"):
        await anna.call(bert.peer_id, Request("echo", b"", limit=10, timeout=10))
    with pytest.raises(UnreachableError, match="is banned for 1"):
        await anna.connect(bert.peer_id, await bert.addresses())
    assert (
        await cleo.call(anna.peer_id, Request("echo", b"others pass", limit=20, timeout=10)) == b"others pass"
    )
    statistics = anna.conduct()
    assert statistics.banned == (bert.peer_id,)
    assert statistics.turned_away == 1
    assert statistics.offences == {Offence.MALFORMED: STRIKES}


async def test_requests_too_long_count_against_a_peer_and_refusals_do_not(
    open_peer: OpenPeer,
) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna)
    anna.serve("echo", echo, limit=10)
    anna.serve("piece", not_here, limit=10)
    for kind, body in (("echo", bytes(11)), ("dance", b""), ("block", b""), ("piece", b""), ("echo", b"")):
        with contextlib.suppress(RemoteError):
            await bert.call(anna.peer_id, Request(kind, body, limit=0, timeout=10))
    assert anna.conduct().offences == {Offence.OVERSIZED: 1}


async def test_a_peer_may_ask_for_a_few_kinds_of_a_later_build_and_is_to_blame_if_it_goes_on(
    open_peer: OpenPeer,
) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna)
    few = int(ALLOWANCES[OF_A_LATER_BUILD].requests.burst)

    async def ask(times: int) -> None:
        for number in range(times):
            with contextlib.suppress(RemoteError):
                await bert.call(anna.peer_id, Request(f"later-{number}", b"", limit=0, timeout=10))

    await ask(few)
    assert anna.conduct().offences == {}
    await ask(3)
    assert 0 < anna.conduct().offences[Offence.UNKNOWN_KIND] <= 3


async def not_here(_: PeerId, __: bytes) -> bytes:
    raise MessageError("that piece is not here")


async def test_a_handler_that_finds_an_offence_has_it_counted_once(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna)

    async def look_closely(peer: PeerId, _: bytes) -> bytes:
        error = MessageError("forged", offence=Offence.FORGED)
        anna.blame(peer, error)
        raise error

    anna.serve("claim", look_closely, limit=10)
    with pytest.raises(RemoteError, match="forged"):
        await bert.call(anna.peer_id, Request("claim", b"", limit=0, timeout=10))
    assert anna.conduct().offences == {Offence.FORGED: 1}


async def test_an_answer_longer_than_asked_for_counts_against_its_sender(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna)
    anna.serve("echo", echo, limit=100)
    with pytest.raises(MessageError, match="where 3 are allowed"):
        await bert.call(anna.peer_id, Request("echo", b"long", limit=3, timeout=10))
    assert bert.conduct().offences == {Offence.OVERSIZED: 1}
    assert anna.conduct().offences == {}


async def test_requests_beyond_a_peers_rate_are_refused_as_busy(open_peer: OpenPeer) -> None:
    slow = Conduct(allowances={"echo": Allowance(Rate(0.001, 2))})
    anna = await open_peer("anna", conduct=slow)
    bert = await open_peer("bert", via=anna)
    cleo = await open_peer("cleo", via=anna)
    anna.serve("echo", echo, limit=10)
    for _ in range(2):
        await bert.call(anna.peer_id, Request("echo", b"", limit=0, timeout=10))
    with pytest.raises(RemoteError, match="busy"):
        await bert.call(anna.peer_id, Request("echo", b"", limit=0, timeout=10))
    await cleo.call(anna.peer_id, Request("echo", b"", limit=0, timeout=10))
    assert anna.conduct().offences == {Offence.TOO_MANY: 1}
