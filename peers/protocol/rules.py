"""The rules of a run: the recipe's numbers for the round protocol, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.keys.keys import PeerId
from recipes.schema.recipe import Recipe, published
from recipes.schema.sections import Overlap

ELECTOR_WINDOW = 32  # the last so many blocks tell which peers are electors
ELECTOR_MINIMUM = 4  # a peer in so many of them may lead, reduce and co-sign
BLOCK_AFTER = 3.0  # transfer deadlines after a roster's acceptance: its leader makes the block all the same
CLAIM_LEADERS = 3  # a claim goes to this many ranked leaders at once
MOST_WINDOW_TOKENS = 1 << 30  # for one peer, however fast it says it is
QUOTA_GROWTH = 1.5  # next quota over the most slots included so far
QUOTA_RANGES = 8  # leftover ranges that one quota is pieced together from, at most
LANE_RANGES = 32  # leftover ranges that the newcomers' lanes are pieced together from, at most
MOST_LEFTOVERS = 1024  # ranges of unused slots that the counters remember
MOST_EXCHANGE = (3, 5)  # share of a window that an exchange may take before windows stop following it
MISS_MEMORY = 8  # a reducer that failed is asked last for so many blocks
MIXED_LEADERS = 2  # of a round, whose preimages go into its beacon
FANOUT = 8  # each peer hands a roster or a block on to so many others


@dataclass(frozen=True)
class Bounds:
    """The bounds, in seconds, within which a deadline follows the swarm's measurements."""

    least: float
    most: float

    def within(self, seconds: float) -> float:
        """Return `seconds`, or the bound that it is beyond."""
        return min(max(seconds, self.least), self.most)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules that every peer of a run follows. Times are seconds on each peer's own clock.

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
    owners: tuple[PeerId, ...] = ()  # may sign trusted checkpoints
    owner_threshold: int = 1  # so many of them have to
    overlap: Overlap = "none"
    upgrade_lead: int = 0  # rounds from a rule's lock-in until it is in force; 0: 2 D
    hash_chain: int = 1 << 16  # preimages in a peer's hash chain, one a round

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
        """D: at most so many blocks that are not final are undone."""
        return max(16, self.snapshot_interval)

    @property
    def upgrade_rounds(self) -> int:
        """For how many rounds a rule is locked in before it is in force (upgrades.py)."""
        return self.upgrade_lead or 2 * self.rewind_depth

    @property
    def settled_depth(self) -> int:
        """So many rounds without a new final block, and time settles a block that lies deep enough."""
        return 4 * self.rewind_depth
