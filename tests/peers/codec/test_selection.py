"""Which values of a chunk are kept: the same ones, whatever looks for them."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from peers.codec.interface import Selector
from peers.codec.selection import select_largest
from peers.codec.sparse_codec import SparseCodec
from trainer.device_selection import selector_on, torch_selector

SELECTORS = [select_largest, torch_selector("cpu")]


def slowly(values: NDArray[np.float32], keep: int) -> list[int]:
    """Sort each chunk by magnitude, then by index; magnitudes below half the smallest level are nothing."""
    positions: list[int] = []
    for chunk, row in enumerate(np.abs(values.astype(np.float64))):
        largest = np.sort(np.argsort(-row, kind="stable")[:keep])
        positions += (4096 * chunk + largest[row[largest] >= 2.0**-29]).tolist()
    return positions


def few_magnitudes(seed: int, *, magnitudes: int, spread: int, filled: float) -> NDArray[np.float32]:
    """Three chunks, a share of them filled, with so few magnitudes that most values have equals."""
    rng = np.random.default_rng(seed)
    exponents = rng.integers(-spread, 1, size=(3, 4096)) if spread else np.zeros((3, 4096))
    steps = rng.integers(0, magnitudes + 1, size=(3, 4096)) * (rng.random((3, 4096)) < filled)
    return (rng.choice([-1.0, 1.0], size=(3, 4096)) * steps * 2.0**exponents).astype(np.float32)


@pytest.mark.parametrize("select", SELECTORS, ids=["numpy", "torch"])
@given(
    keep=st.integers(1, 4096) | st.integers(1, 300),
    magnitudes=st.integers(0, 50),
    spread=st.integers(0, 60),
    filled=st.sampled_from([0.001, 0.1, 0.2, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_the_largest_are_kept_and_of_equals_the_first(
    select: Selector, keep: int, magnitudes: int, spread: int, filled: float, seed: int
) -> None:
    values = few_magnitudes(seed, magnitudes=magnitudes, spread=spread, filled=filled)
    assert select(values, keep).tolist() == slowly(values, keep)


@pytest.mark.parametrize(
    ("select", "value"), list(product(SELECTORS, [math.inf, -math.inf, math.nan])), ids=str
)
def test_values_that_are_no_numbers_are_refused(select: Selector, value: float) -> None:
    values = np.zeros((2, 4096), dtype=np.float32)
    values[1, 17] = value
    with pytest.raises(ValueError, match="infinite or not a number"):
        select(values, 64)


def test_a_contribution_has_the_same_bytes_whatever_selects_its_values() -> None:
    values = np.random.default_rng(0).standard_t(3, (200, 4096)).astype(np.float32)
    codec = SparseCodec(keep=64, level_bits=1)
    assert codec.encode(values, select=torch_selector("cpu")).data == codec.encode(values).data


def test_a_model_on_the_cpu_has_its_values_selected_by_numpy() -> None:
    assert selector_on("cpu") is select_largest
