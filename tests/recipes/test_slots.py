"""Slots visit the whole corpus once an epoch, in an order that anyone can compute; ranges of slots add up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.slots import Permutation, Range, merge, slot_position, subtract, take, total

KEY = bytes(range(32))
RUN = "ab" * 32
RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=6)


def slots_of(ranges: tuple[Range, ...] | list[Range]) -> list[int]:
    return [slot for start, count in ranges for slot in range(start, start + count)]


def disjoint(ranges: list[Range]) -> list[Range]:
    """Shift the ranges apart, keeping their order."""
    out: list[Range] = []
    for start, count in ranges:
        out.append((start + sum(out[-1]) if out else start, count))
    return out


@given(count=st.integers(1, 3000), key=st.binary(min_size=32, max_size=32))
def test_a_permutation_visits_every_value_once(count: int, key: bytes) -> None:
    mapped = Permutation(key=key, count=count).map(np.arange(count))
    assert sorted(mapped.tolist()) == list(range(count))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 255, 256, 257, 70_000])
def test_one_value_goes_where_it_goes_among_many(count: int) -> None:
    permutation = Permutation(key=KEY, count=count)
    mapped = permutation.map(np.arange(count))
    for index in {0, count // 2, count - 1}:
        assert permutation.at(index) == mapped[index]


def test_the_order_of_the_corpus_is_fixed_for_all_time() -> None:
    # Another order would make every peer disagree about what a slot of a running run means.
    assert [slot_position(RUN, 1000, slot) for slot in (0, 1, 999, 1000)] == [722, 366, 653, 230]
    assert Permutation(key=KEY, count=1 << 40).at(12345) == 138213924543


def test_another_key_gives_another_order_that_looks_random() -> None:
    count = 4096
    first = Permutation(key=KEY, count=count).map(np.arange(count))
    second = Permutation(key=KEY[::-1], count=count).map(np.arange(count))
    assert np.count_nonzero(first == second) < 12  # one is expected by chance
    neighbours = np.corrcoef(first[:-1], first[1:])[0, 1]
    assert abs(neighbours) < 0.06


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError):
        Permutation(key=KEY, count=10).at(index)


@pytest.mark.parametrize("count", [0, (1 << 40) + 1])
def test_a_permutation_of_nothing_or_too_much_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="cannot permute"):
        Permutation(key=KEY, count=count)


def test_each_epoch_covers_the_corpus_in_an_order_of_its_own() -> None:
    epochs = [[slot_position(RUN, 50, slot) for slot in range(50 * n, 50 * n + 50)] for n in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_another_run_visits_the_corpus_in_another_order() -> None:
    assert [slot_position(RUN, 50, slot) for slot in range(50)] != [
        slot_position("cd" * 32, 50, slot) for slot in range(50)
    ]


@given(ranges=RANGES, wanted=st.integers(-3, 150))
def test_taking_splits_the_slots_without_losing_one(ranges: list[Range], wanted: int) -> None:
    taken, rest = take(ranges, wanted)
    assert slots_of(taken) + slots_of(rest) == slots_of(ranges)
    assert total(taken) == min(max(0, wanted), total(ranges))


@given(ranges=RANGES)
def test_merging_keeps_the_set_of_slots_in_order_and_apart(ranges: list[Range]) -> None:
    merged = merge(ranges)
    assert slots_of(merged) == sorted(set(slots_of(ranges)))
    assert all(sum(left) < right[0] for left, right in pairwise(merged))


@given(ranges=RANGES.map(disjoint), used=RANGES)
def test_subtracting_removes_exactly_what_was_used_and_keeps_the_order(
    ranges: list[Range], used: list[Range]
) -> None:
    gone = set(slots_of(used))
    assert slots_of(subtract(ranges, used)) == [slot for slot in slots_of(ranges) if slot not in gone]
