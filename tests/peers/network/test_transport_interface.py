"""One interface, and what stands behind it: p2pd, this process alone, or a transport of a reader's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

import pytest
from p2pd_peers import NOBODY, OpenPeer, echo, open_peer, presence_of
from replicas import World

from peers.network.loopback import LoopbackNetwork
from peers.network.peer_scores import Conduct, ConductStatistics
from peers.network.presence import Presence
from peers.network.traffic import TrafficMeter
from peers.network.transport import (
    CONNECT_SECONDS,
    Handler,
    Introducer,
    RemoteError,
    Request,
    Transport,
)
from recipes.errors import DataError, MessageError, UnreachableError
from recipes.keys.keys import PeerId, SigningKey

__all__ = ["open_peer"]  # the fixture

ANNA, BERT = (SigningKey(bytes([number] * 32)).peer_id for number in (1, 2))


@pytest.fixture(params=["p2pd", "loopback"])
async def pair(request: pytest.FixtureRequest, open_peer: OpenPeer) -> AsyncIterator[list[Transport]]:
    """Two peers that met, on the transport that the test runs with."""
    if request.param == "p2pd":
        anna = await open_peer("anna")
        yield [anna, await open_peer("bert", via=anna)]
        return
    network = LoopbackNetwork()
    peers: list[Transport] = [network.join(ANNA), network.join(BERT)]
    await peers[1].connect(ANNA, await peers[0].addresses())
    yield peers


def asking(kind: str, body: bytes = b"", *, limit: int = 100, timeout: float = 10) -> Request:
    return Request(kind, body, limit=limit, timeout=timeout)


async def test_a_request_is_answered_and_the_answerer_knows_which_peer_asked(pair: list[Transport]) -> None:
    anna, bert = pair

    async def greet(peer: PeerId, body: bytes) -> bytes:
        return body + b" " + peer.encode()

    anna.serve("greet", greet, limit=10)
    assert await bert.call(anna.peer_id, asking("greet", b"hello")) == b"hello " + bert.peer_id.encode()


async def test_bytes_are_counted_at_both_ends_as_they_are_on_the_wire(pair: list[Transport]) -> None:
    anna, bert = pair
    anna.serve("echo", echo, limit=1000, purpose="segments")
    await bert.call(anna.peer_id, Request("echo", bytes(700), limit=1000, timeout=10, purpose="segments"))
    asked, served = bert.traffic.statistics(), anna.traffic.statistics()
    assert asked.sent == served.received == {"segments": 700 + 1 + len("echo") + 4}
    assert asked.received == served.sent == {"segments": 700 + 5}


async def test_an_answer_above_the_callers_limit_is_refused_by_the_caller(pair: list[Transport]) -> None:
    anna, bert = pair
    anna.serve("echo", echo, limit=100)
    with pytest.raises(MessageError, match="100 bytes where 99 are allowed"):
        await bert.call(anna.peer_id, asking("echo", bytes(100), limit=99))
    assert sum(bert.conduct().offences.values()) == 1


async def test_a_request_above_the_answerers_limit_is_refused(pair: list[Transport]) -> None:
    anna, bert = pair
    anna.serve("echo", echo, limit=100)
    with pytest.raises(RemoteError, match="'echo' with 101 bytes is too long: 100 are allowed"):
        await bert.call(anna.peer_id, asking("echo", bytes(101)))


async def test_a_kind_that_nobody_serves_is_refused(pair: list[Transport]) -> None:
    anna, bert = pair
    with pytest.raises(RemoteError, match="Nobody here serves 'dance'"):
        await bert.call(anna.peer_id, asking("dance"))


async def test_a_handlers_refusal_is_passed_on_but_not_its_other_troubles(pair: list[Transport]) -> None:
    anna, bert = pair

    async def refuse(_: PeerId, __: bytes) -> bytes:
        raise MessageError("no such piece")

    async def fail(_: PeerId, __: bytes) -> bytes:
        raise DataError("/home/anna/.manyhands/secret is missing")

    async def stumble(_: PeerId, __: bytes) -> bytes:
        raise ZeroDivisionError("a fault")

    for kind, handler in {"refuse": refuse, "fail": fail, "stumble": stumble}.items():
        anna.serve(kind, handler, limit=0)
    with pytest.raises(RemoteError, match=r"^no such piece$"):
        await bert.call(anna.peer_id, asking("refuse"))
    with pytest.raises(RemoteError, match=r"^cannot answer now$"):
        await bert.call(anna.peer_id, asking("fail"))
    with pytest.raises(UnreachableError, match="hung up instead of answering 'stumble'"):
        await bert.call(anna.peer_id, asking("stumble"))


async def test_a_call_ends_in_time_and_then_its_handler_is_cancelled(pair: list[Transport]) -> None:
    anna, bert = pair
    cancelled = asyncio.Event()

    async def never(_: PeerId, __: bytes) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    anna.serve("never", never, limit=0)
    with pytest.raises(UnreachableError, match=f"{anna.peer_id} did not answer 'never' within 0.3 s"):
        await bert.call(anna.peer_id, asking("never", timeout=0.3))
    await asyncio.wait_for(cancelled.wait(), 10)


async def test_a_peer_that_does_not_exist_or_has_left_is_unreachable(pair: list[Transport]) -> None:
    anna, bert = pair
    with pytest.raises(UnreachableError, match=NOBODY):
        await bert.call(NOBODY, asking("echo"))
    await anna.close()
    with pytest.raises(UnreachableError, match=anna.peer_id):
        await bert.call(anna.peer_id, asking("echo"))


async def test_a_caller_whose_peer_leaves_meanwhile_learns_of_it(pair: list[Transport]) -> None:
    anna, bert = pair
    arrived = asyncio.Event()

    async def wait(_: PeerId, __: bytes) -> bytes:
        arrived.set()
        return await asyncio.Event().wait() and b""

    anna.serve("wait", wait, limit=0)
    call = asyncio.ensure_future(bert.call(anna.peer_id, asking("wait")))
    await asyncio.wait_for(arrived.wait(), 10)
    await anna.close()
    with pytest.raises(UnreachableError, match="hung up"):
        await call


async def test_a_peer_that_offends_again_and_again_is_neither_answered_nor_asked(
    pair: list[Transport],
) -> None:
    anna, bert = pair
    anna.serve("echo", echo, limit=100)
    too_long = Request("echo", bytes(1000), limit=10, timeout=10)
    for _ in range(10):
        with pytest.raises(RemoteError):
            await bert.call(anna.peer_id, too_long)
    with pytest.raises(UnreachableError):
        await bert.call(anna.peer_id, asking("echo"))
    with pytest.raises(UnreachableError, match="is banned for"):
        await anna.call(bert.peer_id, asking("echo"))
    assert anna.conduct().banned == (bert.peer_id,)


async def test_peers_find_each_other_on_the_notice_board(pair: list[Transport]) -> None:
    anna, bert = pair
    assert await anna.announce(await presence_of(anna))
    assert set(await bert.roll_call()) == {anna.peer_id}
    assert set(await bert.connected()) == {anna.peer_id}
    await bert.connect(anna.peer_id, (await bert.roll_call())[anna.peer_id].addresses)
    with pytest.raises(UnreachableError, match=f"Cannot reach {NOBODY}"):
        await bert.connect(NOBODY, await anna.addresses())


# ---------------------------------------------------------------- a transport of a reader's own


class Telegraph:
    """Wires between peers: nothing but what the interface asks for."""

    def __init__(self, wires: dict[PeerId, Telegraph], peer_id: PeerId) -> None:
        self.peer_id, self.traffic, self.died = peer_id, TrafficMeter(), asyncio.Event()
        self._wires = wires
        self._handlers: dict[str, Handler] = {}

    def last_words(self) -> str:
        return "stop"

    def conduct(self) -> ConductStatistics:
        return Conduct().statistics(0.0)

    def blame(self, peer: PeerId, error: MessageError) -> None:
        pass

    async def addresses(self) -> tuple[str, ...]:
        return ()

    def introducers(self) -> Mapping[PeerId, Introducer]:
        return {}

    async def connected(self) -> Mapping[PeerId, tuple[str, ...]]:
        return {peer: () for peer in self._wires if peer != self.peer_id}

    async def connect(
        self, peer: PeerId, addresses: Iterable[str], *, timeout: float = CONNECT_SECONDS
    ) -> None:
        pass

    def serve(self, kind: str, handler: Handler, *, limit: int, purpose: str | None = None) -> None:
        self._handlers[kind] = handler

    async def call(self, peer: PeerId, request: Request) -> bytes:
        if peer not in self._wires:
            raise UnreachableError(f"There is no wire to {peer}.")
        try:
            answer = await self._wires[peer]._handlers[request.kind](self.peer_id, request.body)
        except MessageError as refusal:
            raise RemoteError(str(refusal)) from refusal
        if len(answer) > request.limit:
            raise MessageError("An answer is too long.")
        return answer

    async def announce(self, presence: Presence) -> bool:
        return False

    async def roll_call(self) -> dict[PeerId, Presence]:
        return {}

    def came_from(self, peer: PeerId) -> str | None:
        return None

    async def close(self) -> None:
        del self._wires[self.peer_id]


async def test_a_state_is_brought_to_a_block_over_any_transport(tmp_path: Path) -> None:
    wires: dict[PeerId, Telegraph] = {}

    def join(peer: PeerId) -> Transport:
        wires[peer] = Telegraph(wires, peer)
        return wires[peer]

    world = World(tmp_path, join=join)
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(world.swarm.genesis, writer, 5)
    newcomer.sources = [writer]
    assert await newcomer.bring_to(links[-1]) == world.swarm.digests[links[-1].hash]
    assert {"snapshot", "piece", "reduced"} <= set(writer.asked)
