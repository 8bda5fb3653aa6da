"""One peer of hivemind's own swarm, for the comparison in benchmarks.join: DHT, Optimizer, training loop.

`live` runs in a process of its own, takes its settings as JSON and appends what happens to a file, one
JSON object a line. The model is the recipe's; hivemind transfers no data, so the publication must be on disk.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hivemind import DHT, Optimizer
from hivemind.averaging.control import StepControl
from hivemind.compression import CompressionBase, Float16Compression, NoCompression
from hivemind.optim.grad_averager import GradientAverager
from pydantic import TypeAdapter

from benchmarks.join.settings import HivemindSettings
from recipes.corpus import TokenArray
from recipes.model import build_model
from recipes.publication import DATA_FOLDER, load_manifest, load_signed_recipe
from recipes.schema.recipe import Recipe
from trainer.objective import next_token_loss

# Without a part of an answer. Hivemind's default, the time for matchmaking, is short for a thin line.
_CHUNK_SECONDS = 60.0
_STATE_EVERY = 16  # epochs between averages of the weights themselves, which only mend what drifted apart


class EventLog:
    """A file to which each event is appended as soon as it happens."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("a", buffering=1)
        self._began = time.monotonic()

    def tell(self, event: str, **values: Any) -> None:
        """Append an event."""
        head = {"event": event, "at_seconds": round(time.monotonic() - self._began, 3)}
        self._stream.write(json.dumps({**head, **values}) + "\n")


class ReportingOptimizer(Optimizer):  # type: ignore[misc]
    """hivemind's optimizer, which also tells when it has loaded the swarm's state."""

    def __init__(self, *, log: EventLog, **settings: Any) -> None:
        self._event_log = log
        super().__init__(**settings)

    def load_state_from_peers(self, **settings: Any) -> None:
        """Load it; hivemind's `step` calls this, too, whenever the swarm has gone on without this peer."""
        self._event_log.tell("Loading", epoch=self.local_epoch)
        super().load_state_from_peers(**settings)
        self._event_log.tell("Loaded", epoch=self.local_epoch, swarm=self.tracker.global_epoch)


def averager_of(log: EventLog) -> type:
    """Return hivemind's gradient averager as a class that also tells how each of its rounds ended."""

    class ReportingAverager(GradientAverager):  # type: ignore[misc]
        def step(self, **settings: Any) -> Any:
            mine = self.local_samples_accumulated
            control = super().step(**settings)

            def told(done: StepControl) -> None:
                fault = None if done.cancelled() else done.exception()
                failed = done.cancelled() or fault is not None
                members = [] if failed else [str(peer) for peer in done.result()]
                log.tell("Averaged", members=members, samples=mine, fault=repr(fault) if fault else "")

            control.add_done_callback(told)
            return control

    return ReportingAverager


def live() -> None:
    """Train with the others until killed. The settings are this process's first argument."""
    settings = TypeAdapter(HivemindSettings).validate_json(sys.argv[1])
    torch.set_num_threads(1)
    log = EventLog(settings.events)
    dht = DHT(
        host_maddrs=[f"/ip4/{settings.host}/tcp/{settings.port}"],
        initial_peers=list(settings.peers),
        start=True,
    )
    log.tell(
        "Connected", addresses=[str(address) for address in dht.get_visible_maddrs()], peer=str(dht.peer_id)
    )
    recipe = load_signed_recipe(settings.publication).recipe
    model = build_model(recipe)
    optimizer = _optimizer(settings, recipe, model, dht, log)
    log.tell("Ready")
    if settings.newcomer:
        optimizer.load_state_from_peers()
    _train(settings, recipe, model, optimizer, log)


def _optimizer(
    settings: HivemindSettings, recipe: Recipe, model: torch.nn.Module, dht: DHT, log: EventLog
) -> ReportingOptimizer:
    state: CompressionBase = Float16Compression() if settings.half_state else NoCompression()

    def adamw(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters,
            lr=recipe.inner.learning_rate,
            betas=recipe.inner.betas,
            weight_decay=recipe.inner.weight_decay,
        )

    return ReportingOptimizer(
        log=log,
        dht=dht,
        run_id="join",
        params=list(model.parameters()),
        optimizer=adamw,
        batch_size_per_step=recipe.inner.batch_slots,
        target_batch_size=settings.samples_per_epoch,
        matchmaking_time=settings.matchmaking_seconds,
        averaging_timeout=settings.averaging_seconds,
        next_chunk_timeout=_CHUNK_SECONDS,
        load_state_timeout=settings.load_seconds,
        average_state_every=_STATE_EVERY,
        grad_compression=Float16Compression(),
        state_averaging_compression=Float16Compression(),
        load_state_compression=state,
        grad_averager_factory=averager_of(log),
        verbose=True,
    )


def _train(
    settings: HivemindSettings,
    recipe: Recipe,
    model: torch.nn.Module,
    optimizer: ReportingOptimizer,
    log: EventLog,
) -> None:
    tokens = TokenArray(
        settings.publication / DATA_FOLDER, load_manifest(settings.publication, recipe), "train"
    )
    chance = random.Random(settings.host)
    epoch = -1
    while True:
        began = time.monotonic()
        if optimizer.local_epoch != epoch:
            epoch = optimizer.local_epoch
            log.tell("EpochBegan", epoch=epoch)
        batch = [tokens.sequence(chance.randrange(tokens.slots)) for _ in range(recipe.inner.batch_slots)]
        loss = next_token_loss(model, torch.from_numpy(np.stack(batch)))
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        log.tell("Stepped", epoch=optimizer.local_epoch)
        time.sleep(max(0.0, settings.step_seconds - (time.monotonic() - began)))
