"""What one peer knows of the round at hand, and the phases that it goes through (engine.py).

A `RoundState` holds one small object for each part of the engine. Each changes itself only, by methods that
the part calls; all of them are dropped together when the next block is adopted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum

from peers.chain.link import Link
from peers.protocol.assignment import Assignment, with_others
from peers.protocol.messages import Claim, Missing, Receipt, Reduction, Roster, Signed
from recipes.keys.keys import PeerId


class Phase(str, Enum):
    """Where a peer stands in its round."""

    SYNCING = "syncing"
    TRAINING = "training"
    CLAIMED = "claimed"
    EXCHANGING = "exchanging"
    APPLYING = "applying"


@dataclass
class OwnWindow:
    """This peer's window and its claim (windows.py, claims.py). Times are seconds on its clock."""

    until: float = math.inf  # its planned end
    training: bool = False  # it counts for this round; not so where the peer sits the round out
    ended_at: float | None = None
    claim: Signed[Claim] | None = None
    sent_to: set[PeerId] = field(default_factory=set)  # the claim

    def begin(self, until: float) -> None:
        """Train until then at the latest."""
        self.until, self.training = until, True

    def end(self, now: float) -> None:
        """Note that training is over."""
        self.ended_at = now

    def give_up(self, now: float) -> None:
        """Go through the round without a claim."""
        self.ended_at, self.training = now, False

    def claimed(self, claim: Signed[Claim]) -> None:
        """Note the claim that was made for it."""
        self.claim = claim

    def not_sent_to(self, peers: Collection[PeerId]) -> list[PeerId]:
        """Return those of `peers` to whom the claim did not go yet, and note that it goes now."""
        fresh = [peer for peer in peers if peer not in self.sent_to]
        self.sent_to.update(fresh)
        return fresh


@dataclass
class ClaimPool:
    """The peers that train in this round, and the claims of it that came here (leader.py)."""

    ready: set[PeerId] = field(default_factory=set)
    held: dict[PeerId, tuple[Signed[Claim], float]] = field(default_factory=dict)  # with arrival, seconds
    asked_at: float = -math.inf  # when a leader that came into a running round asked for claims

    def hold(self, claim: Signed[Claim], now: float) -> None:
        """Keep a claim. The first one of a peer stands."""
        self.held.setdefault(claim.body.peer, (claim, now))

    def asked(self, now: float) -> None:
        """Note that all others are asked for their claims."""
        self.asked_at = now


@dataclass
class Exchange:
    """The round's rosters, and how the exchange by the accepted one goes (allreduce.py)."""

    candidates: dict[int, Signed[Roster]] = field(default_factory=dict)  # by attempt
    roster: Signed[Roster] | None = None  # the accepted one
    roster_at: float = math.inf  # when it was accepted
    roster_refused: bool = False  # it leaves out too many claims, so its block is not co-signed here
    assignments: tuple[Assignment, ...] = ()
    pushed: set[tuple[int, PeerId]] = field(default_factory=set)
    stored: dict[int, set[PeerId]] = field(default_factory=dict)  # by segment: claimants that arrived
    reducing: set[int] = field(default_factory=set)
    reductions: dict[int, dict[PeerId, Signed[Reduction]]] = field(default_factory=dict)
    fetching: set[str] = field(default_factory=set)  # roots of reduced segments
    fetched: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    complete_at: float | None = None  # when a reduction of every segment was here
    may_reduce: bool = True  # not so after a crash in which receipts may have been given (act_book.py)
    given: dict[int, frozenset[int]] = field(default_factory=dict)  # own receipts: segments by place
    receipts: dict[tuple[PeerId, int], Signed[Receipt]] = field(default_factory=dict)  # by author, segment
    words: dict[PeerId, Signed[Missing]] = field(default_factory=dict)
    said: bool = False  # this peer looked for segments that cannot be had
    _told: set[PeerId] = field(default_factory=set)  # of that
    _news: bool = False  # a part was stored since receipts were given

    def accept(
        self,
        roster: Signed[Roster],
        assignments: Sequence[Assignment],
        now: float,
        *,
        refused: bool,
        may_reduce: bool,
    ) -> None:
        """Exchange by a roster from now on; what came of an earlier one's exchange is dropped."""
        self.roster, self.roster_at, self.roster_refused = roster, now, refused
        self.assignments, self.may_reduce = tuple(assignments), may_reduce
        self.pushed, self.stored, self.reducing, self.reductions = set(), {}, set(), {}
        self.given, self.receipts, self.words, self._told = {}, {}, {}, set()
        self.complete_at, self.said = None, False

    @property
    def claimants(self) -> tuple[PeerId, ...]:
        """The peers in the accepted roster, by place; none without one."""
        claims = self.roster.body.claims if self.roster is not None else ()
        return tuple(claim.body.peer for claim in claims)

    def store(self, segment: int, claimant: PeerId) -> None:
        """Note that a claimant's part of a segment is here to be reduced."""
        self.stored.setdefault(segment, set()).add(claimant)
        self._news = True

    def take_news(self) -> bool:
        """Whether parts were stored since this was asked last."""
        news, self._news = self._news, False
        return news

    def by_preference(self, segment: int) -> list[Signed[Reduction]]:
        """Return the known reductions of `segment`, the reducer's before the backup's."""
        heard = self.reductions.get(segment, {})
        assignment = self.assignments[segment]
        return [heard[peer] for peer in (assignment.reducer, assignment.backup) if peer in heard]

    def obtained(self, segment: int) -> Signed[Reduction] | None:
        """Return the reduction of `segment` whose bytes are here; None if there is none."""
        here = (one for one in self.by_preference(segment) if one.body.root in self.fetched)
        return next(here, None)

    def say(self) -> None:
        """Note that this peer has looked for segments that cannot be had."""
        self.said = True

    def not_told(self, peers: Collection[PeerId]) -> list[PeerId]:
        """Return those of `peers` that were not told what cannot be had, and note that they are now."""
        fresh = [peer for peer in peers if peer not in self._told]
        self._told.update(fresh)
        return fresh

    def is_by(self, roster: str) -> bool:
        """Whether the roster with this hash is the accepted one."""
        return self.roster is not None and self.roster.hash == roster

    def complete(self, now: float) -> None:
        """Note that a reduction of every segment is here."""
        if self.complete_at is None:
            self.complete_at = now


@dataclass
class RoundState:
    """The round on top of `parent`. `begun`: this peer takes part in it, if only by waiting for its block."""

    parent: Link
    started: float  # when its window began, on this peer's clock
    begun: bool = False
    window: OwnWindow = field(default_factory=OwnWindow)
    pool: ClaimPool = field(default_factory=ClaimPool)
    exchange: Exchange = field(default_factory=Exchange)
    made_block: bool = False  # by this peer, since it stands here (leader.py)
    _order: tuple[int, list[PeerId]] = (-1, [])  # of the leaders, and how many others it knew of

    def make_block(self) -> None:
        """Note that this peer made the round's block."""
        self.made_block = True

    def leaders(self, me: PeerId) -> list[PeerId]:
        """Return the round's leaders in the order of their turn."""
        known = len(self.pool.ready) + len(self.pool.held)  # neither ever shrinks
        if self._order[0] != known:
            others = self.pool.ready | self.pool.held.keys() | {me}
            self._order = (
                known,
                with_others(self.parent.leaders, others, self.parent.counters, self.parent.say),
            )
        return self._order[1]
