"""What is known of a swarm, as plain values: metrics, page, API and sentences are made of this.

Amounts of work are FLOPs in whole numbers, times are Unix seconds, losses are nats a token.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from monitoring.swarm.peer_picture import PeerPicture, PeerState
from peers.protocol.reasons import VERDICT_SENTENCES, CreditReason, VerdictReason
from peers.protocol.verdicts import Decision, Outcome
from recipes.keys.keys import PeerId

RoundResult = Literal["complete", "short", "empty"]
LeaveReason = Literal["finished", "unfinished", "expelled", "rotated"]
Phase = Literal["train", "roster", "exchange", "block"]
PHASES: tuple[Phase, ...] = get_args(Phase)
LEAVE_REASONS: tuple[LeaveReason, ...] = get_args(LeaveReason)


@dataclass(frozen=True)
class Timing:
    """How long a round took as it was watched: from the block before it to its own, and by phase."""

    seconds: float
    phases: Mapping[Phase, float]


@dataclass(frozen=True)
class RoundPicture:
    """One block of the chain.

    Attributes:
        round, attempt, block, leader: as the block says.
        roster: the peers that claimed, in order; `counted` of them are averaged at least in part.
        segments, empty_segments: of the model, and of these, how many no peer could deliver.
        result: whether all that was claimed is in the average, a part, or nothing.
        tokens: trained on in counted claims of this round.
        digest_before: the state that the round started from, as its co-signers agree.
        signers, disagreeing: how many peers co-signed the block before, and how many of these named another
            state.
        contribution_bytes: mean over the roster.
        bits_per_parameter: of that.
        late_ms, transfer_ms, exchange_ms: medians of what the claims measured of the round before.
        compute_ms: mean of how long claimants say that they computed in their windows, none for longer than
            a window; None if no claim says it.
        seen_at: when the block came, as far as that was watched.
        timing: likewise, and only if the block before was watched, too.
    """

    round: int
    attempt: int
    block: str
    leader: PeerId
    roster: tuple[PeerId, ...]
    counted: int
    segments: int
    empty_segments: int
    result: RoundResult
    tokens: int
    digest_before: str
    signers: int
    disagreeing: int
    contribution_bytes: float
    bits_per_parameter: float
    late_ms: int | None
    transfer_ms: int | None
    exchange_ms: int | None
    compute_ms: float | None
    seen_at: float | None = None
    timing: Timing | None = None

    @property
    def seconds(self) -> float | None:
        """From the block before to this one, if that was watched."""
        return self.timing.seconds if self.timing is not None else None

    @property
    def phases(self) -> Mapping[Phase, float] | None:
        """Where these seconds went."""
        return self.timing.phases if self.timing is not None else None


@dataclass(frozen=True)
class VerdictPicture:
    """What one auditor said of a claim."""

    round: int
    auditor: PeerId
    outcome: Outcome
    reason: VerdictReason

    @property
    def sentence(self) -> str:
        """The reason as a sentence."""
        return VERDICT_SENTENCES[self.reason]


@dataclass(frozen=True)
class ContributionPicture:
    """One claim of one peer, what became of it, and what auditors said.

    `segments` of the round's `of_segments` were averaged; `amount` was credited, `missed` was not; `reason`
    is why the amount was not vested at once, or is nothing, and `vests_after` the round after which it may.
    """

    round: int
    peer: PeerId
    claim: str
    tokens: int
    steps: int
    numeric_class: str
    bytes: int
    segments: int
    of_segments: int
    amount: int
    missed: int
    reason: CreditReason
    vests_after: int
    verdicts: tuple[VerdictPicture, ...] = ()
    decision: Decision | None = None


@dataclass(frozen=True)
class Validation:
    """The loss of the model after a round on the recipe's validation data, as measured here."""

    round: int
    tokens: int
    loss: float
    measured_at: float


@dataclass(frozen=True)
class RunPicture:
    """What the signed recipe says of the run."""

    run: str
    name: str
    description: str
    parameters: int
    goal_tokens: int
    window_seconds: float
    overlaps: bool
    flops_per_token: int
    facts: tuple[tuple[str, str], ...] = ()
    join: str = ""


@dataclass(frozen=True)
class Totals:
    """Sums over all rounds of the chain.

    Attributes:
        results: rounds by result.
        counted, missed: contributions that were averaged at least in part, and those that were not.
        tokens: that the counted ones were trained on.
        claimed, credited, vested: FLOPs that peers claimed, that went into escrow, and that vested.
        verdicts: by outcome.
        disagreements: co-signatures that named another state than the one agreed on.
        joins, leaves: peers that came, and that left, by reason.
        expulsions: decisions that no claim of a peer is taken for a while.
    """

    results: Mapping[RoundResult, int] = field(default_factory=dict)
    counted: int = 0
    missed: int = 0
    tokens: int = 0
    claimed: int = 0
    credited: int = 0
    vested: int = 0
    verdicts: Mapping[Outcome, int] = field(default_factory=dict)
    disagreements: int = 0
    joins: int = 0
    leaves: Mapping[LeaveReason, int] = field(default_factory=dict)
    expulsions: int = 0


@dataclass(frozen=True)
class Watched:
    """Sums over the rounds whose time this observer watched, and figures of the newest of them.

    `compute_ratio`, `tokens_per_second` and `round_seconds` are of the newest rounds. The first is the mean
    share of a round's time in which the peers that claimed computed, as their claims say.
    """

    rounds: int
    phases: Mapping[Phase, float]
    seconds: float
    compute_ratio: float | None
    tokens_per_second: float | None
    round_seconds: float | None


@dataclass(frozen=True)
class Picture:
    """All that is known of a swarm at one moment. Peers that train come first, rounds newest first.

    Attributes:
        now: when it was taken.
        final_round: of the newest block that is never undone.
        digest: of the state after the newest block, as far as it was co-signed.
        rounds: the newest ones.
        observing: peers on the notice board that do not train; None where no board is read.
        heard_at: when the swarm was last heard; None if never.
        trouble: what keeps this observer from its work, in a sentence; empty if nothing does.
        model_trouble: likewise, from measuring the model.
    """

    run: RunPicture
    now: float
    round: int
    final_round: int
    digest: str | None
    totals: Totals
    watched: Watched
    rounds: tuple[RoundPicture, ...]
    peers: tuple[PeerPicture, ...]
    validations: tuple[Validation, ...]
    observing: int | None
    heard_at: float | None
    trouble: str = ""
    model_trouble: str = ""

    @property
    def audited(self) -> bool:
        """Whether any verdict is on the chain: without one, no work was replayed by an auditor."""
        return any(self.totals.verdicts.values())

    @property
    def last_block_at(self) -> float | None:
        """When the newest block came, as far as that is known."""
        return self.rounds[0].seen_at if self.rounds else None

    @property
    def goal_at(self) -> float | None:
        """When the recipe's tokens are reached at the present pace; None if that is not known."""
        left = self.run.goal_tokens - self.totals.tokens
        pace = self.watched.tokens_per_second
        return self.now + left / pace if pace and left > 0 else None

    def peers_in(self, state: PeerState) -> int:
        """Return how many peers are in that state."""
        return sum(peer.state == state for peer in self.peers)

    def peer(self, name: str) -> PeerPicture | None:
        """Return the peer of that id, or None if it is not known."""
        return self._by_name.get(name)

    @cached_property
    def usual_transfer_ms(self) -> float | None:
        """The median of what peers that train measured for a segment to move; None if fewer than two did."""
        found = [one.record.transfer_ms for one in self.peers if one.state == "training"]
        known = [took for took in found if took is not None]
        return statistics.median(known) if len(known) > 1 else None

    @cached_property
    def _by_name(self) -> Mapping[str, PeerPicture]:
        return {peer.peer: peer for peer in self.peers}
