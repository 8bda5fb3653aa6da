"""How an encoded chunk is laid out, and where each of its fields begins.

A chunk of 4096 float32 becomes these fields, least significant bit first (see peers/bits.py):

    field      bits                           meaning
    full       1                              1: the chunk keeps exactly `keep` values
    count      bit length of keep - 1         absent when full is 1: the number of values kept, below `keep`
    codes      8 for each of the levels       2**level_bits ascending codes of peers/levels.py
    records    count x (1 + level_bits + b)   sign (1: negative), level, low b bits of the index gap
    unary      count and some                 for each value: the rest of its gap in zeros, then a one
    padding    up to the byte                 zeros

A gap is the number of indices skipped since the value before; gaps are Rice-coded (Rice and Plaunt 1971)
with b from the count alone. With no value kept, the chunk ends after `count`. All fields before `unary`
have a known length and `unary` ends with its count-th one, so a chunk delimits itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peers.levels import CODE_BITS
from recipes.layout import CHUNK_VALUES


def rice_parameter(count: int) -> int:
    """Return b: how many low bits of each gap go into the records of a chunk that keeps `count` values."""
    # Best for geometric gaps is about log2(ln 2 x mean gap), with ln 2 taken as 0.7 (Kiely 2004).
    return max((7 * CHUNK_VALUES // (10 * count)).bit_length() - 1, 0) if count else 0


def header_bits(keep: int) -> int:
    """Return the bits of `full` and `count` in a chunk that is not full; in a full one, it is 1."""
    return 1 + (keep - 1).bit_length()


_RICE_PARAMETERS: NDArray[np.int64] = np.array(
    [rice_parameter(count) for count in range(CHUNK_VALUES + 1)], dtype=np.int64
)


@dataclass(frozen=True, eq=False)
class ChunkFields:
    """Where the fields of some chunks begin, in bits from each chunk's first. All int64, shape (chunks,)."""

    codes: NDArray[np.int64]
    records: NDArray[np.int64]
    record_bits: NDArray[np.int64]
    rice: NDArray[np.int64]
    unary: NDArray[np.int64]

    @classmethod
    def of(cls, counts: NDArray[np.int64], *, keep: int, level_bits: int) -> ChunkFields:
        """Lay out chunks that keep `counts` values, int64, shape (chunks,)."""
        rice = _RICE_PARAMETERS[counts]
        codes = np.where(counts == keep, 1, header_bits(keep))
        records = codes + np.where(counts > 0, CODE_BITS << level_bits, 0)
        record_bits = 1 + level_bits + rice
        return cls(
            codes=codes,
            records=records,
            record_bits=record_bits,
            rice=rice,
            unary=records + counts * record_bits,
        )


@dataclass(frozen=True, eq=False)
class Runs:
    """Values in runs, one run a chunk, one after the other.

    Attributes:
        counts: int64, shape (chunks,): the length of each run.
        chunk: int64, shape (values,): the chunk of each value.
        rank: int64, shape (values,): the place of each value within its run, from 0.
    """

    counts: NDArray[np.int64]
    chunk: NDArray[np.int64]
    rank: NDArray[np.int64]

    @classmethod
    def of(cls, counts: NDArray[np.int64]) -> Runs:
        """Arrange runs of these lengths."""
        chunk = np.repeat(np.arange(counts.size, dtype=np.int64), counts)
        starts = counts.cumsum() - counts
        return cls(counts=counts, chunk=chunk, rank=np.arange(chunk.size, dtype=np.int64) - starts[chunk])

    def running_sums(self, terms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sum of each run's terms up to and including each value, shape (values,)."""
        sums = _sums_before(terms)
        below: NDArray[np.int64] = sums[self.counts.cumsum() - self.counts]
        return sums[1:] - below[self.chunk]

    def totals(self, terms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sum of each run's terms, shape (chunks,)."""
        ends = self.counts.cumsum()
        sums = _sums_before(terms)
        total: NDArray[np.int64] = sums[ends] - sums[ends - self.counts]
        return total


def _sums_before(terms: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, dtype=np.int64), terms.cumsum()))
