"""What the node asks of local training, and when nothing of what it got can be claimed."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from peers.exchange.contributor import Window
from peers.protocol.messages import SlotRange
from peers.training.replaying import Precision, Replay

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


def why_spoilt(window: Window) -> str:
    """Say why nothing of a window can be claimed, or return an empty string.

    A step without a finite loss changed nothing (trainer/local.py): it spoils no window that has others.
    """
    if window.losses and not any(math.isfinite(loss) for loss in window.losses):
        return "no step had a finite loss and gradient"
    finite = math.isfinite(window.delta.min()) and math.isfinite(window.delta.max())  # one NaN makes both NaN
    return "" if finite else "the weights became infinite or not a number"
