"""What happened, told as typed events to whoever listens: the screen, the event log, metrics.

The engine and the node emit them and know of no listener.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

from peers.protocol.reasons import VerdictReason
from peers.protocol.round_reasons import (
    EQUIVOCATION_SENTENCES,
    REWIND_SENTENCES,
    SPOILT_SENTENCES,
    WAIT_SENTENCES,
    Equivocation,
    RefusedKind,
    RewindReason,
    SpoiltReason,
    WaitReason,
)
from peers.protocol.verdicts import Decision, Outcome
from recipes.keys.keys import PeerId


@dataclass(frozen=True)
class Connected:
    """This peer is on the network, where others reach it by these addresses."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class WindowStarted:
    """Training for a round began."""

    round: int
    seconds: float
    slots: int


@dataclass(frozen=True)
class WindowGoesOn:
    """The block came under which a window counts that began before it; so many seconds are left."""

    round: int
    seconds: float


@dataclass(frozen=True)
class WindowFinished:
    """Training for a round ended; `loss` is the mean over its steps, in nats per token.

    `seconds` are those in which the trainer computed, `waited` those since the window before in which it did
    not: the first over both is the trainer's utilisation.
    """

    round: int
    steps: int
    tokens: int
    loss: float
    seconds: float
    waited: float = 0.0


@dataclass(frozen=True)
class WindowSpoilt:
    """Training for a round gave no numbers: nothing is claimed. After `most` in a row, the peer stops."""

    round: int
    reason: SpoiltReason
    in_a_row: int
    most: int

    @property
    def sentence(self) -> str:
        """Why, as its volunteer reads it."""
        return SPOILT_SENTENCES[self.reason]


@dataclass(frozen=True)
class Waiting:
    """This peer sits the rest of a round out. `until`: the last round of an expulsion, if that is why."""

    round: int
    reason: WaitReason
    until: int | None = None

    @property
    def sentence(self) -> str:
        """Why, as its volunteer reads it."""
        return WAIT_SENTENCES[self.reason].format(until=self.until)


@dataclass(frozen=True)
class Claimed:
    """The claim of a finished window went to the leaders."""

    round: int
    contribution_bytes: int


@dataclass(frozen=True)
class RosterAccepted:
    """A leader's roster is the one this peer exchanges by. `mine`: this peer's claim is in it."""

    round: int
    attempt: int
    leader: PeerId
    claims: int
    mine: bool


@dataclass(frozen=True)
class BlockAdopted:
    """A block was applied: this is the head now. `phases` are the round's seconds by phase here.

    `gone` others contributed in earlier rounds, where this peer alone did in this one; 0 if it was not alone.
    """

    round: int
    attempt: int
    block: str
    digest: str
    leader: PeerId
    claims: int
    counted_segments: int  # of this peer's own contribution
    empty_segments: int
    tokens: int  # of all rounds
    phases: dict[str, float]
    gone: int = 0


@dataclass(frozen=True)
class BlockFinal:
    """This block is not undone any more, nor are those before it."""

    round: int
    block: str


@dataclass(frozen=True)
class Rewound:
    """The head was left for a better branch; `reason` is what allows that at such a depth."""

    round: int
    to_round: int
    reason: RewindReason

    @property
    def sentence(self) -> str:
        """Why, as its volunteer reads it."""
        return REWIND_SENTENCES[self.reason]


@dataclass(frozen=True)
class Convicted:
    """A peer signed two things of which an honest one signs only one, in that round."""

    peer: PeerId
    kind: Equivocation
    round: int

    @property
    def sentence(self) -> str:
        """What it did, as a volunteer reads it."""
        return EQUIVOCATION_SENTENCES[self.kind]


@dataclass(frozen=True)
class Refused:
    """Something a peer sent was dropped. `fault`: what is wrong with it; `which`: its name among its kind."""

    peer: PeerId
    kind: RefusedKind
    fault: str
    which: str = ""


@dataclass(frozen=True)
class Banned:
    """A peer is neither answered nor asked for a while. `reasons`: what it sent, and how often."""

    peer: PeerId
    seconds: float
    reasons: dict[str, int]


@dataclass(frozen=True)
class Diverged:
    """This peer's state differed from the one that the electors agree on, and is being re-fetched."""

    round: int
    pieces: int


@dataclass(frozen=True)
class Fetching:
    """Progress of a download: recipe, data, snapshot or blocks."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Validated:
    """Validation loss of the canonical state after a round, in nats per token."""

    round: int
    loss: float


@dataclass(frozen=True)
class AuditAsked:
    """This peer is asked to replay the first `steps` of a peer's claim of a round."""

    round: int
    claim: str
    peer: PeerId
    steps: int


@dataclass(frozen=True)
class Replayed:
    """This peer replayed the first `steps` of a peer's claim of a round, and asks that peer to open it."""

    round: int
    claim: str
    peer: PeerId
    steps: int


@dataclass(frozen=True)
class VerdictGiven:
    """This peer said what its replay of a peer's claim of a round came to."""

    round: int
    claim: str
    peer: PeerId
    outcome: Outcome
    reason: VerdictReason


@dataclass(frozen=True)
class AuditDecided:
    """The block of a round decided an audit of a claim of this peer's, by the word of these auditors.

    `disputed`: it is the last decision, after a dispute.
    """

    round: int
    claim: str
    decision: Decision
    disputed: bool
    auditors: tuple[PeerId, ...]


@dataclass(frozen=True)
class CreditChanged:
    """What this peer has pending and vested at its head, in FLOPs."""

    pending: int
    vested: int


@dataclass(frozen=True)
class Notice:
    """A plain sentence for the log."""

    text: str


Event = (
    Connected
    | WindowStarted
    | WindowGoesOn
    | WindowFinished
    | WindowSpoilt
    | Waiting
    | Claimed
    | RosterAccepted
    | BlockAdopted
    | BlockFinal
    | Rewound
    | Convicted
    | Refused
    | Banned
    | Diverged
    | Fetching
    | Validated
    | AuditAsked
    | Replayed
    | VerdictGiven
    | AuditDecided
    | CreditChanged
    | Notice
)


class Listener(Protocol):
    """Hears what happens, and only hears: no work is started by an event."""

    def tell(self, event: Event) -> None:
        """Take note of an event."""


class Listeners:
    """Several functions as one listener; with none, one that hears nothing."""

    def __init__(self, *hear: Callable[[Event], None]) -> None:
        self._hear = hear

    def tell(self, event: Event) -> None:
        """Pass the event on to each of the functions, in their order."""
        for hear in self._hear:
            hear(event)


NOBODY_LISTENS = Listeners()


def as_json_line(
    event: Event, *, seconds: float, sent: Mapping[str, int], received: Mapping[str, int]
) -> str:
    """Return the event as one line of JSON: its type's name, when, and the bytes moved so far by purpose.

    Args:
        event: what happened.
        seconds: since the process began.
        sent: bytes sent so far, by purpose.
        received: likewise.
    """
    head = {"event": type(event).__name__, "at_seconds": round(seconds, 3)}
    return json.dumps({**head, **asdict(event), "sent": dict(sent), "received": dict(received)})
