"""One peer as the swarm shows it: its record on the chain, its account in the ledger, and what follows.

The page and the API are made from this value, so that what is known of a peer is said in one place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peers.credit.escrow import Account
from recipes.keys.keys import PeerId

TRAINING_ROUNDS = 4  # without a peer, after which it is no longer called training
QUIET_ROUNDS = 32  # after which it is gone
RECENT = (1 << QUIET_ROUNDS) - 1  # the bits of the last rounds

PeerState = Literal["training", "quiet", "gone", "observing"]


@dataclass(frozen=True)
class Cuts:
    """In how many of the last 32 rounds a peer was counted, and in how many it tried to be."""

    made: int = 0
    tried: int = 0


@dataclass(frozen=True)
class Record:
    """What the chain shows of one peer; all zero for a peer that never was in a block.

    Attributes:
        first_round, last_round: in which it was counted; 0 if never.
        as_of: the round that the bits below are of.
        made_bits, missed_bits: bit i is the round i before `as_of`: counted, and tried in vain.
        rounds, missed_rounds: in which it was counted, and in which it tried in vain.
        tokens: of its counted contributions; `last_tokens` of the newest one.
        numeric_class: of the newest one.
        transfer_ms: what it last measured for a segment to be sent or fetched.
        present: whether it was counted in one of the last rounds.
        delivered: whether it delivered all that it owed in the last round that it was in.
    """

    first_round: int = 0
    last_round: int = 0
    as_of: int = 0
    made_bits: int = 0
    missed_bits: int = 0
    rounds: int = 0
    missed_rounds: int = 0
    tokens: int = 0
    last_tokens: int = 0
    numeric_class: str = ""
    transfer_ms: int | None = None
    present: bool = True
    delivered: bool = True

    def cuts(self, round_number: int) -> Cuts:
        """Return the cuts that it made and tried, as of a round."""
        later = max(0, round_number - self.as_of)
        made, missed = (self.made_bits << later) & RECENT, (self.missed_bits << later) & RECENT
        return Cuts(made.bit_count(), (made | missed).bit_count())

    def state(self, round_number: int) -> PeerState:
        """Return how long ago it was counted last, as of a round."""
        if not self.rounds:
            return "gone"
        away = round_number - self.last_round
        if away < TRAINING_ROUNDS:
            return "training"
        return "quiet" if away < QUIET_ROUNDS else "gone"


@dataclass(frozen=True)
class PeerPicture:
    """One peer at a moment.

    Attributes:
        state: training, quiet or gone by when it was last counted; observing if it is only looking on.
        record: what the chain shows of it.
        account: what the ledger knows of it.
        cuts: of the last 32 rounds.
        under_audit: whether an audit of it is open.
        convicted: whether it signed two things of which an honest peer signs one.
    """

    peer: PeerId
    state: PeerState
    record: Record = field(default_factory=Record)
    account: Account = field(default_factory=Account)
    cuts: Cuts = field(default_factory=Cuts)
    under_audit: bool = False
    convicted: bool = False

    @property
    def pending(self) -> int:
        """FLOPs that may still vest."""
        return self.account.in_escrow + self.account.uncalibrated

    @property
    def lost(self) -> int:
        """FLOPs that were forfeited or lapsed."""
        return sum(self.account.lost.values())
