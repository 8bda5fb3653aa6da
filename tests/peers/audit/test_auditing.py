"""An auditor replays, commits, asks and judges; who is away, unwilling or dropped leads to no false word."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from audited_author import DECAY, LAYOUT, LOSSES, Author, delta
from hosts import PATIENCE, BenchHost

from peers.audit.auditor import Auditing, AuditParts, AuditTerms
from peers.audit.judging import Limit, Thresholds
from peers.audit.received_openings import OpenedClaim, OpenedClaims
from peers.consensus import effects as do
from peers.credit.sampling import DRAWN_AFTER
from peers.exchange.lineage import MOST_BLOCKS_BETWEEN
from peers.network.transport import Request
from peers.protocol.audit_request import parse_request
from peers.protocol.verdicts import Verdict
from peers.training.interface import ReplayOrder
from recipes.errors import DataError, UnreachableError
from recipes.keys.keys import PeerId

TIGHT = Limit(0.05, 0.2)
THRESHOLDS = Thresholds(TIGHT, TIGHT, TIGHT, TIGHT, TIGHT)


class Bench:
    """An auditor of one claim: its trainer, its state and the line to the author are the test's."""

    def __init__(
        self, folder: Path, *, willing: bool = True, thresholds: Thresholds | None = THRESHOLDS
    ) -> None:
        self.author = author = Author(folder)
        for _ in range(5):
            author.go_through_a_round()
        self.case, audit = author.case(), author.audit()
        author.opened(self.case)
        self.order = do.AuditWanted(audit, author.head.hash)
        key = author.swarm.by_id[audit.asked[0].auditor]
        rules = replace(author.swarm.rules, window_seconds=0.001)
        facts = {"me": key.peer_id, "key": key, "rules": rules}
        self.engine = cast(
            Any, SimpleNamespace(**facts, chain=author.swarm.chain, head=author.head.hash)
        )  # what an auditor reads of it
        self.away = False
        self.losses, self.delta = LOSSES, delta(self.case.claim.body.round - 1)
        self.host = BenchHost(self.open)
        self.ordered: list[int] = []  # replays, by number
        self.stopped: list[int] = []
        self.replaying, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_end.set()
        windows: Any = SimpleNamespace(
            next_number=lambda: 7, replay=self.replay, stop_replay=self.stopped.append
        )
        self.commitments: list[str | None] = []
        self.lost: Exception | None = None
        past: Any = SimpleNamespace(
            make=lambda _: np.zeros(LAYOUT.padded, dtype=np.float32), weights_file=None
        )
        calibrated = {"cpu-fp32": thresholds} if thresholds is not None else {}
        terms = AuditTerms(layout=LAYOUT, decay=DECAY, return_dropped=False, thresholds=calibrated)
        self.opened = OpenedClaims(folder)
        parts = AuditParts(
            terms=terms,
            past=past,
            starts=None,
            openings=author.openings,
            opened=self.opened,
            willing=willing,
        )
        self.auditing = Auditing(
            self.host, engine=self.engine, parts=parts, windows=windows, exchange=author.exchange
        )

    async def replay(self, order: ReplayOrder) -> Any:
        self.ordered.append(order.number)
        self.replaying.set()
        await self.may_end.wait()
        if self.lost is not None:
            raise self.lost
        return SimpleNamespace(losses=self.losses, delta=self.delta)

    def open(self, peer: PeerId, request: Request) -> bytes:
        if self.away:
            raise UnreachableError(f"{peer} is away.")
        self.commitments.append(
            parse_request(request.body, run=self.engine.rules.run, sender=self.engine.me).trace
        )
        return self.author.openings.opening(self.case)

    async def verdict(self) -> Verdict:
        happened = await self.host.next_input()
        assert isinstance(happened, do.Audited)
        return happened.verdict


async def audited(bench: Bench) -> Verdict:
    bench.auditing.want(bench.order)
    return await bench.verdict()


async def test_honest_work_passes_and_the_commitment_was_made_before_the_opening(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    verdict = await audited(bench)
    assert (verdict.outcome, verdict.reason) == ("pass", "agrees")
    assert verdict.steps == bench.order.audit.steps
    assert verdict.kept is not None
    assert bench.commitments == [verdict.trace]


async def test_another_trace_and_another_update_fail(tmp_path: Path) -> None:
    trace = Bench(tmp_path / "trace")
    trace.losses = (3.0, 1.0)
    assert (await audited(trace)).reason == "loss trace differs"
    update = Bench(tmp_path / "update")
    update.delta = -update.delta
    assert (await audited(update)).reason == "sketch differs"


async def test_what_was_opened_is_kept_by_its_auditor_if_it_fits_and_not_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path / "fits")
    await audited(bench)
    file = bench.opened.find(bench.case.claim.hash)
    assert file is not None
    assert OpenedClaim.parse(file.read_bytes()).opening == bench.author.openings.opening(bench.case)
    other = Bench(tmp_path / "other")
    monkeypatch.setattr(other.author.openings, "opening", lambda _: b"something else")
    await audited(other)
    assert other.opened.find(other.case.claim.hash) is None


async def test_without_thresholds_nobody_is_judged(tmp_path: Path) -> None:
    verdict = await audited(Bench(tmp_path, thresholds=None))
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "thresholds not calibrated")


async def test_an_opening_that_does_not_fit_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(bench.author.openings, "opening", lambda _: b"something else")
    verdict = await audited(bench)
    assert (verdict.outcome, verdict.reason) == ("fail", "opening does not fit the claim")
    assert verdict.trace is not None


async def test_who_is_away_is_asked_on_and_said_not_to_have_opened_once_the_turn_is_over(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.away = True
    since = bench.order.audit.asked[0].since
    rounds = bench.author.swarm.chain.credit.audit_rounds
    for _ in range(since + rounds - 1 - bench.author.head.round):
        bench.author.go_through_a_round()
    bench.engine.head = bench.author.head.hash
    first = await audited(bench)
    assert (first.outcome, first.reason, first.replayed) == ("inconclusive", "not opened", False)
    bench.away = False
    assert (await bench.verdict()).reason == "agrees"


async def test_nothing_is_said_of_a_dropped_audit(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.auditing.want(bench.order)
    bench.auditing.drop(bench.order.audit.work.claim)
    await asyncio.gather(*bench.host.tasks)
    assert bench.host.taken == []
    assert bench.ordered == []


async def test_an_audit_that_is_dropped_while_it_replays_stops_its_replay(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.may_end.clear()
    bench.auditing.want(bench.order)
    await asyncio.wait_for(bench.replaying.wait(), PATIENCE)
    bench.auditing.drop(bench.order.audit.work.claim)
    assert bench.stopped == bench.ordered
    bench.may_end.set()
    await asyncio.gather(*bench.host.tasks)
    assert bench.host.taken == []


@pytest.mark.parametrize(
    ("willing", "lost", "reason"), [(False, None, "cannot replay here"), (True, DataError(""), "no data")]
)
async def test_who_cannot_or_will_not_replay_abstains(
    tmp_path: Path, willing: bool, lost: Exception | None, reason: str
) -> None:
    bench = Bench(tmp_path, willing=willing)
    bench.lost = lost
    verdict = await audited(bench)
    assert (verdict.outcome, verdict.reason, verdict.steps) == ("abstain", reason, 0)
    assert bench.commitments == []


def test_what_the_next_block_may_draw_can_be_replayed_when_it_comes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    chain, head = bench.engine.chain, bench.author.head
    accounts = replace(head.accounts, audits=())
    chain.links[head.hash] = replace(head, ledger=replace(head.ledger, accounts=accounts))
    kept = bench.auditing.oldest_state_needed()
    drawn = head.round + 1 - DRAWN_AFTER  # the round of the claims
    # Segments that the block of `MOST_BLOCKS_BETWEEN` rounds before left out may have returned.
    assert kept == drawn - MOST_BLOCKS_BETWEEN - 1
