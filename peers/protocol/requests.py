"""The bodies of requests that are not messages: a few fixed-size fields each, integers little-endian."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from peers.protocol.messages import MAX_PEERS
from recipes.errors import MessageError, Offence

PieceKind = Literal["weights", "momentum", "counters", "accounts"]

PIECE_KINDS: tuple[PieceKind, ...] = ("weights", "momentum", "counters", "accounts")
_ROUNDS = 2**53  # the bound of messages.Count
_ROUND = struct.Struct("<Q")
_PIECE = struct.Struct("<QBI")
_HASH = struct.Struct("<32s")
_SPAN = struct.Struct("<II")
_SPOT = struct.Struct("<32sII")

ROUND_BYTES = _ROUND.size
HASH_BYTES = _HASH.size
DATA_REQUEST_BYTES = _HASH.size + _SPAN.size
PIECE_REQUEST_BYTES = _PIECE.size + _SPAN.size
SPOT_REQUEST_BYTES = _SPOT.size + 2 * MAX_PEERS


@dataclass(frozen=True)
class Span:
    """A part of some content: `length` bytes from byte `start` on, or fewer where the content ends."""

    start: int
    length: int

    def of(self, content: bytes) -> bytes:
        """Return this part of `content`."""
        return content[self.start : self.start + self.length]


@dataclass(frozen=True)
class SpotCheck:
    """Which chunk of which segment of a roster is checked, and which of its claims were averaged there."""

    roster: str
    segment: int
    chunk: int
    included: tuple[int, ...]


def encode_round(round_number: int) -> bytes:
    """Return a round's number as 8 bytes."""
    return _ROUND.pack(round_number)


def decode_round(body: bytes) -> int:
    """Return the round's number in `body`.

    Raises:
        MessageError: it is not 8 bytes, or more than any round has.
    """
    (round_number,) = _unpack(_ROUND, body)
    return _round_in_reach(round_number)


def decode_rounds(body: bytes) -> frozenset[int]:
    """Return the rounds in `body`, 8 bytes each.

    Raises:
        MessageError: it is malformed, or one is more than any round has.
    """
    if len(body) % ROUND_BYTES:
        raise MessageError(f"rounds in {len(body)} bytes", offence=Offence.MALFORMED)
    return frozenset(decode_round(body[at : at + ROUND_BYTES]) for at in range(0, len(body), ROUND_BYTES))


def encode_piece(round_number: int, piece: StatePiece, span: Span) -> bytes:
    """Return a request for a part of a piece of a snapshot."""
    return _PIECE.pack(round_number, PIECE_KINDS.index(piece.kind), piece.index) + _encode_span(span)


def decode_piece(body: bytes) -> tuple[int, StatePiece, Span]:
    """Return the round, the piece, and the part of it that are asked for.

    Raises:
        MessageError: it is malformed.
    """
    round_number, kind, index = _unpack(_PIECE, body[: _PIECE.size])
    if kind >= len(PIECE_KINDS):
        raise MessageError(f"there are no pieces of kind {kind}", offence=Offence.MALFORMED)
    piece = StatePiece(PIECE_KINDS[kind], index)
    return _round_in_reach(round_number), piece, _decode_span(body[_PIECE.size :])


def encode_data(piece_hash: bytes, span: Span) -> bytes:
    """Return a request for a part of a piece of tokens."""
    return _HASH.pack(piece_hash) + _encode_span(span)


def decode_data(body: bytes) -> tuple[str, Span]:
    """Return the hash of the piece, hex, and the part of it that is asked for.

    Raises:
        MessageError: it is malformed.
    """
    return decode_hash(body[: _HASH.size]), _decode_span(body[_HASH.size :])


def decode_hash(body: bytes) -> str:
    """Return the hash in `body`, hex.

    Raises:
        MessageError: it is not 32 bytes.
    """
    (content,) = _unpack(_HASH, body)
    return str(content.hex())


def encode_spot_check(spot: SpotCheck) -> bytes:
    """Return a request for the evidence behind one reduced chunk."""
    head = _SPOT.pack(bytes.fromhex(spot.roster), spot.segment, spot.chunk)
    return head + _places(spot.included)


def decode_spot_check(body: bytes) -> SpotCheck:
    """Return the chunk that is to be checked.

    Raises:
        MessageError: it is malformed.
    """
    roster, segment, chunk = _unpack(_SPOT, body[: _SPOT.size])
    rest = body[_SPOT.size :]
    if len(rest) % 2 or len(rest) > 2 * MAX_PEERS:
        raise MessageError("a spot check of half a place or too many", offence=Offence.MALFORMED)
    places = struct.unpack(f"<{len(rest) // 2}H", rest)
    return SpotCheck(roster.hex(), segment, chunk, places)


def _encode_span(span: Span) -> bytes:
    return _SPAN.pack(span.start, span.length)


def _decode_span(body: bytes) -> Span:
    start, length = _unpack(_SPAN, body)
    return Span(start, length)


def _round_in_reach(round_number: int) -> int:
    if round_number >= _ROUNDS:
        raise MessageError(f"there is no round {round_number}", offence=Offence.MALFORMED)
    return round_number


def _places(included: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(included)}H", *included)


def _unpack(form: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) != form.size:
        raise MessageError(
            f"a request of {len(body)} bytes instead of {form.size}", offence=Offence.MALFORMED
        )
    return form.unpack(body)


@dataclass(frozen=True)
class StatePiece:
    """A piece's place in a snapshot: at most 1 MiB of `kind`, the `index`-th from 0."""

    kind: PieceKind
    index: int
