"""Ways to claim work that was not done, each with the loss trace that would hide it best for its price.

Calibration runs them to learn how far each lies from honest work. A trace that is merely made up is easy
to tell; so the cheats that save only a part of the work get theirs from forward passes, which cost a third
of a step and give the losses of the right data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peers.training.interface import Replay, Replayer, ReplayOrder, SharedBuffer
from recipes.schema.recipe import Recipe
from recipes.slots import Range

NEARLY_ALL = 0.9
"""Share of the steps that the boldest of the cautious takes: 27 of 30."""


@dataclass(frozen=True, eq=False)
class Work:
    """A peer's claimed work: a loss trace, and a pseudo-gradient, fp32 of shape (padded,)."""

    losses: tuple[float, ...]
    delta: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Task:
    """The inputs that the chain gives a peer for one window, and those that a cheat might use in their place.

    Attributes:
        weights: at the window's start, fp32 of shape (padded,).
        stale_weights: at the start of the window before.
        slots: the quota, a whole number of batches in one range.
        other_slots: as many, of other data.
        tokens_before: the chain's count of tokens.
        batch_slots: slots of a local step.
        earlier: honest work of the window before.
    """

    weights: NDArray[np.float32]
    stale_weights: NDArray[np.float32]
    slots: Range
    other_slots: Range
    tokens_before: int
    batch_slots: int
    earlier: Work

    @property
    def steps(self) -> int:
        """Number of local steps."""
        return self.slots[1] // self.batch_slots


@dataclass(frozen=True, eq=False)
class Tools:
    """The inputs of a cheat.

    Attributes:
        full: trains as the recipe says.
        half_batch: trains with half the sequences in each step.
        forward: takes steps that change nothing, so gives losses alone.
    """

    full: Replayer
    half_batch: Replayer
    forward: Replayer


Cheat = Callable[[Task, Tools, Work], Work]
"""From a task, tools, and the honest work for the same task, for those who do it and then change it."""


def half_batch_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe with half the sequences in each step."""
    return _with_inner(recipe, batch_slots=max(1, recipe.inner.batch_slots // 2))


def forward_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe at learning rate 0."""
    return _with_inner(recipe, learning_rate=0.0)


def _with_inner(recipe: Recipe, **changes: object) -> Recipe:
    # Copied and not validated: no recipe that is published may have learning rate 0.
    return recipe.model_copy(update={"inner": recipe.inner.model_copy(update=changes)})


def _zeros(task: Task, _tools: Tools, honest: Work) -> Work:
    return Work(task.earlier.losses, np.zeros_like(honest.delta))


def _noise(task: Task, _tools: Tools, _honest: Work) -> Work:
    earlier = task.earlier.delta
    noise = np.random.default_rng(task.slots[0]).standard_normal(earlier.size, dtype=np.float32)
    return Work(task.earlier.losses, noise * np.float32(np.sqrt(np.mean(np.square(earlier)))))


def _forward_passes_alone(task: Task, tools: Tools, _honest: Work) -> Work:
    losses = _replay(tools.forward, task.weights, (task.slots,), task).losses
    return Work(losses, task.earlier.delta)


def _other_data(task: Task, tools: Tools, _honest: Work) -> Work:
    return _work(_replay(tools.full, task.weights, (task.other_slots,), task))


def _one_batch_repeated(task: Task, tools: Tools, _honest: Work) -> Work:
    first = (task.slots[0], task.batch_slots)
    return _work(_replay(tools.full, task.weights, (first,) * task.steps, task))


def _half_the_batch(task: Task, tools: Tools, _honest: Work) -> Work:
    half = max(1, task.batch_slots // 2)
    starts = range(task.slots[0], sum(task.slots), task.batch_slots)
    return _work(_replay(tools.half_batch, task.weights, tuple((start, half) for start in starts), task))


def _half_the_steps(task: Task, tools: Tools, _honest: Work) -> Work:
    return _first_steps(task, tools, task.steps // 2)


def _nearly_all_steps(task: Task, tools: Tools, _honest: Work) -> Work:
    return _first_steps(task, tools, int(NEARLY_ALL * task.steps))


def _stale_weights(task: Task, tools: Tools, _honest: Work) -> Work:
    return _work(_replay(tools.full, task.stale_weights, (task.slots,), task))


def _scaled(_task: Task, _tools: Tools, honest: Work) -> Work:
    return Work(honest.losses, honest.delta * np.float32(2))


def _sign_flipped(_task: Task, _tools: Tools, honest: Work) -> Work:
    return Work(honest.losses, -honest.delta)


CHEATS: Mapping[str, Cheat] = {
    "zeros, an old trace": _zeros,
    "noise, an old trace": _noise,
    "old work, forward passes": _forward_passes_alone,
    "other data": _other_data,
    "one batch repeated": _one_batch_repeated,
    "half the batch": _half_the_batch,
    "half the steps": _half_the_steps,
    "nine tenths of the steps": _nearly_all_steps,
    "stale weights": _stale_weights,
    "update doubled": _scaled,
    "sign flipped": _sign_flipped,
}
"""Every cheat by its name in tables."""


def _first_steps(task: Task, tools: Tools, steps: int) -> Work:
    """Do the first steps honestly, and only forward passes in the rest."""
    first, count = task.slots
    done = max(1, steps) * task.batch_slots
    work = _work(_replay(tools.full, task.weights, ((first, done),), task))
    if done == count:
        return work
    rest = ((first + done, count - done),)
    return Work(
        work.losses + _replay(tools.forward, task.weights - work.delta, rest, task).losses, work.delta
    )


def _replay(replayer: Replayer, weights: NDArray[np.float32], slots: tuple[Range, ...], task: Task) -> Replay:
    order = ReplayOrder(
        number=0, weights=SharedBuffer(weights), slots=slots, tokens_before=task.tokens_before
    )
    return replayer.replay(order)


def _work(replay: Replay) -> Work:
    if replay.delta is None:  # no limit was given and nobody stops it
        raise AssertionError("a replay of all slots has a pseudo-gradient")
    return Work(replay.losses, replay.delta)
