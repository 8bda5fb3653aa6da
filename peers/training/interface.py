"""The interface between a peer and its trainer: windows for the node, replays for auditors and calibration.

What crosses it is of two kinds: values, which are frozen, and buffers, which are named as such. A window or a
replay is ordered by a `TrainOrder` or a `ReplayOrder`; what is decided later refers to the order's number, in
`stop` and `end_by`. Weights lie in a `SharedBuffer`, the only memory that both sides hold, and to another
process only the path of its file crosses. So a trainer can live in a child process: no event, no callable and
no object that one side changes under the other is handed over.

Imports point down, from trainer/ to peers/. `python -m peers.calibrate` has to make trainers of several
kinds, though. So the trainer's module is found by its name when that command runs, and has the shape of
`ReplaySource`; mypy checks that in the tests. An entry point would say the same in the metadata of an
installed package, and calibrating has to run from plain files, on a machine with a GPU where nothing is
installed.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from peers.exchange.contributor import Window
from peers.protocol.messages import SlotRange
from peers.protocol.round_reasons import SpoiltReason
from recipes.corpus import TokenArray
from recipes.errors import PlatformError
from recipes.schema.recipe import Recipe

REPLAY_MODULE = "trainer.replay"
Precision = Literal["fp32", "bf16"]

MOST_SPOILT_WINDOWS = 3  # in a row, after which a peer stops


@dataclass(frozen=True, eq=False)
class SharedBuffer:
    """Weights that the peer and its trainer both hold. The peer keeps them as they are while an order runs.

    Pickling keeps the path alone; unpickling maps the file.

    Attributes:
        array: fp32, shape (padded,); the trainer only reads it.
        path: the file that it is mapped from, little-endian and nothing else; None: it is in no file.
    """

    array: NDArray[np.float32]
    path: Path | None = None

    @classmethod
    def mapped(cls, path: Path) -> SharedBuffer:
        """Return the buffer in a file, read-only."""
        return cls(np.memmap(path, dtype="<f4", mode="r"), path)

    def __reduce__(self) -> tuple[Callable[[Path], SharedBuffer], tuple[Path]]:
        if self.path is None:
            raise TypeError("a buffer that lies in no file cannot cross to another process")
        return SharedBuffer.mapped, (self.path,)


@dataclass(frozen=True, kw_only=True)
class TrainOrder:
    """A window to train.

    Attributes:
        number: names the order in `Trainer.stop` and `end_by`; no other order of one trainer has it.
        weights: from which the window starts.
        slots: what to train on, in order. The last batch may be smaller than the others.
        tokens_before: the chain's count of tokens at the window's start, for the learning rate.
        seconds: length of the window.
    """

    number: int
    weights: SharedBuffer
    slots: tuple[SlotRange, ...]
    tokens_before: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ReplayOrder:
    """Local steps of a window to take again, however long that takes.

    Attributes:
        number: names the order in `Trainer.stop`; no other order of one trainer has it.
        weights: from which the window started.
        slots: those that the claim says were used, in its order.
        tokens_before: the chain's count of tokens at the window's start.
        steps: how many of the first steps to take; None: all that the slots allow.
        precision: that the window was trained in; None: the trainer's own.
    """

    number: int
    weights: SharedBuffer
    slots: tuple[SlotRange, ...]
    tokens_before: int
    steps: int | None = None
    precision: Precision | None = None


class Trainer(Protocol):
    """Local training, as the node asks for it (trainer.local.LocalTrainer).

    `train`, `replay` and `validation_loss` block, so they are called in a worker thread. `stop` and `end_by`
    return at once, and may be called in any thread: before the order begins and while it runs. When it is
    over, they are forgotten.
    """

    @property
    def numeric_class(self) -> str:
        """Kind of processor and precision, which this peer's claims name."""

    def train(self, order: TrainOrder) -> Window:
        """Train until time or slots are used up, or the order is stopped."""

    def replay(self, order: ReplayOrder) -> Replay:
        """Take the local steps of a window again, unless the order is stopped."""

    def end_by(self, number: int, until: float) -> None:
        """Let a window end by `until` at the latest, on the machine's monotonic clock (`time.monotonic`)."""

    def stop(self, number: int) -> None:
        """Let a window or replay end after the step at hand: nobody wants what comes of it."""

    def validation_loss(self, weights: SharedBuffer, *, limit_slots: int) -> float:
        """Return the mean loss on at most so many slots of the validation part, in nats a token."""

    def select(self, values: NDArray[np.float32], keep: int) -> NDArray[np.int64]:
        """Find the largest values of each chunk, as a `Selector` does (peers/codec/selection.py)."""


def why_spoilt(window: Window) -> SpoiltReason | None:
    """Return why nothing of a window can be claimed, or None if something can be.

    A step without a finite loss changed nothing (trainer/local.py): it spoils no window that has others.
    """
    if window.losses and not any(math.isfinite(loss) for loss in window.losses):
        return "no_finite_step"
    finite = math.isfinite(window.delta.min()) and math.isfinite(window.delta.max())  # one NaN makes both NaN
    return None if finite else "weights_not_finite"


@dataclass(frozen=True)
class Numerics:
    """One honest way to compute a window.

    Attributes:
        label: names it in a table.
        device: by torch's name, such as "cpu" or "cuda:0".
        precision: of the forward pass; "bf16" is torch's autocast.
        attention: the implementation, by transformers' name.
        micro_batch: slots that pass through the model at once; None: a whole batch.
        threads: of the CPU; None: what torch chooses.
    """

    label: str
    device: str = "cpu"
    precision: Precision = "fp32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    micro_batch: int | None = None
    threads: int | None = None

    @property
    def numeric_class(self) -> str:
        """The name in claims, such as "cpu-fp32"."""
        return f"{self.device.partition(':')[0]}-{self.precision}"


def precision_of(numeric_class: str) -> Precision | None:
    """Return the precision of a numeric class, such as "fp32": what an auditor of its claims computes in.

    None for a class of no known precision: it can have no thresholds.
    """
    known: dict[str, Precision] = {"fp32": "fp32", "bf16": "bf16"}
    return known.get(numeric_class.rpartition("-")[2])


class Replay(Protocol):
    """A replay's result (trainer.replay.Replay)."""

    @property
    def losses(self) -> tuple[float, ...]: ...
    @property
    def delta(self) -> NDArray[np.float32] | None: ...


class Progress(Protocol):
    """How far a replay has come (trainer.local.Progress)."""

    @property
    def steps(self) -> int: ...
    @property
    def loss(self) -> float: ...


class ProgressListener(Protocol):
    """A function that is told after each step how far a replay has come."""

    def __call__(self, progress: Progress, /) -> None: ...


class Replayer(Protocol):
    """Replays windows in one kind of numerics, in this process (trainer.replay.LocalReplayer)."""

    def replay(self, order: ReplayOrder, *, progress: ProgressListener | None = None) -> Replay: ...


class ReplaySource(Protocol):
    """A module that makes replayers (trainer/replay.py)."""

    def numerics_here(self, recipe: Recipe, *, wanted: Sequence[str]) -> tuple[Numerics, ...]: ...
    def open_replayer(
        self, recipe: Recipe, tokens: TokenArray, run_id: str, *, numerics: Numerics
    ) -> Replayer: ...
    def describe_machine(self, numerics: Sequence[Numerics]) -> str: ...


def find_replay_source(module: str = REPLAY_MODULE) -> ReplaySource:
    """Return the module that makes replayers.

    Raises:
        PlatformError: it is not here.
    """
    try:
        return cast(ReplaySource, importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise PlatformError(
            f"Nothing here can replay training: there is no module {error.name}.",
            remedy="Run the command from a whole checkout, or install the package with its trainer.",
        ) from error
