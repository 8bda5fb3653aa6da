"""A peer that sends false segments is blamed; one that sends them at a bad time is not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from exchange import FORM, Exchange
from hosts import BenchHost

from peers.consensus.effects import FetchReduced, ReducedFetched, ReducedLost, SegmentStored
from peers.exchange.transfers import ExchangeTasks
from peers.network.transport import RemoteError, Request
from peers.protocol.assignment import Assignment
from peers.protocol.chance.say import alike
from peers.protocol.length_prefixed import join_parts
from recipes.errors import MessageError, Offence, UnreachableError
from recipes.keys.keys import PeerId

SENDER, REDUCER, CHECKER = 0, 1, 2
SEGMENT = 1


class Bench:
    """One claimant's exchange tasks, and what they told."""

    def __init__(self, folder: Path, *, me: int, established: Sequence[int] = ()) -> None:
        self.exchange = Exchange(folder)
        self.me = me
        self.ids = [key.peer_id for key in self.exchange.keys]
        self.reduction = self.exchange.reduce(SEGMENT, by=REDUCER)
        self.host = BenchHost(self.honest)
        signed = self.exchange.swarm.reduction(
            self.exchange.roster,
            SEGMENT,
            self.exchange.parent,
            **{name: getattr(self.reduction, name) for name in ("root", "bytes", "included")},
        )
        self.author = signed.body.peer
        engine: Any = SimpleNamespace(
            roster=self.exchange.roster,
            assignments=[Assignment(reducer=self.ids[REDUCER], backup=None)] * FORM.segments,
            reductions_of={SEGMENT: [signed]}.get,
            deadlines=SimpleNamespace(transfer=0.01),
            chain=SimpleNamespace(
                link=lambda _: SimpleNamespace(say=alike(self.ids[number] for number in established)),
                tokens_at=lambda _: 0,
            ),
            me=self.ids[me],
        )
        nothing: Any = None
        self.tasks = ExchangeTasks(
            self.host,
            engine=engine,
            store=self.exchange.stores[me],
            contributor=nothing,
            spot_checks=64,  # so many that the segment is among them
        )

    def honest(self, peer: PeerId, request: Request) -> bytes:
        store = self.exchange.stores[REDUCER]
        if request.kind == "reduced":
            return store.reduced_bytes(request.body.hex())
        chunk = int.from_bytes(request.body[36:40], "little")
        return store.prove(self.exchange.roster.hash, SEGMENT, chunk, self.reduction.included)

    def push(self) -> bytes:
        store = self.exchange.stores[SENDER]
        return store.push_content(self.exchange.claim(SENDER), SEGMENT, self.exchange.roster.hash)

    async def fetch(self) -> None:
        await self.tasks.begin(self.exchange.roster)
        sources = (self.ids[REDUCER],)
        await self.tasks.fetch_reduced(
            FetchReduced(
                self.exchange.roster.hash, SEGMENT, self.reduction.root, self.reduction.bytes, sources
            )
        )


async def test_a_segment_that_its_claim_commits_to_is_taken_in(tmp_path: Path) -> None:
    bench = Bench(tmp_path, me=REDUCER)
    await bench.tasks.accept(bench.ids[SENDER], bench.push())
    assert bench.host.taken == [SegmentStored(bench.exchange.roster.hash, SEGMENT, bench.ids[SENDER])]


@pytest.mark.parametrize("content", [b"", b"garbage", join_parts([bytes(32), bytes(4), b""])])
async def test_a_push_that_is_none_is_an_offence(tmp_path: Path, content: bytes) -> None:
    bench = Bench(tmp_path, me=REDUCER)
    with pytest.raises(MessageError) as caught:
        await bench.tasks.accept(bench.ids[SENDER], content)
    assert caught.value.offence is Offence.MALFORMED


async def test_a_segment_of_another_claim_is_an_offence(tmp_path: Path) -> None:
    bench = Bench(tmp_path, me=REDUCER)
    bench.exchange.stores[REDUCER]._received[bench.exchange.roster.hash].frames.clear()
    with pytest.raises(MessageError) as caught:
        await bench.tasks.accept(bench.ids[CHECKER], bench.push())
    assert caught.value.offence is Offence.FALSE


async def test_a_segment_whose_roster_is_not_known_or_that_others_reduce_is_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path, me=REDUCER)
    unknown = join_parts([bytes(32), bytes(4), b"", b"frame"])
    with pytest.raises(MessageError, match="no roster at hand") as caught:
        await bench.tasks.accept(bench.ids[SENDER], unknown)
    assert caught.value.offence is None
    other = Bench(tmp_path / "other", me=CHECKER)
    with pytest.raises(MessageError, match="not this peer's to reduce") as caught:
        await other.tasks.accept(other.ids[SENDER], other.push())
    assert caught.value.offence is None


async def test_a_reduced_segment_that_holds_is_fetched_and_nobody_blamed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, me=CHECKER)
    await bench.fetch()
    assert bench.host.taken == [ReducedFetched(bench.reduction.root)]
    assert bench.host.blamed == []


async def test_a_reduced_segment_in_which_newcomers_weigh_too_much_is_none(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, me=CHECKER, established=(SENDER,))  # as if all were, in the average
    await bench.fetch()
    [lost] = bench.host.taken
    assert isinstance(lost, ReducedLost)
    assert "not the average" in lost.reason


@pytest.mark.parametrize(("kind", "offence"), [("reduced", Offence.FALSE), ("check", Offence.MALFORMED)])
async def test_who_answers_with_something_else_is_blamed(tmp_path: Path, kind: str, offence: Offence) -> None:
    bench = Bench(tmp_path, me=CHECKER)
    bench.host.answer = lambda peer, asked: b"garbage" if asked.kind == kind else bench.honest(peer, asked)
    await bench.fetch()
    assert [type(happened) for happened in bench.host.taken] == [ReducedLost]
    blamed = {"reduced": bench.ids[REDUCER], "check": bench.author}[kind]  # who was asked for what
    assert bench.host.blamed == [(blamed, offence)]


@pytest.mark.parametrize("error", [RemoteError("not here"), UnreachableError("hung up")])
async def test_who_does_not_answer_is_not_blamed(tmp_path: Path, error: Exception) -> None:
    bench = Bench(tmp_path, me=CHECKER)

    def refuse(peer: PeerId, request: Request) -> bytes:
        raise error

    bench.host.answer = refuse
    await bench.fetch()
    assert [type(happened) for happened in bench.host.taken] == [ReducedLost]
    assert bench.host.blamed == []


async def test_who_stops_waiting_for_a_roster_twice_over_disturbs_nobody_else(tmp_path: Path) -> None:
    """A peer that stood still for long finds many segments at the door, and their senders gone."""
    bench = Bench(tmp_path, me=REDUCER)
    unknown = join_parts([bytes(32), bytes(4), b"", b""])
    at_the_door = [asyncio.create_task(bench.tasks.accept(bench.ids[SENDER], unknown)) for _ in range(8)]
    await _let_others_run()
    await bench.tasks.begin(bench.exchange.roster)
    leaving, staying = at_the_door[::2], at_the_door[1::2]
    for _ in range(3):
        for task in leaving:
            task.cancel()
        await asyncio.sleep(0)
    ended = await asyncio.gather(*at_the_door, return_exceptions=True)
    assert [str(ended[at_the_door.index(task)]) for task in staying] == ["a segment of no roster at hand"] * 4
    assert all(task.cancelled() for task in leaving)
    await bench.tasks.begin(bench.exchange.roster)


async def _let_others_run() -> None:
    for _ in range(8):
        await asyncio.sleep(0)
