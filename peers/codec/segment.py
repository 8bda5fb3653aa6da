"""A segment of a contribution or of a reduction on the wire, and the Merkle paths that prove its chunks.

A frame is a header and the encoded chunks of one segment:

    bytes   meaning
    ...     `header_fields` of the codec; 7 bytes of the sparse one: "MHS", 2, `keep`, `level_bits`
    4       number of chunks, little-endian
    ...     the chunks, as the codec lays them out

The chunks' bytes are the leaves of the segment's tree, and the segments' roots are in turn the leaf
hashes of the contribution's tree: one path of hashes leads from a chunk to the root in its claim.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from peers.codec.interface import Codec, EncodedChunks, SparseChunks
from recipes.errors import MessageError
from recipes.formats import blake3_tree

_CHUNK_COUNT = struct.Struct("<I")
_PROOF_HEADER = struct.Struct("<BB")
_MAX_PATH_HASHES = 64


@dataclass(frozen=True, eq=False)
class SegmentFrame:
    """One segment's encoded chunks, known to be well-formed.

    Attributes:
        codec: what the chunks are encoded with.
        encoded: the chunks' bytes.
    """

    codec: Codec
    encoded: EncodedChunks

    @classmethod
    def encode(cls, values: NDArray[np.float32], *, codec: Codec) -> SegmentFrame:
        """Encode a segment's values, float32, shape (chunks, 4096).

        Raises:
            ValueError: as `Codec.encode`.
        """
        return cls(codec=codec, encoded=codec.encode(values))

    @classmethod
    def parse(cls, data: bytes, *, codec: Codec, chunks: int) -> SegmentFrame:
        """Check a frame from another peer down to its last bit.

        Args:
            data: the frame, of any content.
            codec: what the recipe says that this frame is encoded with.
            chunks: how many chunks the recipe's segments have.

        Raises:
            MessageError: it is not a frame of that codec and size, or one of its chunks is malformed.
        """
        limit = frame_limit(codec, chunks)
        if len(data) > limit:
            raise MessageError(
                f"A segment of {len(data)} bytes: none of {chunks} chunks is longer than {limit}."
            )
        header = _header(codec, chunks)
        if not data.startswith(header):
            raise MessageError(f"This is not a segment of {chunks} chunks encoded with {codec}.")
        frame = cls(codec=codec, encoded=codec.split(data[len(header) :], chunks=chunks))
        frame._norm  # noqa: B018 - it decodes every chunk, which finds what splitting cannot
        return frame

    def to_bytes(self) -> bytes:
        """Return the frame as it goes over the wire."""
        return _header(self.codec, len(self.encoded)) + self.encoded.data

    def decode(self) -> SparseChunks:
        """Return the values that the segment keeps."""
        return self.codec.decode(self.encoded)

    def norm(self) -> float:
        """Return the L2 norm of the decoded values, the same float on every machine."""
        return self._norm

    def root(self) -> bytes:
        """Return the root over the chunks' bytes, 32 bytes."""
        return self._root

    def chunk_leaves(self) -> list[bytes]:
        """Return the leaf hashes of the chunks' bytes, in order."""
        return [blake3_tree.leaf_hash(self.encoded[chunk]) for chunk in range(len(self.encoded))]

    def prove_chunk(self, chunk: int, *, segment: int, segment_roots: Sequence[bytes]) -> ChunkProof:
        """Prove that this frame, as segment `segment` of a contribution, holds the chunk that it holds.

        Args:
            chunk: its index within this segment.
            segment: this segment's index within the contribution.
            segment_roots: the roots of all segments of the contribution, in order.

        Raises:
            IndexError: there is no such chunk or segment.
        """
        return ChunkProof(
            content=self.encoded[chunk],
            segment_path=tuple(blake3_tree.path(self.chunk_leaves(), chunk)),
            contribution_path=tuple(blake3_tree.path(segment_roots, segment)),
        )

    @cached_property
    def _norm(self) -> float:
        return self.codec.norm(self.encoded)

    @cached_property
    def _root(self) -> bytes:
        return blake3_tree.root(self.chunk_leaves())


@dataclass(frozen=True)
class ChunkProof:
    """One encoded chunk, with the paths that lead from it to its contribution's root.

    Attributes:
        content: the chunk's bytes, not yet decoded.
        segment_path: sibling hashes up to the segment's root.
        contribution_path: sibling hashes from there up to the contribution's root.
    """

    content: bytes
    segment_path: tuple[bytes, ...]
    contribution_path: tuple[bytes, ...]

    def root(self, *, chunk: int, chunks: int, segment: int, segments: int) -> bytes | None:
        """Return the contribution root that the paths lead to, or None if they do not fit these places.

        Args:
            chunk: the chunk's index within its segment.
            chunks: how many chunks a segment has.
            segment: the segment's index within its contribution.
            segments: how many segments a contribution has.
        """
        leaf = blake3_tree.leaf_hash(self.content)
        segment_root = blake3_tree.root_from_path(leaf, chunk, chunks, self.segment_path)
        if segment_root is None:
            return None
        return blake3_tree.root_from_path(segment_root, segment, segments, self.contribution_path)

    def to_bytes(self) -> bytes:
        """Return the proof as it goes over the wire: two path lengths, the paths' hashes, the content."""
        lengths = _PROOF_HEADER.pack(len(self.segment_path), len(self.contribution_path))
        return b"".join((lengths, *self.segment_path, *self.contribution_path, self.content))

    @classmethod
    def parse(cls, data: bytes, *, codec: Codec) -> ChunkProof:
        """Parse a proof from the wire. What it proves is checked with `root`.

        Raises:
            MessageError: it is cut short, or its paths or its chunk are longer than any can be.
        """
        if len(data) < _PROOF_HEADER.size:
            raise MessageError("A chunk's proof is cut short.")
        segment_length, contribution_length = _PROOF_HEADER.unpack_from(data)
        content_start = _PROOF_HEADER.size + (segment_length + contribution_length) * blake3_tree.HASH_BYTES
        if max(segment_length, contribution_length) > _MAX_PATH_HASHES or len(data) <= content_start:
            raise MessageError("A chunk's proof is cut short, or its paths are longer than any can be.")
        if len(data) - content_start > codec.max_chunk_bytes:
            raise MessageError(f"A chunk of {len(data) - content_start} bytes is longer than any can be.")
        hashes = [
            data[start : start + blake3_tree.HASH_BYTES]
            for start in range(_PROOF_HEADER.size, content_start, blake3_tree.HASH_BYTES)
        ]
        return cls(
            content=data[content_start:],
            segment_path=tuple(hashes[:segment_length]),
            contribution_path=tuple(hashes[segment_length:]),
        )


def with_header(data: bytes, *, codec: Codec, known: Iterable[Codec], chunks: int) -> bytes:
    """Return a frame with the header of `codec` if it has that of one of `known`; else as it is."""
    for header in {_header(other, chunks) for other in known}:
        if data.startswith(header):
            return _header(codec, chunks) + data[len(header) :]
    return data


def frame_limit(codec: Codec, chunks: int) -> int:
    """Return the longest that a well-formed frame of `chunks` chunks can be, in bytes."""
    return len(_header(codec, chunks)) + chunks * codec.max_chunk_bytes


def proof_limit(codec: Codec) -> int:
    """Return the longest that a well-formed chunk proof can be, in bytes."""
    return _PROOF_HEADER.size + 2 * _MAX_PATH_HASHES * blake3_tree.HASH_BYTES + codec.max_chunk_bytes


def contribution_root(segment_roots: Sequence[bytes]) -> bytes:
    """Return the root over all segments' roots, which a claim commits to."""
    return blake3_tree.root(segment_roots)


def verify_chunk(
    proof: ChunkProof, *, root: bytes, chunk: int, chunks: int, segment: int, segments: int
) -> bool:
    """Whether `proof` shows its chunk at this place under the contribution root `root`."""
    return proof.root(chunk=chunk, chunks=chunks, segment=segment, segments=segments) == root


def _header(codec: Codec, chunks: int) -> bytes:
    return codec.header_fields + _CHUNK_COUNT.pack(chunks)
