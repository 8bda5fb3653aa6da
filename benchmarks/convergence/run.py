"""One arm of the convergence benchmark from beginning to end, in one process."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.convergence.arms import Arm
from benchmarks.convergence.attack import Attackers
from benchmarks.convergence.exchange import DENSE_BITS, Exchange
from benchmarks.convergence.local import BatchedTrainer
from recipes.corpus import TokenArray
from recipes.formats.blake3_tree import digest
from recipes.formats.files import write_atomic
from recipes.layout import Layout
from recipes.publication import Publication
from recipes.schema.recipe import Recipe
from recipes.slots import slot_positions
from trainer.local import spread
from trainer.schedule import learning_rate


@dataclass(frozen=True, kw_only=True)
class Task:
    """An arm and a seed, and all that is the same for every arm.

    Attributes:
        weights: a file of the seed's first weights, as numpy saves them.
        rounds: of `steps` local steps each; an arm with other windows has more or fewer.
        evaluate_every: rounds between two measurements of the validation loss on `evaluate_slots` sequences.
        final_slots: sequences that the last measurement uses.
        out: the file that holds what is known so far, from the first measurement on.
    """

    arm: Arm
    seed: int
    publication: Publication
    layout: Layout
    weights: Path
    workers: int
    rounds: int
    steps: int
    device: str
    evaluate_every: int
    evaluate_slots: int
    final_slots: int
    warmup_fraction: float
    out: Path


def run(task: Task) -> None:
    """Train the arm, writing to `task.out` as it goes; an error goes there too."""
    _end_with_the_benchmark()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    try:
        _Run(task).train()
    except Exception:  # noqa: BLE001 - the process's outermost edge: other arms go on
        write_atomic(task.out, json.dumps({**_known(task), "failed": traceback.format_exc()}).encode())


def _end_with_the_benchmark() -> None:
    """See to it that this process ends when the one that asked for it does, however that one ends."""
    asker = multiprocessing.parent_process()

    def follow() -> None:
        if asker is not None:
            asker.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class _Run:
    def __init__(self, task: Task) -> None:
        self._task = task
        arm = task.arm
        self._steps = arm.steps or task.steps
        self._rounds = max(1, round(task.rounds * task.steps / self._steps))
        self._recipe = _recipe_for(task, self._steps * self._rounds)
        self._train, self._validation = (
            TokenArray(task.publication.data, task.publication.manifest, part)
            for part in ("train", "validation")
        )
        self._batch = self._recipe.inner.batch_slots
        parallel = arm.method == "data-parallel"
        self._replicas = 1 if parallel else task.workers
        self._trainer = BatchedTrainer(
            self._recipe,
            task.layout,
            arm.inner_choice,
            workers=self._replicas,
            batch_slots=self._batch * task.workers // self._replicas,
            device=task.device,
        )
        self._attackers = Attackers(
            arm.attack,
            attackers=arm.attackers,
            workers=task.workers,
            scale=arm.attack_scale,
            expelled=arm.expelled,
            rounds=self._rounds,
            seed=task.seed,
        )
        self._known: dict[str, Any] = {
            **_known(task),
            "rounds": self._rounds,
            "steps": self._steps,
            "recorded": self._trainer.recorded,
            "expelled": self._attackers.expelled,
            "curve": [],
            "rows": [],
        }
        self._spent = {"train": 0.0, "exchange": 0.0, "evaluate": 0.0}

    def train(self) -> None:
        task = self._task
        weights = np.load(task.weights)
        with tempfile.TemporaryDirectory() as folder:
            exchange = None
            if task.arm.method != "data-parallel":
                exchange = Exchange(
                    task.arm, task.layout, workers=task.workers, weights=weights, folder=Path(folder)
                )
            starts = np.broadcast_to(weights, (self._replicas, weights.size))
            last_update = None
            self._evaluate(0, weights)
            for number in range(self._rounds):
                began = time.perf_counter()
                tokens, rates = self._batches(number), self._rates(number)
                deltas, losses = self._trainer.train(np.array(starts), tokens, rates, last_update=last_update)
                self._spent["train"] += time.perf_counter() - began
                row = {"train_loss": float(losses.mean())}
                began = time.perf_counter()
                if exchange is None:
                    starts = weights = starts - deltas
                    share = (task.workers - 1) / task.workers
                    row["upload"] = 2 * share * DENSE_BITS * self._steps  # a ring all-reduce in every step
                else:
                    traffic, starts = exchange.round(
                        self._attackers.corrupt(deltas),
                        number=number,
                        progress=number / self._rounds,
                        weights=self._attackers.weights(number),
                    )
                    shared = 8 * self._trainer.shared_bytes / task.layout.size
                    traffic = traffic.plus(shared, workers=task.workers)
                    weights, last_update = exchange.weights, exchange.last_average
                    row |= {
                        **asdict(traffic),
                        "shared": shared,
                        "delta_norm": float(np.linalg.norm(deltas[0])),
                    }
                    row["average_norm"] = float(np.linalg.norm(exchange.last_average))
                    row["feedback_norm"] = exchange.feedback_norm
                self._spent["exchange"] += time.perf_counter() - began
                self._known["rows"].append(row)
                if (number + 1) % task.evaluate_every == 0 or number + 1 == self._rounds:
                    self._evaluate(number + 1, weights.reshape(-1))
        self._known["final_loss"] = self._loss(weights.reshape(-1), task.final_slots)
        self._write()

    def _batches(self, number: int) -> NDArray[np.int64]:
        """Return the round's tokens, (steps, replicas, slots, sequence_length + 1).

        Each worker's slots lie one after the other, step by step; all arms take the same ones in a round.
        """
        workers = self._task.workers
        per_round = self._steps * workers * self._batch
        slots = np.arange(number * per_round, (number + 1) * per_round, dtype=np.int64)
        run = digest(f"convergence, seed {self._task.seed}".encode()).hex()
        positions = slot_positions(run, self._train.slots, slots)
        tokens = np.stack([self._train.sequence(int(position)) for position in positions])
        by_worker = tokens.reshape(workers, self._steps, self._batch, -1).swapaxes(0, 1)
        return np.ascontiguousarray(by_worker).reshape(self._steps, self._replicas, -1, tokens.shape[1])

    def _rates(self, number: int) -> list[float]:
        tokens = self._batch * self._recipe.data.sequence_length * self._task.workers
        before = number * self._steps * tokens
        if self._task.arm.method == "data-parallel":
            steps = range(self._steps)
            return [learning_rate(self._recipe, tokens_before=before + i * tokens, step=0) for i in steps]
        return [learning_rate(self._recipe, tokens_before=before, step=i) for i in range(self._steps)]

    def _evaluate(self, done: int, weights: NDArray[np.float32]) -> None:
        loss = self._loss(weights, self._task.evaluate_slots)
        tokens = done * self._steps * self._batch * self._recipe.data.sequence_length * self._task.workers
        self._known["curve"].append({"round": done, "tokens": tokens, "loss": loss})
        self._write()

    def _loss(self, weights: NDArray[np.float32], slots: int) -> float:
        began = time.perf_counter()
        positions = spread(self._validation.slots, slots)
        tokens = np.stack([self._validation.sequence(position) for position in positions])
        loss = self._trainer.validation_loss(weights, tokens)
        self._spent["evaluate"] += time.perf_counter() - began
        return loss

    def _write(self) -> None:
        self._known["seconds"] = {name: round(value, 2) for name, value in self._spent.items()}
        write_atomic(self._task.out, json.dumps(self._known).encode())


def _known(task: Task) -> dict[str, Any]:
    return {
        "arm": asdict(task.arm),
        "seed": task.seed,
        "workers": task.workers,
        "parameters": task.layout.size,
        "device": torch.cuda.get_device_name() if task.device.startswith("cuda") else "cpu",
        "torch": torch.__version__,
    }


def _recipe_for(task: Task, steps: int) -> Recipe:
    """Return the recipe with the arm's learning rate and ramp, and a schedule that ends with the run."""
    recipe, arm = task.publication.recipe, task.arm
    inner = recipe.inner.model_copy(
        update={"learning_rate": recipe.inner.learning_rate * arm.rate, "ramp_steps": arm.ramp}
    )
    total = steps * inner.batch_slots * recipe.data.sequence_length * task.workers
    schedule = recipe.schedule.model_copy(
        update={"total_tokens": total, "warmup_tokens": int(total * task.warmup_fraction)}
    )
    return recipe.model_copy(update={"inner": inner, "schedule": schedule})
