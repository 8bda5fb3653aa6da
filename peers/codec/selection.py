"""Selection of the values that the sparse codec keeps: the largest magnitudes, of equal ones the first.

Magnitudes are compared as integers, so that all implementations select the same, here or on a GPU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peers.codec.levels import SMALLEST_KEY, magnitude_keys
from recipes.layout import CHUNK_VALUES

_INDEX_BITS = CHUNK_VALUES.bit_length() - 1
INFINITY_KEY = np.uint32(0x7F800000)
_FEW = 0.25


def select_largest(values: NDArray[np.float32], keep: int) -> NDArray[np.int64]:
    """Return the positions of each chunk's `keep` largest magnitudes, without those that round to zero.

    Args:
        values: float32, contiguous, shape (chunks, 4096), at most 2**20 chunks.
        keep: from 1 to 4096.

    Raises:
        ValueError: a value is infinite or not a number.
    """
    keys = magnitude_keys(values)
    if keys.size and keys.max() >= INFINITY_KEY:
        raise refuse_infinite()
    candidates = keys >= np.uint32(SMALLEST_KEY)
    if np.count_nonzero(candidates) <= _FEW * keys.size:
        return _largest_of_few(keys, _positions(candidates), keep)
    column = CHUNK_VALUES - keep
    thresholds = np.partition(keys, column, axis=1)[:, column : column + 1]
    largest = (keys >= thresholds) & candidates
    positions = _positions(largest)
    counts = np.bincount(positions >> _INDEX_BITS, minlength=values.shape[0])
    if (counts <= keep).all():
        return positions
    for row in np.flatnonzero(counts > keep):  # several equal the least that is kept
        above = np.count_nonzero(keys[row] > thresholds[row])
        equal = np.flatnonzero(keys[row] == thresholds[row])
        largest[row, equal[keep - above :]] = False
    return _positions(largest)


def refuse_infinite() -> ValueError:
    """Return the error for values that cannot be encoded."""
    return ValueError("cannot encode values that are infinite or not a number")


def _largest_of_few(keys: NDArray[np.uint32], positions: NDArray[np.int64], keep: int) -> NDArray[np.int64]:
    """Return the positions of each chunk's `keep` largest keys, of which `positions` holds all above zero.

    Sorting these is faster than partitioning all keys, which is slow if most of them are equal, as in a sum
    of sparse contributions.
    """
    chunk = positions >> _INDEX_BITS
    counts = np.bincount(chunk, minlength=keys.shape[0])
    if (counts <= keep).all():
        return positions
    # One number each: in ascending order, a chunk's largest keys come first, and of equal ones the first.
    ranked = np.int64(0x7FFFFFFF) - keys.reshape(-1)[positions]
    ranked |= chunk << 31
    ranked <<= _INDEX_BITS
    ranked |= positions & (CHUNK_VALUES - 1)
    ranked.sort()
    starts = counts.cumsum() - counts
    kept = ranked[np.arange(ranked.size) - starts.repeat(counts) < keep]
    kept = (kept >> 31 & -CHUNK_VALUES) | (kept & (CHUNK_VALUES - 1))
    kept.sort()
    return kept


def _positions(marks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the same as np.flatnonzero, much faster if few are marked, by looking at eight at once."""
    eights = np.flatnonzero(marks.reshape(-1).view(np.uint64) != 0)
    among = np.flatnonzero(marks.reshape(-1, 8)[eights])
    positions: NDArray[np.int64] = (eights[among >> 3] << 3) | (among & 7)
    return positions
