"""The layout of an encoded chunk, and where each of its fields begins.

A chunk of 4096 float32 becomes these fields, least significant bit first (see peers/codec/bit_packing.py):

    field      bits                       meaning
    full       1                          1: the chunk keeps exactly `keep` values
    count      bit length of keep - 1     absent when full is 1: the number of values kept, below `keep`
    code       8                          the lowest level, a code of peers/codec/levels.py
    members    see below                  how many values each level but the last has, less one
    steps      2 for each further level   low bits of its code's distance from the level below, less one
    records    for each value 1 + b       sign (1: negative), low b bits of the gap
    unary      a one for each, and zeros  the rest of each step, then of each gap, in zeros; then a one
    padding    up to the byte             zeros

Values stand level by level, the lowest first, and within a level by index. A gap is the number of indices
skipped since the value before it in the same level, so that a level's places and the choice of level are one
code: with two levels as unlike as 3 to 1, that saves a fifth of a bit a value over a flag for each. Gaps and
steps are Rice-coded (Rice and Plaunt 1971), gaps with b from the number of the level's values alone.

While values are left, the next level has at least one of them, and the last level has all: with `left`
values left, `members` takes as many bits as left - 1 does. So unused levels take no bits, and decoded values
have one encoding. If no value is kept, the chunk ends after `count`. The fields before `unary` have known
lengths, and `unary` ends with its last one, so a chunk delimits itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from peers.codec.levels import CODE_BITS, CODES
from recipes.layout import CHUNK_VALUES

STEP_LOW_BITS = 2


def rice_parameter(count: int) -> int:
    """Return b: how many low bits of each gap go into the records of a level with `count` values."""
    # For geometric gaps, the best b is the largest with 2**b <= 2 ln(golden ratio) x mean gap (Kiely 2004).
    b = 0
    while count and (2 << b) * 1000 * (count + 1) <= 962 * (CHUNK_VALUES - count):
        b += 1
    return b


def header_bits(keep: int) -> int:
    """Return the bits of `full` and `count` in a chunk that is not full; in a full one, it is 1."""
    return 1 + (keep - 1).bit_length()


RICE_PARAMETERS: NDArray[np.int64] = np.array(
    [rice_parameter(count) for count in range(CHUNK_VALUES + 1)], dtype=np.int64
)
# The bits that are needed to choose among so many numbers.
CHOICE_BITS: NDArray[np.int64] = np.array(
    [max(choices - 1, 0).bit_length() for choices in range(CHUNK_VALUES + 1)], dtype=np.int64
)


@dataclass(frozen=True, eq=False)
class ChunkFields:
    """Where the fields of some chunks begin, in bits from the chunk's first bit. All int64.

    Attributes:
        code: shape (chunks,).
        members: shape (chunks, levels - 1).
        steps: shape (chunks, levels - 1), of the second level, the third, ...
        records: shape (chunks, levels), the first record of each level.
        record_bits: shape (chunks, levels), of one record.
        unary: shape (chunks,).
    """

    code: NDArray[np.int64]
    members: NDArray[np.int64]
    steps: NDArray[np.int64]
    records: NDArray[np.int64]
    record_bits: NDArray[np.int64]
    unary: NDArray[np.int64]

    @classmethod
    def of(cls, members: NDArray[np.int64], *, keep: int) -> ChunkFields:
        """Lay out chunks whose levels have `members` values, int64, shape (chunks, levels)."""
        counts = members.sum(axis=1)
        code = np.where(counts == keep, 1, header_bits(keep))
        left = counts[:, None] - _sums_before(members)
        member_bits = CHOICE_BITS[left[:, :-1]]
        first_members = code + np.where(counts > 0, CODE_BITS, 0)
        first_steps = first_members + member_bits.sum(axis=1)
        step_bits = np.where(members[:, 1:] > 0, STEP_LOW_BITS, 0)
        first_records = first_steps + step_bits.sum(axis=1)
        record_bits = 1 + RICE_PARAMETERS[members]
        level_bits = members * record_bits
        return cls(
            code=code,
            members=first_members[:, None] + _sums_before(member_bits),
            steps=first_steps[:, None] + _sums_before(step_bits),
            records=first_records[:, None] + _sums_before(level_bits),
            record_bits=record_bits,
            unary=first_records + level_bits.sum(axis=1),
        )


def longest_chunk_bytes(keep: int, levels: int) -> int:
    """Return the length that no valid chunk of at most `keep` values on `levels` levels exceeds, in bytes."""
    header = header_bits(keep) + CODE_BITS + (levels - 1) * ((keep - 1).bit_length() + STEP_LOW_BITS + 1)
    steps = CODES >> STEP_LOW_BITS
    return (header + steps + _longest_values(keep, levels) + 7) >> 3


@lru_cache(maxsize=64)
def _longest_values(keep: int, levels: int) -> int:
    """Return the most bits that records and unary gaps take, however the values fall on the levels."""
    counts = np.arange(keep + 1, dtype=np.int64)
    rice = RICE_PARAMETERS[counts]
    one_level = np.where(counts > 0, counts * (2 + rice) + ((CHUNK_VALUES - counts) >> rice), 0)
    longest = one_level
    for _ in range(levels.bit_length() - 1):  # twice as many levels: the best way to share out each count
        shared = longest.copy()
        for first in range(1, keep + 1):
            np.maximum(shared[first:], longest[first] + longest[: keep + 1 - first], out=shared[first:])
        longest = shared
    return int(longest.max())


def _sums_before(terms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each of a row's terms, the sum of those before it."""
    return terms.cumsum(axis=1) - terms
