"""The sparse codec: the largest values of each chunk, each as an index, a sign and a magnitude level.

peers/codec/chunk_layout.py describes the bits. A chunk delimits itself, so that its bytes can be the leaf of
a Merkle tree and chunks need no table of contents.

Encoding is a function of the values' bits: equal input gives equal bytes on every machine, however the
chunks are grouped and whatever selects the largest values. Decoding accepts nothing that breaks the layout,
and of all byte strings that could mean the same values, one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from peers.codec.chunk_layout import longest_chunk_bytes
from peers.codec.chunk_reader import find_ends, read_chunks
from peers.codec.chunk_writer import Kept, write_chunks
from peers.codec.levels import CODE_BITS, CODES, MAGNITUDES
from peers.codec.selection import Selector, select_largest
from recipes.errors import MessageError
from recipes.layout import CHUNK_VALUES

MAX_LEVEL_BITS = 4

_BATCH_CHUNKS = 128  # 2 MiB of values: bounds the working memory, and stays in the cache
_SIGNED_MAGNITUDES = np.concatenate((MAGNITUDES, -MAGNITUDES))  # by sign x 256 + code


@dataclass(frozen=True, eq=False)
class EncodedChunks:
    """Encoded chunks, one after the other.

    Attributes:
        data: the bytes of all chunks.
        offsets: int64, shape (chunks + 1,): chunk i is `data[offsets[i]:offsets[i + 1]]`.
    """

    data: bytes
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __getitem__(self, chunk: int) -> bytes:
        """Return the bytes of one chunk. Raises IndexError outside 0 .. len - 1."""
        if not 0 <= chunk < len(self):
            raise IndexError(f"chunk {chunk} of {len(self)}")
        return self.data[self.offsets[chunk] : self.offsets[chunk + 1]]

    @classmethod
    def join(cls, parts: Sequence[EncodedChunks]) -> EncodedChunks:
        """Return the chunks of all `parts`, one after the other."""
        lengths = (np.diff(part.offsets) for part in parts)
        offsets = np.concatenate((np.zeros(1, dtype=np.int64), *lengths)).cumsum()
        return cls(data=b"".join(part.data for part in parts), offsets=offsets)


@dataclass(frozen=True, eq=False)
class SparseChunks:
    """The values that some chunks keep; all others are zero.

    Attributes:
        chunks: number of chunks.
        positions: int64, strictly ascending: chunk x 4096 + index within the chunk.
        values: float32, none of them zero, same shape as `positions`.
    """

    chunks: int
    positions: NDArray[np.int64]
    values: NDArray[np.float32]

    def dense(self) -> NDArray[np.float32]:
        """Return all values, float32, shape (chunks, 4096)."""
        values = np.zeros((self.chunks, CHUNK_VALUES), dtype=np.float32)
        values.reshape(-1)[self.positions] = self.values
        return values

    @classmethod
    def join(cls, parts: Sequence[SparseChunks]) -> SparseChunks:
        """Return the chunks of all `parts`, one after the other."""
        positions = [np.empty(0, dtype=np.int64)]
        chunks = 0
        for part in parts:
            positions.append(part.positions + chunks * CHUNK_VALUES)
            chunks += part.chunks
        values = [np.empty(0, dtype=np.float32), *(part.values for part in parts)]
        return cls(chunks=chunks, positions=np.concatenate(positions), values=np.concatenate(values))


@dataclass(frozen=True)
class Codec:
    """Keeps the `keep` largest values of a chunk at up to `2**level_bits` magnitudes.

    Attributes:
        keep: 1 to 4096 values a chunk.
        level_bits: 0 to 4, the logarithm of how many magnitudes a chunk may have.
    """

    keep: int
    level_bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= CHUNK_VALUES:
            raise ValueError(f"keep must be from 1 to {CHUNK_VALUES}, not {self.keep}")
        if not 0 <= self.level_bits <= MAX_LEVEL_BITS:
            raise ValueError(f"level_bits must be from 0 to {MAX_LEVEL_BITS}, not {self.level_bits}")

    @cached_property
    def max_chunk_bytes(self) -> int:
        """The longest that any valid chunk can be."""
        return longest_chunk_bytes(self.keep, self._levels)

    def encode(self, values: NDArray[np.float32], *, select: Selector = select_largest) -> EncodedChunks:
        """Encode chunks of float32, shape (chunks, 4096).

        The largest magnitudes are kept, of equal ones those with the lower index. Magnitudes below 2**-29
        count as zero, and those above 2**3.875 are cut to it.

        Args:
            values: the chunks.
            select: what finds the largest values; all of them find the same.

        Raises:
            ValueError: a value is infinite or not a number, or the array has another shape or type.
        """
        if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] != CHUNK_VALUES:
            raise ValueError(f"expected float32 of shape (chunks, 4096), not {values.dtype} {values.shape}")
        batches = []
        for start in range(0, values.shape[0], _BATCH_CHUNKS):
            batch = np.ascontiguousarray(values[start : start + _BATCH_CHUNKS])
            batches.append(self._encode_kept(batch, select(batch, self.keep)))
        return EncodedChunks.join(batches)

    def split(self, data: bytes, *, chunks: int) -> EncodedChunks:
        """Find where each of `chunks` encoded chunks in `data` ends. Memory is bounded by len(data).

        Raises:
            MessageError: a chunk is cut short, too long, padded with ones, or of numbers that do not fit each
                other; or bytes are left over.
        """
        offsets = find_ends(data, chunks=chunks, keep=self.keep, levels=self._levels)
        if offsets[-1] != len(data):
            raise MessageError(f"{len(data) - offsets[-1]} bytes follow the last of {chunks} encoded chunks.")
        return EncodedChunks(data=data, offsets=offsets)

    def decode(self, encoded: EncodedChunks) -> SparseChunks:
        """Decode all chunks of what `encode` or `split` returned.

        Raises:
            MessageError: an index lies beyond its chunk or is there twice, or a level lies beyond the scale.
        """
        return SparseChunks.join(list(self.decode_batches(encoded)))

    def decode_batches(self, encoded: EncodedChunks) -> Iterator[SparseChunks]:
        """Decode some chunks at a time, in order, so that memory stays bounded.

        Raises:
            MessageError: as `decode`, once the batch concerned is reached.
        """
        for chunks, kept in self._read_batches(encoded):
            yield SparseChunks(
                chunks=chunks,
                positions=kept >> (1 + CODE_BITS),
                values=_SIGNED_MAGNITUDES[kept & (2 * CODES - 1)],
            )

    def level_histogram(self, encoded: EncodedChunks) -> NDArray[np.int64]:
        """Count the decoded values by the code of their magnitude, shape (256,).

        Raises:
            MessageError: as `decode`.
        """
        histogram = np.zeros(CODES, dtype=np.int64)
        for _, kept in self._read_batches(encoded):
            histogram += np.bincount(kept & (CODES - 1), minlength=CODES)
        return histogram

    @property
    def _levels(self) -> int:
        return 1 << self.level_bits

    def _encode_kept(self, values: NDArray[np.float32], positions: NDArray[np.int64]) -> EncodedChunks:
        bits = values.reshape(-1).view(np.uint32)[positions]
        kept = Kept.of(positions, bits, chunks=values.shape[0], levels=self._levels)
        data, offsets = write_chunks(kept, keep=self.keep)
        return EncodedChunks(data=data, offsets=offsets)

    def _read_batches(self, encoded: EncodedChunks) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Give, for some chunks at a time, how many they are and what `read_chunks` returns."""
        for first in range(0, len(encoded), _BATCH_CHUNKS):
            offsets = encoded.offsets[first : first + _BATCH_CHUNKS + 1]
            data = encoded.data[offsets[0] : offsets[-1]]
            yield (
                offsets.size - 1,
                read_chunks(
                    data, offsets - offsets[0], keep=self.keep, levels=self._levels, first_chunk=first
                ),
            )
