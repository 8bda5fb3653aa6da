"""One window of local training: from the canonical weights, over given slots, to a pseudo-gradient.

    trainer = LocalTrainer(recipe, layout, tokens, run_id, device=choose_device(recipe))
    result = trainer.train(TrainOrder(number=1, weights=..., slots=..., tokens_before=..., seconds=...))

What a window computes follows from its order alone: the optimizer starts afresh, slots are taken in
order, and nothing is random. So on one machine the same order gives the same losses, and on another machine
nearly the same: that is what lets work be checked by repeating it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from peers.training.interface import Precision, ReplayOrder, SharedBuffer, TrainOrder
from recipes.corpus import TokenArray
from recipes.errors import ModelError
from recipes.layout import Layout
from recipes.model import ARCHITECTURES, build_model, flatten_into, load_flat
from recipes.optimizers import InnerOptimizer, fresh_optimizer
from recipes.schema.recipe import Recipe
from recipes.slots import Range, slot_position, take, total
from trainer.device import Device, computes_bf16, is_out_of_memory, memory_needed_for
from trainer.device_selection import selector_on
from trainer.objective import next_token_loss
from trainer.orders import Orders, Signals
from trainer.schedule import learning_rate

if TYPE_CHECKING:
    import torch

Batch = npt.NDArray[np.int64]
"""Tokens of some slots, of shape (slots, sequence_length + 1)."""


@dataclass(frozen=True)
class Progress:
    """How far a window has come, told after each step."""

    steps: int
    tokens: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class WindowResult:
    """What a window of local training gave.

    Attributes:
        delta: the pseudo-gradient, start weights minus end weights: fp32 of shape (padded,).
        slots_used: the slots that were trained on, a prefix of those given.
        tokens: how many tokens these slots have.
        losses: each step's mean loss before the step, in nats a token; not finite where it failed.
        skipped_steps: how many steps left the weights alone, because loss or gradient was not finite.
        seconds: wall-clock time of all steps.
    """

    delta: npt.NDArray[np.float32]
    slots_used: tuple[Range, ...]
    tokens: int
    losses: tuple[float, ...]
    skipped_steps: int
    seconds: float

    @property
    def steps(self) -> int:
        """Number of local steps, skipped ones included."""
        return len(self.losses)

    @property
    def tokens_per_second(self) -> float:
        """Training speed; 0 if there was no step."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, eq=False)
class Replay:
    """What the first local steps of a window gave.

    Attributes:
        losses: each step's mean loss before the step, in nats a token.
        delta: the pseudo-gradient, fp32 of shape (padded,); None if slots were left.
    """

    losses: tuple[float, ...]
    delta: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class _Bounds:
    """What ends a window besides its slots: the signals for its order, its length, or a number of steps."""

    signals: Signals
    seconds: float = math.inf
    steps: int | None = None

    def allow_another(self, steps: int, *, started: float, elapsed: float) -> bool:
        """Whether to take another step after so many, which took `elapsed` seconds."""
        if self.signals.stopped or (self.steps is not None and steps >= self.steps):
            return False
        mean = elapsed / steps if steps else 0.0
        return elapsed + mean <= min(self.seconds, self.signals.until - started)


class LocalTrainer:
    """The recipe's model on one device, ready to train a window or to measure the validation loss.

    Meant to be used from a worker thread while an event loop serves other peers; calls wait for each other.
    """

    def __init__(
        self,
        recipe: Recipe,
        layout: Layout,
        tokens: TokenArray,
        run_id: str,
        *,
        device: Device,
        validation: TokenArray | None = None,
        micro_batch: int | None = None,
    ) -> None:
        """Build the model.

        Args:
            recipe: the published recipe.
            layout: of the recipe's model.
            tokens: the training part of the corpus.
            run_id: 64 hex digits; with it, a slot's number means a place in `tokens`.
            device: where and in which arithmetic to train.
            validation: the validation part of the corpus, needed only for `validation_loss`.
            micro_batch: slots that pass through the model at once; by default as many as a batch has.

        Raises:
            ModelError: the model cannot be built, or does not fit the device.
        """
        self._recipe = recipe
        self._layout = layout
        self._tokens = tokens
        self._run_id = run_id
        self._device = device
        self._arithmetic = device  # that of the window at hand
        self._validation = validation
        self._micro_batch = micro_batch or recipe.inner.batch_slots
        self._busy = threading.Lock()
        self._orders = Orders()
        self._select = selector_on(device.name)
        self._model = _build(recipe, device)
        self._checkpointing = False
        if recipe.inner.gradient_checkpointing:
            self._checkpoint()

    @property
    def numeric_class(self) -> str:
        """Kind of processor and precision, which this peer's claims name."""
        return self._device.numeric_class

    @property
    def micro_batch(self) -> int:
        """Slots that pass through the model at once: halved whenever memory ran out."""
        return self._micro_batch

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed again for the backward pass: by the recipe, or for memory."""
        return self._checkpointing

    def train(self, order: TrainOrder, *, progress: Callable[[Progress], None] | None = None) -> WindowResult:
        """Train until time or slots are used up, or the order is stopped.

        A step that has begun is finished. From the second step on, none is begun that would probably end
        after the window: a claim that comes late was worked for in vain.

        Args:
            order: what to train.
            progress: called in this thread after each step.

        Raises:
            ModelError: not even one slot at a time fits the device.
            DataError: a piece of the corpus is missing.
        """
        with self._busy, self._orders.running(order.number) as signals:
            bounds = _Bounds(signals, seconds=order.seconds)
            return self._window(order, bounds, progress, precision=self._device.precision)

    def replay(self, order: ReplayOrder, *, progress: Callable[[Progress], None] | None = None) -> Replay:
        """Take the first local steps of a window again, unless the order is stopped.

        Args:
            order: what to replay.
            progress: called in this thread after each step.

        Raises:
            ModelError: not even one slot at a time fits the device, or it has no such precision.
            DataError: a piece of the corpus is missing.
        """
        precision = order.precision or self._device.precision
        if order.precision == "bf16" and not computes_bf16(self._device.name):
            raise ModelError(f"{self._device.name} has no bf16 arithmetic.")
        with self._busy, self._orders.running(order.number) as signals:
            window = self._window(order, _Bounds(signals, steps=order.steps), progress, precision=precision)
        whole = total(window.slots_used) == total(order.slots)
        return Replay(losses=window.losses, delta=window.delta if whole else None)

    def end_by(self, number: int, until: float) -> None:
        """Let an order end by `until` at the latest, on `time.monotonic`. Any thread may call this."""
        self._orders.end_by(number, until)

    def stop(self, number: int) -> None:
        """Let an order end after the step at hand. Any thread may call this, also before it begins."""
        self._orders.stop(number)

    def select(self, values: npt.NDArray[np.float32], keep: int) -> npt.NDArray[np.int64]:
        """Find the largest values of each chunk on this trainer's device (trainer/device_selection.py)."""
        return self._select(values, keep)

    def validation_loss(self, weights: SharedBuffer, *, limit_slots: int) -> float:
        """Return the mean loss of `weights` on the validation part, in nats a token, computed in fp32.

        Args:
            weights: only read.
            limit_slots: at most so many slots are used, the same ones on every peer.

        Raises:
            ModelError: not even one slot at a time fits the device.
            ValueError: the trainer was made without the validation part.
        """
        import torch

        if self._validation is None:
            raise ValueError("this trainer was made without the validation part of the corpus")
        positions = spread(self._validation.slots, limit_slots)
        with self._busy, torch.no_grad():
            load_flat(self._model, weights.array)
            self._model.eval()
            loss = 0.0
            for start in range(0, len(positions), self._recipe.inner.batch_slots):
                chosen = positions[start : start + self._recipe.inner.batch_slots]
                batch = np.stack([self._validation.sequence(position) for position in chosen])
                loss += self._fitting(partial(self._evaluate, batch)) * len(chosen)
        return loss / len(positions)

    def _window(
        self,
        order: TrainOrder | ReplayOrder,
        bounds: _Bounds,
        progress: Callable[[Progress], None] | None,
        *,
        precision: Precision,
    ) -> WindowResult:
        """Take local steps while slots are left and `bounds` allow another one."""
        length = self._recipe.data.sequence_length
        self._arithmetic = replace(self._device, precision=precision)
        load_flat(self._model, order.weights.array)
        self._model.train()
        optimizer = fresh_optimizer(self._model, self._recipe)
        losses: list[float] = []
        used = skipped = 0
        rest = order.slots
        started = time.monotonic()
        elapsed = 0.0
        while total(rest) and bounds.allow_another(len(losses), started=started, elapsed=elapsed):
            taken, rest = take(rest, self._recipe.inner.batch_slots)
            batch = self._read(taken)
            rate = learning_rate(self._recipe, tokens_before=order.tokens_before, step=len(losses))
            loss, done = self._step(optimizer, batch, rate)
            losses.append(loss)
            used += len(batch)
            skipped += not done
            elapsed = time.monotonic() - started
            if progress is not None:
                progress(Progress(steps=len(losses), tokens=used * length, loss=loss, seconds=elapsed))
        return WindowResult(
            delta=self._moved_from(order.weights.array),
            slots_used=take(order.slots, used)[0],
            tokens=used * length,
            losses=tuple(losses),
            skipped_steps=skipped,
            seconds=elapsed,
        )

    def _moved_from(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return `weights` minus those of the model."""
        delta = np.empty(self._layout.padded, dtype=np.float32)
        flatten_into(self._model, delta)
        return np.subtract(weights, delta, out=delta)

    def _checkpoint(self) -> None:
        from torch.utils.checkpoint import checkpoint

        # By torch itself, as the switch of transformers is renamed now and then. Nothing in the model is
        # random, so no generator's state need be kept for the second pass.
        for layer in ARCHITECTURES[self._recipe.model.architecture].layers_of(self._model):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        self._checkpointing = True

    def _read(self, ranges: Iterable[Range]) -> Batch:
        numbers = (slot for start, count in ranges for slot in range(start, start + count))
        positions = (slot_position(self._run_id, self._tokens.slots, slot) for slot in numbers)
        return np.stack([self._tokens.sequence(position) for position in positions])

    def _step(self, optimizer: InnerOptimizer, batch: Batch, rate: float) -> tuple[float, bool]:
        """Take one optimizer step; return the loss before it, and whether the weights were changed."""
        from torch.nn.utils import clip_grad_norm_

        loss = self._fitting(partial(self._accumulate, batch))
        norm = float(clip_grad_norm_(self._model.parameters(), self._recipe.inner.clip_norm))
        done = math.isfinite(loss) and math.isfinite(norm)
        if done:
            with memory_needed_for("the optimizer's state", self._device):
                optimizer.step(rate)
        optimizer.zero_grad()
        return loss, done

    def _accumulate(self, batch: Batch) -> float:
        """Add the gradients of the batch's mean loss up, one micro-batch at a time; return that loss."""
        self._model.zero_grad(set_to_none=True)  # after running out of memory, what a failed attempt left
        loss = 0.0
        for tokens in self._micro_batches(batch):
            with self._arithmetic.autocast():
                part = next_token_loss(self._model, tokens) * (len(tokens) / len(batch))
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        return loss

    def _evaluate(self, batch: Batch) -> float:
        parts = (
            next_token_loss(self._model, tokens).item() * len(tokens) for tokens in self._micro_batches(batch)
        )
        return sum(parts) / len(batch)

    def _micro_batches(self, batch: Batch) -> Iterable[torch.Tensor]:
        import torch

        for start in range(0, len(batch), self._micro_batch):
            yield torch.from_numpy(batch[start : start + self._micro_batch]).to(self._device.name)

    def _fitting(self, work: Callable[[], float]) -> float:
        """Return what `work` returns, with less memory each time that it runs out.

        The micro-batch is halved, and where that no longer helps, activations are computed again for the
        backward pass. Neither changes what is computed.
        """
        while self._micro_batch > 1 or not self._checkpointing:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the except clause, whose error would keep the failed attempt's tensors alive.
            if self._micro_batch > 1:
                self._micro_batch = math.ceil(self._micro_batch / 2)
            else:
                self._checkpoint()
            _release_cached_memory(self._device)
        length = self._recipe.data.sequence_length
        with memory_needed_for(f"one sequence of {length} tokens at a time", self._device):
            return work()


def spread(slots: int, limit: int) -> list[int]:
    """Return at most `limit` of the positions from 0 to slots - 1, evenly spaced, always the same ones."""
    count = min(slots, limit)
    return [index * slots // count for index in range(count)]


def _build(recipe: Recipe, device: Device) -> Any:
    with memory_needed_for("the model's weights", device):
        model = cast(Any, build_model(recipe, device=device.name))  # transformers' methods have no types
    model.set_attn_implementation(device.attention)
    return model


def _release_cached_memory(device: Device) -> None:
    import torch

    if device.name != "cpu":
        torch.cuda.empty_cache()
