"""A peer's windows: trained one at a time, in a thread of their own, and made into contributions.

A window counts for the round after a block. Either that block is there when it begins, or the window runs
ahead of it (`overlap` in the recipe): then it starts from weights of its own, for the state moves on under
it, and becomes a contribution once the engine has named the block.

The trainer works off orders (interface.py): each window and each replay is one, and has a number of its own
by which it can be stopped, or its end be moved.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from peers.consensus import effects as do
from peers.exchange.contributor import Contributor, Window
from peers.exchange.host import EngineView, Host, Result
from peers.exchange.segment_store import ExchangeStore
from peers.protocol.events import Validated, WindowFinished, WindowSpoilt
from peers.protocol.round_reasons import SPOILT_SENTENCES, SpoiltReason
from peers.sync.state_sync import StateSync
from peers.training.interface import (
    MOST_SPOILT_WINDOWS,
    Replay,
    ReplayOrder,
    SharedBuffer,
    Trainer,
    TrainOrder,
    why_spoilt,
)
from peers.training.start_weights import StartWeights, own_share
from recipes.errors import TrainingError

TRAINING_NICENESS = 10


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """A volunteer's choices about its own node, and the recipe's number of spot checks."""

    validate_every: int = 0  # rounds; 0: never
    validation_slots: int = 64
    audits: bool = True  # whether to replay the claims that the chain gives to this peer
    spot_checks: int = 4  # chunks a round


@dataclass(eq=False)
class _Begun:
    """A window that was ordered, and the facts that came since."""

    number: int  # of the trainer's order
    order: do.Train
    ends_at: float
    parent: str  # under which it counts; of a window ahead, known once `block_known` is set
    share: float = 0.0  # of the own contribution that the start holds already
    contribution: str = ""
    replaced: bool = False  # another window takes its place, and its result is dropped
    start_made: asyncio.Event = field(default_factory=asyncio.Event)
    block_known: asyncio.Event = field(default_factory=asyncio.Event)
    digest: str = ""  # of the state after `parent`
    task: asyncio.Task[None] | None = None


class WindowTasks:
    """Trains the windows that the engine orders, one after the other, and reports the outcome of each."""

    def __init__(
        self,
        host: Host,
        *,
        engine: EngineView,
        trainer: Trainer,
        contributor: Contributor,
        exchange: ExchangeStore,
        state_sync: StateSync,
        starts: StartWeights | None,
        settings: NodeSettings,
    ) -> None:
        """Put it together.

        Args:
            host: takes the outcome of windows, and has the worker thread.
            engine: has the chain and the own claims.
            trainer: does the training.
            contributor: makes contributions of windows.
            exchange: has the own contribution's segments.
            state_sync: has the canonical state.
            starts: makes the weights from which windows ahead start; None if there are no such windows.
            settings: the volunteer's.
        """
        self._host = host
        self._engine = engine
        self._trainer = trainer
        self._contributor = contributor
        self._exchange = exchange
        self._state_sync = state_sync
        self._starts = starts
        self._settings = settings
        self._numbers = itertools.count(1)  # of the trainer's orders
        self._window: _Begun | None = None
        self._validated: int | None = None  # the newest round whose state was
        self._computed_until: float | None = None
        self._spoilt_windows = 0  # in a row
        self._replaying = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="training", initializer=yield_to_others)

    # ------------------------------------------------------------ the engine's orders

    def train(self, order: do.Train) -> None:
        """Cancel the window that still runs, then train the next."""
        previous = self._window
        self.stop()
        ends_at = time.monotonic() + order.seconds
        self._window = window = _Begun(next(self._numbers), order, ends_at, order.parent)
        rules, chain = self._engine.rules, self._engine.chain
        if order.ahead and rules.overlap == "eager":
            claim, block = self._engine.own_claims[order.parent].body, chain.link(order.parent).block
            roster = block.body.roster.body if block is not None else None
            window.share = own_share(claim, roster, chain.link(order.parent).say.established)
            window.contribution = claim.contribution
        window.task = self._host.spawn(self._run(window, previous.task if previous is not None else None))

    def go_on(self, effect: do.GoOn) -> None:
        """Let the window that runs ahead count for the round after a block, and end in time for it."""
        window = self._window
        if window is not None and window.order.ahead:
            window.parent, window.digest = effect.parent, self._engine.digest
            window.block_known.set()
            self._trainer.end_by(window.number, time.monotonic() + effect.seconds)

    async def state_may_change(self) -> None:
        """Return when no window needs the canonical state as it is: its start lies in a file of its own."""
        if self._window is not None and self._window.order.ahead:
            await self._window.start_made.wait()

    def next_number(self) -> int:
        """Return a number for an order to the trainer that no other order has."""
        return next(self._numbers)

    async def replay(self, order: ReplayOrder) -> Replay:
        """Run a replay in the training thread: after the window at hand, and before the next one begins.

        It takes as long as it takes, from the time of the next window.

        Raises:
            DataError: the text that the window was trained on is not here.
            ModelError: this machine cannot compute in the order's precision.
        """
        self._replaying = True
        try:
            return await self._in_thread(partial(self._trainer.replay, order))
        finally:
            self._replaying = False

    def stop_replay(self, number: int) -> None:
        """Cancel a replay that runs or has not begun yet."""
        self._trainer.stop(number)

    def stop(self) -> None:
        """Cancel the window that runs."""
        window = self._window
        if window is not None:
            window.replaced = True
            window.block_known.set()
            self._trainer.stop(window.number)

    def shutdown(self) -> None:
        """End the thread, once its step is done."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------ one window

    async def _run(self, window: _Begun, previous: asyncio.Task[None] | None) -> None:
        order = window.order
        if previous is not None:
            await asyncio.gather(previous, return_exceptions=True)
        try:
            weights = await self._start(window)
        finally:
            window.start_made.set()
        if not order.slots or window.replaced:
            return
        result, waited = await self._in_thread(partial(self._compute_window, window, weights))
        if window.replaced or self._start_is_gone(order):
            return
        finite = [loss for loss in result.losses if math.isfinite(loss)]  # a step that failed has none
        loss = float(np.mean(finite)) if finite else float("nan")
        self._host.tell(
            WindowFinished(order.round, result.steps, result.tokens, loss, result.seconds, waited)
        )
        if order.ahead:
            await window.block_known.wait()
            if window.replaced:
                return
        if spoilt := await self._host.compute(partial(why_spoilt, result)):
            self._go_without(window, spoilt)
            return
        self._spoilt_windows = 0
        work = await self._host.compute(
            lambda: self._contributor.contribute(
                result,
                chain=self._engine.chain,
                parent=window.parent,
                start_digest=window.digest,
                numeric_class=self._trainer.numeric_class,
            )
        )
        self._host.take(replace(work, ahead=order.ahead))

    def _go_without(self, window: _Begun, reason: SpoiltReason) -> None:
        """Let a round pass whose window gave no numbers.

        Raises:
            TrainingError: it happened too often in a row.
        """
        self._spoilt_windows += 1
        self._host.tell(WindowSpoilt(window.order.round, reason, self._spoilt_windows, MOST_SPOILT_WINDOWS))
        if self._spoilt_windows >= MOST_SPOILT_WINDOWS:
            raise TrainingError(
                f"Training gave no numbers in {self._spoilt_windows} windows in a row, and nothing was "
                f"claimed for them. Of the last one: {SPOILT_SENTENCES[reason]}",
                remedy="Try `--device cpu`. If that helps, suspect the device, its driver or its memory; if "
                "it does not, tell the run's owner: the learning rate may be too high.",
            )
        self._host.take(do.WindowLost(window.parent))

    async def _start(self, window: _Begun) -> SharedBuffer:
        """Return the weights that the window starts from."""
        order, state = window.order, self._state_sync.state
        weights = SharedBuffer(state.weights, state.weights_file)
        number = order.round - 1 - order.ahead
        if self._is_to_validate(number):
            await self._validate(number, weights)
        if not order.ahead or self._starts is None:
            window.digest = self._engine.digest
            return weights
        frames = self._exchange.own_frames(window.contribution) if window.contribution else ()
        make = partial(self._starts.make, weights.array, frames=frames, share=window.share)
        return await self._host.compute(make)

    def _start_is_gone(self, order: do.Train) -> bool:
        """Whether the state moved on under a window: by then its round is over, too."""
        return not order.ahead and self._state_sync.state.block != order.parent

    def _compute_window(self, window: _Begun, weights: SharedBuffer) -> tuple[Window, float]:
        """Train, and return the outcome, with the seconds that the trainer had stood still before."""
        began = time.monotonic()
        waited = began - self._computed_until if self._computed_until is not None else 0.0
        result = self._trainer.train(
            TrainOrder(
                number=window.number,
                weights=weights,
                slots=window.order.slots,
                tokens_before=window.order.tokens_before,
                seconds=max(0.0, window.ends_at - began),
            )
        )
        self._computed_until = time.monotonic()
        return result, waited

    def _is_to_validate(self, round_number: int) -> bool:
        """Whether the loss is measured now: not behind a replay, for blocks are not applied meanwhile."""
        every = self._settings.validate_every
        due = every > 0 and round_number % every == 0 and round_number != self._validated
        return due and not self._replaying

    async def _validate(self, round_number: int, weights: SharedBuffer) -> None:
        self._validated = round_number
        measure = partial(self._trainer.validation_loss, weights, limit_slots=self._settings.validation_slots)
        self._host.tell(Validated(round_number, await self._in_thread(measure)))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def yield_to_others() -> None:
    """Lower this thread's priority: training lets the exchange, and other uses of the machine, go first."""
    os.setpriority(
        os.PRIO_PROCESS, threading.get_native_id(), TRAINING_NICENESS
    )  # Linux: a thread has its own
