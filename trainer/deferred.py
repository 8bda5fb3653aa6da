"""A trainer that is being made while the peer is already about.

Making one takes seconds: transformers has to be imported, and arithmetics tried. A peer that was started
again can meanwhile catch up, send a claim of its earlier life again, and serve the others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from peers.training.interface import ReplayOrder, SharedBuffer, TrainOrder
from trainer.local import LocalTrainer, Replay, WindowResult


def import_early() -> Future[None]:
    """Begin to import what making a model takes, in a thread, while the network is waited for.

    An import of transformers before this is done may see half of it: it puts another module in its own place.
    """
    importer = ThreadPoolExecutor(1, thread_name_prefix="imports")
    done = importer.submit(_import_models)
    importer.shutdown(wait=False)
    return done


def _import_models() -> None:
    with contextlib.suppress(ImportError):  # said where a model is made
        from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401


class DeferredTrainer:
    """Stands for the trainer that `make` returns, and waits for it where it is needed.

    Every method raises what `make` raised. They are called from worker threads, where waiting is no harm.
    """

    def __init__(self, make: Callable[[], LocalTrainer], *, after: Future[None] | None = None) -> None:
        """Begin to make the trainer, in a thread of its own, once `after` is done."""

        def make_then() -> LocalTrainer:
            if after is not None:
                after.result()
            return make()

        maker = ThreadPoolExecutor(1, thread_name_prefix="trainer")
        self._trainer = maker.submit(make_then)
        maker.shutdown(wait=False)

    def ready(self) -> None:
        """Return once the trainer is there."""
        self._trainer.result()

    @property
    def numeric_class(self) -> str:
        """Kind of processor and precision, which this peer's claims name."""
        return self._trainer.result().numeric_class

    def train(self, order: TrainOrder) -> WindowResult:
        """Train as `LocalTrainer.train` does; waiting for the trainer is part of the window."""
        began = time.monotonic()
        trainer = self._trainer.result()
        left = max(0.0, order.seconds - (time.monotonic() - began))
        return trainer.train(replace(order, seconds=left))

    def replay(self, order: ReplayOrder) -> Replay:
        """Replay as `LocalTrainer.replay` does."""
        return self._trainer.result().replay(order)

    def end_by(self, number: int, until: float) -> None:
        """Let a window end by `until` at the latest, as soon as there is a trainer to be told."""
        self._tell(lambda trainer: trainer.end_by(number, until))

    def stop(self, number: int) -> None:
        """Cancel an order, as soon as there is a trainer to be told."""
        self._tell(lambda trainer: trainer.stop(number))

    def validation_loss(self, weights: SharedBuffer, *, limit_slots: int) -> float:
        """Return what `LocalTrainer.validation_loss` returns."""
        return self._trainer.result().validation_loss(weights, limit_slots=limit_slots)

    def select(self, values: npt.NDArray[np.float32], keep: int) -> npt.NDArray[np.int64]:
        """Find what `LocalTrainer.select` finds."""
        return self._trainer.result().select(values, keep)

    def _tell(self, what: Callable[[LocalTrainer], None]) -> None:
        """Tell the trainer now, or once it is there; nobody if it cannot be made."""

        def made(trainer: Future[LocalTrainer]) -> None:
            if trainer.exception() is None:
                what(trainer.result())

        self._trainer.add_done_callback(made)
