"""The sparse codec: the largest values of each chunk, each as an index, a sign and a magnitude level.

peers/codec/chunk_layout.py describes the bits. A chunk delimits itself, so that its bytes can be the leaf of
a Merkle tree and chunks need no table of contents.

Encoding is a function of the values' bits: equal input gives equal bytes on every machine, however the
chunks are grouped and whatever selects the largest values. Decoding accepts nothing that breaks the layout,
and of all byte strings that could mean the same values, one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from peers.codec.chunk_layout import longest_chunk_bytes
from peers.codec.chunk_reader import find_ends, read_chunks
from peers.codec.chunk_writer import Kept, write_chunks
from peers.codec.interface import EncodedChunks, Selector, SparseChunks
from peers.codec.levels import (
    CODE_BITS,
    CODES,
    MAGNITUDE_UNITS,
    MAGNITUDES,
    SMALLEST_KEY,
    UNIT_EXPONENT,
)
from peers.codec.selection import select_largest
from recipes.errors import MessageError
from recipes.layout import CHUNK_VALUES

MAX_LEVEL_BITS = 4

_HEADER_FIELDS = struct.Struct("<4sHB")
_FORMAT = b"MHS\x02"  # the last byte is the version

_BATCH_CHUNKS = 128  # 2 MiB of values: bounds the working memory, and stays in the cache
_SIGNED_MAGNITUDES = np.concatenate((MAGNITUDES, -MAGNITUDES))  # by sign x 256 + code

# Lloyd-Max levels are means of the values they stand for, which shortens a vector. Rounding a level to its
# code may lengthen it, by half a step of the scale: 2**(1/16), and a little more in the linear middle.
_MAX_NORM_GROWTH = 1.0625

_SMALLEST = float(np.uint32(SMALLEST_KEY).view(np.float32))  # the least magnitude that is kept

# How much larger than the codec's own squared error another choice of levels may be, and by how much of the
# squared values: uncertainty about the values moves a level by a code at most.
_WORSE_FIT = 1.1
_WORSE_FIT_OF_ALL = 1e-3


@dataclass(frozen=True)
class SparseCodec:
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

    @property
    def header_fields(self) -> bytes:
        """The bytes "MHS" and 2, the version; `keep` in 2 bytes, little-endian; `level_bits` in one."""
        return _HEADER_FIELDS.pack(_FORMAT, self.keep, self.level_bits)

    @cached_property
    def max_chunk_bytes(self) -> int:
        """The length that no valid chunk exceeds, in bytes."""
        return longest_chunk_bytes(self.keep, self._levels)

    @property
    def max_norm_growth(self) -> float:
        """The factor by which encoding lengthens a vector at most."""
        return _MAX_NORM_GROWTH

    def encode(self, values: NDArray[np.float32], *, select: Selector | None = None) -> EncodedChunks:
        """Encode chunks of float32, shape (chunks, 4096).

        The largest magnitudes are kept, of equal ones those with the lower index. Magnitudes below 2**-29
        count as zero, and those above 2**3.875 are cut to it.

        Args:
            values: the chunks.
            select: how to find the largest values; None for `select_largest`.

        Raises:
            ValueError: a value is infinite or not a number, or the array has another shape or type.
        """
        if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] != CHUNK_VALUES:
            raise ValueError(f"expected float32 of shape (chunks, 4096), not {values.dtype} {values.shape}")
        select = select or select_largest
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

    def norm(self, encoded: EncodedChunks) -> float:
        """Return the L2 norm of the decoded values, the same float on every machine.

        Values are counted by their magnitude, and the sum of squares is taken in integers.

        Raises:
            MessageError: as `decode`.
        """
        histogram = np.zeros(CODES, dtype=np.int64)
        for _, kept in self._read_batches(encoded):
            histogram += np.bincount(kept & (CODES - 1), minlength=CODES)
        squares = sum(int(count) * units**2 for count, units in zip(histogram, MAGNITUDE_UNITS, strict=True))
        return math.ldexp(math.sqrt(squares), UNIT_EXPONENT)

    def could_have_kept(
        self, kept: SparseChunks, values: NDArray[np.float32], unsure: NDArray[np.float32]
    ) -> bool:
        """Whether `kept` may be what this codec keeps of `values`, each of them known within `unsure`.

        The values kept must be the largest, and the levels must fit them about as well as the codec's own.
        """
        magnitudes = np.abs(values)
        is_kept = np.zeros(values.shape, dtype=bool)
        is_kept.reshape(-1)[kept.positions] = True
        least_kept = np.where(is_kept, magnitudes + unsure, np.inf).min(axis=1)
        # A chunk with fewer values than it may keep has no others that the codec would take.
        least_kept[np.count_nonzero(is_kept, axis=1) < self.keep] = _SMALLEST
        if (np.where(is_kept, 0, magnitudes - unsure).max(axis=1) > least_kept).any():
            return False
        ours = self.decode(self.encode(np.where(is_kept, values, np.float32(0))))
        flat = values.reshape(-1)
        squared = float(np.square(flat[kept.positions], dtype=np.float64).sum())
        allowed = _WORSE_FIT * _squared_error(ours, flat) + _WORSE_FIT_OF_ALL * squared
        return _squared_error(kept, flat) <= allowed

    @property
    def _levels(self) -> int:
        return 1 << self.level_bits

    def _encode_kept(self, values: NDArray[np.float32], positions: NDArray[np.int64]) -> EncodedChunks:
        bits = values.reshape(-1).view(np.uint32)[positions]
        kept = Kept.of(positions, bits, chunks=values.shape[0], levels=self._levels)
        data, offsets = write_chunks(kept, keep=self.keep)
        return EncodedChunks(data=data, offsets=offsets)

    def _read_batches(self, encoded: EncodedChunks) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield, for some chunks at a time, their number and what `read_chunks` returns for them."""
        for first in range(0, len(encoded), _BATCH_CHUNKS):
            offsets = encoded.offsets[first : first + _BATCH_CHUNKS + 1]
            data = encoded.data[offsets[0] : offsets[-1]]
            yield (
                offsets.size - 1,
                read_chunks(
                    data, offsets - offsets[0], keep=self.keep, levels=self._levels, first_chunk=first
                ),
            )


def _squared_error(kept: SparseChunks, wanted: NDArray[np.float32]) -> float:
    return float(np.square(kept.values - wanted[kept.positions], dtype=np.float64).sum())
