"""Slots of work: a keyed permutation of the corpus, and arithmetic on ranges of slots.

A slot is a number that only grows through a run. `slot_position` says which sequence of the corpus it
stands for: each epoch visits every sequence once, in an order of its own that anyone can compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from blake3 import blake3

Range = tuple[int, int]
"""Consecutive slots: the first one, and how many."""

MAXIMUM_COUNT = 1 << 40
_FEISTEL_ROUNDS = 6


class Permutation:
    """A pseudo-random permutation of 0 to `count` - 1 that follows from `key`.

    A balanced Feistel network (Luby and Rackoff 1988) over the smallest power of four that holds
    `count`, with cycle walking (Black and Rogaway 2002): a value that lands outside is permuted again.
    Six rounds, after Patarin 2004, as halves are short. Each round function is a table of BLAKE3's
    keyed output, at most 4 MiB, so that many values can be mapped at once.
    """

    def __init__(self, *, key: bytes, count: int) -> None:
        """`key` has 32 bytes.

        Raises:
            ValueError: `count` is not between 1 and 2**40.
        """
        if not 1 <= count <= MAXIMUM_COUNT:
            raise ValueError(f"cannot permute {count} values: between 1 and {MAXIMUM_COUNT} are possible")
        self.count = count
        self._half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half_bits) - 1
        entries = 1 << self._half_bits
        self._tables = []
        for turn in range(_FEISTEL_ROUNDS):
            random = blake3(bytes([turn]), key=key).digest(length=4 * entries)
            self._tables.append(np.frombuffer(random, dtype="<u4").astype(np.int64) & self._mask)

    def at(self, index: int) -> int:
        """Return where `index` goes.

        Raises:
            IndexError: `index` is not between 0 and count - 1.
        """
        return int(self.map(np.array([index], dtype=np.int64))[0])

    def map(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return where each of `indices` goes, as int64 of the same shape.

        Raises:
            IndexError: one of them is not between 0 and count - 1.
        """
        if indices.size and not (indices.min() >= 0 and indices.max() < self.count):
            raise IndexError(f"an index is outside 0 to {self.count - 1}")
        values = self._once(indices.astype(np.int64))
        outside = values >= self.count
        while outside.any():
            values[outside] = self._once(values[outside])
            outside = values >= self.count
        return values

    def _once(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        left, right = values >> self._half_bits, values & self._mask
        for table in self._tables:
            left, right = right, left ^ table[right]
        return (left << self._half_bits) | right


def slot_position(run_id: str, slot_count: int, slot: int) -> int:
    """Return the position in the corpus of `slot`: which of its `slot_count` training sequences it means.

    Slots 0 to slot_count - 1 are the first epoch, the next slot_count the second, and so on.
    """
    epoch, index = divmod(slot, slot_count)
    return _epoch_order(run_id, slot_count, epoch).at(index)


def slot_positions(run_id: str, slot_count: int, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return `slot_position` of each of `slots`, int64 of the same shape."""
    epochs, indices = np.divmod(slots, slot_count)
    positions = np.empty_like(slots)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        positions[here] = _epoch_order(run_id, slot_count, int(epoch)).map(indices[here])
    return positions


@lru_cache(maxsize=4)
def _epoch_order(run_id: str, slot_count: int, epoch: int) -> Permutation:
    key = blake3(bytes.fromhex(run_id) + epoch.to_bytes(8, "little")).digest()
    return Permutation(key=key, count=slot_count)


def total(ranges: Iterable[Range]) -> int:
    """Return the number of slots in `ranges`."""
    return sum(count for _, count in ranges)


def take(ranges: Sequence[Range], wanted: int) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """Split `ranges` after its first `wanted` slots: those, and the rest. Fewer if there are fewer."""
    taken: list[Range] = []
    rest: list[Range] = []
    for start, count in ranges:
        here = min(count, max(0, wanted))
        if here:
            taken.append((start, here))
        if here < count:
            rest.append((start + here, count - here))
        wanted -= here
    return tuple(taken), tuple(rest)


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Return the same slots in ascending order, in as few ranges as possible."""
    merged: list[Range] = []
    for start, count in sorted(ranges):
        if not count:
            continue
        if merged and start <= sum(merged[-1]):
            first, length = merged[-1]
            merged[-1] = (first, max(length, start + count - first))
        else:
            merged.append((start, count))
    return tuple(merged)


def subtract(ranges: Iterable[Range], used: Iterable[Range]) -> tuple[Range, ...]:
    """Return the slots of `ranges` that are not in `used`, in the order of `ranges`."""
    holes = merge(used)
    left: list[Range] = []
    for start, count in ranges:
        end = start + count
        for hole, length in holes:
            if hole >= end:
                break  # they ascend
            if start < hole < end:
                left.append((start, hole - start))
            if hole + length > start:
                start = hole + length
        if start < end:
            left.append((start, end - start))
    return tuple(left)
