"""Pseudo-gradients of a small model in two segments, and how its contributions compare with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peers.codec.segment import SegmentFrame
from recipes.layout import lay_out

DECAY = 0.75
SEGMENTS = 2
LAYOUT = lay_out([("weight", (4 * 4096 - 100,))], segments=SEGMENTS)


def delta(seed: int) -> NDArray[np.float32]:
    """Return a pseudo-gradient, float32 of shape (padded,)."""
    values = np.zeros(LAYOUT.padded, dtype=np.float32)
    values[: LAYOUT.size] = np.random.default_rng(seed).standard_normal(LAYOUT.size) * 1e-2
    return values


def dense(frames: Iterable[SegmentFrame]) -> NDArray[np.float32]:
    """Return all values of a contribution, flat."""
    return np.concatenate([frame.decode().dense().reshape(-1) for frame in frames])


def close(actual: NDArray[np.float32], expected: NDArray[Any]) -> bool:
    """Within the two last roundings to bfloat16, of values below 0.0625; contributed ones are above 0.015."""
    return bool(np.abs(actual - expected).max() <= 2 * 2.0**-13)
