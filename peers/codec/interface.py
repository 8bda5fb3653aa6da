"""The interface of a codec, which turns chunks of a pseudo-gradient into bytes, and the values that cross it.

A chunk is 4096 float32. Everything that sends, averages, stores or audits contributions knows this interface
alone. `SparseCodec` (sparse_codec.py) implements it; round_codec.py makes the codecs of each round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recipes.layout import CHUNK_VALUES


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


class Selector(Protocol):
    """A function that finds the values a sparse codec keeps: each chunk's largest, of equal ones the first.

    All selectors find the same values, on whatever device they work.
    """

    def __call__(self, values: NDArray[np.float32], keep: int, /) -> NDArray[np.int64]:
        """Return the flat positions of what is kept, int64, ascending.

        Args:
            values: float32 of shape (chunks, 4096).
            keep: the most values that a chunk keeps.

        Raises:
            ValueError: a value is infinite or not a number.
        """
        ...


class Codec(Protocol):
    """A codec with its parameters: a value, like a number.

    Equal input gives equal bytes on every machine, however the chunks are grouped into calls. Encoded chunks
    delimit themselves, and a chunk's bytes do not depend on the chunks beside it. Of all byte strings that
    could stand for the same values, decoding accepts one.

    The magnitude of a decoded value is zero, or from 2**-60 to 2**16: the products and sums of averaging are
    then neither infinite nor subnormal.
    """

    @property
    def header_fields(self) -> bytes:
        """The bytes that begin each frame of this codec: a format with its version, then the parameters.

        They differ between any two codecs that differ, and none begins with another's.
        """
        ...

    @property
    def max_chunk_bytes(self) -> int:
        """The length that no valid chunk exceeds, in bytes."""
        ...

    @property
    def max_norm_growth(self) -> float:
        """The factor, at least 1, by which encoding lengthens a vector at most (its L2 norm)."""
        ...

    def encode(self, values: NDArray[np.float32], *, select: Selector | None = None) -> EncodedChunks:
        """Encode chunks.

        Args:
            values: float32, shape (chunks, 4096).
            select: how to find the largest values, for a codec that needs them; None for its own way. The
                bytes are the same with any.

        Raises:
            ValueError: a value is infinite or not a number, or the array has another shape or type.
        """
        ...

    def split(self, data: bytes, *, chunks: int) -> EncodedChunks:
        """Find where each of `chunks` encoded chunks in `data` ends. Memory is bounded by len(data).

        Raises:
            MessageError: these are not that many chunks, or a chunk is malformed and it shows already.
        """
        ...

    def decode(self, encoded: EncodedChunks) -> SparseChunks:
        """Decode all chunks of what `encode` or `split` returned.

        Raises:
            MessageError: a chunk is malformed.
        """
        ...

    def decode_batches(self, encoded: EncodedChunks) -> Iterator[SparseChunks]:
        """Decode some chunks at a time, in order, so that memory stays bounded.

        How many chunks each batch has follows from the codec and the number of chunks, not from the content.

        Raises:
            MessageError: a chunk is malformed; only once its batch is reached.
        """
        ...

    def norm(self, encoded: EncodedChunks) -> float:
        """Return the L2 norm of the decoded values, the same float on every machine.

        Claimed norms are compared for equality, so it must not depend on an order of summation.

        Raises:
            MessageError: a chunk is malformed.
        """
        ...

    def could_have_kept(
        self, kept: SparseChunks, values: NDArray[np.float32], unsure: NDArray[np.float32]
    ) -> bool:
        """Whether `kept` may be what decoding gives after encoding values known only approximately.

        Args:
            kept: decoded chunks.
            values: finite float32 of shape (chunks, 4096).
            unsure: float32, same shape: how far at most each true value lies from the one in `values`.
        """
        ...
