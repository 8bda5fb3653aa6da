"""A replay repeats the first steps of a window, or all of it, and is found without being imported."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny_run import publish_tiny

import trainer.replay
from peers.training.interface import (
    Numerics,
    Precision,
    Replayer,
    ReplayOrder,
    ReplaySource,
    SharedBuffer,
    find_replay_source,
    precision_of,
)
from recipes.corpus import TokenArray
from recipes.errors import PlatformError
from recipes.layout import layout_of
from recipes.publication import Publication
from trainer.device import Device
from trainer.local import LocalTrainer
from trainer.replay import cpu_threads

SOURCE: ReplaySource = trainer.replay  # mypy checks the module against the protocol here
SLOTS = ((0, 16), (40, 8))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    return publish_tiny(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def weights(run: Publication) -> npt.NDArray[np.float32]:
    return np.memmap(run.weights, dtype="<f4", mode="r")


def _replayer(run: Publication, numerics: Numerics) -> Replayer:
    tokens = TokenArray(run.data, run.manifest, "train")
    return SOURCE.open_replayer(run.recipe, tokens, run.run_id, numerics=numerics)


def _order(
    weights: npt.NDArray[np.float32],
    *,
    tokens_before: int = 640,
    steps: int | None = None,
    precision: Precision | None = None,
) -> ReplayOrder:
    return ReplayOrder(
        number=1,
        weights=SharedBuffer(weights),
        slots=SLOTS,
        tokens_before=tokens_before,
        steps=steps,
        precision=precision,
    )


ONE_THREAD = Numerics("one thread", threads=1)


def test_all_steps_replayed_by_another_trainer_give_the_same_bits(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    first, second = (_replayer(run, ONE_THREAD).replay(_order(weights)) for _ in range(2))
    assert len(first.losses) == 6
    assert first.losses == second.losses
    assert first.delta is not None
    assert second.delta is not None
    assert first.delta.tobytes() == second.delta.tobytes()


def test_a_prefix_has_the_first_losses_and_no_pseudo_gradient(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    replayer = _replayer(run, ONE_THREAD)
    whole = replayer.replay(_order(weights))
    prefix = replayer.replay(_order(weights, steps=4))
    assert prefix.losses == whole.losses[:4]
    assert prefix.delta is None
    assert replayer.replay(_order(weights, steps=6)).delta is not None


def test_a_trainer_replays_in_the_precision_of_the_claim_whatever_its_own_is(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    tokens = TokenArray(run.data, run.manifest, "train")
    layout = layout_of(run.recipe)
    plain, coarse = (
        LocalTrainer(run.recipe, layout, tokens, run.run_id, device=Device("cpu", precision))
        for precision in ("fp32", "bf16")
    )
    with cpu_threads(1):
        asked = plain.replay(_order(weights, precision="bf16")).losses
        assert asked == coarse.replay(_order(weights)).losses
        assert asked != plain.replay(_order(weights)).losses


@pytest.mark.parametrize(
    ("numeric_class", "precision"),
    [("cpu-fp32", "fp32"), ("cuda-bf16", "bf16"), ("fp32", "fp32"), ("cpu-fp8", None), ("", None)],
)
def test_the_precision_of_a_claim_is_that_of_its_class(numeric_class: str, precision: str | None) -> None:
    assert precision_of(numeric_class) == precision


def test_the_learning_rate_is_that_of_the_chains_tokens(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    replayer = _replayer(run, ONE_THREAD)
    early, late = (replayer.replay(_order(weights, tokens_before=tokens)) for tokens in (0, 90_000))
    assert early.losses[0] == late.losses[0]
    assert early.losses[1:] != late.losses[1:]


def test_smaller_micro_batches_change_little_and_threads_are_given_back(
    run: Publication, weights: npt.NDArray[np.float32]
) -> None:
    before = torch.get_num_threads()
    whole = _replayer(run, ONE_THREAD).replay(_order(weights))
    parts = _replayer(run, Numerics("", micro_batch=1, threads=before + 1)).replay(_order(weights))
    assert torch.get_num_threads() == before
    assert parts.losses == pytest.approx(whole.losses, rel=1e-3)


def test_numerics_cover_every_class_of_the_devices_wanted(run: Publication) -> None:
    found = SOURCE.numerics_here(run.recipe, wanted=["cpu"])
    assert {numerics.numeric_class for numerics in found} == {"cpu-fp32", "cpu-bf16"}
    assert len({numerics.label for numerics in found}) == len(found)
    with pytest.raises(PlatformError, match="cuda:99"):
        SOURCE.numerics_here(run.recipe, wanted=["cuda:99"])


def test_the_trainers_module_is_found_by_its_name_and_missed_in_plain_words() -> None:
    assert find_replay_source() is trainer.replay
    with pytest.raises(PlatformError, match=r"no module trainer\.nowhere"):
        find_replay_source("trainer.nowhere")
