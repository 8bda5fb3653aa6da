"""The recipe's numbers that the round protocol works by, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.keys.keys import PeerId
from recipes.schema.recipe import Recipe, published
from recipes.schema.sections import Overlap

ELECTOR_WINDOW = 32  # blocks looked back on
ELECTOR_MINIMUM = 4  # of them, in how many a peer stands before it may lead, reduce and co-sign
CLAIM_LEADERS = 3  # a claim goes to this many ranked leaders at once
MOST_WINDOW_TOKENS = 1 << 30  # of one peer, however fast it says it is
QUOTA_GROWTH = 1.5  # next quota over the best verified so far
QUOTA_RANGES = 8  # leftover ranges that one quota is pieced together from, at most
LANE_RANGES = 32  # leftover ranges that the newcomers' lanes are pieced together from, at most
MOST_LEFTOVERS = 1024  # ranges of unused slots that the counters remember
MOST_EXCHANGE = (3, 5)  # of a window: what an exchange may take of it, as far as windows follow it
MISS_MEMORY = 8  # blocks for which a reducer that failed is asked last
FANOUT = 8  # peers to whom each one hands a roster or a block on


@dataclass(frozen=True)
class Bounds:
    """Between how many seconds a deadline moves, as the swarm measures how long things take."""

    least: float
    most: float

    def within(self, seconds: float) -> float:
        """Return `seconds`, or the bound that they are beyond."""
        return min(max(seconds, self.least), self.most)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What every peer of a run plays by. Times are seconds, counted by each peer on its own clock.

    `grace`, `transfer` and `leader` bound the deadlines that timeouts.py computes.
    """

    run: str
    segments: int
    window_seconds: float
    grace: Bounds
    transfer: Bounds
    leader: Bounds
    tokens_per_slot: int
    minimum_slots: int
    newcomer_slots: int
    newcomer_lanes: int
    snapshot_interval: int
    electors: tuple[PeerId, ...]
    owners: tuple[PeerId, ...] = ()  # who may sign checkpoints
    owner_threshold: int = 1  # how many of them it takes
    overlap: Overlap = "none"
    upgrade_lead: int = 0  # rounds from a rule's lock-in until it is in force; 0: 2 D

    @classmethod
    def of(cls, recipe: Recipe, run_id: str) -> Rules:
        """Return the numbers of a published recipe that the round protocol works by."""
        return cls(
            run=run_id,
            segments=recipe.round.segments,
            window_seconds=recipe.round.window_seconds,
            grace=Bounds(*recipe.round.grace_seconds),
            transfer=Bounds(*recipe.round.transfer_seconds),
            leader=Bounds(*recipe.round.leader_seconds),
            tokens_per_slot=recipe.data.sequence_length,
            minimum_slots=recipe.round.minimum_slots,
            newcomer_slots=recipe.round.newcomer_slots,
            newcomer_lanes=recipe.round.newcomer_lanes,
            snapshot_interval=recipe.round.snapshot_interval,
            electors=published(recipe).electors,
            owners=recipe.run.owners,
            owner_threshold=recipe.run.owner_threshold,
            overlap=recipe.round.overlap,
        )

    @property
    def trains_ahead(self) -> bool:
        """Whether a window begins while the round before it is exchanged."""
        return self.overlap != "none"

    @property
    def rewind_depth(self) -> int:
        """D: how many blocks that are not final are undone at most."""
        return max(16, self.snapshot_interval)

    @property
    def upgrade_rounds(self) -> int:
        """For how many rounds a rule is locked in before it is in force (upgrades.py)."""
        return self.upgrade_lead or 2 * self.rewind_depth

    @property
    def settled_depth(self) -> int:
        """For how many rounds nothing becomes final before time itself settles what lies deep enough."""
        return 4 * self.rewind_depth
