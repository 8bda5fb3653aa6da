"""Repeat the local steps behind a claim in each kind of numerics, to measure how closely honest work repeats.

A window follows from its start weights, its slots and the chain's tokens (trainer/local.py). So the same
order on the same machine, with the same kind of processor, precision and number of threads, gives the same
bits, and on another nearly the same losses.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from peers.training.interface import Numerics, ReplayOrder
from recipes.corpus import TokenArray
from recipes.layout import layout_of
from recipes.schema.recipe import Recipe
from trainer.device import Device, computes_bf16, find_device
from trainer.local import LocalTrainer, Progress, Replay


class LocalReplayer:
    """Replays windows on this machine in one kind of numerics."""

    def __init__(self, trainer: LocalTrainer, *, threads: int | None) -> None:
        self._trainer = trainer
        self._threads = threads

    def replay(self, order: ReplayOrder, *, progress: Callable[[Progress], None] | None = None) -> Replay:
        """Replay as `LocalTrainer.replay` does, with this replayer's number of CPU threads."""
        with cpu_threads(self._threads):
            return self._trainer.replay(order, progress=progress)


def open_replayer(recipe: Recipe, tokens: TokenArray, run_id: str, *, numerics: Numerics) -> LocalReplayer:
    """Return a replayer of the recipe's windows.

    Args:
        recipe: published, or changed since: what counts is how it trains.
        tokens: the training part of the corpus.
        run_id: 64 hex digits, for the meaning of slots.
        numerics: what to compute in.

    Raises:
        ModelError: the model cannot be built, or does not fit the device.
    """
    device = Device(numerics.device, numerics.precision, numerics.attention)
    trainer = LocalTrainer(
        recipe, layout_of(recipe), tokens, run_id, device=device, micro_batch=numerics.micro_batch
    )
    return LocalReplayer(trainer, threads=numerics.threads)


def numerics_here(recipe: Recipe, *, wanted: Sequence[str]) -> tuple[Numerics, ...]:
    """Return the honest ways to compute a window on this machine; of each class the usual one comes first.

    Args:
        recipe: for the size of its batch.
        wanted: names of devices, as `trainer.join --device` takes them. None: a GPU if there is one, and the
            CPU.

    Raises:
        PlatformError: a device is not here.
    """
    names = dict.fromkeys(map(find_device, wanted or ("auto", "cpu")))
    return tuple(numerics for name in names for numerics in _numerics_on(name, recipe))


def describe_machine(numerics: Sequence[Numerics]) -> str:
    """Return processor, GPUs and torch's version in a line, for whoever reads figures later."""
    import torch

    gpus = sorted({n.device for n in numerics if n.device != "cpu"})
    names = [torch.cuda.get_device_name(name) for name in gpus]
    return ", ".join([f"{os.cpu_count()} x {platform.machine()}", *names, f"torch {torch.__version__}"])


def _numerics_on(device: str, recipe: Recipe) -> Iterator[Numerics]:
    import torch

    kind = device.partition(":")[0]
    part = max(1, recipe.inner.batch_slots // 2)
    yield Numerics(f"{kind}-fp32", device)
    yield Numerics(f"{kind}-fp32 again", device)
    yield Numerics(f"{kind}-fp32, micro-batch {part}", device, micro_batch=part)
    if device == "cpu":
        threads = 1 if torch.get_num_threads() > 1 else 2
        yield Numerics(f"cpu-fp32, threads {threads}", device, threads=threads)
    if computes_bf16(device):
        yield Numerics(f"{kind}-bf16", device, "bf16")
        yield Numerics(f"{kind}-bf16, micro-batch 1, eager", device, "bf16", "eager", micro_batch=1)


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads meanwhile; None leaves their number as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
