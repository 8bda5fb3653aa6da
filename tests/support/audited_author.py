"""An author of claims for tests of audits: real contributions, claims and blocks, and the chain's draws."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rounds import Swarm

from peers.audit.audit_case import Case, case_of
from peers.audit.opening_check import OpeningCheck
from peers.audit.opening_store import Openings
from peers.codec.round_codec import ExchangeFormat
from peers.credit.audit import Audit
from peers.credit.rules import MILLION
from peers.credit.sampling import DRAWN_AFTER
from peers.exchange.contribution_store import ContributionHistory
from peers.exchange.contributor import Contributor
from peers.exchange.segment_store import ExchangeStore
from peers.protocol.messages import Claim, Signed
from recipes.density import Density, DensitySchedule
from recipes.layout import lay_out

DECAY = 0.9
LOSSES = (3.0, 2.5)
COMMITTED = ("contribution", "contribution_bytes", "norms", "feedback", "feedback_reset", "loss_commitment")
LAYOUT = lay_out([("weight", (6 * 4096 - 100,))], segments=2)
FORM = ExchangeFormat(
    densities=DensitySchedule(Density(keep=64, level_bits=1, reduced_keep=40, reduced_level_bits=2)),
    segments=LAYOUT.segments,
    chunks_per_segment=LAYOUT.chunks_per_segment,
    clip_factor=2.0,
)


def delta(seed: int) -> NDArray[np.float32]:
    values = np.zeros(LAYOUT.padded, dtype=np.float32)
    values[: LAYOUT.size] = np.random.default_rng(seed).standard_normal(LAYOUT.size) * 1e-2
    return values


class Author:
    """One of three electors, whose claims are all audited at full length."""

    def __init__(self, folder: Path, *, return_dropped: bool = False) -> None:
        self.swarm = Swarm(3)
        every = {"newcomer_rate": MILLION, "least_rate": MILLION, "full_replay_rate": MILLION}
        self.swarm.play_by(replace(self.swarm.credit, **every))  # type: ignore[arg-type]
        self.swarm.claimed = {"feedback_reset": True}  # of those that come of no real contribution
        self.key = self.swarm.keys[0]
        self.head = self.swarm.elect()
        self.return_dropped = return_dropped
        self.exchange = ExchangeStore(folder, FORM)
        self.history = ContributionHistory(folder, layout=LAYOUT, form=FORM, decay=DECAY)
        self.contributor = Contributor(
            folder, key=self.key, history=self.history, exchange=self.exchange, return_dropped=return_dropped
        )
        self.openings = Openings(folder, layout=LAYOUT, history=self.history, traces=self.contributor.traces)
        self.claims: list[Signed[Claim]] = []

    def go_through_a_round(self, *, counted: Collection[int] = (0, 1), listed: bool = True) -> None:
        """Contribute, claim, and see a block that counts these segments, or lists others' claims alone."""
        swarm, parent = self.swarm, self.head
        window: Any = SimpleNamespace(
            delta=delta(parent.round),
            losses=LOSSES,
            steps=2,
            slots_used=(),
            seconds=1.0,
        )
        work = self.contributor.contribute(
            window, chain=swarm.chain, parent=parent.hash, start_digest="", numeric_class="cpu-fp32"
        )
        predecessor = self.claims[-1].hash if self.claims else None
        fields = {name: getattr(work, name) for name in COMMITTED}
        claim = swarm.claim(self.key, parent, predecessor=predecessor, **fields)
        self.contributor.name_claim(claim.hash)
        self.claims.append(claim)
        if not listed:
            self.head = swarm.grow(parent, swarm.keys[1:])
            return
        others = [swarm.claim(key, parent) for key in swarm.keys[1:]]
        roster = swarm.roster([claim, *others], parent)
        place = roster.body.claims.index(claim)
        self.exchange.begin(roster, tokens=parent.counters.tokens)
        reductions = []
        for segment in range(LAYOUT.segments):
            push = self.exchange.push_content(claim.body, segment, roster.hash)
            self.exchange.take_push(self.key.peer_id, push)
            root, size = self.exchange.reduce(roster.hash, segment, (place,))
            reduction = swarm.reduction(roster, segment, parent, root=root, bytes=size, included=(place,))
            reductions.append(reduction if segment in counted else None)
        words = swarm.words(roster, reductions, parent)
        body = swarm.block(parent, (), roster=roster, reductions=tuple(reductions), missing=words)
        self.head = swarm.add(body)

    def until_drawn(self) -> None:
        """Go through the rounds after which the newest claim is under audit."""
        for _ in range(DRAWN_AFTER):
            self.go_through_a_round()

    @property
    def audited(self) -> Signed[Claim]:
        """The claim that the newest block drew."""
        return self.claims[-1 - DRAWN_AFTER]

    def audit(self, claim: Signed[Claim] | None = None) -> Audit:
        """The audit of a claim, or the one that the newest block drew."""
        wanted = (claim or self.audited).hash
        return next(audit for audit in self.head.accounts.audits if audit.work.claim == wanted)

    def case(self, claim: Signed[Claim] | None = None) -> Case:
        """The case of a claim's audit, or of the one that the newest block drew."""
        case = case_of(self.swarm.chain, self.head.hash, self.audit(claim), chunks=LAYOUT.chunks)
        assert case is not None
        return case

    def check(self, case: Case) -> OpeningCheck:
        return OpeningCheck(
            case=case, layout=LAYOUT, form=FORM, return_dropped=self.return_dropped, decay=DECAY
        )

    def opened(self, case: Case) -> bytes:
        """Keep what an auditor may ask for, and return it."""
        earlier = self.claims[: self.claims.index(self.audited)]
        before = earlier[-1] if earlier else None
        self.openings.keep(case, before, with_start=False)
        return self.openings.opening(case)
