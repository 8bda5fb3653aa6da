"""A trainer in a process of its own, behind the interface that the node knows."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny_run import publish_tiny

from peers.exchange.contributor import Window
from peers.training.interface import Replay, ReplayOrder, SharedBuffer, Trainer, TrainOrder
from recipes.corpus import TokenArray
from recipes.layout import layout_of
from recipes.publication import Publication, load_publication
from trainer.device import Device
from trainer.local import LocalTrainer
from trainer.replay import cpu_threads


class ChildTrainer:
    """Calls a trainer in a child process. Orders and results cross by one pipe, and signals by another."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._calls, calls = context.Pipe()
        self._signals, signals = context.Pipe()
        self._calling, self._signalling = threading.Lock(), threading.Lock()
        self._child = context.Process(target=_answer, args=(folder, calls, signals), daemon=True)
        self._child.start()

    @property
    def numeric_class(self) -> str:
        return str(self._call("numeric_class"))

    def train(self, order: TrainOrder) -> Window:
        window: Window = self._call("train", order)
        return window

    def replay(self, order: ReplayOrder) -> Replay:
        replayed: Replay = self._call("replay", order)
        return replayed

    def end_by(self, number: int, until: float) -> None:
        self._signal("end_by", number, until)

    def stop(self, number: int) -> None:
        self._signal("stop", number)

    def validation_loss(self, weights: SharedBuffer, *, limit_slots: int) -> float:
        return float(self._call("validation_loss", weights, limit_slots=limit_slots))

    def select(self, values: npt.NDArray[np.float32], keep: int) -> npt.NDArray[np.int64]:
        positions: npt.NDArray[np.int64] = self._call("select", values, keep)
        return positions

    def close(self) -> None:
        self._calls.close()
        self._child.join()

    def _call(self, name: str, *values: Any, **named: Any) -> Any:
        with self._calling:
            self._calls.send((name, values, named))
            return self._calls.recv()

    def _signal(self, name: str, *values: Any) -> None:
        with self._signalling:
            self._signals.send((name, values))


def _answer(folder: Path, calls: Connection, signals: Connection) -> None:
    """Be the child: make a trainer, and do what it is called for until the parent has closed the pipe."""
    trainer = _local_trainer(load_publication(folder))

    def heed() -> None:
        while True:
            name, values = signals.recv()
            getattr(trainer, name)(*values)

    threading.Thread(target=heed, daemon=True).start()
    with cpu_threads(1):
        while True:
            try:
                name, values, named = calls.recv()
            except EOFError:
                return
            asked = getattr(trainer, name)
            calls.send(asked(*values, **named) if callable(asked) else asked)


def _local_trainer(run: Publication) -> LocalTrainer:
    train, validation = (TokenArray(run.data, run.manifest, part) for part in ("train", "validation"))
    device = Device("cpu")
    return LocalTrainer(
        run.recipe, layout_of(run.recipe), train, run.run_id, device=device, validation=validation
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    return publish_tiny(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def child(run: Publication) -> Iterator[Trainer]:
    trainer = ChildTrainer(run.folder)
    yield trainer
    trainer.close()


@pytest.fixture
def order(run: Publication) -> TrainOrder:
    weights = SharedBuffer.mapped(run.weights)
    return TrainOrder(number=1, weights=weights, slots=((0, 20),), tokens_before=640, seconds=1000.0)


def test_a_window_trained_in_a_child_process_is_the_same_to_the_last_bit(
    run: Publication, child: Trainer, order: TrainOrder
) -> None:
    here = _local_trainer(run)
    with cpu_threads(1):
        window = here.train(order)
        loss = here.validation_loss(order.weights, limit_slots=4)
    there = child.train(order)
    assert there.losses == window.losses
    assert there.delta.tobytes() == window.delta.tobytes()
    assert (there.slots_used, there.tokens, there.steps) == (((0, 20),), window.tokens, 5)
    assert child.validation_loss(order.weights, limit_slots=4) == loss
    assert child.numeric_class == here.numeric_class


def test_a_window_in_a_child_process_ends_when_its_order_is_stopped(
    child: Trainer, order: TrainOrder
) -> None:
    endless = replace(order, number=2, slots=((0, 1 << 24),), seconds=float("inf"))
    with ThreadPoolExecutor(1) as thread:
        window = thread.submit(child.train, endless)
        child.stop(2)
        assert window.result(timeout=60).steps < 1 << 22
    assert child.train(replace(order, number=3)).steps == 5


def test_weights_that_lie_in_no_file_cannot_cross(child: Trainer, order: TrainOrder) -> None:
    with pytest.raises(TypeError, match="in no file"):
        child.train(replace(order, weights=SharedBuffer(np.array(order.weights.array))))
