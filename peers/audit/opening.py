"""The opening of a claim to an auditor: its loss trace, and the origin of some chunks.

    part    of every audit
    0       the salt of the loss trace, 32 bytes
    1       the losses, little-endian float32
            of an audit of all steps
    2       E before the round: the drawn chunks, and their paths; empty after a reset
    3       E after it, likewise
    4       the contribution: a proof for each chunk (segment.py), joined
    5       that of the claim which E goes on from, likewise; empty after a reset

Both sides know which chunks are drawn. E's chunks are 8192 bytes of bfloat16 each, high bytes first and
deflated where that is shorter, for signs and exponents repeat. Everything has a bound, and is held against
the roots in the two claims (opening_check.py): until then it may be anything. Both claims are on the chain.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peers.codec.interface import Codec
from peers.codec.segment import ChunkProof
from peers.exchange.error_feedback_copies import LEAF_BYTES
from peers.exchange.loss_trace import MOST_STEPS, LossTrace
from peers.protocol.length_prefixed import join_parts, split_parts
from recipes.errors import MessageError, Offence
from recipes.formats import blake3_tree
from recipes.layout import CHUNK_VALUES, Layout

_RAW, _DEFLATED = b"\x00", b"\x01"
_PARTS_OF_TRACE, _PARTS_OF_ALL = 2, 6


@dataclass(frozen=True, eq=False)
class OpenedFeedback:
    """Some chunks of an error feedback.

    Attributes:
        values: the bits of bfloat16, shape (chunks, 4096).
        paths: of each chunk, to the root.
    """

    values: NDArray[np.uint16]
    paths: tuple[tuple[bytes, ...], ...]

    def fits(self, root: str, places: Sequence[int], *, chunks: int) -> bool:
        """Whether these are the chunks at `places` of the error feedback with this root, hex."""
        leaves = (blake3_tree.leaf_hash(chunk.astype("<u2").tobytes()) for chunk in self.values)
        return all(
            blake3_tree.root_from_path(leaf, place, chunks, path) == bytes.fromhex(root)
            for leaf, place, path in zip(leaves, places, self.paths, strict=True)
        )

    def to_bytes(self) -> bytes:
        """Return the chunks and their paths as they are sent."""
        content = self.values.astype("<u2").tobytes()
        planes = np.frombuffer(content, dtype=np.uint8).reshape(-1, 2)
        deflated = zlib.compress(planes[:, 1].tobytes() + planes[:, 0].tobytes())
        packed = _DEFLATED + deflated if len(deflated) < len(content) else _RAW + content
        return join_parts([packed, b"".join(b"".join(path) for path in self.paths)])

    @classmethod
    def parse(cls, data: bytes, places: Sequence[int], *, chunks: int) -> OpenedFeedback:
        """Parse an opening from a peer; `places` are the places among `chunks` that it was asked for.

        Raises:
            MessageError: it is malformed.
        """
        parts = split_parts(data, most=2)
        lengths = [blake3_tree.path_length(place, chunks) for place in places]
        if len(parts) != 2 or len(parts[1]) != blake3_tree.HASH_BYTES * sum(lengths):
            raise _malformed("chunks of the error feedback without their paths")
        size = len(places) * LEAF_BYTES
        kind, packed = parts[0][:1], parts[0][1:]
        if kind == _DEFLATED:
            planes = np.frombuffer(_inflate(packed, size), dtype=np.uint8).reshape(2, -1)
            content = np.ascontiguousarray(planes[::-1].T).tobytes()
        elif kind == _RAW and len(packed) == size:
            content = packed
        else:
            raise _malformed("chunks of the error feedback of another size")
        hashes = iter(_hashes(parts[1]))
        return cls(
            values=np.frombuffer(content, dtype="<u2").astype(np.uint16).reshape(-1, CHUNK_VALUES),
            paths=tuple(tuple(next(hashes) for _ in range(length)) for length in lengths),
        )


@dataclass(frozen=True, eq=False)
class OpenedWork:
    """The origin of the drawn chunks of a contribution.

    Attributes:
        before: E before the round; None after a reset.
        after: E after it.
        sent: the contribution.
        earlier: that of the claim which E goes on from; none after a reset.
    """

    before: OpenedFeedback | None
    after: OpenedFeedback
    sent: tuple[ChunkProof, ...]
    earlier: tuple[ChunkProof, ...]

    def to_parts(self) -> list[bytes]:
        """Return it as the parts of an opening."""
        return [
            self.before.to_bytes() if self.before is not None else b"",
            self.after.to_bytes(),
            join_parts(proof.to_bytes() for proof in self.sent),
            join_parts(proof.to_bytes() for proof in self.earlier),
        ]


@dataclass(frozen=True, eq=False)
class Opening:
    """The content of an opening: the trace, and for a whole window the rest."""

    trace: LossTrace
    work: OpenedWork | None = None

    def to_bytes(self) -> bytes:
        """Return it as it is sent."""
        parts = [self.trace.salt, self.trace.losses]
        return join_parts(parts if self.work is None else [*parts, *self.work.to_parts()])


@dataclass(frozen=True)
class OpeningForm:
    """The form and the bounds of an opening of one claim.

    Attributes:
        layout: of the model.
        places: the drawn chunks; none if only the trace is opened.
        codec: that the claim's contribution is encoded with.
        earlier_codec: likewise, of the claim which E goes on from.
    """

    layout: Layout
    places: tuple[int, ...]
    codec: Codec
    earlier_codec: Codec

    @property
    def limit(self) -> int:
        """Bytes of the longest opening."""
        bare = 4 * _PARTS_OF_TRACE + blake3_tree.HASH_BYTES + 4 * MOST_STEPS
        if not self.places:
            return bare
        longest = (
            2 * blake3_tree.HASH_BYTES * max(1, (self.layout.chunks - 1).bit_length() + 1)
        )  # of two trees
        feedback = 9 + len(self.places) * (LEAF_BYTES + longest)
        proofs = sum(6 + longest + codec.max_chunk_bytes for codec in (self.codec, self.earlier_codec))
        return bare + 4 * 4 + 2 * feedback + len(self.places) * proofs

    def parse(self, data: bytes) -> Opening:
        """Parse an opening from a peer; `OpeningCheck` checks it.

        Raises:
            MessageError: it is malformed, or longer than any opening of that claim is.
        """
        if len(data) > self.limit:
            raise MessageError("an opening longer than any is", offence=Offence.OVERSIZED)
        parts = split_parts(data, most=_PARTS_OF_ALL)
        if len(parts) not in (_PARTS_OF_TRACE, _PARTS_OF_ALL):
            raise _malformed("an opening with parts missing")
        salt, losses = parts[:_PARTS_OF_TRACE]
        if len(salt) != blake3_tree.HASH_BYTES or len(losses) % 4 or len(losses) > 4 * MOST_STEPS:
            raise _malformed("an opening whose trace is none")
        trace = LossTrace(salt, losses)
        work = self._parse_work(parts[_PARTS_OF_TRACE:]) if len(parts) == _PARTS_OF_ALL else None
        return Opening(trace, work)

    def _parse_work(self, parts: Sequence[bytes]) -> OpenedWork:
        before, after, sent, earlier = parts
        if not self.places:
            raise _malformed("an opening of chunks that nobody asked for")
        chunks = self.layout.chunks
        return OpenedWork(
            before=OpenedFeedback.parse(before, self.places, chunks=chunks) if before else None,
            after=OpenedFeedback.parse(after, self.places, chunks=chunks),
            sent=self._proofs(sent, self.codec),
            earlier=self._proofs(earlier, self.earlier_codec) if earlier else (),
        )

    def _proofs(self, data: bytes, codec: Codec) -> tuple[ChunkProof, ...]:
        parts = split_parts(data, most=len(self.places))
        if len(parts) != len(self.places):
            raise _malformed("an opening with chunks missing")
        return tuple(ChunkProof.parse(part, codec=codec) for part in parts)


def _inflate(packed: bytes, size: int) -> bytes:
    """Return `size` bytes that were deflated, and never make more of them.

    Raises:
        MessageError: they are no such bytes.
    """
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(packed, size + 1)
    except zlib.error as error:
        raise _malformed("chunks of the error feedback that cannot be inflated") from error
    if len(content) != size or not inflater.eof or inflater.unused_data:
        raise _malformed("chunks of the error feedback of another size")
    return content


def _hashes(data: bytes) -> list[bytes]:
    return [
        data[start : start + blake3_tree.HASH_BYTES] for start in range(0, len(data), blake3_tree.HASH_BYTES)
    ]


def _malformed(what: str) -> MessageError:
    return MessageError(what, offence=Offence.MALFORMED)
