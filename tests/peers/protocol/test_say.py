"""Whose word counts, and how much: work weighs, and names cost nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.protocol.chance.say import UNIT, Say, alike, capped_weights, is_three_quarters, weigh, without
from recipes.keys.keys import PeerId

MEAN = 1000  # FLOPs of a mean claim


def peers(count: int, *, first: int = 0) -> list[PeerId]:
    return [PeerId(f"peer {number:03}") for number in range(first, first + count)]


def named(amounts: list[int]) -> dict[PeerId, int]:
    return dict(zip(peers(len(amounts)), amounts, strict=True))


WEIGHTS = st.lists(st.integers(1, 10**6), min_size=1, max_size=40).map(named)
SMALL = st.lists(st.integers(1, 60), min_size=1, max_size=25).map(named)
VESTED = st.lists(st.integers(MEAN, 10**7), min_size=1, max_size=30)


# ---------------------------------------------------------------- the cap


@given(weights=WEIGHTS)
def test_of_ten_or_more_none_counts_for_more_than_a_tenth_of_what_all_weigh(
    weights: dict[PeerId, int],
) -> None:
    capped, most = capped_weights(weights), max(1, sum(weights.values()) // 10)
    if len(weights) >= 10:
        assert capped == {peer: min(weight, most) for peer, weight in weights.items()}


def test_ten_that_worked_alike_have_a_tenth_each_and_a_heavier_one_no_more() -> None:
    weights = capped_weights({PeerId("heavier"): 31, **dict.fromkeys(peers(9), 21)})
    assert set(weights.values()) == {21, 22}


@given(weights=st.lists(st.integers(1, 10**6), min_size=1, max_size=9).map(named))
def test_of_fewer_than_ten_nobody_is_capped(weights: dict[PeerId, int]) -> None:
    """A cap would hand to whoever comes with many names what it takes."""
    assert capped_weights(weights) == weights


def test_the_cap_comes_with_the_tenth_peer() -> None:
    whale = {PeerId("whale"): 1000}
    assert capped_weights({**dict.fromkeys(peers(8), 3), **whale})[PeerId("whale")] == 1000
    assert capped_weights({**dict.fromkeys(peers(9), 3), **whale})[PeerId("whale")] == 102


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_names_with_next_to_no_work_bring_no_worker_down_to_their_level(workers: int) -> None:
    weights = {**dict.fromkeys(peers(workers), 1001), **dict.fromkeys(peers(10, first=50), 2)}
    capped = capped_weights(weights)
    names = sum(capped[peer] for peer in peers(10, first=50))
    assert 5 * names < sum(capped.values())


# ---------------------------------------------------------------- weights


def test_without_vested_credit_all_weigh_the_same() -> None:
    assert weigh(dict.fromkeys(peers(5), 0), mean_claim=MEAN) == dict.fromkeys(peers(5), UNIT)
    assert weigh({}, mean_claim=MEAN) == {}


def test_work_weighs_in_whole_mean_claims() -> None:
    vested = named([2999, 1000, 999, 1])
    tenth = 5 * UNIT // 9 // 2  # of each of the two with less than a mean claim
    assert list(weigh(vested, mean_claim=MEAN).values()) == [3 * UNIT, 2 * UNIT, tenth, tenth]
    assert set(weigh(vested, mean_claim=0).values()) == {UNIT}  # nobody has claimed yet


@given(vested=VESTED, crowd=st.integers(0, 300))
def test_all_without_vested_credit_together_weigh_at_most_a_tenth_however_many(
    vested: list[int], crowd: int
) -> None:
    newcomers = peers(crowd, first=100)
    weights = weigh({**named(vested), **dict.fromkeys(newcomers, 0)}, mean_claim=MEAN)
    whole, theirs = sum(weights.values()), sum(weights[peer] for peer in newcomers)
    assert 10 * theirs <= whole
    assert len({weights[peer] for peer in newcomers}) <= 1
    assert all(1 <= weights[peer] <= UNIT for peer in newcomers)
    assert min(weights.values()) > 0
    enough = 9 * crowd * UNIT >= whole - theirs
    if enough:  # they have the whole tenth, but for what does not divide by them
        assert 10 * (theirs + crowd) > whole


@given(vested=VESTED, crowd=st.integers(1, 300))
def test_a_crowd_of_names_changes_nothing_between_those_that_worked(vested: list[int], crowd: int) -> None:
    alone = weigh(named(vested), mean_claim=MEAN)
    among = weigh({**named(vested), **dict.fromkeys(peers(crowd, first=100), 0)}, mean_claim=MEAN)
    assert {peer: among[peer] for peer in alone} == alone


def test_a_founder_that_did_most_of_the_work_cannot_be_outweighed_by_names_with_a_claim_each() -> None:
    founders = {PeerId("one founder"): 90 * MEAN, PeerId("other founder"): 30 * MEAN}
    for others in range(8):
        weights = weigh({**founders, **dict.fromkeys(peers(others), MEAN)}, mean_claim=MEAN)
        assert weights[PeerId("one founder")] == 91 * UNIT
        assert weights[PeerId("other founder")] == 31 * UNIT
    weights = weigh({**founders, **dict.fromkeys(peers(8), MEAN)}, mean_claim=MEAN)
    both = sum(weights[peer] for peer in founders)
    assert 2 * both > sum(weights.values()) - both  # 13 each, and 16 of the others together


def test_a_single_elector_with_vested_credit_has_nine_tenths_and_more() -> None:
    for crowd in (1, 2, 9, 10, 11, 1000):
        weights = weigh({PeerId("worker"): MEAN, **dict.fromkeys(peers(crowd), 0)}, mean_claim=MEAN)
        assert 10 * weights[PeerId("worker")] >= 9 * sum(weights.values())
        assert is_three_quarters(weights[PeerId("worker")], sum(weights.values()))


@given(vested=VESTED)
def test_weights_come_by_name_in_ascending_order(vested: list[int]) -> None:
    turned = dict(reversed(named([0, *vested]).items()))
    assert list(weigh(turned, mean_claim=MEAN)) == sorted(turned)


# ---------------------------------------------------------------- say


def test_alike_gives_each_name_one_unit() -> None:
    one = alike([*reversed(peers(4)), *peers(2)])
    assert list(one.weights.items()) == [(peer, UNIT) for peer in peers(4)]
    assert one.established == set(peers(4))
    assert one.total == 4 * UNIT
    assert not one.out


def test_peers_weigh_together_what_each_weighs_once() -> None:
    one = Say(named([5, 7, 11]), frozenset(peers(1)))
    assert one.of([*peers(2), *peers(2), PeerId("stranger")]) == 12
    assert one.of(()) == 0


def test_without_some_peers_the_weights_of_the_others_are_left_as_they_are() -> None:
    assert without(named([5, 7, 11]), {peers(2)[1], PeerId("stranger")}) == {
        peers(3)[0]: 5,
        peers(3)[2]: 11,
    }


@pytest.mark.parametrize(
    ("part", "whole", "is_quorum"),
    [(3, 4, True), (2, 3, False), (1, 1, True), (0, 0, False), (299, 400, False)],
)
def test_three_quarters_of_a_weight_are_a_quorum_and_nothing_is_none(
    part: int, whole: int, is_quorum: bool
) -> None:
    assert is_three_quarters(part, whole) is is_quorum
