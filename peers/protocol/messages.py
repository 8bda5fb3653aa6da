"""The messages between peers: typed, bounded, and signed if they are kept.

A message travels as RFC 8785 canonical JSON, so its hash is over the same bytes on every machine. `Signed[T]`
is a body with its author's Ed25519 signature over that hash (of a roster or block: over its header's); the
author is `body.peer`, and the signature is bound to the body's `purpose`. Parsing bytes from another peer
(`parse`) checks size, shape, every bound, and every signature inside; nothing else in the project looks at
unparsed messages.

    Ready        -> leaders           I train in this round
    ClaimsWanted -> everybody         I lead, and have just come: what did you claim?
    Claim        -> leaders           signed: my contribution's root, and the work behind it
    Roster       -> claimants         signed by the leader: the round's claims, in order
    Reduction    -> claimants         signed by a reducer: a reduced segment's root, and whose parts it holds
    Block        -> everybody         signed by the leader: the round's record, chained to its parent
    Receipt      -> its claimant      signed by a reducer: I have your parts of these segments
    Missing      -> leaders           signed by an elector: the bytes of these segments cannot be had
    CoSignature  -> electors, roster  signed: I applied this block, and my state's digest is now this
    HeadNotice   -> the peer that asks  the newest block that I hold
    Evidence     -> everybody         two statements by one peer that contradict each other
    Verdict      -> leaders           signed by an auditor: the outcome of a claim's replay
    Dispute      -> leaders           signed by a peer that lost credit by an audit: the audit went wrong
    KeyChange    -> leaders           signed by two keys: one key's account moves to the other
    Checkpoint   -> everybody         signed by an owner: this block is the run's
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from peers.protocol.canonical_spans import body_texts
from peers.protocol.checkpoints import MAX_OWNERS, Checkpoint, Vouched, vouch, vouchers
from peers.protocol.headers import BlockHeader, RosterHeader, place_of
from peers.protocol.key_change import KeyChange
from peers.protocol.reductions import (
    MAX_PEERS,
    MAX_SEGMENTS,
    Missing,
    Receipt,
    Reduction,
    leaves_out,
)
from peers.protocol.round_reasons import Equivocation
from peers.protocol.signed import (
    MAX_UNKNOWN_FIELDS,
    Body,
    Closed,
    Count,
    Hash,
    Message,
    Milliseconds,
    Norm,
    PeerName,
    SignatureHex,
    Signed,
    SlotRange,
    later,
    sign,
)
from peers.protocol.upgrades import MAX_SIGNALS, RuleName
from peers.protocol.verdicts import Dispute, Verdict
from recipes.errors import MessageError, Offence
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId

__all__ = [
    "MAX_OWNERS",
    "MAX_PEERS",
    "MAX_SEGMENTS",
    "BlockHeader",
    "Body",
    "Checkpoint",
    "Closed",
    "Count",
    "Hash",
    "Message",
    "Milliseconds",
    "Missing",
    "Norm",
    "PeerName",
    "Receipt",
    "Reduction",
    "RosterHeader",
    "SignatureHex",
    "Signed",
    "SlotRange",
    "Vouched",
    "sign",
    "vouch",
    "vouchers",
]  # of what is below, for whoever reads messages

MAX_RANGES = 64
MAX_COSIGNATURES = 4 * MAX_PEERS
MAX_VERDICTS = 128  # in one block, like the following
MAX_DISPUTES = 16
MAX_EVIDENCE = 8
MAX_ROTATIONS = 8
MAX_MISSING = MAX_PEERS
MAX_BLOCK_BYTES = 4 << 20


Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$")]
Norms = Annotated[tuple[Norm, ...], Field(max_length=MAX_SEGMENTS, fail_fast=True)]


class Pace(Message):
    """What a peer measured since its last claim, in milliseconds; None where nothing was measured."""

    claims_late_ms: Milliseconds | None = None  # from its window's end to the arrival of others' claims
    transfer_ms: Milliseconds | None = None  # for a segment to be sent or fetched
    reply_ms: Milliseconds | None = None  # from a question to its answer
    exchange_ms: Milliseconds | None = None  # from the own claim to the block, where windows overlap it
    compute_ms: Milliseconds | None = None  # for which the trainer computed in this window


class Claim(Body):
    """A commitment to one round's contribution and to the work behind it (one per peer and round)."""

    purpose = "claim"
    round: Count
    parent: Hash  # the block on top of which this round is; the window started from its state, unless:
    ahead: bool = False  # it started before that block, from the state and own claim of the round before
    start_digest: Hash  # the state digest there
    slots: Annotated[
        tuple[SlotRange, ...], Field(max_length=MAX_RANGES, fail_fast=True)
    ]  # used, in the order of use
    steps: Count  # local optimizer steps
    numeric_class: Annotated[str, Field(max_length=64)]
    contribution: Hash  # Merkle root over the segments' roots
    contribution_bytes: Count
    norms: Annotated[
        tuple[Norm, ...], Field(max_length=MAX_SEGMENTS, fail_fast=True)
    ]  # L2 of each segment, decoded
    feedback: Hash  # root of the error feedback that is left
    feedback_reset: bool  # the error feedback was lost and started from zero
    predecessor: Hash | None  # this peer's claim before this one
    loss_commitment: Hash  # BLAKE3 of salt and loss trace
    preimage: Hash | None  # what the author's hash chain has for this round (hash_chain.py); None without one
    anchor: Hash | None  # of its first chain, or of one that replaces it
    pace: Pace
    # Of later builds than the first; what is reserved means nothing yet, and is carried along.
    signals: Annotated[tuple[RuleName, ...], Field(max_length=MAX_SIGNALS)] | None = later()  # upgrades.py
    feedback_norms: Norms | None = later()  # reserved: L2 of the error feedback, by segment
    reachability: Label | None = later()  # reserved: how others can connect to the author
    density: Label | None = later()  # reserved: the rung of the density ladder
    form: Label | None = later()  # reserved: the codec's form


class Roster(Body):
    """A round's claims in the order in which they are averaged. Reducers follow from it (assignment.py)."""

    purpose = "roster"
    round: Count
    parent: Hash
    attempt: Count
    claims: Annotated[tuple[Signed[Claim], ...], Field(min_length=1, max_length=MAX_PEERS, fail_fast=True)]

    def header(self, name: str) -> RosterHeader:
        """Return what its leader signs; `name` is the hash of this body."""
        return RosterHeader(roster=name, **place_of(self))

    def signed_digest(self, name: str) -> bytes:
        """Return the hash of the header, which is what the leader signs."""
        return digest(self.header(name).canonical())


class CoSignature(Body):
    """I applied this block; after it, my canonical state has this digest."""

    purpose = "cosignature"
    round: Count
    block: Hash
    digest: Hash


Statement = (
    Signed[CoSignature]
    | Signed[Claim]
    | Signed[RosterHeader]
    | Signed[BlockHeader]
    | Signed[Receipt]
    | Signed[Reduction]
)
_STATEMENTS = (CoSignature, Claim, RosterHeader, BlockHeader, Receipt, Reduction)


class Evidence(Closed):
    """Two statements by one peer that contradict each other: by themselves the proof of an equivocation."""

    one: Statement
    other: Statement

    def shows(self) -> Equivocation | None:
        """Return what its author did, or None if the two do not contradict each other."""
        one, other = self.one.body, self.other.body
        if one.peer != other.peer or self.one.hash == self.other.hash:
            return None
        match one, other:
            case CoSignature(), CoSignature():
                contradict = one.round == other.round and one.block != other.block
                return "two_cosignatures" if contradict else None
            case Claim(), Claim():
                return "two_claims" if one.parent == other.parent else None
            case RosterHeader(), RosterHeader():
                return "two_rosters" if one.contradicts(other) else None
            case BlockHeader(), BlockHeader():
                return "two_blocks" if one.contradicts(other) else None
            case Receipt(), Reduction():
                return "broken_receipt" if leaves_out(other, one) else None
        return None

    def culprit(self) -> PeerId | None:
        """Return the equivocator, or None if the two do not contradict each other."""
        return self.one.body.peer if self.shows() is not None else None

    @property
    def round(self) -> int | None:
        """The round in which the two were signed; None for claims that name two rounds."""
        one, other = self.one.body, self.other.body
        differ = not isinstance(other, Reduction) and other.round != self.signed_in
        return None if differ or isinstance(one, Reduction) else one.round

    @property
    def signed_in(self) -> int:
        """The round in which the first of the two was signed, as its author says."""
        return 0 if isinstance(self.one.body, Reduction) else self.one.body.round


class LedgerHead(Message):
    """The ledger's tree after a block: how many entries it has, and their root (RFC 9162, over SHA-256)."""

    size: Count
    root: Hash


class Block(Body):
    """The record of one round. An empty segment (None) leaves its weights as they were."""

    purpose = "block"
    round: Count
    attempt: Count
    parent: Hash
    roster: Signed[Roster]
    reductions: Annotated[
        tuple[Signed[Reduction] | None, ...], Field(max_length=MAX_SEGMENTS, fail_fast=True)
    ]
    digest_before: Hash  # what the parent's co-signers agree on
    cosignatures: Annotated[
        tuple[Signed[CoSignature], ...], Field(max_length=MAX_COSIGNATURES, fail_fast=True)
    ]  # of the parent
    ledger: LedgerHead  # after the parent
    accounts: Hash  # of every peer's credit after the parent
    verdicts: Annotated[tuple[Signed[Verdict], ...], Field(max_length=MAX_VERDICTS, fail_fast=True)] = ()
    disputes: Annotated[tuple[Signed[Dispute], ...], Field(max_length=MAX_DISPUTES, fail_fast=True)] = ()
    evidence: Annotated[tuple[Evidence, ...], Field(max_length=MAX_EVIDENCE, fail_fast=True)] = ()
    rotations: Annotated[tuple[KeyChange, ...], Field(max_length=MAX_ROTATIONS, fail_fast=True)] = ()
    missing: Annotated[
        tuple[Signed[Missing], ...], Field(max_length=MAX_MISSING, fail_fast=True)
    ] = ()  # electors' words on the segments that it leaves empty
    electorate: Hash | None = later()  # reserved: of the next electors and their weights
    receipts: Hash | None = later()  # reserved: of the reducers' receipts for segments

    def header(self, name: str) -> BlockHeader:
        """Return what its leader signs; `name` is the hash of this body."""
        return BlockHeader(block=name, **place_of(self))

    def signed_digest(self, name: str) -> bytes:
        """Return the hash of the header, which is what the leader signs."""
        return digest(self.header(name).canonical())


def header_of(signed: Signed[Roster] | Signed[Block]) -> Signed[RosterHeader] | Signed[BlockHeader]:
    """Return the header of a roster or block with its leader's signature, which is over just that."""
    if isinstance(signed.body, Roster):
        return Signed[RosterHeader](body=signed.body.header(signed.hash), signature=signed.signature)
    return Signed[BlockHeader](body=signed.body.header(signed.hash), signature=signed.signature)


class Ready(Message):
    """I train in this round, from this block. The leader then waits for my claim, within its grace."""

    round: Count
    parent: Hash


class ClaimsWanted(Message):
    """I lead, have just come into this round, and know of no claims: send me yours."""

    round: Count
    parent: Hash


class HeadNotice(Message):
    """The newest block whose state I hold, and how long ago I began its window: no clock is compared."""

    round: Count
    block: Hash
    age_seconds: Annotated[float, Field(ge=0, le=86400 * 365, allow_inf_nan=False)]
    roster: Hash | None = None  # the roster by which I exchange in that window's round
    word: Signed[CoSignature] | None = None  # my co-signature of that block
    checkpoint: Hash | None = None  # the block of the newest trusted checkpoint that I know
    wire: Count | None = later()  # my build's (upgrades.py)
    farewell: bool | None = later()  # reserved: I leave after this round


SignedMessage = (
    Signed[Claim]
    | Signed[Roster]
    | Signed[Reduction]
    | Signed[Receipt]
    | Signed[Missing]
    | Signed[Block]
    | Signed[CoSignature]
    | Vouched
    | Signed[Verdict]
    | Signed[Dispute]
)
AnyMessage = SignedMessage | Ready | ClaimsWanted | HeadNotice | Evidence | KeyChange

KINDS: dict[str, tuple[type[Message], int]] = {  # wire name -> type, largest size in bytes
    "ready": (Ready, 1024),
    "claims-wanted": (ClaimsWanted, 1024),
    "head": (HeadNotice, 4 << 10),
    "claim": (Signed[Claim], 64 << 10),
    "roster": (Signed[Roster], 2 << 20),
    "reduction": (Signed[Reduction], 4 << 10),
    "receipt": (Signed[Receipt], 8 << 10),
    "missing": (Signed[Missing], 8 << 10),
    "block": (Signed[Block], MAX_BLOCK_BYTES),
    "cosignature": (Signed[CoSignature], 2 << 10),
    "checkpoint": (Vouched, 12 << 10),
    "evidence": (Evidence, 128 << 10),
    "verdict": (Signed[Verdict], 2 << 10),
    "dispute": (Signed[Dispute], 1 << 10),
    "rotation": (KeyChange, 4 << 10),
}
# The most values that the largest block can hold. A value with a problem costs far more than its bytes do.
_MOST_OBJECTS = 16384
_MOST_VALUES = (2 * (MAX_PEERS + MAX_EVIDENCE) + MAX_MISSING) * (MAX_SEGMENTS + MAX_RANGES) + 64 * (
    MAX_PEERS + MAX_SEGMENTS + MAX_COSIGNATURES + MAX_VERDICTS + MAX_DISPUTES + MAX_EVIDENCE + MAX_ROTATIONS
)
_MOST_PROBLEMS = 16  # up to so many, the first one is told
_NAMES: dict[type[Message], str] = {kind: name for name, (kind, _) in KINDS.items()}


def kind_of(message: AnyMessage) -> str:
    """Return the wire name of a message's type."""
    return _NAMES[type(message)]


def parse(kind: str, content: bytes, *, run: str) -> AnyMessage:
    """Parse and check a message of `kind` from another peer, for the run with id `run`.

    Raises:
        MessageError: the kind is unknown, or the message is too large, malformed, out of bounds, for another
            run, or holds a signature that is not its author's.
    """
    if kind not in KINDS:
        raise MessageError(f"unknown kind of message {kind[:32]!r}", offence=Offence.UNKNOWN_KIND)
    expected, limit = KINDS[kind]
    if len(content) > limit:
        raise MessageError(
            f"{kind} of {len(content)} bytes; at most {limit} are allowed", offence=Offence.OVERSIZED
        )
    if content.count(b",") > _MOST_VALUES or content.count(b"{") > _MOST_OBJECTS:
        raise MessageError(f"malformed {kind}: more values than any has", offence=Offence.MALFORMED)
    message = _checked(kind, expected, content)
    parts = _signed_parts(message)
    if not message.carries_unknown():  # an unknown field might look like a signed body
        texts = body_texts(content)
        for signed in parts:
            if (text := texts.get(signed.signature)) is not None:
                signed.__dict__["hash"] = digest(text).hex()
    for signed in parts:
        if signed.body.run != run:
            raise MessageError(f"{kind} belongs to another run", offence=Offence.OTHER_RUN)
        if not signed.holds():
            raise MessageError(
                f"{kind}: the signature of {signed.body.peer} does not hold", offence=Offence.FORGED
            )
    return message  # type: ignore[no-any-return]


def _checked(kind: str, expected: type[Message], content: bytes) -> Any:
    """Return a message whose canonical form is `content`, byte for byte: so it has no field twice.

    Raises:
        MessageError: it is malformed, or written in another form.
    """
    try:
        message = expected.model_validate_json(content)
        written = message.canonical()
    except (ValidationError, RecursionError, ValueError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else "a value that JSON cannot hold"
        if isinstance(error, ValidationError):
            few = error.error_count() <= _MOST_PROBLEMS
            reason = error.errors()[0]["msg"] if few else f"{error.error_count()} problems"
        raise MessageError(f"malformed {kind}: {reason}", offence=Offence.MALFORMED) from error
    if written != content:
        reason = "it is not in canonical form (RFC 8785)"
        raise MessageError(f"malformed {kind}: {reason}", offence=Offence.MALFORMED)
    if any(len(part.unknown()) > MAX_UNKNOWN_FIELDS for part in message.objects()):
        reason = f"more than {MAX_UNKNOWN_FIELDS} unknown fields in one object"
        raise MessageError(f"malformed {kind}: {reason}", offence=Offence.MALFORMED)
    if any(part.unknown() and _has_two_readings(part) for part in message.objects()):
        reason = "it may be read as a statement of two kinds"
        raise MessageError(f"malformed {kind}: {reason}", offence=Offence.MALFORMED)
    return message


def _has_two_readings(part: Message) -> bool:
    """Whether a body that evidence may hold can be read as another such, by its unknown fields.

    Nobody could prove anything by it: a proof names no kinds, since each has fields that no other has.
    """
    if type(part) not in _STATEMENTS:
        return False
    there = type(part).model_fields.keys() | part.unknown().keys()
    others = (kind for kind in _STATEMENTS if kind is not type(part))
    return any(
        all(name in there for name, field in kind.model_fields.items() if field.is_required())
        for kind in others
    )


def _signed_parts(message: Any) -> list[Signed[Any]]:
    """Return every signed body in `message`, itself included."""
    if isinstance(message, HeadNotice):
        return [message.word] if message.word is not None else []
    if isinstance(message, Evidence):
        return [message.one, message.other]
    if isinstance(message, KeyChange):
        return [*message.parts()]
    if not isinstance(message, Signed):
        return []
    body, parts = message.body, [message]
    if isinstance(message, Vouched):
        parts += message.words
    if isinstance(body, Roster):
        parts += body.claims
    elif isinstance(body, Block):
        parts += _signed_parts(body.roster)
        parts += [reduction for reduction in body.reductions if reduction is not None]
        parts += [*body.cosignatures, *body.verdicts, *body.disputes, *body.missing]
        for unsigned in (*body.evidence, *body.rotations):
            parts += _signed_parts(unsigned)
    return parts
