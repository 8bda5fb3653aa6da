"""The ledger's entries: the kinds of leaf in the log, as RFC 8785 canonical JSON.

Entries are never sent or signed: every peer derives the same ones from the chain (accounts.py). Amounts are
whole FLOPs, written as decimal strings, since they may be beyond 2^53, where JSON's numbers end.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from peers.protocol.messages import MAX_SEGMENTS, Closed, Count, Hash, PeerName
from peers.protocol.reasons import Breach, CreditReason, Forfeiture, Lapse, VerdictReason
from peers.protocol.verdicts import Decision, Outcome
from recipes.errors import DataError

MOST_AUDITORS = 10  # in the order of one audit; no further one is asked
MAX_ENTRY_BYTES = 4096
_MOST_DIGITS = 39  # 2^53 tokens of 2^60 FLOPs each have 35


def _amount_from_text(value: Any) -> Any:
    """Return the number in a canonical decimal string; return anything else as it is, to be refused."""
    if not isinstance(value, str) or not (value.isascii() and value.isdigit()) or len(value) > _MOST_DIGITS:
        return value
    return int(value) if value == "0" or value[0] != "0" else value


Amount = Annotated[
    int,
    Field(ge=0, lt=10**_MOST_DIGITS),
    BeforeValidator(_amount_from_text),
    PlainSerializer(str, return_type=str, when_used="json"),
]


class Join(Closed):
    """A peer was included for the first time."""

    kind: Literal["join"] = "join"
    round: Count
    peer: PeerName


class ClaimCounted(Closed):
    """A claim in the block's roster; `amount` is what went into escrow for it."""

    kind: Literal["claim"] = "claim"
    round: Count
    peer: PeerName
    claim: Hash
    predecessor: Hash | None
    tokens: Count
    steps: Count
    numeric_class: Annotated[str, Field(max_length=64)]
    segments: Annotated[int, Field(ge=0, le=MAX_SEGMENTS)]  # of the contribution that were included
    amount: Amount
    missed: Amount  # FLOPs never credited: segments that missed the cut, or all work of a retired id
    reason: CreditReason  # why `amount` is not vested yet, or why it is nothing


class AuditDrawn(Closed):
    """A claim was drawn for an audit, with its auditors in order and the number of steps to replay."""

    kind: Literal["audit"] = "audit"
    round: Count
    claim: Hash
    peer: PeerName
    auditors: Annotated[tuple[PeerName, ...], Field(max_length=MOST_AUDITORS)]
    steps: Count
    seed: Hash  # of the chunks that are opened
    repeated: bool  # a pass takes two auditors


class VerdictCounted(Closed):
    """A verdict by an auditor that was asked; `amount` is what the replay earned, into escrow."""

    kind: Literal["verdict"] = "verdict"
    round: Count
    claim: Hash
    peer: PeerName  # the claim's author
    auditor: PeerName
    verdict: Hash  # hash of the signed verdict's body
    outcome: Outcome
    reason: VerdictReason
    amount: Amount


class Decided(Closed):
    """An audit was decided, or a dispute of one."""

    kind: Literal["decision"] = "decision"
    round: Count
    claim: Hash
    peer: PeerName
    decision: Decision
    disputed: bool


class Vest(Closed):
    """Credit in escrow became vested, for good; `total` is all vested credit of the peer."""

    kind: Literal["vest"] = "vest"
    round: Count
    peer: PeerName
    amount: Amount
    total: Amount


class Forfeit(Closed):
    """All pending credit of a peer is forfeited; `claim` names the claim that was the cause, if one was."""

    kind: Literal["forfeit"] = "forfeit"
    round: Count
    peer: PeerName
    amount: Amount
    reason: Forfeiture
    claim: Hash | None


class Expelled(Closed):
    """No claim of a peer is taken up to round `until`, because the audit of one failed."""

    kind: Literal["expulsion"] = "expulsion"
    round: Count
    peer: PeerName
    claim: Hash
    until: Count


class Contradicted(Closed):
    """Two statements of a peer contradict each other. Up to round `until` no claim of it is taken, if not 0.

    For two co-signatures it is only marked: it is silenced, and pays nothing.
    """

    kind: Literal["contradiction"] = "contradiction"
    round: Count
    peer: PeerName
    reason: Breach
    signed: Count  # the round in which the two statements were signed
    proof: Hash  # of the evidence in canonical form
    until: Count


class Lapsed(Closed):
    """All pending credit of a peer lapses."""

    kind: Literal["lapse"] = "lapse"
    round: Count
    peer: PeerName
    amount: Amount
    reason: Lapse
    claim: Hash


class Disputed(Closed):
    """A peer disputes a decision that took credit from it: the next auditors in order are asked."""

    kind: Literal["dispute"] = "dispute"
    round: Count
    claim: Hash
    peer: PeerName


class Restored(Closed):
    """A dispute was won: the credit that the decision took is pending again, and its expulsion ends."""

    kind: Literal["restore"] = "restore"
    round: Count
    claim: Hash
    peer: PeerName
    amount: Amount


class Rotated(Closed):
    """The account of `peer` is its successor's from here on; nothing that `peer` signs counts any more."""

    kind: Literal["rotation"] = "rotation"
    round: Count
    peer: PeerName
    successor: PeerName
    change: Hash  # hash of the signed rotation
    recovered: bool  # signed by a recovery key in place of the peer's own
    vested: Amount
    pending: Amount


Entry = (
    Join
    | ClaimCounted
    | AuditDrawn
    | VerdictCounted
    | Decided
    | Vest
    | Forfeit
    | Expelled
    | Contradicted
    | Lapsed
    | Disputed
    | Restored
    | Rotated
)

_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


def parse_entry(content: bytes) -> Entry:
    """Read an entry from its canonical bytes.

    Raises:
        DataError: too long, malformed, out of bounds, or not in canonical form: another text for the same
            entry would be another leaf.
    """
    if len(content) > MAX_ENTRY_BYTES:
        raise DataError(f"A ledger entry of {len(content)} bytes; at most {MAX_ENTRY_BYTES} are allowed.")
    try:
        entry = _ENTRY.validate_json(content)
    except ValidationError as error:
        raise DataError(f"A malformed ledger entry: {error.errors()[0]['msg']}") from error
    if entry.canonical() != content:
        raise DataError("A ledger entry is not in canonical form (RFC 8785).")
    return entry
