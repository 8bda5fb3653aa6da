"""A window of local training: what it uses, what it returns, when it ends, and what it survives."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny_run import RECIPE, publish_tiny
from transformers.models.llama.modeling_llama import LlamaMLP

import trainer.local
from peers.training.interface import ReplayOrder, SharedBuffer, TrainOrder
from recipes.corpus import TokenArray
from recipes.errors import ModelError
from recipes.layout import layout_of
from recipes.publication import Publication
from recipes.schema.recipe import Recipe, parse_recipe
from recipes.slots import Range
from trainer.device import Device
from trainer.local import LocalTrainer, Progress, WindowResult, spread
from trainer.objective import next_token_loss
from trainer.schedule import learning_rate

CPU = Device("cpu")
NUMBER = 7  # of every order
SLOTS: tuple[Range, ...] = ((0, 24),)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    return publish_tiny(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def weights(run: Publication) -> npt.NDArray[np.float32]:
    return np.memmap(run.weights, dtype="<f4", mode="r")


def _trainer(run: Publication, *, recipe: Recipe | None = None, device: Device = CPU) -> LocalTrainer:
    recipe = recipe or run.recipe
    train, validation = (TokenArray(run.data, run.manifest, part) for part in ("train", "validation"))
    return LocalTrainer(recipe, layout_of(recipe), train, run.run_id, device=device, validation=validation)


def _order(
    weights: npt.NDArray[np.float32], slots: tuple[Range, ...] = SLOTS, *, seconds: float = 1000.0
) -> TrainOrder:
    return TrainOrder(
        number=NUMBER, weights=SharedBuffer(weights), slots=slots, tokens_before=0, seconds=seconds
    )


def _train(
    local: LocalTrainer, weights: npt.NDArray[np.float32], slots: tuple[Range, ...] = SLOTS
) -> WindowResult:
    return local.train(_order(weights, slots))


def test_weights_minus_the_pseudo_gradient_predict_unseen_text_better(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    local = _trainer(run)
    result = _train(local, weights, ((0, 160),))
    before = local.validation_loss(SharedBuffer(weights), limit_slots=16)
    after = local.validation_loss(SharedBuffer(weights - result.delta), limit_slots=16)
    assert before == pytest.approx(math.log(257), abs=0.3)
    assert after < before - 2


def test_the_same_window_twice_is_the_same_to_the_last_bit(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    local = _trainer(run)
    first, second = _train(local, weights), _train(local, weights)
    assert first.losses == second.losses
    assert first.delta.tobytes() == second.delta.tobytes()


def test_the_pseudo_gradient_has_the_padded_shape_and_zeros_in_the_padding(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    layout = layout_of(run.recipe)
    delta = _train(_trainer(run), weights).delta
    assert delta.shape == (layout.padded,)
    assert delta.dtype == np.float32
    assert np.count_nonzero(delta[: layout.size]) > layout.size // 2
    assert not delta[layout.size :].any()


def test_all_slots_are_used_in_order_with_a_smaller_last_batch(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    result = _train(_trainer(run), weights, ((50, 3), (10, 4)))
    assert result.slots_used == ((50, 3), (10, 4))
    assert result.steps == 2
    assert result.tokens == 7 * run.recipe.data.sequence_length
    reversed_order = _train(_trainer(run), weights, ((10, 4), (50, 3)))
    assert result.losses[0] != reversed_order.losses[0]


def test_an_order_stopped_before_it_begins_takes_no_step_and_changes_nothing(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    local = _trainer(run)
    local.stop(NUMBER)
    result = _train(local, weights)
    assert (result.steps, result.slots_used, result.tokens) == (0, (), 0)
    assert not result.delta.any()


def test_what_was_said_of_an_order_is_forgotten_when_it_is_over_and_concerns_no_other(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    local = _trainer(run)
    local.stop(NUMBER + 1)
    local.end_by(NUMBER, -math.inf)
    assert _train(local, weights).steps == 0
    assert _train(local, weights).steps == 6


def test_stopping_finishes_the_step_and_reports_a_prefix_of_the_slots(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    local = _trainer(run)
    told: list[Progress] = []

    def stop_after_two(progress: Progress) -> None:
        told.append(progress)
        if progress.steps == 2:
            local.stop(NUMBER)

    result = local.train(_order(weights, ((0, 6), (40, 20))), progress=stop_after_two)
    assert result.slots_used == ((0, 6), (40, 2))
    assert [progress.tokens for progress in told] == [4 * 32, 8 * 32]
    assert tuple(progress.loss for progress in told) == result.losses


def test_a_stopped_replay_has_the_losses_so_far_and_no_pseudo_gradient(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    local = _trainer(run)

    def stop_after_two(progress: Progress) -> None:
        if progress.steps == 2:
            local.stop(NUMBER)

    order = ReplayOrder(number=NUMBER, weights=SharedBuffer(weights), slots=SLOTS, tokens_before=0)
    stopped = local.replay(order, progress=stop_after_two)
    assert stopped.losses == local.replay(order).losses[:2]
    assert stopped.delta is None


def test_no_step_begins_that_would_end_after_the_window(
    run: Publication, weights: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=2.0)  # every step takes two seconds
    monkeypatch.setattr(trainer.local, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    result = _trainer(run).train(_order(weights, seconds=7.0))
    assert (result.steps, result.seconds) == (3, 6.0)
    assert result.tokens_per_second == 3 * 4 * 32 / 6.0


def test_the_end_of_a_window_may_be_moved_while_it_runs(
    run: Publication, weights: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=2.0)
    monkeypatch.setattr(trainer.local, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    local = _trainer(run)

    def moves_after_two(progress: Progress) -> None:
        if progress.steps == 2:
            local.end_by(NUMBER, 7.0)

    assert local.train(_order(weights), progress=moves_after_two).steps == 3


def test_a_machine_slower_than_the_window_still_takes_one_step(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    assert _trainer(run).train(_order(weights, seconds=0.0)).steps == 1


def test_running_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(
    run: Publication, weights: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _train(_trainer(run), weights)

    def out_of_memory(model: Any, tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return next_token_loss(model, tokens)

    monkeypatch.setattr(trainer.local, "next_token_loss", out_of_memory)
    local = _trainer(run)
    accumulated = _train(local, weights)
    assert local.micro_batch == 1
    assert accumulated.losses == pytest.approx(whole.losses, rel=1e-4)
    assert accumulated.slots_used == whole.slots_used


def test_memory_that_runs_out_in_mid_batch_leaves_no_gradient_behind(
    run: Publication, weights: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _train(_trainer(run), weights)
    calls = itertools.count()

    def fails_in_second_micro_batch(model: Any, tokens: torch.Tensor) -> torch.Tensor:
        if next(calls) in (0, 2):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        return next_token_loss(model, tokens)

    monkeypatch.setattr(trainer.local, "next_token_loss", fails_in_second_micro_batch)
    assert _train(_trainer(run), weights).losses == pytest.approx(whole.losses, rel=1e-4)


def test_a_model_that_does_not_fit_even_one_sequence_says_so(
    run: Publication, weights: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(model: Any, tokens: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainer.local, "next_token_loss", out_of_memory)
    with pytest.raises(ModelError, match="one sequence of 32 tokens"):
        _train(_trainer(run), weights)


def test_errors_other_than_memory_are_not_hidden(
    run: Publication, weights: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, tokens: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(trainer.local, "next_token_loss", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        _train(_trainer(run), weights)


def test_a_step_without_a_finite_loss_is_skipped_and_counted(
    run: Publication, weights: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()

    def fails_once(model: Any, tokens: torch.Tensor) -> torch.Tensor:
        loss = next_token_loss(model, tokens)
        return loss * math.nan if next(calls) == 1 else loss

    monkeypatch.setattr(trainer.local, "next_token_loss", fails_once)
    result = _train(_trainer(run), weights)
    assert (result.steps, result.skipped_steps) == (6, 1)
    assert math.isnan(result.losses[1])
    assert np.isfinite(result.delta).all()
    assert result.losses[5] < result.losses[0]


def test_8_bit_adamw_trains_too(run: Publication, weights: npt.NDArray[np.float32]) -> None:
    recipe = parse_recipe(RECIPE.replace('"adamw"', '"adamw8bit"').encode(), name="tiny")
    full, small = _train(_trainer(run), weights), _train(_trainer(run, recipe=recipe), weights)
    assert small.losses[-1] == pytest.approx(full.losses[-1], rel=0.02)
    assert small.losses[1:] != full.losses[1:]


def _changed(old: str, new: str) -> Recipe:
    return parse_recipe(RECIPE.replace(old, new).encode(), name="tiny")


def test_muon_trains_too_and_the_same_window_twice_is_the_same_to_the_last_bit(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    local = _trainer(run, recipe=_changed('"adamw"', '"muon"'))
    first, second = _train(local, weights, ((0, 160),)), _train(local, weights, ((0, 160),))
    assert first.delta.tobytes() == second.delta.tobytes()
    assert first.losses[-1] < first.losses[0] - 2


def test_muon_turns_the_matrices_of_the_layers_and_leaves_the_rest_to_adamw(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    muon = _changed('optimizer = "adamw"', 'optimizer = "muon"\nmatrix_rate = 3.0\nweight_decay = 0.0')
    adamw = _changed('optimizer = "adamw"', 'optimizer = "adamw"\nweight_decay = 0.0')
    deltas = [_train(_trainer(run, recipe=recipe), weights, ((0, 4),)).delta for recipe in (muon, adamw)]
    rate = learning_rate(muon, tokens_before=0, step=0)
    for span in layout_of(muon).spans:
        by_muon, by_adamw = (
            delta[span.offset : span.offset + span.count].reshape(span.shape) for delta in deltas
        )
        if len(span.shape) == 2 and ".layers." in span.name:
            lengths = np.linalg.svd(by_muon, compute_uv=False) / (3 * rate * 0.2 * math.sqrt(max(span.shape)))
            assert 0.7 < lengths.max() < 1.3
            assert lengths.mean() > 0.4
        else:
            assert by_muon.tobytes() == by_adamw.tobytes()


def _count_layers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    forward = LlamaMLP.forward
    calls = [0]

    def counted(self: Any, stream: torch.Tensor) -> Any:
        calls[0] += 1
        return forward(self, stream)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    return calls


def test_with_gradient_checkpointing_layers_run_twice_and_nothing_else_changes(
    run: Publication, weights: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _count_layers(monkeypatch)
    plain = _train(_trainer(run), weights)
    once = calls[0]
    recipe = _changed("ramp_steps = 2", "ramp_steps = 2\ngradient_checkpointing = true")
    again = _train(_trainer(run, recipe=recipe), weights)
    assert (once, calls[0] - once) == (plain.steps, 2 * plain.steps)
    assert again.delta.tobytes() == plain.delta.tobytes()


def test_a_device_that_cannot_hold_one_slot_checkpoints_by_itself(
    run: Publication, weights: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _train(_trainer(run), weights)

    local = _trainer(run)

    def out_of_memory(model: Any, tokens: torch.Tensor) -> torch.Tensor:
        if not local.checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return next_token_loss(model, tokens)

    monkeypatch.setattr(trainer.local, "next_token_loss", out_of_memory)
    assert not local.checkpointing
    assert _train(local, weights).losses == pytest.approx(whole.losses, rel=1e-4)
    assert (local.micro_batch, local.checkpointing) == (1, True)


def test_bf16_arithmetic_gives_nearly_the_same_losses(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    full = _train(_trainer(run), weights)
    half = _train(_trainer(run, device=Device("cpu", "bf16", "eager")), weights)
    assert half.losses == pytest.approx(full.losses, rel=0.01)
    assert half.losses != full.losses


def test_training_goes_on_after_the_validation_loss_was_measured(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    local = _trainer(run)
    first = _train(local, weights)
    local.validation_loss(SharedBuffer(weights - first.delta), limit_slots=4)
    assert _train(local, weights).losses == first.losses


def test_the_validation_loss_takes_evenly_spaced_slots_and_all_where_there_are_few() -> None:
    assert spread(100, 4) == [0, 25, 50, 75]
    assert spread(3, 10) == [0, 1, 2]
