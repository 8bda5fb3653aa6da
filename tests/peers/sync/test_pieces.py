"""Pieces come from many peers at once, and no peer is believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from peers.network.transport import RemoteError, Request
from peers.protocol.events import Event, Fetching, Refused
from peers.protocol.requests import Span
from peers.protocol.round_reasons import RefusedKind
from peers.sync.piece_download import FAILURES, LANES, PieceDownload, Wanted
from peers.sync.rate_control import Flow
from recipes.errors import MessageError, Offence, StorageError, UnreachableError
from recipes.formats import blake3_tree
from recipes.keys.keys import PeerId

ANNA, BERT, CLEO = PeerId("anna"), PeerId("bert"), PeerId("cleo")
CONTENTS = {f"piece {n}": bytes([n]) * 100 for n in range(20)}
WANTED = [Wanted(name=name, hash=blake3_tree.digest(content), size=100) for name, content in CONTENTS.items()]

Answer = Callable[[Wanted], Awaitable[bytes]]


async def honest(piece: Wanted) -> bytes:
    await asyncio.sleep(0)
    return CONTENTS[piece.name]


async def lying(piece: Wanted) -> bytes:
    return bytes(reversed(CONTENTS[piece.name][:-1])) + b"!"


async def absent(_: Wanted) -> bytes:
    raise UnreachableError("no answer within 5 s")


class Fetch:
    """One fetch from scripted peers, and everything that it told: transport, sources and store in one."""

    what = "the pieces"
    refused_as: RefusedKind = "data"

    def __init__(self, peers: dict[PeerId, Answer]) -> None:
        self.scripts = peers
        self.asked: list[tuple[PeerId, str]] = []
        self.here: dict[str, bytes] = {}
        self.blamed: list[tuple[PeerId, Offence | None]] = []
        self.events: list[Event] = []

    async def call(self, peer: PeerId, request: Request) -> bytes:
        name, start, length = json.loads(request.body)
        self.asked.append((peer, name))
        (piece,) = (piece for piece in WANTED if piece.name == name)
        return (await self.scripts[peer](piece))[start : start + length]

    def blame(self, peer: PeerId, error: MessageError) -> None:
        self.blamed.append((peer, error.offence))

    def peers(self) -> list[PeerId]:
        return list(self.scripts)

    def has(self, piece: Wanted) -> bool:
        return piece.name in self.here

    def request(self, piece: Wanted, part: Span, *, timeout: float) -> Request:
        body = json.dumps([piece.name, part.start, part.length]).encode()
        return Request("piece", body, limit=part.length, timeout=timeout)

    def keep(self, piece: Wanted, content: bytes) -> None:
        self.here[piece.name] = content

    def tell(self, event: Event) -> None:
        self.events.append(event)

    @property
    def dropped(self) -> dict[PeerId, str]:
        return {event.peer: event.fault for event in self.events if isinstance(event, Refused)}

    @property
    def progress(self) -> list[Fetching]:
        return [event for event in self.events if isinstance(event, Fetching)]

    async def run(self, wanted: Sequence[Wanted] = WANTED, flow: Flow | None = None) -> None:
        transport: Any = self  # what of one is needed here
        await PieceDownload(transport, self, self, flow=flow, pause_seconds=0).fetch(wanted, self)


async def test_pieces_come_from_all_sources() -> None:
    fetch = Fetch({ANNA: honest, BERT: honest, CLEO: honest})
    await fetch.run()
    assert fetch.here == CONTENTS
    assert {peer for peer, _ in fetch.asked} == {ANNA, BERT, CLEO}
    assert len(fetch.asked) == len(CONTENTS)
    assert [(event.done, event.total) for event in fetch.progress] == [(n, 20) for n in range(21)]


async def test_a_liars_piece_is_thrown_away_and_fetched_elsewhere_and_the_liar_named() -> None:
    fetch = Fetch({ANNA: lying, BERT: honest})
    await fetch.run()
    assert fetch.here == CONTENTS
    assert list(fetch.dropped) == [ANNA]
    assert "with the hash" in fetch.dropped[ANNA]
    assert set(fetch.blamed) == {(ANNA, Offence.FALSE)}
    assert [peer for peer, _ in fetch.asked].count(ANNA) <= LANES  # those that were on their way


async def test_a_piece_of_another_length_is_a_lie_too() -> None:
    async def short(piece: Wanted) -> bytes:
        return CONTENTS[piece.name][:-1]

    fetch = Fetch({ANNA: short, BERT: honest})
    await fetch.run()
    assert "99 bytes" in fetch.dropped[ANNA]


async def test_a_source_that_fails_once_is_asked_again() -> None:
    failures = iter([UnreachableError("hung up"), RemoteError("busy")])

    async def shaky(piece: Wanted) -> bytes:
        for failure in failures:
            raise failure
        return CONTENTS[piece.name]

    fetch = Fetch({ANNA: shaky})
    await fetch.run()
    assert fetch.here == CONTENTS
    assert fetch.dropped == {}


async def test_a_source_that_keeps_failing_is_left_out() -> None:
    async def absent_until_bert_comes(piece: Wanted) -> bytes:
        if [peer for peer, _ in fetch.asked].count(ANNA) >= FAILURES:
            fetch.scripts[BERT] = honest
        return await absent(piece)

    fetch = Fetch({ANNA: absent_until_bert_comes})
    await fetch.run()
    assert fetch.here == CONTENTS
    assert fetch.dropped == {ANNA: "no answer within 5 s"}
    assert fetch.blamed == []  # to be away is no offence
    assert FAILURES <= [peer for peer, _ in fetch.asked].count(ANNA) < FAILURES + LANES


async def test_when_nobody_is_left_each_source_is_named_with_its_reason() -> None:
    fetch = Fetch({ANNA: absent, BERT: lying})
    with pytest.raises(
        UnreachableError, match=r"(?s)anna: no answer within 5 s.*bert: Piece .* with the hash"
    ):
        await fetch.run(WANTED[:1])
    with pytest.raises(UnreachableError, match="Tried: none"):
        await Fetch({}).run()


async def test_an_interrupted_fetch_asks_only_for_what_is_missing() -> None:
    fetch = Fetch({ANNA: honest})
    fetch.here = dict(list(CONTENTS.items())[:15])
    await fetch.run()
    assert sorted(name for _, name in fetch.asked) == sorted(list(CONTENTS)[15:])
    assert fetch.progress[0] == Fetching("the pieces", 15, 20)


async def test_a_source_that_turns_up_late_is_asked() -> None:
    fetch = Fetch({})

    async def introducing_bert(piece: Wanted) -> bytes:
        fetch.scripts[BERT] = honest
        return await honest(piece)

    fetch.scripts[ANNA] = introducing_bert
    await fetch.run()
    assert BERT in {peer for peer, _ in fetch.asked}


async def test_a_source_without_a_piece_is_passed_over_and_not_dropped() -> None:
    async def beginner(piece: Wanted) -> bytes:
        raise RemoteError("that piece is not here")

    fetch = Fetch({ANNA: beginner, BERT: honest})
    await fetch.run()
    assert fetch.here == CONTENTS
    assert fetch.dropped == {}


async def test_a_source_that_fetched_a_piece_meanwhile_is_asked_for_it_again() -> None:
    refusals = iter(["that piece is not here"])

    async def quick_learner(piece: Wanted) -> bytes:
        for refusal in refusals:
            raise RemoteError(refusal)
        return CONTENTS[piece.name]

    fetch = Fetch({ANNA: quick_learner})
    await fetch.run(WANTED[:1])
    assert fetch.asked == [(ANNA, "piece 0")] * 2


async def test_a_piece_that_everybody_refuses_again_and_again_cannot_be_had() -> None:
    async def without_the_last(piece: Wanted) -> bytes:
        if piece.name == WANTED[-1].name:
            raise RemoteError("that piece is not here")
        return CONTENTS[piece.name]

    fetch = Fetch({ANNA: without_the_last, BERT: without_the_last})
    with pytest.raises(UnreachableError, match=r"(?s)fetch piece piece 19.*anna: that piece is not here"):
        await fetch.run()
    assert len(fetch.here) == len(CONTENTS) - 1  # the others came all the same
    asked = [peer for peer, name in fetch.asked if name == WANTED[-1].name]
    assert min(asked.count(ANNA), asked.count(BERT)) == FAILURES


async def test_one_source_is_never_asked_for_more_than_a_few_pieces_at_once() -> None:
    running = most = 0

    async def counting(piece: Wanted) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return CONTENTS[piece.name]

    fetch = Fetch({ANNA: counting})
    await fetch.run(flow=Flow(in_flight=10))
    assert most == LANES


async def test_a_full_disk_ends_the_fetch_and_nothing_runs_on() -> None:
    cancelled = asyncio.Event()

    async def slow(_: Wanted) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    class FullDisk(Fetch):
        def keep(self, piece: Wanted, content: bytes) -> None:
            raise StorageError("No space left on device.")

    with pytest.raises(StorageError):
        await FullDisk({ANNA: slow, BERT: honest}).run()
    assert cancelled.is_set()


def test_a_merkle_leaf_is_checked_by_its_leaf_hash() -> None:
    leaf = Wanted(name="leaf", hash=blake3_tree.leaf_hash(b"x"), size=1, is_leaf=True)
    leaf.check(b"x")
    with pytest.raises(MessageError):
        leaf.check(b"y")
    with pytest.raises(MessageError):
        Wanted(name="plain", hash=blake3_tree.leaf_hash(b"x"), size=1).check(b"x")
