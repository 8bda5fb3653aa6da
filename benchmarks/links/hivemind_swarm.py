"""hivemind.Optimizer as a rival, with the settings that serve it best on a given link."""

from __future__ import annotations

import json
import logging
import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from benchmarks.links.work import Assignment, Step, Work

Averaged = Literal["parameters", "gradients"]

MATCHMAKING_SECONDS = 5.0
ACCUMULATION = 4
STATE_EVERY = 10
_START_SECONDS = 60.0
_LOOK_SECONDS = 0.05
_REFRESH_SECONDS = 0.5  # until others are seen: who knows of none skips averages, and the rest wait for it
_LEAST_TIMEOUT_SECONDS = 30.0
_TIMES_THE_LEAST = 4  # what an average or a part needs at best: they wait for each other, and TCP leaves gaps
_PART_BYTES = 2**16
_VALUE_BITS = 8
_LARGE_VALUES = 2**12  # of a tensor


class Settings(BaseModel):
    """The arguments of hivemind.Optimizer that depend on the link, the model or the speed of the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    averaged: Averaged
    target_batch_size: int  # sequences of all peers from one average to the next
    matchmaking_time: float  # s
    averaging_timeout: float  # s
    next_chunk_timeout: float  # s
    part_size_bytes: int


def settings_for(
    averaged: Averaged,
    *,
    parameters: int,
    peers: int,
    batch_slots: int,
    slots_per_second: float,
    window_seconds: float,
    megabits: float | None,
) -> Settings:
    """Return the settings for a link.

    Args:
        averaged: after local steps of each peer for itself, their parameters, once a window of ours; or else,
            for each step that all take together, the gradients of at least `ACCUMULATION` batches of each,
            and of as many as matchmaking takes: with fewer, peers miss each other's groups.
        parameters: of the model.
        peers: how many there are.
        batch_slots: sequences of one peer's batch.
        slots_per_second: sequences that all peers train on where no network is in the way.
        window_seconds: of ours.
        megabits: the rate of each peer's line, each way; None: faster than matters.
    """
    seconds = part_seconds = 0.0
    if megabits is not None:
        seconds = least_seconds(parameters, peers=peers, megabits=megabits)
        part_seconds = (peers - 1) * _PART_BYTES * 8 / (megabits * 1e6)
    accumulated = max(peers * batch_slots * ACCUMULATION, round(slots_per_second * MATCHMAKING_SECONDS))
    in_a_window = max(1, round(slots_per_second * window_seconds))
    return Settings(
        averaged=averaged,
        target_batch_size=in_a_window if averaged == "parameters" else accumulated,
        matchmaking_time=MATCHMAKING_SECONDS,
        averaging_timeout=max(_LEAST_TIMEOUT_SECONDS, _TIMES_THE_LEAST * seconds),
        next_chunk_timeout=max(MATCHMAKING_SECONDS, _TIMES_THE_LEAST * part_seconds),
        part_size_bytes=_PART_BYTES,
    )


def least_seconds(parameters: int, *, peers: int, megabits: float) -> float:
    """Return how long one average at 8 bits a value keeps a line busy: the shares out, and all back."""
    return 2 * (peers - 1) / peers * parameters * _VALUE_BITS / (megabits * 1e6)


def join(assignment: Assignment, work: Work) -> Step:
    """Join the others, and return what takes a step with them."""
    import hivemind
    from hivemind.compression import (
        Float16Compression,
        SizeAdaptiveCompression,
        Uniform8BitQuantization,
    )
    from hivemind.optim.grad_averager import GradientAverager

    settings = Settings(**assignment.hivemind)
    inner = work.recipe.inner
    # The mixture of hivemind's own example (albert): 8 bits for what is large, fp16 for the rest, which here
    # is norms' gains alone. On a thin line fewer bytes are quicker, and encoding so few values is no work.
    compression = SizeAdaptiveCompression(
        threshold=_LARGE_VALUES, less=Float16Compression(), greater_equal=Uniform8BitQuantization()
    )
    # An average that has all peers in its group begins at once.
    group = {"target_group_size": assignment.peers, "part_size_bytes": settings.part_size_bytes}
    local = settings.averaged == "parameters"
    averages = Averages(assignment.peers)
    logging.getLogger("hivemind").addHandler(averages)
    optimizer = hivemind.Optimizer(
        dht=_dht(assignment),
        run_id="links",
        target_batch_size=settings.target_batch_size,
        batch_size_per_step=inner.batch_slots,
        params=_groups(work.model, inner.weight_decay),
        optimizer=partial(_adamw, rate=inner.learning_rate, betas=inner.betas, eps=inner.eps),
        use_local_updates=local,
        delay_state_averaging=True,  # though in 1.1.12 the next local step waits for the average all the same
        delay_grad_averaging=not local,
        delay_optimizer_step=not local,
        offload_optimizer=not local,
        average_state_every=1 if local else STATE_EVERY,
        matchmaking_time=settings.matchmaking_time,
        averaging_timeout=settings.averaging_timeout,
        next_chunk_timeout=settings.next_chunk_timeout,
        grad_compression=compression,
        state_averaging_compression=compression,
        load_state_compression=Float16Compression(),
        tracker_opts={"default_refresh_period": _REFRESH_SECONDS},
        averager_opts=group,  # which only the averager of states is given
        grad_averager_factory=None if local else partial(GradientAverager, **group),
        verbose=True,  # otherwise it does not say what it averaged
    )

    def step() -> float:
        work.gradients()
        optimizer.step()
        return averages.of("parameters" if local else "gradients")

    return step


class Averages(logging.Handler):
    """Counts averages by what hivemind says of them: its optimizer reports success nowhere else."""

    _SAID = re.compile(r"Averaged (parameters|gradients) with (\d+) peers")

    def __init__(self, peers: int) -> None:
        super().__init__(logging.INFO)
        self._peers = peers
        self._done: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Heed one message."""
        if said := self._SAID.match(record.getMessage()):
            self._done[said[1]] = self.of(said[1]) + int(said[2]) / self._peers

    def of(self, what: str) -> float:
        """Return how many averages of these were made; one with some of the peers counts in proportion."""
        return self._done.get(what, 0.0)


def _dht(assignment: Assignment) -> Any:
    """Return this process's DHT; the first one's address goes to the others through a file."""
    import hivemind

    meeting = Path(assignment.folder) / "first-peer.json"
    while assignment.number and not meeting.exists():
        time.sleep(_LOOK_SECONDS)
    dht = hivemind.DHT(
        initial_peers=json.loads(meeting.read_text()) if assignment.number else [],
        host_maddrs=[f"/ip4/{assignment.address}/tcp/{assignment.port}"],
        startup_timeout=_START_SECONDS,
        start=True,
    )
    if not assignment.number:
        unfinished = meeting.with_suffix(".new")
        unfinished.write_text(json.dumps([str(address) for address in dht.get_visible_maddrs()]))
        unfinished.replace(meeting)
    return dht


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _adamw(groups: Any, *, rate: float, betas: tuple[float, float], eps: float) -> Any:
    import torch

    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=eps, fused=True)
