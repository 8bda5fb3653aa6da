"""One process of a rival: it trains the recipe's model, and writes after each step what it has done so far.

benchmarks/links/measure.py starts `serve` in each peer's place, with an assignment as JSON for its argument.
Model, data, batch, arithmetic, threads and inner optimizer are those of our peers; slots are drawn at random.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.links.figures import Count
from benchmarks.links.work import Assignment, Step, Work

if TYPE_CHECKING:
    pass

_LOOK_SECONDS = 0.05
_EXCHANGE_SECONDS = 1800.0  # that torch waits for one before it gives up


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
    from recipes.optimizers import fresh_optimizer

    return partial(fresh_optimizer(work.model, work.recipe).step, work.recipe.inner.learning_rate)


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
