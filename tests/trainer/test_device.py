"""Choosing where to train and in which arithmetic."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_run import RECIPE

import trainer.device
from recipes.errors import ModelError, PlatformError
from recipes.schema.recipe import Recipe, parse_recipe
from trainer.device import Device, choose_device, fastest, is_out_of_memory

FULL = Device("cpu")
HALF = Device("cpu", "bf16")
HALF_EAGER = Device("cpu", "bf16", "eager")


def test_bf16_is_taken_only_where_it_is_clearly_faster() -> None:
    assert fastest({FULL: 1.0, HALF: 0.9}) == FULL
    assert fastest({FULL: 1.0, HALF: 0.8}) == HALF


def test_the_fastest_attention_counts_within_a_precision() -> None:
    assert fastest({FULL: 1.0, HALF: 1.2, HALF_EAGER: 0.6}) == HALF_EAGER


def test_bf16_is_taken_where_fp32_does_not_fit() -> None:
    assert fastest({HALF: 5.0}) == HALF


def test_the_numeric_class_names_kind_and_precision_without_the_number() -> None:
    assert Device("cpu").numeric_class == "cpu-fp32"
    assert Device("cuda:1", "bf16").numeric_class == "cuda-bf16"


def test_a_device_is_chosen_by_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"sdpa": 2.0, "eager": 1.0}
    measured: list[Device] = []

    def time_pass(model: Any, tokens: torch.Tensor, device: Device) -> float:
        assert tokens.shape == (4, 33)
        measured.append(device)
        return math.inf if device == FULL else seconds[device.attention]

    monkeypatch.setattr(trainer.device, "_time_pass", time_pass)
    assert choose_device(parse_recipe(RECIPE.encode(), name="tiny"), wanted="cpu") == HALF_EAGER
    assert set(measured) == {FULL, HALF, HALF_EAGER}


def test_a_real_measurement_ends_with_a_device_of_this_machine() -> None:
    assert choose_device(parse_recipe(RECIPE.encode(), name="tiny"), wanted="cpu").name == "cpu"


def test_a_model_whose_weights_do_not_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(recipe: Recipe, *, device: str) -> torch.nn.Module:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainer.device, "build_model", out_of_memory)
    with pytest.raises(ModelError, match="memory of cpu is too small for the model's weights"):
        choose_device(parse_recipe(RECIPE.encode(), name="tiny"), wanted="cpu")


@pytest.mark.parametrize("wanted", ["cuda:99", "gpu", "cuda:x", "mps"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(wanted: str) -> None:
    with pytest.raises(PlatformError, match=f"no device '{wanted}'.*It has: cpu"):
        choose_device(parse_recipe(RECIPE.encode(), name="tiny"), wanted=wanted)


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")
    )
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))
