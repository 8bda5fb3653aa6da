"""Deadlines: they follow what peers measured, within bounds, the same for everybody, whoever lies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import Swarm

from peers.protocol.messages import Claim, Pace
from peers.protocol.rules import MOST_EXCHANGE, Bounds, Rules
from peers.protocol.timeouts import MARGIN, MOST_OF_MEDIAN, Deadlines, decile, first_deadlines, next_deadlines

SWARM = Swarm(1)
CLAIM = SWARM.claim(SWARM.keys[0], SWARM.genesis).body
NARROW = SWARM.rules  # grace 1 to 6 s, transfer 2 to 12 s, leader 2 to 8 s
WIDE = replace(NARROW, grace=Bounds(0.001, 10**6), transfer=Bounds(0.001, 10**6), leader=Bounds(0.001, 10**6))
STANDING = Deadlines(grace_ms=4000, transfer_ms=4000, leader_ms=4000)
PACES = st.builds(
    Pace,
    claims_late_ms=st.none() | st.integers(0, 86_400_000),
    transfer_ms=st.none() | st.integers(0, 86_400_000),
    reply_ms=st.none() | st.integers(0, 86_400_000),
)


def claims(paces: Sequence[Pace], *, contribution_bytes: int = 1_000_000) -> list[Claim]:
    update = {"contribution_bytes": contribution_bytes}
    return [CLAIM.model_copy(update={"pace": pace, **update}) for pace in paces]


def after(
    paces: Sequence[Pace], *, before: Deadlines = STANDING, rules: Rules = WIDE, rounds: int = 1
) -> Deadlines:
    for _ in range(rounds):
        before = next_deadlines(before, claims(paces), rules)
    return before


def test_before_anything_was_measured_deadlines_stand_in_the_geometric_middle() -> None:
    rules = replace(NARROW, grace=Bounds(1.0, 100.0), transfer=Bounds(2.0, 8.0), leader=Bounds(5.0, 5.0))
    assert first_deadlines(rules) == Deadlines(grace_ms=10_000, transfer_ms=4000, leader_ms=5000)


def test_deadlines_are_told_in_seconds() -> None:
    deadlines = Deadlines(grace_ms=1500, transfer_ms=250, leader_ms=7)
    assert (deadlines.grace, deadlines.transfer, deadlines.leader) == (1.5, 0.25, 0.007)


def test_windows_follow_the_median_exchange_quickly_down_and_by_half_the_way_up() -> None:
    rules = replace(WIDE, overlap="eager")
    spread = [Pace(exchange_ms=ms) for ms in (100, 2000, 86_400_000)]
    assert [after(spread, rules=rules, rounds=n).exchange_ms for n in (1, 2, 3, 20)] == [
        1000,
        1500,
        1750,
        2000,
    ]
    late = STANDING.model_copy(update={"exchange_ms": 5000})
    assert after(spread, before=late, rules=rules).exchange_ms == 2000
    assert after([Pace()], before=late, rules=rules).exchange_ms == 5000


def test_an_exchange_longer_than_most_of_a_window_is_waited_for() -> None:
    rules = replace(WIDE, overlap="eager")
    most = rules.window_seconds * MOST_EXCHANGE[0] / MOST_EXCHANGE[1]
    assert after([Pace(exchange_ms=86_400_000)], rules=rules, rounds=30).exchange == pytest.approx(most)


def test_without_overlap_no_window_begins_before_its_block() -> None:
    assert after([Pace(exchange_ms=2000)], rounds=3).exchange_ms == 0


@pytest.mark.parametrize("paces", [[], [Pace()], [Pace(), Pace()]])
def test_what_nobody_measured_stays_as_it_was(paces: list[Pace]) -> None:
    assert after(paces) == STANDING


def test_each_deadline_follows_what_was_measured_of_it_alone() -> None:
    late = after([Pace(claims_late_ms=4000, reply_ms=500)])
    assert late == STANDING.model_copy(update={"grace_ms": 4000 * MARGIN[0] // MARGIN[1] + 500})
    slow = after([Pace(transfer_ms=4000)])
    assert slow.grace_ms == STANDING.grace_ms
    assert slow.transfer_ms == 4000 * MARGIN[0] // MARGIN[1]


def test_an_answers_time_is_allowed_for_on_top() -> None:
    quick, slow = (after([Pace(claims_late_ms=4000, transfer_ms=4000, reply_ms=ms)]) for ms in (500, 900))
    assert slow.grace_ms == quick.grace_ms + 400
    assert slow.transfer_ms == quick.transfer_ms + 400


def test_a_few_leaders_cannot_have_everybody_wait_for_claims_much_longer_than_answers_take() -> None:
    lie = Pace(claims_late_ms=86_400_000, reply_ms=20)
    assert after([lie] * 3, rounds=60).grace_ms <= MOST_OF_MEDIAN * 20 * MARGIN[0] // MARGIN[1] + 20 + 1000


def test_a_leader_is_given_the_time_in_which_a_roster_passes_through_two_peers() -> None:
    few = after([Pace(transfer_ms=10_000)] * 2, rounds=20)
    many = after([Pace(transfer_ms=10_000)] * 40, rounds=20)
    far = after([Pace(transfer_ms=10_000, reply_ms=1000)] * 40, rounds=20)
    assert few.leader_ms < many.leader_ms < far.leader_ms


def test_deadlines_stay_within_the_recipes_bounds() -> None:
    fast = after([Pace(claims_late_ms=0, transfer_ms=0, reply_ms=0)] * 3, rules=NARROW, rounds=30)
    assert fast == Deadlines(grace_ms=1000, transfer_ms=2000, leader_ms=2000)
    day = Pace(claims_late_ms=86_400_000, transfer_ms=86_400_000, reply_ms=86_400_000)
    slow = after([day] * 3, rules=NARROW, rounds=30)
    assert slow == Deadlines(grace_ms=6000, transfer_ms=12_000, leader_ms=8000)


def test_a_deadline_falls_by_no_more_than_a_quarter_in_a_round() -> None:
    """One quick round tells little: the next one may be slow again."""
    quick = [Pace(claims_late_ms=0, transfer_ms=0, reply_ms=0)]
    assert after(quick) == Deadlines(grace_ms=3000, transfer_ms=3000, leader_ms=3000)
    assert after(quick, rounds=2) == Deadlines(grace_ms=2250, transfer_ms=2250, leader_ms=2250)


def test_a_deadline_rises_to_no_more_than_four_times_itself_in_a_round() -> None:
    slow = [Pace(claims_late_ms=10**6, transfer_ms=10**6, reply_ms=10**6)]
    assert after(slow) == Deadlines(grace_ms=16_000, transfer_ms=16_000, leader_ms=16_000)


def test_deadlines_settle_where_what_is_measured_no_longer_changes() -> None:
    steady = [Pace(claims_late_ms=ms, transfer_ms=10 * ms, reply_ms=ms // 4) for ms in (200, 300, 400, 500)]
    assert after(steady, rounds=40) == after(steady, rounds=41)


@given(paces=st.lists(PACES, max_size=12), before=st.integers(1000, 6000), seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_every_peer_computes_the_same_whole_numbers(paces: list[Pace], before: int, seed: int) -> None:
    standing = Deadlines(grace_ms=before, transfer_ms=2 * before, leader_ms=2000)
    found = after(paces, before=standing, rules=NARROW)
    shuffled = random.Random(seed).sample(paces, len(paces))
    assert after(shuffled, before=standing, rules=NARROW) == found
    assert all(type(value) is int for value in found.model_dump().values())
    assert 1000 <= found.grace_ms <= 6000
    assert 2000 <= found.transfer_ms <= 12_000
    assert 2000 <= found.leader_ms <= 8000


@given(
    honest=st.lists(st.integers(0, 50_000), min_size=1, max_size=9),
    lies=st.lists(st.integers(0, 86_400_000), max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_a_lying_minority_moves_lateness_no_further_than_what_honest_peers_measured(
    honest: list[int], lies: list[int]
) -> None:
    lies = lies[: len(honest) - 1]
    reply = 50_000  # so long that it caps nothing
    paces = [Pace(claims_late_ms=late, reply_ms=reply) for late in [*honest, *lies]]
    grace = after(paces, rounds=60).grace_ms - reply
    assert min(honest) * MARGIN[0] // MARGIN[1] - 4 <= grace <= max(1, max(honest) * MARGIN[0] // MARGIN[1])


@given(
    honest=st.lists(st.integers(0, 50_000), min_size=1, max_size=9),
    lies=st.lists(st.integers(0, 86_400_000), max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_a_lying_minority_moves_transfers_no_further_than_a_few_times_what_honest_peers_measured(
    honest: list[int], lies: list[int]
) -> None:
    lies = lies[: len(honest) - 1]
    transfer = after([Pace(transfer_ms=took) for took in [*honest, *lies]], rounds=60).transfer_ms
    most = MOST_OF_MEDIAN * max(honest) * MARGIN[0] // MARGIN[1]
    assert min(honest) * MARGIN[0] // MARGIN[1] - 4 <= transfer <= max(1, most)


@pytest.mark.parametrize(
    ("values", "number", "found"),
    [
        ([], 5, None),
        ([7], 1, 7),
        ([3, 1, 2], 5, 2),
        ([4, 1, 3, 2], 5, 2),
        (list(range(1, 11)), 9, 9),
        ([1, 9], 9, 9),
    ],
)
def test_a_decile_is_one_of_the_values(values: list[int], number: int, found: int | None) -> None:
    assert decile(values, number) == found
