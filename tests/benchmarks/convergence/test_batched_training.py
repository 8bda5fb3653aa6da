"""Workers in one batch train as production code does, one by one, and what outlives a window is counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_run import RECIPE

from benchmarks.convergence.inner import Arrangement, InnerChoice, InnerOptimizer
from benchmarks.convergence.local import BatchedTrainer
from benchmarks.convergence.model import check_against_production
from benchmarks.convergence.momentum import LowRankMomentum
from recipes.errors import ModelError
from recipes.layout import lay_out, layout_of
from recipes.model import build_model, flatten_into
from recipes.schema.recipe import Recipe, parse_recipe

Values = NDArray[np.float32]


def _recipe(text: str = RECIPE) -> Recipe:
    return parse_recipe(text.encode(), name="tiny")


def _tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(257, shape, generator=torch.Generator().manual_seed(seed))


def test_the_batched_model_is_the_production_model() -> None:
    check_against_production(_recipe(), _tokens(2, 3, 33))


def test_another_model_than_the_production_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.convergence.model._rotate", lambda heads, _: heads)
    with pytest.raises(ModelError, match="differs from the production model"):
        check_against_production(_recipe(), _tokens(2, 3, 33))


@pytest.mark.parametrize("muon", [False, True])
def test_workers_in_one_batch_step_as_torchs_optimizers_do(muon: bool) -> None:
    recipe = _recipe()
    layout = layout_of(recipe)
    start = np.zeros((2, layout.padded), dtype=np.float32)
    for row in start:
        flatten_into(build_model(recipe), row)
    choice = InnerChoice(muon=muon, matrix_rate=2.0)
    batched = BatchedTrainer(recipe, layout, choice, workers=2, batch_slots=4, device="cpu")
    tokens = _tokens(6, 2, 4, 33)
    rates = [1e-3 * (step + 1) for step in range(6)]
    deltas, losses = batched.train(start, tokens.numpy(), rates, last_update=None)
    for worker in range(2):
        expected, expected_losses = _train_by_torch(recipe, tokens[:, worker], rates, muon=muon)
        assert losses[:, worker] == pytest.approx(expected_losses, rel=2e-4)
        end = (start - deltas)[worker]
        moved = np.linalg.norm(expected - start[worker])
        assert np.linalg.norm(end - expected) < 0.03 * moved  # Newton-Schulz rounds to bfloat16


def _train_by_torch(
    recipe: Recipe, tokens: torch.Tensor, rates: Sequence[float], *, muon: bool
) -> tuple[Values, list[float]]:
    from trainer.objective import next_token_loss

    model = build_model(recipe)
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if muon and p.ndim == 2 and "layers" in name]
    rest = [p for p in named.values() if not any(p is matrix for matrix in matrices)]
    decay = recipe.inner.weight_decay
    adam = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=recipe.inner.betas,
    )
    optimizers: list[torch.optim.Optimizer] = [adam]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    losses = []
    for batch, rate in zip(tokens, rates, strict=True):
        loss = next_token_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.inner.clip_norm)
        for optimizer, factor in zip(optimizers, (1.0, 2.0), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    end = np.zeros(layout_of(recipe).padded, dtype=np.float32)
    flatten_into(model, end)
    return end, losses


def test_a_restarted_window_depends_on_nothing_before_it() -> None:
    recipe = _recipe()
    layout = layout_of(recipe)
    tokens = _tokens(2, 2, 4, 33).numpy()
    start = np.zeros((2, layout.padded), dtype=np.float32)
    flatten_into(build_model(recipe), start[0])
    start[1] = start[0]

    def two_windows(choice: InnerChoice) -> tuple[Values, Values]:
        local = BatchedTrainer(recipe, layout, choice, workers=2, batch_slots=4, device="cpu")
        first, _ = local.train(start, tokens, [1e-3, 1e-3], last_update=None)
        return first, local.train(start, tokens, [1e-3, 1e-3], last_update=None)[0]

    first, second = two_windows(InnerChoice(muon=True))
    assert first.tobytes() == second.tobytes()
    for kept in (InnerChoice(muon=True, muon_state="kept"), InnerChoice(adam_state="factored")):
        first, second = two_windows(kept)
        assert first.tobytes() != second.tobytes()


def test_factored_second_moments_are_the_same_for_all_workers_and_exact_for_a_product() -> None:
    layout = lay_out([("model.embed_tokens.weight", (3, 4)), ("model.norm.weight", (4,))], segments=1)
    recipe = _recipe()
    choice = InnerChoice(adam_state="factored")
    values = torch.zeros(2, 16)
    optimizer = InnerOptimizer(Arrangement(layout, muon=False), choice, recipe.inner, like=values)
    optimizer.begin_window(None)
    rows, columns = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.5, 2.0, 1.0])
    gradient = torch.cat(((rows[:, None] * columns).flatten(), columns)).sqrt() * 1e-3
    numbers = torch.tensor(optimizer.numbers([1e-3])[0].row())
    optimizer.step(values, torch.stack((gradient, gradient)), numbers)
    before = optimizer._second_moment.clone()
    optimizer.begin_window(None)
    assert torch.allclose(optimizer._second_moment, before, rtol=1e-2)
    assert torch.equal(optimizer._second_moment[0], optimizer._second_moment[1])
    assert optimizer.numbers([1e-3])[0].correction2 == 1.0


def test_momentum_of_low_rank_is_shared_whole_after_a_few_rounds_and_its_bytes_are_counted() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(2, 3, side, 2, generator=generator) for side in (24, 16))
    workers = left @ right.transpose(2, 3)  # two workers' three matrices; their mean has rank 4
    momentum = workers.reshape(2, -1)
    exact = momentum.mean(dim=0)
    shared = LowRankMomentum([((24, 16), 3)], 4, device=torch.device("cpu"))
    errors = [float((shared.share(momentum) - exact).norm() / exact.norm()) for _ in range(6)]
    assert shared.sent_bytes == 3 * 4 * (16 + 2)
    assert errors[0] > 0.3
    assert errors[-1] < 0.02  # int8's
    too_few = LowRankMomentum([((24, 16), 3)], 2, device=torch.device("cpu"))
    assert min(float((too_few.share(momentum) - exact).norm() / exact.norm()) for _ in range(6)) > 0.1


def test_what_a_window_begins_with_is_the_same_for_all_workers_and_counted() -> None:
    recipe = _recipe()
    layout = layout_of(recipe)
    choice = InnerChoice(muon=True, muon_state="lowrank", adam_state="factored")
    local = BatchedTrainer(recipe, layout, choice, workers=2, batch_slots=4, device="cpu")
    start = np.zeros((2, layout.padded), dtype=np.float32)
    flatten_into(build_model(recipe), start[0])
    start[1] = start[0]
    same = _tokens(2, 1, 4, 33).expand(2, 2, 4, 33).numpy()
    local.train(start, _tokens(2, 2, 4, 33).numpy(), [1e-3, 1e-3], last_update=None)
    assert local.shared_bytes == 0
    deltas, _ = local.train(start, same, [1e-3, 1e-3], last_update=None)
    assert deltas[0].tobytes() == deltas[1].tobytes()
    assert 0 < local.shared_bytes < layout.size
