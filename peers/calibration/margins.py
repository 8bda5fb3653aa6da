"""Measuring how far honest work in other numerics, and each cheat, lies from an auditor's replay.

A few windows of the recipe's own training come first, so that neither weights nor error feedback are at
genesis. In each window that is measured, every kind of numerics does the work once; then each is compared
with each, as claimant and as auditor, and each cheat with every auditor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from peers.audit.comparing import OpenedChunks, chunk_gap, sample_chunks, trace_gap
from peers.calibration.cheats import CHEATS, Task, Tools, Work, forward_recipe, half_batch_recipe
from peers.codec.interface import Codec
from peers.codec.round_codec import contribution_codec
from peers.exchange.error_feedback import from_bfloat16, take_out
from peers.training.interface import Numerics, Replayer, ReplayOrder, ReplaySource, SharedBuffer
from recipes.corpus import TokenArray
from recipes.density import density_schedule
from recipes.errors import TrainingError
from recipes.layout import CHUNK_VALUES
from recipes.schema.recipe import Recipe

HONEST = ""
"""What `Comparison.cheat` says of honest work."""


@dataclass(frozen=True)
class Comparison:
    """One claim against one replay.

    Attributes:
        window: which of the measured windows.
        cheat: its name in peers/calibration/cheats.py; empty for honest work.
        claimant: label of the numerics that the claimed work was done in, and `claimant_class` its class.
        auditor: label and class of the replay's.
        loss_mean: relative difference of the loss traces, mean over the first 1, 2, 3 ... steps.
        loss_worst: the same, the largest.
        dropped: as `ChunkGap`, like `direction` and `length`.
        sound: likewise.
    """

    window: int
    cheat: str
    claimant: str
    claimant_class: str
    auditor: str
    auditor_class: str
    loss_mean: tuple[float, ...]
    loss_worst: tuple[float, ...]
    dropped: float
    direction: float
    length: float
    sound: bool


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        warmup: windows of training before the first that is measured.
        windows: windows to measure.
        steps: local steps of each window.
        chunks: chunks of the model that are opened, evenly spaced.
        first_slot: where in the corpus training begins.
        cheats: whether to measure cheats as well as honest work.
    """

    warmup: int
    windows: int
    steps: int
    chunks: int
    first_slot: int = 0
    cheats: bool = True


@dataclass(eq=False)
class _Standing:
    """Where training stands between two windows. Error feedback is that of the sampled chunks alone."""

    weights: NDArray[np.float32]
    stale_weights: NDArray[np.float32]
    feedback: NDArray[np.uint16]
    next_slot: int = 0
    tokens: int = 0
    earlier: Work | None = None


@dataclass(eq=False)
class Bench:
    """Measures the margins of one recipe on this machine.

    Attributes:
        recipe: published, with its corpus in `tokens` and its run's id.
        source: makes replayers in each of `numerics`; the first trains.
        tell: told of each step of the way in a few words.
    """

    recipe: Recipe
    tokens: TokenArray
    run_id: str
    source: ReplaySource
    numerics: Sequence[Numerics]
    plan: Plan
    tell: Callable[[str], None]
    _replayers: dict[tuple[str, str], Replayer] = field(default_factory=dict)

    def measure(
        self, first_weights: NDArray[np.float32], *, known: frozenset[int] = frozenset()
    ) -> Iterator[list[Comparison]]:
        """Yield the comparisons of each window, in order; windows in `known` are passed through only.

        Args:
            first_weights: the run's, fp32 of shape (padded,).
            known: numbers of windows that were measured before, with the same plan on the same machine.

        Raises:
            ModelError: the model does not fit a device.
            DataError: a piece of the corpus is missing.
            TrainingError: the weights became infinite or not a number.
        """
        chunks = first_weights.size // CHUNK_VALUES
        count = min(chunks, self.plan.chunks)
        sampled = [index * chunks // count for index in range(count)]
        standing = _Standing(
            weights=np.array(first_weights),
            stale_weights=np.array(first_weights),
            feedback=np.zeros((count, CHUNK_VALUES), dtype=np.uint16),
            next_slot=self.plan.first_slot,
        )
        for number in range(-self.plan.warmup, self.plan.windows):
            if number < 0:
                self.tell(f"warm-up window {number + self.plan.warmup + 1} of {self.plan.warmup}")
            task = self._task(standing)
            work = self._honest(self.numerics[0], task)
            if number >= 0 and number not in known:
                self.tell(f"window {number + 1} of {self.plan.windows}")
                yield list(self._compare(number, task, work, standing.feedback, sampled))
            self._advance(standing, task, work, sampled)

    def _task(self, standing: _Standing) -> Task:
        count = self.plan.steps * self.recipe.inner.batch_slots
        nothing = Work((), np.zeros_like(standing.weights))
        return Task(
            weights=standing.weights,
            stale_weights=standing.stale_weights,
            slots=(standing.next_slot, count),
            other_slots=(standing.next_slot + count, count),
            tokens_before=standing.tokens,
            batch_slots=self.recipe.inner.batch_slots,
            earlier=standing.earlier or nothing,
        )

    def _advance(self, standing: _Standing, task: Task, work: Work, sampled: Sequence[int]) -> None:
        """Apply honest work to the weights, and its contribution to the error feedback."""
        delta = sample_chunks(work.delta, sampled)
        opened = self._open(delta, standing.feedback, task.tokens_before)
        standing.feedback = opened.after
        standing.stale_weights = standing.weights
        # The whole pseudo-gradient: a swarm's average is nearer to it than one peer's contribution would be.
        standing.weights = standing.weights - np.float32(self.recipe.outer.learning_rate) * work.delta
        standing.next_slot += 2 * task.slots[1]  # the other data of this window is nobody's next one
        standing.tokens += task.slots[1] * self.recipe.data.sequence_length
        standing.earlier = work

    def _compare(
        self,
        window: int,
        task: Task,
        usual: Work,
        feedback: NDArray[np.uint16],
        sampled: Sequence[int],
    ) -> Iterator[Comparison]:
        """Compare all claims that can be made for a task with all replays; `usual` is the first numerics'."""
        claims: list[tuple[str, Numerics, Work]] = []
        replays: dict[Numerics, Work] = {}
        cheating = _first_of_each_class(self.numerics) if self.plan.cheats else []
        for numerics in self.numerics:
            self.tell(f"  {numerics.label}")
            honest = usual if numerics == self.numerics[0] else self._honest(numerics, task)
            replays[numerics] = _sampled(honest, sampled)
            claims.append((HONEST, numerics, replays[numerics]))
            for name, cheat in CHEATS.items() if numerics in cheating else ():
                self.tell(f"  {numerics.label}: {name}")
                claims.append((name, numerics, _sampled(cheat(task, self._tools(numerics), honest), sampled)))
        for name, claimant, claimed in claims:
            opened = self._open(claimed.delta, feedback, task.tokens_before)
            for auditor, replayed in replays.items():
                if (name, auditor) != (HONEST, claimant):
                    yield self._comparison(
                        (window, name, claimant, auditor), claimed, opened, replayed, task.tokens_before
                    )

    def _comparison(
        self,
        what: tuple[int, str, Numerics, Numerics],
        claimed: Work,
        opened: OpenedChunks,
        replayed: Work,
        tokens_before: int,
    ) -> Comparison:
        window, cheat, claimant, auditor = what
        gap = chunk_gap(
            opened,
            replayed.delta,
            codec=self._codec(tokens_before),
            decay=self.recipe.exchange.feedback_decay,
        )
        lengths = range(1, len(replayed.losses) + 1)
        traces = [trace_gap(claimed.losses, replayed.losses[:length]) for length in lengths]
        return Comparison(
            window=window,
            cheat=cheat,
            claimant=claimant.label,
            claimant_class=claimant.numeric_class,
            auditor=auditor.label,
            auditor_class=auditor.numeric_class,
            loss_mean=tuple(trace.mean for trace in traces),
            loss_worst=tuple(trace.worst for trace in traces),
            dropped=gap.dropped,
            direction=gap.direction,
            length=gap.length,
            sound=gap.sound,
        )

    def _honest(self, numerics: Numerics, task: Task) -> Work:
        order = ReplayOrder(
            number=0,
            weights=SharedBuffer(task.weights),
            slots=(task.slots,),
            tokens_before=task.tokens_before,
        )
        replay = self._replayer(numerics).replay(order)
        if replay.delta is None or not np.isfinite(replay.delta).all():
            raise TrainingError(
                f"In {numerics.label}, the weights became infinite or not a number.",
                remedy="Lower the recipe's learning rate, or measure with fewer warm-up windows.",
            )
        return Work(replay.losses, replay.delta)

    def _open(
        self, delta: NDArray[np.float32], feedback: NDArray[np.uint16], tokens_before: int
    ) -> OpenedChunks:
        """Make a contribution of some chunks as error_feedback.py does, and return what an auditor sees."""
        codec = self._codec(tokens_before)
        wanted = from_bfloat16(feedback) * np.float32(self.recipe.exchange.feedback_decay) + delta
        encoded, after = take_out(wanted.reshape(-1), codec=codec)
        return OpenedChunks(
            before=feedback,
            returned=np.zeros_like(delta),
            after=after.reshape(delta.shape),
            sent=codec.decode(encoded),
        )

    def _codec(self, tokens_before: int) -> Codec:
        return contribution_codec(density_schedule(self.recipe).at(tokens_before))

    def _tools(self, numerics: Numerics) -> Tools:
        return Tools(
            full=self._replayer(numerics),
            half_batch=self._replayer(numerics, "half the batch"),
            forward=self._replayer(numerics, "forward"),
        )

    def _replayer(self, numerics: Numerics, variant: str = "full") -> Replayer:
        variants: Mapping[str, Callable[[Recipe], Recipe]] = {
            "full": lambda recipe: recipe,
            "half the batch": half_batch_recipe,
            "forward": forward_recipe,
        }
        key = (numerics.label, variant)
        if key not in self._replayers:
            self._replayers[key] = self.source.open_replayer(
                variants[variant](self.recipe), self.tokens, self.run_id, numerics=numerics
            )
        return self._replayers[key]


def _sampled(work: Work, sampled: Sequence[int]) -> Work:
    return Work(work.losses, sample_chunks(work.delta, sampled))


def _first_of_each_class(numerics: Sequence[Numerics]) -> list[Numerics]:
    first: dict[str, Numerics] = {}
    for one in numerics:
        first.setdefault(one.numeric_class, one)
    return list(first.values())
