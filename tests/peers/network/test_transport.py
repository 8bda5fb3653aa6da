"""Peers ask and answer each other through real p2pd processes on loopback."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from p2pd_peers import LOOPBACK, NOBODY, OTHER_RUN, RUN, OpenPeer, answer_to, echo, open_peer, presence_of

from peers.network.p2pd.transport import P2pdTransport
from peers.network.peer_scores import Limits
from peers.network.presence import sign_presence
from peers.network.transport import RemoteError, Request
from recipes.errors import DataError, MessageError, NetworkError, UnreachableError
from recipes.keys.keys import PeerId, load_or_create_key

__all__ = ["open_peer"]  # the fixture


async def test_megabytes_pass_whole_and_are_counted_by_purpose_at_both_ends(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna)
    anna.serve("echo", echo, limit=3 << 20, purpose="segments")
    body = os.urandom(3 << 20)
    before = bert.traffic.statistics()
    assert (
        await bert.call(anna.peer_id, Request("echo", body, limit=3 << 20, timeout=20, purpose="segments"))
        == body
    )
    asked, served = bert.traffic.statistics(), anna.traffic.statistics()
    head_of_request, head_of_response = 1 + len("echo") + 4, 5
    assert asked.sent == served.received == {"segments": len(body) + head_of_request}
    assert asked.received == served.sent == {"segments": len(body) + head_of_response}
    assert asked.sent_bytes == len(body) + head_of_request
    assert before.sent == {}  # a snapshot stays as it was


async def test_requests_that_nobody_serves_or_that_are_too_long_are_refused(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna)
    anna.serve("echo", echo, limit=1000)
    with pytest.raises(RemoteError, match="Nobody here serves 'dance'"):
        await bert.call(anna.peer_id, Request("dance", b"", limit=0, timeout=10))
    for length in (1001, 8 << 20):  # the refusal arrives also while the body is still being sent
        with pytest.raises(RemoteError, match="too long: 1000 are allowed"):
            await bert.call(anna.peer_id, Request("echo", bytes(length), limit=0, timeout=10))


async def test_a_handlers_refusal_is_passed_on_but_not_its_other_troubles(
    open_peer: OpenPeer, caplog: pytest.LogCaptureFixture
) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna)

    async def refuse(_: PeerId, __: bytes) -> bytes:
        raise MessageError("no such piece")

    async def fail(_: PeerId, __: bytes) -> bytes:
        raise DataError("/home/anna/.manyhands/secret is missing")

    async def stumble(_: PeerId, __: bytes) -> bytes:
        raise ZeroDivisionError("a fault")

    for kind, handler in {"refuse": refuse, "fail": fail, "stumble": stumble, "echo": echo}.items():
        anna.serve(kind, handler, limit=10)
    with pytest.raises(RemoteError, match=r"^no such piece$"):
        await bert.call(anna.peer_id, Request("refuse", b"", limit=0, timeout=10))
    with pytest.raises(RemoteError, match=r"^cannot answer now$"):
        await bert.call(anna.peer_id, Request("fail", b"", limit=0, timeout=10))
    with caplog.at_level(logging.ERROR), pytest.raises(UnreachableError, match="hung up"):
        await bert.call(anna.peer_id, Request("stumble", b"", limit=0, timeout=10))
    assert "a fault" in caplog.text  # ours to mend
    assert (
        await bert.call(anna.peer_id, Request("echo", b"still here", limit=10, timeout=10)) == b"still here"
    )


async def test_a_peer_cannot_hold_more_requests_than_its_share(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna", limits=Limits(requests_per_peer=2))
    bert = await open_peer("bert", via=anna)
    cleo = await open_peer("cleo", via=anna)
    arrived, release = asyncio.Semaphore(0), asyncio.Event()

    async def wait(_: PeerId, body: bytes) -> bytes:
        arrived.release()
        await release.wait()
        return body

    anna.serve("wait", wait, limit=10)
    anna.serve("echo", echo, limit=20)
    held = [
        asyncio.create_task(bert.call(anna.peer_id, Request("wait", b"x", limit=1, timeout=20)))
        for _ in range(2)
    ]
    for _ in held:
        await asyncio.wait_for(arrived.acquire(), 10)
    with pytest.raises(RemoteError, match="busy"):
        await bert.call(anna.peer_id, Request("echo", b"", limit=0, timeout=10))
    assert (
        await cleo.call(anna.peer_id, Request("echo", b"others pass", limit=20, timeout=10)) == b"others pass"
    )
    release.set()
    assert await asyncio.gather(*held) == [b"x", b"x"]
    assert await bert.call(anna.peer_id, Request("echo", b"again", limit=10, timeout=10)) == b"again"


async def test_a_peer_that_stalls_in_mid_request_is_cut_off(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna", limits=Limits(stall_seconds=0.1, slowest_bytes_per_second=1e6))
    bert = await open_peer("bert", via=anna)
    anna.serve("echo", echo, limit=1000)

    for stalled in (b"", b"\x04ec", b"\x04echo\x00\x00\x00\x64half"):
        with pytest.raises(asyncio.IncompleteReadError):
            await answer_to(stalled, asker=bert, answerer=anna)


async def test_a_malformed_request_is_refused(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna)
    with pytest.raises(RemoteError, match="255 bytes; 1 to 32 are allowed"):
        await answer_to(b"\xffgarbage", asker=bert, answerer=anna)


async def test_when_no_bootstrap_peer_answers_each_address_is_named_with_the_reason(tmp_path: Path) -> None:
    tried = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{NOBODY}" for port in (9, 10)]
    with pytest.raises(UnreachableError) as caught:
        await P2pdTransport.open(key_path=tmp_path / "key", run_id=RUN, listen=LOOPBACK, bootstrap=tried)
    for address in tried:
        assert f"\n  {address}: " in str(caught.value)
    assert "connection refused" in str(caught.value)


async def test_one_bootstrap_peer_that_answers_is_enough(open_peer: OpenPeer, tmp_path: Path) -> None:
    anna = await open_peer("anna")
    bootstrap = [f"/ip4/127.0.0.1/tcp/9/p2p/{NOBODY}", *await anna.addresses()]
    async with await P2pdTransport.open(
        key_path=tmp_path / "key", run_id=RUN, listen=LOOPBACK, bootstrap=bootstrap
    ) as bert:
        assert anna.peer_id in await bert.connected()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bootstrap": ["/ip4/127.0.0.1/tcp/9"]}, "'/ip4/127.0.0.1/tcp/9' is not the address of a peer"),
        ({"bootstrap": [f"/ip4/127.0.0.256/tcp/9/p2p/{NOBODY}"]}, "'127.0.0.256' is not IPv4"),
        ({"listen": ["127.0.0.1:31330"]}, "Must begin with /"),
        ({"listen": LOOPBACK, "announce": ["/ip4/127.0.0.1/tcp/99999"]}, "not in range"),
    ],
)
async def test_a_malformed_address_is_refused_before_anything_starts(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(NetworkError, match=words):
        await P2pdTransport.open(key_path=tmp_path / "key", run_id=RUN, **options)


async def test_after_close_nothing_runs_on(open_peer: OpenPeer) -> None:
    before = asyncio.all_tasks()
    anna = await open_peer("anna")
    stopped = asyncio.Event()

    async def wait(_: PeerId, __: bytes) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return b""

    anna.serve("wait", wait, limit=0)
    await anna.close()
    with pytest.raises(ProcessLookupError):
        os.kill(anna._uplink.daemon.process_id, 0)
    assert not anna._uplink.daemon.folder.path.exists()
    assert asyncio.all_tasks() <= before


async def test_peers_that_met_only_a_bootstrap_peer_find_each_other_on_the_board(open_peer: OpenPeer) -> None:
    middle = await open_peer("middle", run_id=None)
    anna = await open_peer("anna", via=middle)
    bert = await open_peer("bert", via=middle)
    assert await anna.announce(await presence_of(anna))
    assert await bert.announce(await presence_of(bert))
    found = await bert.roll_call()
    assert set(found) == {anna.peer_id, bert.peer_id}
    assert found[anna.peer_id].round == 3
    anna.serve("echo", echo, limit=10)
    await bert.connect(anna.peer_id, found[anna.peer_id].addresses)
    await middle.close()
    assert await bert.call(anna.peer_id, Request("echo", b"hello", limit=10, timeout=10)) == b"hello"
    assert anna.peer_id in await bert.roll_call()  # the board outlives the bootstrap peer


async def test_only_the_writers_own_notice_gets_onto_the_board(open_peer: OpenPeer, tmp_path: Path) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna)
    key = load_or_create_key(tmp_path / "bert.key")
    notice = sign_presence(await presence_of(bert), key)
    name = f"manyhands/{RUN}/peers"

    async def post(name: str, subkey: str | None, value: object, seconds: float) -> bool:
        node = bert._uplink.board._node
        stored: bool = await node.store(name, value, time.time() + seconds, subkey=subkey, exclude_self=True)
        return stored

    assert not await post(name, anna.peer_id, notice, 60)  # as somebody else
    assert not await post(name, None, notice, 60)  # in place of everybody's
    assert not await post("other/key", bert.peer_id, notice, 60)
    assert not await post(name, bert.peer_id, notice, 300)  # for too long
    assert not await post(name, bert.peer_id, notice + b" ", 60)
    assert not await post(name, bert.peer_id, {"presence": 1}, 60)
    assert not await post(name, bert.peer_id, bytes(100_000), 60)
    assert await anna.roll_call() == {}
    assert await post(name, bert.peer_id, notice, 60)
    assert set(await anna.roll_call()) == {bert.peer_id}


async def test_a_board_does_not_keep_notices_of_another_run(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert", via=anna, run_id=OTHER_RUN)
    await bert.announce(await presence_of(bert, run=OTHER_RUN))
    assert await anna._uplink.board.read(OTHER_RUN) == {}
    assert set(await bert.roll_call()) == {bert.peer_id}


async def test_addresses_of_other_peers_are_not_dialled_for_this_one(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    bert = await open_peer("bert")
    with pytest.raises(UnreachableError, match=f"Cannot reach {NOBODY} at {(await anna.addresses())[0]}"):
        await bert.connect(NOBODY, await anna.addresses(), timeout=5)
    assert anna.peer_id not in await bert.connected()
