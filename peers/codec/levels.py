"""Magnitude levels: a logarithmic scale of 256 codes, and the few of them that fit a chunk's values best.

All arithmetic is on integers, or on floats whose results are exact: a fit gives the same codes on every
machine, whatever its vector width, its thread count, or its treatment of subnormal numbers. No
logarithm or power is computed at run time, for those differ between mathematical libraries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CODES = 256
CODE_BITS = 8
_CODES_PER_OCTAVE = 8
_LOWEST_EXPONENT = -28  # code 0 stands for 2**-28, code 255 for 2**3.875
_ITERATIONS = 4

# 2**(23 + k/8) to the nearest integer, k = 0 .. 7.
_MANTISSAS = np.array(
    [8388608, 9147842, 9975792, 10878679, 11863283, 12937002, 14107901, 15384775], dtype=np.int64
)
_MIDPOINTS = (_MANTISSAS + np.append(_MANTISSAS[1:], 2 * _MANTISSAS[0]) + 1) >> 1

# The scale itself. Every entry has a 24-bit significand, so float32 holds it exactly.
MAGNITUDES: NDArray[np.float32] = np.ldexp(
    np.tile(_MANTISSAS, CODES // _CODES_PER_OCTAVE).astype(np.float32),
    (np.arange(CODES) // _CODES_PER_OCTAVE + _LOWEST_EXPONENT - 23).astype(np.int32),
)
MAGNITUDES.flags.writeable = False

# The same scale in units of 2**UNIT_EXPONENT, as exact integers.
UNIT_EXPONENT = _LOWEST_EXPONENT - 23
MAGNITUDE_UNITS: tuple[int, ...] = tuple(
    int(_MANTISSAS[code % _CODES_PER_OCTAVE]) << (code // _CODES_PER_OCTAVE) for code in range(CODES)
)

# Magnitudes below half the lowest level are nearer to zero than to any level.
SMALLEST_KEY = int(np.float32(2.0 ** (_LOWEST_EXPONENT - 1)).view(np.uint32))

_FIXED_BITS = 24


def magnitude_keys(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return the bits of `values` without their signs: integers in the order of the magnitudes."""
    return values.view(np.uint32) & np.uint32(0x7FFFFFFF)


def fit_levels(keys: NDArray[np.uint32], counts: NDArray[np.int64], *, levels: int) -> NDArray[np.int64]:
    """Fit magnitude levels to each chunk's values by Lloyd-Max iterations (Lloyd 1982, Max 1960).

    Args:
        keys: magnitude keys of the kept values of all chunks, one chunk after the other, shape (values,),
            none below SMALLEST_KEY, in any order within a chunk.
        counts: kept values of each chunk, none of them 0, shape (chunks,).
        levels: the number of levels of each chunk.

    Returns:
        Strictly ascending codes on the logarithmic scale, shape (chunks, levels).
    """
    if not counts.size:
        return np.empty((0, levels), dtype=np.int64)
    ends = np.cumsum(counts)
    starts = ends - counts
    chunk_of_value = np.repeat(np.arange(counts.size, dtype=np.int64), counts)

    # Fixed point relative to each chunk's largest magnitude: 24 bits, so that sums of 4096 fit 36 bits.
    exponents = (keys >> np.uint32(23)).astype(np.int64)
    top_exponents = np.maximum.reduceat(exponents, starts)
    significands = ((keys & np.uint32(0x7FFFFF)) | np.uint32(0x800000)).astype(np.int64)
    fixed = significands >> (np.repeat(top_exponents, counts) - exponents)

    # Sorted by chunk, then magnitude, a cell between two thresholds is a slice, and its sum is a difference.
    ordered = np.sort((chunk_of_value << _FIXED_BITS) | fixed)
    sums = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(ordered & ((1 << _FIXED_BITS) - 1))))

    chunk_keys = np.arange(counts.size, dtype=np.int64)[:, None] << _FIXED_BITS
    fitted = ordered[_first_guess(ordered, starts, ends, levels)] & ((1 << _FIXED_BITS) - 1)
    edges = np.empty((counts.size, levels + 1), dtype=np.int64)
    edges[:, 0], edges[:, -1] = starts, ends
    for _ in range(_ITERATIONS):
        thresholds = (fitted[:, :-1] + fitted[:, 1:]) >> 1
        edges[:, 1:-1] = np.searchsorted(ordered, chunk_keys | thresholds, side="right")
        members = np.diff(edges, axis=1)
        centroids = np.diff(sums[edges], axis=1) // np.maximum(members, 1)
        fitted = np.where(members > 0, centroids, fitted)
    return _codes_of(fitted, top_exponents)


def _first_guess(
    ordered: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64], levels: int
) -> NDArray[np.int64]:
    """Return where in each chunk's sorted values the levels start out, ascending, shape (chunks, levels).

    The best levels lie as dense as the cube root of the values' density (Panter and Dite 1951). Around a
    value, the density is one over the gap to its neighbour: equal shares of the sum of gap**(2/3) it is.
    5/8 is near enough to 2/3, and takes but square roots, which IEEE 754 rounds alike everywhere.
    """
    gaps = np.diff(ordered, prepend=ordered[:1])
    gaps[starts] = 0
    root = np.sqrt(gaps.astype(np.float64))
    shares = np.cumsum((root * np.sqrt(np.sqrt(root))).astype(np.int64))
    before, total = shares[starts], shares[ends - 1]
    steps = 2 * np.arange(levels, dtype=np.int64) + 1
    targets = before[:, None] + (total - before)[:, None] * steps // (2 * levels)
    guess: NDArray[np.int64] = np.searchsorted(shares, targets, side="left")
    return np.clip(guess, starts[:, None], ends[:, None] - 1)


def assign_levels(
    keys: NDArray[np.uint32], counts: NDArray[np.int64], codes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return for each value the index of the nearest level of its chunk; of two nearest, the lower.

    Args:
        keys: as for `fit_levels`.
        counts: as for `fit_levels`.
        codes: the chunks' level codes, shape (chunks, levels).
    """
    # A sum of two float32 in float64, compared with a doubled float32: both are exact, or rounded alike
    # everywhere.
    scale = MAGNITUDES.astype(np.float64)[codes]
    doubled_thresholds = scale[:, :-1] + scale[:, 1:]
    doubled = keys.view(np.float32).astype(np.float64) * 2.0
    nearest = np.zeros(keys.size, dtype=np.int64)
    for threshold in doubled_thresholds.T:
        nearest += doubled > np.repeat(threshold, counts)
    return nearest


def _codes_of(fixed: NDArray[np.int64], top_exponents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return strictly ascending codes nearest to ascending fixed-point levels, shape (chunks, levels)."""
    at_least_one = np.maximum(fixed, 1)
    bit_lengths = np.frexp(at_least_one.astype(np.float64))[1].astype(np.int64)
    mantissas = at_least_one << (_FIXED_BITS - bit_lengths)
    steps = np.searchsorted(_MIDPOINTS, mantissas, side="right")
    # A fixed-point 1 stands for 2**(top exponent - 127 - 23), float32's exponent bias and significand.
    octaves = bit_lengths - 1 + top_exponents[:, None] - (127 + 23) - _LOWEST_EXPONENT
    codes = np.clip(octaves * _CODES_PER_OCTAVE + steps, 0, CODES - 1)

    # Two levels may fall on one code; the next one up costs nothing and keeps the codes distinct.
    places = np.arange(fixed.shape[1], dtype=np.int64)
    distinct = np.maximum.accumulate(codes - places, axis=1) + places
    within: NDArray[np.int64] = np.minimum(distinct, CODES - fixed.shape[1] + places)
    return within
