"""Events: what happened, as typed values for listeners such as the screen, the event log and metrics.

The engine and the node emit events and know of no listener.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    """This peer is on the network; others reach it at these addresses."""

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
    """The block came for a window that began ahead of it; the window has so many seconds left."""

    round: int
    seconds: float


@dataclass(frozen=True)
class WindowFinished:
    """Training for a round ended; `loss` is the mean over its steps, in nats per token.

    The trainer computed for `seconds`, and did not for `waited` seconds since the window before: the first
    over their sum is its utilisation.
    """

    round: int
    steps: int
    tokens: int
    loss: float
    seconds: float
    waited: float = 0.0


@dataclass(frozen=True)
class WindowSpoilt:
    """Training gave NaN or infinity, so nothing is claimed. After `most` such rounds, the peer stops."""

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

    `gone`: if this peer alone contributed in this round, how many others did in earlier ones; otherwise 0.
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
    """This block and those before it are never undone."""

    round: int
    block: str


@dataclass(frozen=True)
class Rewound:
    """The head was left for a better branch; `reason` is what allows this at such a depth."""

    round: int
    to_round: int
    reason: RewindReason

    @property
    def sentence(self) -> str:
        """Why, as its volunteer reads it."""
        return REWIND_SENTENCES[self.reason]


@dataclass(frozen=True)
class Convicted:
    """A peer is an equivocator: it signed two statements in one round that contradict each other."""

    peer: PeerId
    kind: Equivocation
    round: int

    @property
    def sentence(self) -> str:
        """What it did, as a volunteer reads it."""
        return EQUIVOCATION_SENTENCES[self.kind]


@dataclass(frozen=True)
class Refused:
    """A message or data of a peer was dropped. `fault`: what is wrong with it; `which`: what names it."""

    peer: PeerId
    kind: RefusedKind
    fault: str
    which: str = ""


@dataclass(frozen=True)
class Banned:
    """A peer is banned: for a while, it is neither answered nor asked. `reasons`: its offences, counted."""

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
    """This peer gave its verdict on a peer's claim of a round."""

    round: int
    claim: str
    peer: PeerId
    outcome: Outcome
    reason: VerdictReason


@dataclass(frozen=True)
class AuditDecided:
    """A block decided an audit of one of this peer's claims, by the verdicts of these auditors.

    `disputed`: this is the last decision, after a dispute.
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
    """Hears events, and starts no work because of one."""

    def tell(self, event: Event) -> None:
        """Take note of an event."""


class Listeners:
    """Several listeners as one; with none, one that hears nothing."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def tell(self, event: Event) -> None:
        """Pass the event on to each of the listeners, in their order."""
        for listener in self._listeners:
            listener.tell(event)


NOBODY_LISTENS = Listeners()


def as_json_line(
    event: Event, *, seconds: float, sent: Mapping[str, int], received: Mapping[str, int]
) -> str:
    """Return the event as one line of JSON: its type's name, its time, and the bytes moved so far by purpose.

    Args:
        event: the event.
        seconds: seconds since the process began.
        sent: bytes sent so far, by purpose.
        received: bytes received so far, by purpose.
    """
    head = {"event": type(event).__name__, "at_seconds": round(seconds, 3)}
    return json.dumps({**head, **asdict(event), "sent": dict(sent), "received": dict(received)})
