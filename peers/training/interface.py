"""What the peer asks of local training: windows for the node, replays for auditors and calibration.

Imports point down, from trainer/ to peers/. What is replayed is the trainer's, though, and
`python -m peers.calibrate` has to make trainers of several kinds. So the trainer's module is found by its
name when that command runs, and has the shape of `ReplaySource`; mypy checks that in the tests. An entry
point would say the same in the metadata of an installed package, and calibrating has to run from plain
files, on a machine with a GPU where nothing is installed.
"""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass
class WindowEnd:
    """When a window ends at the latest, on the monotonic clock. It may be moved while the window runs."""

    until: float = math.inf


class Trainer(Protocol):
    """What the node asks of local training (trainer.local.LocalTrainer)."""

    @property
    def numeric_class(self) -> str: ...

    def train(
        self,
        weights: NDArray[np.float32],
        slots: Sequence[SlotRange],
        *,
        tokens_before: int,
        seconds: float,
        stop: threading.Event,
        end: WindowEnd,
    ) -> Window: ...

    def replay(
        self,
        weights: NDArray[np.float32],
        slots: Sequence[SlotRange],
        *,
        tokens_before: int,
        steps: int | None = None,
        precision: Precision | None = None,
        stop: threading.Event | None = None,
    ) -> Replay: ...

    def validation_loss(self, weights: NDArray[np.float32], *, limit_slots: int) -> float: ...


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
        device: in torch's words, such as "cpu" or "cuda:0".
        precision: of the forward pass; "bf16" is torch's autocast.
        attention: transformers' word.
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
        """What a claim calls it, such as "cpu-fp32"."""
        return f"{self.device.partition(':')[0]}-{self.precision}"


def precision_of(numeric_class: str) -> Precision | None:
    """Return the precision of a numeric class, such as "fp32": what an auditor of its claims computes in.

    None for a class of no known precision: it can have no thresholds.
    """
    known: dict[str, Precision] = {"fp32": "fp32", "bf16": "bf16"}
    return known.get(numeric_class.rpartition("-")[2])


class Replay(Protocol):
    """What replaying gave (trainer.replay.Replay)."""

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


class Replayer(Protocol):
    """Replays windows in one kind of numerics (trainer.replay.LocalReplayer)."""

    def replay(
        self,
        weights: NDArray[np.float32],
        slots: Sequence[SlotRange],
        *,
        tokens_before: int,
        steps: int | None = None,
        stop: threading.Event | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Replay: ...


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
