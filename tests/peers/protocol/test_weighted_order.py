"""Weighted chance in whole numbers: as exact as can be, and as likely as the weights say."""

from __future__ import annotations

import math
import random
from collections import Counter
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peers.protocol.chance.weighted_order import anybody_in_time, in_order, negative_log2, uniform
from recipes.keys.keys import PeerId

MILLION = 1_000_000
NUMBERS = st.integers(0, 2**64 - 1)
# Also many that are close to each other, and to the ends.
SOME_NUMBER = NUMBERS | st.integers(0, 3) | st.integers(2**64 - 4, 2**64 - 1) | st.integers(2**63, 2**63 + 9)
WEIGHT = st.integers(1, 3) | st.integers(1, 10**6)
CROWDS = st.lists(st.tuples(SOME_NUMBER, WEIGHT), min_size=1, max_size=40).map(
    lambda drawn: {PeerId(f"peer {place}"): one for place, one in enumerate(drawn)}
)
Crowd = dict[PeerId, tuple[int, int]]


def numbers_of(crowd: Crowd) -> dict[PeerId, int]:
    return {peer: number for peer, (number, _) in crowd.items()}


def weights_of(crowd: Crowd) -> dict[PeerId, int]:
    return {peer: weight for peer, (_, weight) in crowd.items()}


# ---------------------------------------------------------------- the logarithm


def precise(number: int) -> Decimal:
    """-log2 of (number + 1) / 2^64, to 60 digits, in units of 2^-32."""
    with localcontext() as context:
        context.prec = 60
        return (Decimal(64) - Decimal(number + 1).ln() / Decimal(2).ln()) * 2**32


@given(number=SOME_NUMBER)
@example(number=2**64 - 2)
@settings(max_examples=400)
def test_the_integer_logarithm_is_the_next_whole_number_above(number: int) -> None:
    over = negative_log2(number) - precise(number)
    assert Decimal(-1) / 2**20 < over < 1 + Decimal(1) / 2**20


@given(numbers=st.tuples(SOME_NUMBER, SOME_NUMBER))
def test_a_lower_number_never_has_a_lower_logarithm(numbers: tuple[int, int]) -> None:
    assert negative_log2(min(numbers)) >= negative_log2(max(numbers))


def test_the_integer_logarithm_is_exact_where_it_can_be_and_fixed_for_all_time() -> None:
    # Another value would make peers disagree about who leads, and who audits whom.
    assert [negative_log2(2**bits - 1) for bits in (0, 1, 63, 64)] == [64 << 32, 63 << 32, 1 << 32, 0]
    assert negative_log2(0x0123456789ABCDEF) == 33559934675


# ---------------------------------------------------------------- the order


@given(crowd=CROWDS)
@settings(max_examples=300)
def test_the_order_is_that_of_the_exact_turns_and_of_names(crowd: Crowd) -> None:
    turn = {peer: Fraction(negative_log2(number), weight) for peer, (number, weight) in crowd.items()}
    assert in_order(numbers_of(crowd), weights_of(crowd)) == sorted(
        crowd, key=lambda peer: (turn[peer], peer)
    )


@given(crowd=CROWDS, dice=st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_that_of_a_dictionary(crowd: Crowd, dice: random.Random) -> None:
    shuffled = list(crowd.items())
    dice.shuffle(shuffled)
    other = dict(shuffled)
    assert in_order(numbers_of(other), weights_of(other)) == in_order(numbers_of(crowd), weights_of(crowd))


@given(crowd=CROWDS, factor=st.integers(1, 1000))
def test_weights_count_only_as_parts_of_their_sum(crowd: Crowd, factor: int) -> None:
    """But for turns so close that whole numbers tell them apart by name."""
    numbers, weights = numbers_of(crowd), weights_of(crowd)
    larger = {peer: factor * weight for peer, weight in weights.items()}
    turns = {Fraction(negative_log2(number), weight) for number, weight in crowd.values()}
    if len(turns) == len(crowd):
        assert in_order(numbers, larger) == in_order(numbers, weights)


def lots(crowd: dict[PeerId, int], draw: int) -> dict[PeerId, int]:
    return {peer: uniform(f"{draw}/{peer}") for peer in crowd}


def within_five_sigma(found: int, of: int, chance: float) -> bool:
    return abs(found - of * chance) < 5 * math.sqrt(of * chance * (1 - chance))


DRAWS = 8_000
UNEQUAL = {PeerId(f"peer {place}"): weight for place, weight in enumerate((1, 1, 2, 5, 11))}


def test_who_comes_first_is_drawn_in_proportion_to_weight() -> None:
    firsts = Counter(in_order(lots(UNEQUAL, draw), UNEQUAL)[0] for draw in range(DRAWS))
    for peer, weight in UNEQUAL.items():
        assert within_five_sigma(firsts[peer], DRAWS, weight / 20)


def test_who_comes_second_is_drawn_so_from_the_others() -> None:
    heavy = max(UNEQUAL, key=lambda peer: UNEQUAL[peer])
    orders = [in_order(lots(UNEQUAL, draw), UNEQUAL) for draw in range(DRAWS)]
    seconds = Counter(order[1] for order in orders if order[0] == heavy)
    for peer in UNEQUAL.keys() - {heavy}:
        assert within_five_sigma(seconds[peer], seconds.total(), UNEQUAL[peer] / 9)


# ---------------------------------------------------------------- in time


@given(crowd=CROWDS, millionths=st.integers(1, MILLION - 1))
@settings(max_examples=400)
def test_somebody_is_in_time_if_an_exact_turn_is(crowd: Crowd, millionths: int) -> None:
    numbers, weights = numbers_of(crowd), weights_of(crowd)
    whole = sum(weights.values())
    with localcontext() as context:
        context.prec = 60
        time = -(1 - Decimal(millionths) / MILLION).ln() / Decimal(2).ln() * 2**32
        ahead = [time * weights[peer] / whole - precise(numbers[peer]) for peer in crowd]
    if min(map(abs, ahead)) > 3:  # of 2^-32: rounding decides on the others, the same way everywhere
        in_time = max(ahead) > 0
        assert anybody_in_time(numbers, weights, millionths=millionths) == in_time


@given(crowd=CROWDS, millionths=st.integers(1, MILLION - 1))
@settings(max_examples=400)
def test_floats_leave_nobody_out_that_whole_numbers_let_in(crowd: Crowd, millionths: int) -> None:
    numbers, weights = numbers_of(crowd), weights_of(crowd)
    time = negative_log2(((MILLION - millionths) << 64) // MILLION - 1)
    expected = any(
        negative_log2(numbers[peer]) * sum(weights.values()) <= time * weights[peer] for peer in crowd
    )
    assert anybody_in_time(numbers, weights, millionths=millionths) == expected


def test_a_turn_at_the_very_time_is_in_time() -> None:
    """There floats cannot tell: whole numbers do."""
    one, weights = PeerId("one"), {PeerId("one"): 7}
    for half, millionths in ((2**63 - 1, 500_000), (2**62 - 1, 750_000)):
        assert anybody_in_time({one: half}, weights, millionths=millionths)
        assert not anybody_in_time({one: half - 2**33}, weights, millionths=millionths)


@pytest.mark.parametrize("rate", [1_000, 35_000, 150_000, 500_000, 900_000])
@pytest.mark.parametrize("weights", [UNEQUAL, {PeerId("alone"): 3}], ids=["many", "one"])
def test_somebody_is_in_time_as_often_as_the_rate_says(rate: int, weights: dict[PeerId, int]) -> None:
    found = sum(anybody_in_time(lots(weights, draw), weights, millionths=rate) for draw in range(DRAWS))
    assert within_five_sigma(found, DRAWS, rate / MILLION)


def test_the_first_of_those_drawn_is_in_proportion_to_weight_too() -> None:
    """Whether anybody comes in time tells nothing of who it is."""
    drawn = [
        in_order(numbers, UNEQUAL)[0]
        for numbers in (lots(UNEQUAL, draw) for draw in range(DRAWS))
        if anybody_in_time(numbers, UNEQUAL, millionths=150_000)
    ]
    firsts = Counter(drawn)
    for peer, weight in UNEQUAL.items():
        assert within_five_sigma(firsts[peer], len(drawn), weight / 20)


@given(crowd=CROWDS, rates=st.tuples(st.integers(0, MILLION), st.integers(0, MILLION)))
def test_whoever_is_in_time_is_so_at_any_higher_rate(crowd: Crowd, rates: tuple[int, int]) -> None:
    low, high = (
        anybody_in_time(numbers_of(crowd), weights_of(crowd), millionths=rate) for rate in sorted(rates)
    )
    assert high or not low


@given(crowd=CROWDS)
def test_at_no_rate_nobody_is_in_time_and_at_the_whole_somebody_where_there_is_anybody(crowd: Crowd) -> None:
    numbers, weights = numbers_of(crowd), weights_of(crowd)
    assert not anybody_in_time(numbers, weights, millionths=0)
    assert anybody_in_time(numbers, weights, millionths=MILLION)
    assert not anybody_in_time({}, {}, millionths=MILLION)
    assert not anybody_in_time({}, {}, millionths=10)


def test_a_number_follows_from_its_label() -> None:
    assert uniform("a label") == uniform("a label") != uniform("another")
    assert 0 <= uniform("a label") < 2**64
