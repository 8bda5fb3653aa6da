"""The sparse codec: the largest values of each chunk, each as an index, a sign and a magnitude level.

peers/chunk_layout.py describes the bits. A chunk delimits itself, so that its bytes can be the leaf of a
Merkle tree and chunks need no table of contents.

Encoding is a function of the values' bits: equal input gives equal bytes on every machine, however the
chunks are grouped. Decoding accepts nothing that breaks the layout.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from peers.bits import pack_fields, read_fields
from peers.chunk_layout import ChunkFields, Runs, header_bits, rice_parameter
from peers.levels import CODE_BITS, MAGNITUDES, SMALLEST_KEY, assign_levels, fit_levels, magnitude_keys
from recipes.errors import MessageError
from recipes.layout import CHUNK_VALUES

MAX_LEVEL_BITS = 4

_INDEX_BITS = 12
_INFINITY_KEY = np.uint32(0x7F800000)
_BATCH_CHUNKS = 128  # 2 MiB of values: bounds the working memory, and stays in the cache
# Fields are read three bytes at a time; an empty chunk's levels are read like any other's, and not used.
_LOOKAHEAD = bytes(4 + (1 << MAX_LEVEL_BITS))


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
    """Keeps the `keep` largest values of a chunk at `2**level_bits` magnitudes.

    Attributes:
        keep: 1 to 4096 values a chunk.
        level_bits: 0 to 4 bits a value for its magnitude, beside one for its sign.
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
        counts = np.arange(self.keep + 1, dtype=np.int64)
        fields = self._fields(counts)
        bits = fields.unary + counts + ((CHUNK_VALUES - counts) >> fields.rice)
        return int(bits.max() + 7) >> 3

    def encode(self, values: NDArray[np.float32]) -> EncodedChunks:
        """Encode chunks of float32, shape (chunks, 4096).

        The largest magnitudes are kept, of equal ones those with the lower index. Magnitudes below 2**-29
        count as zero, and those above 2**3.875 are cut to it.

        Raises:
            ValueError: a value is infinite or not a number, or the array has another shape or type.
        """
        if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] != CHUNK_VALUES:
            raise ValueError(f"expected float32 of shape (chunks, 4096), not {values.dtype} {values.shape}")
        return EncodedChunks.join(
            [
                self._encode_batch(np.ascontiguousarray(values[start : start + _BATCH_CHUNKS]))
                for start in range(0, values.shape[0], _BATCH_CHUNKS)
            ]
        )

    def split(self, data: bytes, *, chunks: int) -> EncodedChunks:
        """Find where each of `chunks` encoded chunks in `data` ends. Memory is bounded by len(data).

        Raises:
            MessageError: a chunk is cut short, too long, or padded with ones; or bytes are left over.
        """
        # How many ones precede each byte: a chunk's last byte is then found by bisection.
        ones_before = np.zeros(len(data) + 1, dtype=np.int64)
        np.cumsum(np.bitwise_count(np.frombuffer(data, dtype=np.uint8)), out=ones_before[1:])
        ranks = memoryview(ones_before.data)
        offsets = np.zeros(chunks + 1, dtype=np.int64)
        end = 0
        for chunk in range(chunks):
            end = self._chunk_end(data, ranks, start=end, chunk=chunk)
            offsets[chunk + 1] = end
        if end != len(data):
            raise MessageError(f"{len(data) - end} bytes follow the last of {chunks} encoded chunks.")
        return EncodedChunks(data=data, offsets=offsets)

    def decode(self, encoded: EncodedChunks) -> SparseChunks:
        """Decode all chunks of what `encode` or `split` returned.

        Raises:
            MessageError: an index lies beyond its chunk, or level codes do not ascend.
        """
        return SparseChunks.join(list(self.decode_batches(encoded)))

    def decode_batches(self, encoded: EncodedChunks) -> Iterator[SparseChunks]:
        """Decode some chunks at a time, in order, so that memory stays bounded.

        Raises:
            MessageError: as `decode`, once the batch concerned is reached.
        """
        for first in range(0, len(encoded), _BATCH_CHUNKS):
            offsets = encoded.offsets[first : first + _BATCH_CHUNKS + 1]
            batch = EncodedChunks(encoded.data[offsets[0] : offsets[-1]], offsets - offsets[0])
            yield self._decode_batch(batch, first_chunk=first)

    def level_histogram(self, encoded: EncodedChunks) -> NDArray[np.int64]:
        """Count the decoded values by the code of their magnitude, shape (256,).

        Raises:
            MessageError: as `decode`.
        """
        histogram = np.zeros(MAGNITUDES.size, dtype=np.int64)
        for part in self.decode_batches(encoded):
            codes = np.searchsorted(MAGNITUDES, np.abs(part.values))
            histogram += np.bincount(codes, minlength=MAGNITUDES.size)
        return histogram

    def _fields(self, counts: NDArray[np.int64]) -> ChunkFields:
        return ChunkFields.of(counts, keep=self.keep, level_bits=self.level_bits)

    @property
    def _levels(self) -> int:
        return 1 << self.level_bits

    def _encode_batch(self, values: NDArray[np.float32]) -> EncodedChunks:
        keys = magnitude_keys(values)
        if keys.size and keys.max() >= _INFINITY_KEY:
            raise ValueError("cannot encode values that are infinite or not a number")
        kept = np.flatnonzero(_largest(keys, self.keep))
        counts = np.bincount(kept >> _INDEX_BITS, minlength=values.shape[0]).astype(np.int64)
        runs, fields = Runs.of(counts), self._fields(counts)
        filled = np.flatnonzero(counts)
        codes = fit_levels(keys.reshape(-1)[kept], counts[filled], levels=self._levels)
        levels = assign_levels(keys.reshape(-1)[kept], counts[filled], codes)
        signs = (values.reshape(-1).view(np.uint32)[kept] >> np.uint32(31)).astype(np.int64)

        gaps = np.diff(kept & (CHUNK_VALUES - 1), prepend=-1) - 1
        gaps[runs.rank == 0] = kept[runs.rank == 0] & (CHUNK_VALUES - 1)
        rice = fields.rice[runs.chunk]
        low = gaps & ((np.int64(1) << rice) - 1)
        zeros = gaps >> rice

        lengths = (fields.unary + counts + runs.totals(zeros) + 7) >> 3
        offsets = np.concatenate((np.zeros(1, dtype=np.int64), lengths.cumsum()))
        start = offsets[:-1] * 8
        positions = (
            start,
            ((start + fields.codes)[filled, None] + CODE_BITS * np.arange(self._levels)).ravel(),
            (start + fields.records)[runs.chunk] + runs.rank * fields.record_bits[runs.chunk],
            (start + fields.unary)[runs.chunk] + runs.rank + runs.running_sums(zeros),
        )
        contents = (
            np.where(counts == self.keep, 1, counts << 1),
            codes.ravel(),
            signs | (levels << 1) | (low << (1 + self.level_bits)),
            np.ones_like(kept),
        )
        data = pack_fields(np.concatenate(positions), np.concatenate(contents), size=int(offsets[-1]))
        return EncodedChunks(data=data, offsets=offsets)

    def _chunk_end(self, data: bytes, ones_before: memoryview, *, start: int, chunk: int) -> int:
        """Return the offset just after the chunk that starts at `start`."""
        header = int.from_bytes(data[start : start + 2], "little")
        full = header & 1
        bits = 1 if full else header_bits(self.keep)
        count = self.keep if full else (header & ((1 << bits) - 1)) >> 1
        if count >= self.keep and not full:
            raise MessageError(f"Chunk {chunk} has a count of {count}, but room for {self.keep - 1}.")
        rice = rice_parameter(count)
        if count:
            bits += CODE_BITS * self._levels + count * (1 + self.level_bits + rice)
        unary_byte, bits_before = start + (bits >> 3), bits & 7
        if unary_byte + (bits_before > 0) > len(data):
            raise MessageError(f"Chunk {chunk} is cut short.")
        ones = ones_before[unary_byte] + count
        if bits_before:
            ones += (data[unary_byte] & ((1 << bits_before) - 1)).bit_count()
        # The chunk ends with the first byte that brings the ones to this number. A byte that brings them
        # beyond it has ones in its padding.
        longest = unary_byte + ((bits_before + count + ((CHUNK_VALUES - count) >> rice) + 7) >> 3)
        search_end = min(longest, len(data)) + 1
        end = bisect_left(ones_before, ones, unary_byte + (bits_before > 0), search_end)
        if end == search_end or ones_before[end] != ones:
            raise MessageError(f"Chunk {chunk} is cut short, too long, or padded with ones.")
        return end

    def _decode_batch(self, encoded: EncodedChunks, *, first_chunk: int) -> SparseChunks:
        data = np.frombuffer(encoded.data + _LOOKAHEAD, dtype=np.uint8)
        start = encoded.offsets[:-1] * 8
        headers = read_fields(data, start, header_bits(self.keep))
        counts = np.where(headers & 1, self.keep, headers >> 1)
        runs, fields = Runs.of(counts), self._fields(counts)
        codes = read_fields(
            data, (start + fields.codes)[:, None] + CODE_BITS * np.arange(self._levels), CODE_BITS
        )
        unordered = (counts > 0) & (np.diff(codes, axis=1) <= 0).any(axis=1)
        if unordered.any():
            raise MessageError(
                f"The level codes of chunk {first_chunk + int(unordered.argmax())} do not ascend."
            )
        record_bits = fields.record_bits[runs.chunk]
        records = read_fields(
            data, (start + fields.records)[runs.chunk] + runs.rank * record_bits, record_bits
        )

        # The unary ones of a chunk are the last `count` ones before its end, since only zeros pad it.
        ones = np.flatnonzero(np.unpackbits(data, bitorder="little"))
        first_one = np.searchsorted(ones, encoded.offsets[1:] * 8) - counts
        zeros_before = (
            ones[first_one[runs.chunk] + runs.rank] - (start + fields.unary)[runs.chunk] - runs.rank
        )
        low_sums = runs.running_sums(records >> (1 + self.level_bits))
        indices = (zeros_before << fields.rice[runs.chunk]) + low_sums + runs.rank
        beyond = indices >= CHUNK_VALUES
        if beyond.any():
            chunk = first_chunk + int(runs.chunk[int(beyond.argmax())])
            raise MessageError(f"Chunk {chunk} holds an index beyond {CHUNK_VALUES - 1}.")

        magnitudes = MAGNITUDES[codes[runs.chunk, (records >> 1) & (self._levels - 1)]]
        return SparseChunks(
            chunks=len(encoded),
            positions=(runs.chunk << _INDEX_BITS) + indices,
            values=np.where(records & 1, -magnitudes, magnitudes),
        )


def _largest(keys: NDArray[np.uint32], keep: int) -> NDArray[np.bool_]:
    """Mark the `keep` largest keys of each row, of equal ones the first, and none below SMALLEST_KEY."""
    column = CHUNK_VALUES - keep
    thresholds = np.partition(keys, column, axis=1)[:, column : column + 1]
    largest = keys >= np.maximum(thresholds, np.uint32(SMALLEST_KEY))
    for row in np.flatnonzero(np.count_nonzero(largest, axis=1) > keep):
        above = np.count_nonzero(keys[row] > thresholds[row])
        equal = np.flatnonzero(keys[row] == thresholds[row])
        largest[row, equal[keep - above :]] = False
    return largest
