"""The learning rate: warm-up, shape, end, and the ramp at each window's start."""

from __future__ import annotations

import pytest
from tiny_run import RECIPE

from recipes.schema.recipe import Recipe, parse_recipe
from recipes.schema.sections import ScheduleSection
from trainer.schedule import learning_rate, ramp, scheduled_fraction


def _recipe(*, ramp_steps: int = 2) -> Recipe:
    changed = RECIPE.replace("ramp_steps = 2", f"ramp_steps = {ramp_steps}")
    return parse_recipe(changed.encode(), name="tiny")


def test_warm_up_rises_in_proportion_to_tokens() -> None:
    schedule = ScheduleSection(warmup_tokens=1000, total_tokens=10_000)
    assert scheduled_fraction(schedule, 0) == 0
    assert scheduled_fraction(schedule, 250) == 0.25
    assert scheduled_fraction(schedule, 1000) == 1


def test_cosine_is_halfway_down_in_the_middle_and_stays_at_its_end() -> None:
    schedule = ScheduleSection(warmup_tokens=1000, total_tokens=11_000, final_fraction=0.2)
    assert scheduled_fraction(schedule, 6000) == pytest.approx(0.6)
    assert scheduled_fraction(schedule, 11_000) == pytest.approx(0.2)
    assert scheduled_fraction(schedule, 1_000_000) == pytest.approx(0.2)


def test_constant_schedule_stays_at_the_peak() -> None:
    schedule = ScheduleSection(kind="constant", warmup_tokens=10, total_tokens=100)
    assert [scheduled_fraction(schedule, tokens) for tokens in (5, 50, 500)] == [0.5, 1, 1]


def test_each_window_ramps_up_over_its_first_steps() -> None:
    assert [ramp(_recipe(), step) for step in range(4)] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1, 1]


def test_no_ramp_steps_mean_the_full_rate_at_once() -> None:
    assert ramp(_recipe(ramp_steps=0), 0) == 1


def test_local_steps_move_the_schedule_on_by_their_own_tokens() -> None:
    recipe = _recipe(ramp_steps=0)
    batch_tokens = recipe.inner.batch_slots * recipe.data.sequence_length
    assert learning_rate(recipe, tokens_before=0, step=10) == learning_rate(
        recipe, tokens_before=10 * batch_tokens, step=0
    )
    assert learning_rate(recipe, tokens_before=0, step=10) < learning_rate(recipe, tokens_before=0, step=0)


def test_the_first_step_of_a_warm_up_already_learns() -> None:
    recipe = parse_recipe(RECIPE.replace("warmup_tokens = 0", "warmup_tokens = 9_999").encode(), name="tiny")
    assert learning_rate(recipe, tokens_before=0, step=0) > 0
