"""What one peer knows of the round at hand, and the phases that it goes through (engine.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from peers.chain.chain import Link
from peers.protocol.assignment import Assignment
from peers.protocol.messages import Claim, Reduction, Roster, Signed
from recipes.keys.keys import PeerId


class Phase(str, Enum):
    """Where a peer stands in its round."""

    SYNCING = "syncing"
    TRAINING = "training"
    CLAIMED = "claimed"
    EXCHANGING = "exchanging"
    APPLYING = "applying"


@dataclass
class RoundState:
    """What one peer knows of the round on top of its head. Dropped when the next block is adopted."""

    parent: Link
    started: float  # when the window began, on this peer's clock
    train_until: float = math.inf
    claims_asked_at: float = -math.inf  # by a leader that came into a running round
    training: bool = False
    window_ended: float | None = None
    ready: set[PeerId] = field(default_factory=set)
    claims: dict[PeerId, tuple[Signed[Claim], float]] = field(default_factory=dict)  # with arrival
    own_claim: Signed[Claim] | None = None
    claim_sent: set[PeerId] = field(default_factory=set)
    candidates: dict[int, Signed[Roster]] = field(default_factory=dict)  # by attempt
    roster: Signed[Roster] | None = None
    roster_at: float = math.inf
    roster_refused: bool = False
    assignments: tuple[Assignment, ...] = ()
    pushed: set[tuple[int, PeerId]] = field(default_factory=set)
    stored: dict[int, set[PeerId]] = field(default_factory=dict)  # by segment: claimants that arrived
    reducing: set[int] = field(default_factory=set)
    reductions: dict[int, dict[PeerId, Signed[Reduction]]] = field(default_factory=dict)
    fetching: set[str] = field(default_factory=set)
    fetched: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    led_rosters: set[int] = field(default_factory=set)  # attempts
    led_blocks: set[int] = field(default_factory=set)
    exchanged_at: float | None = None
    order: tuple[int, list[PeerId]] | None = None  # of the leaders, and how many others it knew of
