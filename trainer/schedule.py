"""The learning rate of one local step, from what every peer knows: the chain's tokens and the step's number.

It depends on nothing else, so whoever replays a window takes the same steps.
"""

from __future__ import annotations

import math

from recipes.schema.recipe import Recipe
from recipes.schema.sections import ScheduleSection


def learning_rate(recipe: Recipe, *, tokens_before: int, step: int) -> float:
    """Return the learning rate of local step `step`, counted from 0 at the window's start.

    Args:
        recipe: whose `inner`, `schedule` and `data` sections apply.
        tokens_before: tokens that the whole swarm has trained on, by the block that opened the window.
        step: local step; each moves the schedule on by the tokens of one batch.
    """
    batch_tokens = recipe.inner.batch_slots * recipe.data.sequence_length
    tokens = tokens_before + (step + 1) * batch_tokens
    return recipe.inner.learning_rate * scheduled_fraction(recipe.schedule, tokens) * ramp(recipe, step)


def scheduled_fraction(schedule: ScheduleSection, tokens: int) -> float:
    """Return the share of the peak learning rate after `tokens`: a linear warm-up, then the schedule's shape.

    The cosine is that of SGDR without restarts (Loshchilov and Hutter 2017); past `total_tokens` the rate
    stays where the schedule ended.
    """
    if tokens < schedule.warmup_tokens:
        return tokens / schedule.warmup_tokens
    if schedule.kind == "constant":
        return 1.0
    progress = (tokens - schedule.warmup_tokens) / (schedule.total_tokens - schedule.warmup_tokens)
    falling = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return schedule.final_fraction + (1 - schedule.final_fraction) * falling


def ramp(recipe: Recipe, step: int) -> float:
    """Return the factor below 1 for the first `inner.ramp_steps` local steps, and 1 from then on.

    The optimizer's moments restart with each window; until they have settled, full steps would undo some of
    what the last round reached.
    """
    return min(1.0, (step + 1) / (recipe.inner.ramp_steps + 1))
