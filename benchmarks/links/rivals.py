"""One process of a rival: it trains the recipe's model, and writes after each step what it has done so far.

benchmarks/links/measure.py starts `serve` in each peer's place, with an assignment as JSON for its argument.
Model, data, batch, arithmetic, threads and inner optimizer are those of our peers; slots are drawn at random.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.links.figures import Count

if TYPE_CHECKING:
    import torch

_LOOK_SECONDS = 0.05
_EXCHANGE_SECONDS = 1800.0  # that torch waits for one before it gives up


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one process is to do."""

    arm: str  # a key of `ARMS`
    number: int  # from 0
    peers: int
    publication: str  # folder
    folder: str  # that all processes share
    address: str
    port: int
    interface: str
    store: str  # where the first process keeps what torch's processes agree on: tcp://ADDRESS:PORT
    hivemind: dict[str, Any]  # the values of links_hivemind.Settings, for its arms

    @property
    def counts(self) -> Path:
        """Where this process writes its counts."""
        return Path(self.folder) / f"counts-{self.number}.jsonl"

    @property
    def ready(self) -> Path:
        """Stands once this process could begin."""
        return Path(self.folder) / f"ready-{self.number}"

    @property
    def go(self) -> Path:
        """Stands once all may begin."""
        return Path(self.folder) / "go"


Step = Callable[[], float]
"""Takes one step together with the others; returns how many exchanges this process has completed so far."""


class Work:
    """The model, and its gradients on batches of the corpus."""

    def __init__(self, publication: Path, *, seed: int) -> None:
        import torch

        from recipes.corpus import TokenArray
        from recipes.model import build_model
        from recipes.publication import DATA_FOLDER, load_publication
        from trainer.device import choose_device

        torch.set_num_threads(1)
        loaded = load_publication(publication)
        self.recipe = loaded.recipe
        self.tokens = 0
        self.computing_seconds = 0.0
        self._device = choose_device(self.recipe, wanted="cpu")
        model: Any = build_model(self.recipe, device=self._device.name)  # transformers' methods have no types
        model.set_attn_implementation(self._device.attention)
        self.model: torch.nn.Module = model
        self._corpus = TokenArray(publication / DATA_FOLDER, loaded.manifest, "train")
        self._chance = np.random.default_rng(seed)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count the time of the block as time in local steps."""
        began = time.monotonic()
        yield
        self.computing_seconds += time.monotonic() - began

    def gradients(self) -> None:
        """Leave the clipped gradients of another batch in the parameters, in fp32."""
        import torch
        from torch.nn.utils import clip_grad_norm_

        from trainer.objective import next_token_loss

        with self.computing():
            positions = self._chance.integers(self._corpus.slots, size=self.recipe.inner.batch_slots)
            batch = torch.from_numpy(np.stack([self._corpus.sequence(int(place)) for place in positions]))
            self.model.zero_grad(set_to_none=True)
            with self._device.autocast():
                loss = next_token_loss(self.model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()
            clip_grad_norm_(self.model.parameters(), self.recipe.inner.clip_norm)
            self.tokens += batch[:, 1:].numel()


def alone(_: Assignment, work: Work) -> Step:
    """Train for oneself: what the processors give where no network is in the way."""
    optimizer = _optimizer(work)

    def step() -> float:
        work.gradients()
        with work.computing():
            optimizer()
        return 0.0

    return step


def all_reduce(assignment: Assignment, work: Work) -> Step:
    """Average the gradients of all at every step: torch.distributed with gloo, one flat fp16 tensor.

    DistributedDataParallel with its fp16 hook would do the same: this model fits into one of its buckets.
    """
    from datetime import timedelta

    import torch
    from torch import distributed
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    os.environ["GLOO_SOCKET_IFNAME"] = assignment.interface
    distributed.init_process_group(
        "gloo",
        init_method=assignment.store,
        rank=assignment.number,
        world_size=assignment.peers,
        timeout=timedelta(seconds=_EXCHANGE_SECONDS),
    )
    optimizer = _optimizer(work)
    parameters = list(work.model.parameters())
    done = 0

    def step() -> float:
        nonlocal done
        work.gradients()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        with work.computing(), torch.no_grad():
            flat = (parameters_to_vector(gradients) / assignment.peers).half()
        distributed.all_reduce(flat)
        with work.computing(), torch.no_grad():
            vector_to_parameters(flat.float(), gradients)
            optimizer()
        done += 1
        return float(done)

    return step


def _optimizer(work: Work) -> Callable[[], None]:
    """Return what takes a step of our peers' inner optimizer, at the recipe's learning rate."""
    from trainer.optimizer import fresh_optimizer

    inner = work.recipe.inner
    return partial(fresh_optimizer(work.model, inner).step, inner.learning_rate)


def _hivemind(assignment: Assignment, work: Work) -> Step:
    from benchmarks.links.hivemind_swarm import join

    return join(assignment, work)


ARMS: dict[str, Callable[[Assignment, Work], Step]] = {
    "alone": alone,
    "all-reduce": all_reduce,
    "hivemind": _hivemind,
}


def serve() -> None:
    """Be such a process, until whoever started it ends it or is gone."""
    assignment = Assignment(**json.loads(sys.argv[1]))
    starter = os.getppid()
    work = Work(Path(assignment.publication), seed=assignment.number)
    step = ARMS[assignment.arm](assignment, work)
    assignment.ready.touch()
    while not assignment.go.exists() and os.getppid() == starter:
        time.sleep(_LOOK_SECONDS)
    with assignment.counts.open("w", buffering=1) as counts:
        while os.getppid() == starter:
            exchanges = step()
            count = Count(time.monotonic(), work.tokens, work.computing_seconds, exchanges)
            counts.write(json.dumps(asdict(count)) + "\n")
