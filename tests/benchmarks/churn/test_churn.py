"""The churn benchmark's arithmetic: losses at equal tokens, the bound on a round, and who dies when."""

from __future__ import annotations

import pytest

from benchmarks.churn.figures import DYING_SECONDS, MOMENTS, bound_seconds, compare, draw_victims, loss_at
from recipes.schema.sections import RoundSection

RULES = RoundSection(
    window_seconds=6, grace_seconds=(1, 2), transfer_seconds=(2, 3), leader_seconds=(1, 1.5), segments=4
)


def test_between_two_rounds_the_loss_lies_on_a_straight_line() -> None:
    curve = [(0, 5.0), (100, 3.0), (300, 2.0)]
    assert loss_at(curve, 0) == 5.0
    assert loss_at(curve, 50) == pytest.approx(4.0)
    assert loss_at(curve, 200) == pytest.approx(2.5)
    assert loss_at(curve, 300) == 2.0


def test_a_round_that_counted_no_tokens_does_not_divide_by_zero() -> None:
    assert loss_at([(100, 3.0), (100, 3.0), (200, 2.0)], 100) == 3.0


@pytest.mark.parametrize("tokens", [-1, 301])
def test_a_curve_says_nothing_beyond_its_ends(tokens: int) -> None:
    with pytest.raises(ValueError, match="says nothing"):
        loss_at([(0, 5.0), (300, 2.0)], tokens)


@pytest.mark.parametrize(("disturbed_end", "undisturbed_end", "common"), [(200, 400, 200), (400, 200, 200)])
def test_losses_are_compared_up_to_the_tokens_that_both_runs_reached(
    disturbed_end: int, undisturbed_end: int, common: int
) -> None:
    points = compare([(0, 4.0), (disturbed_end, 2.0)], [(0, 4.0), (undisturbed_end, 2.0)])
    assert [point.tokens for point in points] == [common // 4, common // 2, 3 * common // 4, common]
    assert (points[-1].ratio > 1) == (disturbed_end > undisturbed_end)


def test_equal_curves_have_a_ratio_of_one_however_many_rounds_they_took() -> None:
    few = [(0, 4.0), (400, 2.0)]
    many = [(0, 4.0), (100, 3.5), (200, 3.0), (300, 2.5), (400, 2.0)]
    assert [point.ratio for point in compare(few, many)] == pytest.approx([1.0] * 4)


def test_the_bound_is_window_grace_three_transfers_and_a_silence_for_each_peer_that_may_be_dead() -> None:
    assert bound_seconds(RULES, killed=0) == 6 + 2 + 3 * 3
    assert bound_seconds(RULES, killed=2) == 6 + 2 + 3 * 3 + 4 * 1.5


def test_victims_follow_from_seed_and_round_alone() -> None:
    def draw(seed: int, number: int) -> object:
        return draw_victims(seed, number, up=[True] * 7, killed=2, window_seconds=6)

    assert draw(1, 5) == draw(1, 5)
    assert len({draw(1, number) for number in range(20)} | {draw(2, number) for number in range(20)}) == 40


def test_a_round_kills_different_volunteers_and_in_time_everybody_dies_at_every_moment() -> None:
    rounds = [draw_victims(3, number, up=[True] * 7, killed=2, window_seconds=6) for number in range(200)]
    assert all(one.volunteer != other.volunteer for one, other in rounds)
    seen = {(victim.volunteer, victim.moment) for victims in rounds for victim in victims}
    assert seen == {(volunteer, moment) for volunteer in range(7) for moment in MOMENTS}


def test_deaths_in_training_are_spread_over_the_window_and_the_others_follow_their_moment_closely() -> None:
    drawn = [
        victim
        for number in range(200)
        for victim in draw_victims(4, number, up=[True] * 7, killed=2, window_seconds=6)
    ]
    training = [victim.delay_seconds for victim in drawn if victim.moment == "WindowStarted"]
    assert min(training) < 1
    assert max(training) > 5
    others = [victim.delay_seconds for victim in drawn if victim.moment != "WindowStarted"]
    assert 0 <= min(others) <= max(others) <= DYING_SECONDS


def test_who_is_still_starting_is_killed_only_if_too_few_are_up() -> None:
    for number in range(50):
        up = [False, True, False, True, False, False, True]
        two = draw_victims(5, number, up=up, killed=2, window_seconds=6)
        assert {victim.volunteer for victim in two} < {1, 3, 6}
        four = draw_victims(5, number, up=up, killed=4, window_seconds=6)
        assert {1, 3, 6} < {victim.volunteer for victim in four}
