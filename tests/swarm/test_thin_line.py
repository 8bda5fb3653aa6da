"""Fetching over lines that carry little: much must not wait on them, and yet they must be used.

A line here has a rate, a delay, and one queue for all that is on its way through it. Time is virtual.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from virtual_loop import run_in_virtual_time

from peers.network.transport import RemoteError, Request
from peers.protocol.events import NOBODY_LISTENS
from peers.protocol.requests import Span
from peers.protocol.round_reasons import RefusedKind
from peers.sync.piece_download import PieceDownload, Wanted
from peers.sync.rate_control import FIRST_IN_FLIGHT, LEAST_PART_BYTES, Flow, TransferPace
from recipes.errors import UnreachableError
from recipes.formats import blake3_tree
from recipes.keys.keys import PeerId

MIB = 1 << 20
PIECE = bytes(MIB)
SOURCES = [PeerId(name) for name in ("anna", "bert", "cleo", "dora")]
HANG_UP_SECONDS = 10.0  # for a sign of life to come through what waits before it


@dataclass
class Line:
    """One peer's way to the others, and what happened on it."""

    bytes_per_second: float
    round_trip_seconds: float
    hangs_up_at: tuple[float, ...] = ()  # when all that is on its way is lost
    free_at: float = 0.0
    longest_wait: float = 0.0
    asked: list[tuple[PeerId, str, int, int]] = field(default_factory=list)  # who, what, from where, how much
    carried: int = 0

    async def ask(self, peer: PeerId, name: str, part: Span, timeout: float) -> bytes:
        start, length = part.start, part.length
        now = asyncio.get_running_loop().time()
        self.asked.append((peer, name, start, length))
        self.free_at = max(self.free_at, now) + length / self.bytes_per_second
        self.longest_wait = max(self.longest_wait, self.free_at - now)
        arrives = self.free_at + self.round_trip_seconds
        for hang_up in self.hangs_up_at:
            if now < hang_up < arrives:
                await asyncio.sleep(hang_up - now)
                self.free_at = hang_up
                raise UnreachableError("hung up")
        if arrives - now > timeout:
            await asyncio.sleep(timeout)
            raise UnreachableError(f"no answer within {timeout:g} s")
        await asyncio.sleep(arrives - now)
        self.carried += length
        return PIECE[part.start : part.start + part.length]


Ask = Callable[[PeerId, str, Span, float], Awaitable[bytes]]


class Pieces:
    """Pieces that are all alike, and where they go: a transport, too, on which `ask` answers."""

    what = "pieces"
    refused_as: RefusedKind = "data"

    def __init__(self, ask: Ask, *, count: int, sources: int) -> None:
        self.wanted = [
            Wanted(name=f"piece {n}", hash=blake3_tree.digest(PIECE), size=MIB) for n in range(count)
        ]
        self.here: list[str] = []
        self._ask = ask
        self._sources = SOURCES[:sources]

    def peers(self) -> Sequence[PeerId]:
        return self._sources

    def has(self, piece: Wanted) -> bool:
        return False

    def request(self, piece: Wanted, part: Span, *, timeout: float) -> Request:
        body = json.dumps([piece.name, part.start, part.length]).encode()
        return Request("piece", body, limit=part.length, timeout=timeout)

    def keep(self, piece: Wanted, content: bytes) -> None:
        self.here.append(piece.name)

    async def call(self, peer: PeerId, request: Request) -> bytes:
        name, start, length = json.loads(request.body)
        return await self._ask(peer, name, Span(start, length), request.timeout)

    def fetch(self, flow: Flow | None = None) -> float:
        """Fetch them all; return the seconds that it took."""

        async def all_of_them() -> float:
            transport: Any = self  # what of one is needed here
            await PieceDownload(transport, self, NOBODY_LISTENS, flow=flow).fetch(self.wanted, self)
            return asyncio.get_running_loop().time()

        return run_in_virtual_time(all_of_them())


def fetch(line: Line, *, pieces: int, sources: int = 3, flow: Flow | None = None) -> float:
    """Fetch so many pieces; return the seconds that it took."""
    fetched = Pieces(line.ask, count=pieces, sources=sources)
    seconds = fetched.fetch(flow)
    assert sorted(fetched.here) == sorted(piece.name for piece in fetched.wanted)
    return seconds


@pytest.mark.parametrize("sources", [1, 2, 4])
@pytest.mark.parametrize(
    ("megabits", "round_trip"), [(0.25, 0.6), (1, 0.6), (1, 0.02), (10, 0.1), (100, 0.02), (1000, 0.001)]
)
def test_a_line_is_used_and_yet_free_for_signs_of_life(
    megabits: float, round_trip: float, sources: int
) -> None:
    line = Line(megabits * 1e6 / 8, round_trip)
    pieces = 24 if megabits > 1 else 6
    seconds = fetch(line, pieces=pieces, sources=sources)
    assert line.longest_wait < HANG_UP_SECONDS / 2
    assert pieces * MIB / line.bytes_per_second / seconds > 0.5  # of what it carries, the beginning included


def test_what_a_line_carries_is_found_out_once() -> None:
    flow = Flow()
    first = Line(12.5e6, 0.1)
    fetch(first, pieces=24, flow=flow)
    again = Line(12.5e6, 0.1)
    fetch(again, pieces=24, flow=flow)
    assert len(again.asked) < len(first.asked)


def test_after_a_hang_up_the_same_source_goes_on_where_it_stopped() -> None:
    line = Line(125e3, 0.6, hangs_up_at=(20.0,))
    fetch(line, pieces=4, sources=1)
    assert line.carried == 4 * MIB


def test_a_piece_that_another_source_goes_on_with_is_fetched_from_its_beginning() -> None:
    """Of a piece in which two had a part, nobody could say who lied."""
    line = Line(125e3, 0.6)

    async def ask(peer: PeerId, name: str, part: Span, timeout: float) -> bytes:
        if peer == SOURCES[0] and part.start:
            await asyncio.sleep(timeout)
            raise UnreachableError("gone")
        return await line.ask(peer, name, part, timeout)

    Pieces(ask, count=1, sources=2).fetch()
    from_second = [start for peer, _, start, _ in line.asked if peer == SOURCES[1]]
    assert from_second[0] == 0


def test_who_sends_drop_by_drop_does_not_hold_a_piece_for_ever() -> None:
    async def ask(peer: PeerId, name: str, part: Span, timeout: float) -> bytes:
        await asyncio.sleep(0.99 * timeout if peer == SOURCES[0] else 1.0)
        return PIECE[part.start : part.start + part.length]

    assert Pieces(ask, count=1, sources=2).fetch() < 900


def test_who_fetches_the_same_itself_is_asked_again_until_it_has_it() -> None:
    """Newcomers that share one source's thin line have to live on each other."""
    line = Line(125e3, 0.6)
    given: list[str] = []

    async def ask(peer: PeerId, name: str, part: Span, timeout: float) -> bytes:
        if peer == SOURCES[1]:
            await asyncio.sleep(0.6)
            if asyncio.get_running_loop().time() < 60:
                raise RemoteError("that piece is not here")
            given.append(name)
            return PIECE[part.start : part.start + part.length]
        return await line.ask(peer, name, part, timeout)

    assert Pieces(ask, count=24, sources=2).fetch() < 120  # alone, the line needs 200 s
    assert len(set(given)) > 12


# ---------------------------------------------------------------- the parts by themselves


def test_parts_grow_while_they_come_quickly_and_shrink_when_they_do_not() -> None:
    pace = TransferPace()
    for _ in range(5):
        pace.came(pace.part_bytes, 0.1)
    assert pace.part_bytes == 32 * LEAST_PART_BYTES
    pace.came(pace.part_bytes, 20.0)
    assert pace.part_bytes == 16 * LEAST_PART_BYTES
    pace.failed()
    assert pace.part_bytes == LEAST_PART_BYTES


def test_the_short_end_of_a_piece_says_nothing_about_long_parts() -> None:
    pace = TransferPace(part_bytes=MIB)
    pace.came(100, 0.1)
    assert pace.part_bytes == MIB


def test_patience_follows_what_parts_took_within_bounds() -> None:
    pace = TransferPace()
    for _ in range(30):
        pace.came(pace.part_bytes, 4.0)
    assert pace.patience_seconds == pytest.approx(32.0)
    for _ in range(30):
        pace.came(pace.part_bytes, 0.01)
    assert pace.patience_seconds == 15.0
    for _ in range(9):
        pace.failed()
    assert pace.patience_seconds == 120.0


def _rounds(flow: Flow, rate_with: dict[int, float], *, trials: int) -> list[int]:
    """Let a line of which each number of parts in flight brings a rate run for so many trials."""
    now, seen = 0.0, []
    flow.began(now)
    for _ in range(trials):
        before = flow.in_flight
        for _ in range(3 * before):
            rate = rate_with.get(flow.in_flight, max(rate_with.values()))
            now += 1000 / rate
            flow.came(1000, now)
        seen.append(flow.in_flight)
    return seen


def test_more_parts_go_on_their_way_while_that_brings_more() -> None:
    flow = Flow()
    seen = _rounds(flow, {1: 100, 2: 200, 3: 300, 4: 400, 5: 410}, trials=40)
    assert set(seen[10:]) <= {3, 4, 5}  # four are enough: five are tried, and three
    assert seen.count(4) > len(seen) / 2


def test_one_part_at_a_time_is_enough_where_two_bring_no_more() -> None:
    flow = Flow()
    seen = _rounds(flow, {1: 100, 2: 100}, trials=40)
    assert seen[0] == FIRST_IN_FLIGHT + 1
    assert seen[-8:].count(1) >= 6


def test_after_a_loss_half_as_many_are_on_their_way() -> None:
    flow = Flow(in_flight=12)
    flow.failed("anna", asked_at=1.0, now=2.0)
    assert flow.in_flight == 6
    for now in range(3, 12):
        flow.failed("anna", asked_at=now, now=now)
    assert flow.in_flight == 1


def test_parts_that_were_lost_together_count_once() -> None:
    flow = Flow(in_flight=12)
    for asked_at in (1.0, 1.5, 1.9):
        flow.failed("anna", asked_at=asked_at, now=2.0)
    assert flow.in_flight == 6
    assert flow.pace("anna").patience_seconds == 120.0
