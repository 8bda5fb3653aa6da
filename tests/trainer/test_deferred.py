"""A trainer that is being made while its peer is already about."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from tiny_run import publish_tiny

from peers.training.interface import SharedBuffer, TrainOrder
from recipes.errors import ModelError
from recipes.layout import layout_of, published_layout
from recipes.publication import load_publication
from trainer.deferred import DeferredTrainer


class Told:
    """A trainer that notes how long a window it was given."""

    numeric_class = "cpu-fp32"

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.said: list[tuple[object, ...]] = []

    def train(self, order: TrainOrder) -> str:
        self.seconds.append(order.seconds)
        return "trained"

    def stop(self, number: int) -> None:
        self.said.append(("stop", number))

    def end_by(self, number: int, until: float) -> None:
        self.said.append(("end by", number, until))


def train(trainer: DeferredTrainer, *, seconds: float) -> object:
    weights = SharedBuffer(np.zeros(1, np.float32))
    order = TrainOrder(number=1, weights=weights, slots=(), tokens_before=0, seconds=seconds)
    return trainer.train(order)


def test_training_waits_for_the_trainer_and_the_wait_is_part_of_the_window() -> None:
    told, may_be_made = Told(), threading.Event()

    def make() -> Any:
        may_be_made.wait()
        return told

    trainer = DeferredTrainer(make)
    results: list[object] = []
    waiting = threading.Thread(target=lambda: results.append(train(trainer, seconds=1e-9)))
    waiting.start()
    assert told.seconds == []
    may_be_made.set()
    waiting.join()
    assert results == ["trained"]
    assert told.seconds == [0.0]
    assert trainer.numeric_class == "cpu-fp32"


def test_what_is_said_of_orders_before_the_trainer_is_there_reaches_it() -> None:
    told, may_be_made = Told(), threading.Event()

    def make() -> Any:
        may_be_made.wait()
        return told

    trainer = DeferredTrainer(make)
    trainer.stop(3)
    trainer.end_by(4, 5.0)
    assert told.said == []
    last_is_told = threading.Event()
    trainer._tell(lambda _: last_is_told.set())
    may_be_made.set()
    last_is_told.wait()
    trainer.stop(5)
    assert told.said == [("stop", 3), ("end by", 4, 5.0), ("stop", 5)]


def test_a_trainer_that_cannot_be_made_says_so_wherever_it_is_needed() -> None:
    def make() -> Any:
        raise ModelError("too large")

    trainer = DeferredTrainer(make)
    with pytest.raises(ModelError, match="too large"):
        trainer.ready()
    with pytest.raises(ModelError, match="too large"):
        train(trainer, seconds=1.0)


def test_the_layout_known_from_the_recipe_is_that_of_the_model(tmp_path: Any) -> None:
    recipe = load_publication(publish_tiny(tmp_path).folder).recipe
    known, built = published_layout(recipe), layout_of(recipe)
    assert (known.size, known.chunks, known.segments) == (built.size, built.chunks, built.segments)


def test_what_a_model_takes_is_imported_first_and_a_model_is_made_after_that() -> None:
    script = (
        "from trainer.deferred import DeferredTrainer, import_early\n"
        "def make():\n"
        "    from transformers import AutoModelForCausalLM\n"
        "DeferredTrainer(make, after=import_early()).ready()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
