"""The convergence benchmark measures the production code, and not something like it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_run import RECIPE, publish_tiny

from benchmarks.convergence.__main__ import _scope, read_arms
from benchmarks.convergence.arms import BASES, Arm, parse_arm
from benchmarks.convergence.attack import Attack, Attackers
from benchmarks.convergence.exchange import Exchange, Feedback, compress
from benchmarks.convergence.plot import best_of_each_kind, plot
from benchmarks.convergence.report import Result, read, summarise, write
from benchmarks.convergence.run import Task, run
from peers.codec.sparse_codec import SparseCodec
from peers.exchange.error_feedback import ErrorFeedback, Returned
from peers.training.interface import SharedBuffer, TrainOrder
from recipes.corpus import TokenArray
from recipes.errors import DataError, PlatformError, RecipeError
from recipes.layout import CHUNK_VALUES, Layout, lay_out, layout_of
from recipes.locate import locate_recipe
from recipes.model import build_model, flatten_into
from recipes.publication import Publication
from recipes.schema.recipe import Recipe, parse_recipe
from trainer.device import Device
from trainer.local import LocalTrainer

Values = NDArray[np.float32]


def _recipe(text: str = RECIPE) -> Recipe:
    return parse_recipe(text.encode(), name="tiny")


def _tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(257, shape, generator=torch.Generator().manual_seed(seed))


def _deltas(layout: Layout, workers: int, *, seed: int = 0) -> Values:
    generator = np.random.default_rng(seed)
    return (generator.standard_t(3, size=(workers, layout.padded)) * 1e-3).astype(np.float32)


def _layout(chunks: int = 8, segments: int = 2) -> Layout:
    return lay_out([("parameters", (chunks * CHUNK_VALUES,))], segments=segments)


def test_error_feedback_over_arrays_is_that_over_files_bit_for_bit(tmp_path: Path) -> None:
    layout, codec = _layout(), SparseCodec(keep=64, level_bits=1)
    files = ErrorFeedback(tmp_path, layout=layout, decay=0.95, expected_root=None)
    arrays = Feedback(layout, decay=0.95)
    returned: list[list[Returned]] = [[], []]
    for number in range(4):
        delta = _deltas(layout, 1, seed=number)[0]
        by_files = files.compress(delta, codec=codec, returned=dict(enumerate(returned)))
        by_arrays = arrays.compress(delta, returned=returned, codec=codec, choose="chunk")
        assert [f.to_bytes() for f in by_files] == [sent.frame.to_bytes() for sent in by_arrays]
        sent = by_files[0].decode()
        returned = [[Returned(sent.positions[::2], sent.values[::2])], []]


def test_the_largest_of_a_segment_are_as_many_as_those_of_each_chunk() -> None:
    values = _deltas(_layout(), 1)[0].reshape(8, CHUNK_VALUES)
    values[0] *= 3
    codec = SparseCodec(keep=64, level_bits=1)
    chosen = compress(values, codec, "segment").decode()
    assert chosen.positions.size == 8 * 64
    assert np.count_nonzero(chosen.positions < CHUNK_VALUES) > 128
    assert (
        np.square(chosen.dense() - values).sum()
        < np.square(compress(values, codec, "chunk").decode().dense() - values).sum()
    )


def test_what_the_way_back_drops_returns_to_its_senders(tmp_path: Path) -> None:
    layout = _layout()
    arm = replace(parse_arm("ours:reduced_keep=8"), decay=1.0)
    deltas = np.zeros((2, layout.padded), dtype=np.float32)
    deltas[0, :8], deltas[0, 8:16] = 4.0, 1.0  # two levels, exact in the codec
    kept, lost = (
        Exchange(
            replace(arm, return_dropped=returns),
            layout,
            workers=2,
            weights=np.zeros(layout.padded, np.float32),
            folder=tmp_path / str(returns),
        )
        for returns in (True, False)
    )
    for number, still in enumerate((deltas, np.zeros_like(deltas))):
        for exchange in (kept, lost):
            exchange.round(still, number=number, progress=0.5)
    assert np.count_nonzero(kept.weights) == 16
    assert np.count_nonzero(lost.weights) == 8


def test_naive_overlap_starts_from_a_round_ago_and_eager_puts_the_own_share_in(tmp_path: Path) -> None:
    layout = _layout()
    deltas = _deltas(layout, 2)
    starts = {}
    for overlap in ("naive", "eager", "own", "blocking"):
        exchange = Exchange(
            replace(parse_arm("ours"), overlap=overlap),
            layout,
            workers=2,
            weights=np.zeros(layout.padded, np.float32),
            folder=tmp_path / overlap,
        )
        _, starts[overlap] = exchange.round(deltas, number=0, progress=0.5)
        if overlap == "blocking":
            assert np.array_equal(starts[overlap], np.stack([exchange.weights] * 2))
    assert not starts["naive"].any()
    assert np.allclose(starts["own"], 2 * starts["eager"])
    assert not np.array_equal(starts["own"][0], starts["own"][1])


def test_an_arm_is_a_base_and_changes_to_it(tmp_path: Path) -> None:
    arm = parse_arm("ours:reduced_keep=128,return_dropped=0,choose=segment,early=4@0.1;2@0.3")
    assert (arm.inner, arm.reduced_keep, arm.return_dropped, arm.choose) == ("muon", 128, False, "segment")
    assert [arm.density(progress) for progress in (0.0, 0.1, 0.3)] == [4.0, 2.0, 1.0]
    assert all(isinstance(parse_arm(base), Arm) for base in BASES)
    file = tmp_path / "arms"
    file.write_text("# first\nadamw-dp\nours:keep=32 seeds=1,2  # more\n")
    assert [(one.arm.name, one.seeds) for one in read_arms(file, (0,))] == [
        ("adamw-dp", (0,)),
        ("ours:keep=32", (1, 2)),
    ]


@pytest.mark.parametrize(
    "text", ["theirs", "ours:kept=3", "ours:keep=many", "ours:choose=none", "ours:name=x"]
)
def test_what_is_no_arm_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_arm(text)


_CATALOGUE_ARM = "ours:matrix_rate=4,outer_rate=0.8,outer_momentum=0.5,nesterov=true,reduced_level_bits=2"


def _catalogue() -> Recipe:
    return parse_recipe(locate_recipe("stdlib-tiny").read_bytes(), name="stdlib-tiny")


def test_the_catalogues_choices_are_those_of_an_arm_that_was_measured() -> None:
    recipe = _catalogue()
    arm = parse_arm(_CATALOGUE_ARM)
    assert recipe.inner.optimizer == "muon"
    assert (arm.matrix_rate, arm.momentum, arm.ramp) == (
        recipe.inner.matrix_rate,
        recipe.inner.momentum,
        recipe.inner.ramp_steps,
    )
    outer = recipe.outer
    assert (arm.outer_rate, arm.outer_momentum, arm.nesterov) == (
        outer.learning_rate,
        outer.momentum,
        outer.nesterov,
    )
    exchange = recipe.exchange
    assert (arm.keep, arm.level_bits) == (exchange.keep, exchange.level_bits)
    assert (arm.reduced_keep, arm.reduced_level_bits) == (exchange.reduced_keep, exchange.reduced_level_bits)
    assert (arm.decay, arm.return_dropped) == (exchange.feedback_decay, exchange.return_dropped)


def test_peers_that_train_and_exchange_as_the_catalogue_says_learn(tmp_path: Path) -> None:
    publication = publish_tiny(tmp_path)
    chosen = _catalogue()
    tiny = publication.recipe.inner
    inner = chosen.inner.model_copy(
        update={"batch_slots": tiny.batch_slots, "learning_rate": tiny.learning_rate}
    )
    recipe = publication.recipe.model_copy(
        update={"inner": inner, "outer": chosen.outer, "exchange": chosen.exchange}
    )
    layout = layout_of(recipe)
    tokens, validation = (
        TokenArray(publication.data, publication.manifest, part) for part in ("train", "validation")
    )
    local = LocalTrainer(
        recipe, layout, tokens, publication.run_id, device=Device("cpu"), validation=validation
    )
    arm = parse_arm(_CATALOGUE_ARM)
    weights = np.fromfile(publication.weights, dtype="<f4")
    before = local.validation_loss(SharedBuffer(weights), limit_slots=8)
    exchange = Exchange(arm, layout, workers=2, weights=weights, folder=tmp_path / "state")
    for number in range(4):
        first = 64 * number
        order = TrainOrder(
            number=number,
            weights=SharedBuffer(exchange.weights),
            slots=((first, 32),),
            tokens_before=first * 32,
            seconds=1000.0,
        )
        orders = (order, replace(order, slots=((first + 32, 32),)))
        deltas = [local.train(one).delta for one in orders]
        exchange.round(np.stack(deltas), number=number, progress=0.5)
    assert local.validation_loss(SharedBuffer(exchange.weights), limit_slots=8) < before - 0.5


def test_an_arm_runs_to_its_end_and_a_broken_one_says_why(tmp_path: Path) -> None:
    publication = publish_tiny(tmp_path)
    task = _task(publication, tmp_path)
    run(task)
    result = json.loads(task.out.read_bytes())
    assert [point["round"] for point in result["curve"]] == [0, 1, 2]
    assert result["final_loss"] < result["curve"][0]["loss"]
    assert result["rows"][-1]["contribution"] > 0.1
    broken = replace(task, weights=tmp_path / "nowhere.npy")
    run(broken)
    assert "nowhere.npy" in json.loads(broken.out.read_bytes())["failed"]


def _result(name: str, seed: int, loss: float | None) -> Result:
    row = {"upload": 0.5, "contribution": 0.2, "reduced": 0.3, "feedback_norm": 3.0, "delta_norm": 2.0}
    done = {} if loss is None else {"final_loss": loss}
    curve = [
        {"round": number, "tokens": 100 * number, "loss": (1.8, 1.5, 1.2)[number]} for number in range(3)
    ]
    arm = asdict(parse_arm(name))
    return {
        "arm": arm,
        "seed": seed,
        "steps": 15,
        "curve": curve,
        "rows": [row, row],
        "seconds": {"train": 1.0},
    } | done


def test_seeds_are_taken_together_and_bits_summed_over_rounds(tmp_path: Path) -> None:
    results = [_result("ours", 0, 1.0), _result("ours", 1, 1.2), _result("adamw-dp:rate=2", 0, None)]
    write(results, tmp_path / "one.json")
    ours, other = summarise(read([tmp_path / "one.json"]))
    assert [ours.seeds, ours.loss, ours.spread] == pytest.approx([2, 1.1, 0.2])
    assert (ours.upload, ours.total, ours.feedback) == (0.5, 1.0, 1.5)
    assert (other.seeds, other.loss) == (0, None)
    with pytest.raises(DataError, match="nowhere"):
        read([tmp_path / "nowhere"])


def test_arms_that_were_cut_short_are_compared_where_all_have_been() -> None:
    results = [_result("ours", 0, None), _result("adamw-dp", 0, 0.7), _result("ours:steps=30", 0, None)]
    results[2]["steps"], results[2]["curve"] = 30, [{"round": 1, "tokens": 200, "loss": 1.3}]
    ours, _, longer = summarise(results, at=1)
    assert (ours.loss, ours.total) == (1.5, 0.5)
    assert longer.loss is None
    assert [line.loss for line in summarise(results, at=2)] == [1.2, 1.2, 1.3]
    with pytest.raises(DataError, match="round 9"):
        summarise(results, at=9)


def test_an_arm_is_the_same_however_it_is_written_and_its_label_says_what_is_particular() -> None:
    ours = "ours:matrix_rate=4,ramp=0,outer_rate=0.8,outer_momentum=0.5,nesterov=true,reduced_level_bits=2"
    assert parse_arm(ours).label == "ours, Muon x4, outer 0.8/0.5, 256@2"
    assert parse_arm("diloco:rate=2").label == "fp32 DiLoCo, AdamW rate 2, kept, outer 0.8/0.5"
    assert parse_arm("ours:adam_state=factored,muon_state=mean,early=2@0.5").label == (
        "ours, Muon, factored moments, mean momentum, ramp 5, 256@3, early"
    )
    (line,) = summarise([_result("adamw-dp", 0, 1.0), _result("adamw-dp:rate=1", 1, 2.0)])
    assert (line.seeds, line.loss) == (2, 1.5)


def test_the_plot_has_the_best_arm_of_each_kind(tmp_path: Path) -> None:
    names = {
        "adamw-dp": 0.9,
        "adamw-dp:rate=2": 0.8,
        "ours": 1.1,
        "ours:reduced_keep=64": 1.2,
        "diloco": None,
    }
    lines = summarise([_result(name, 0, loss) for name, loss in names.items()])
    assert [line.loss for line in best_of_each_kind(lines)] == [0.8, 1.1]
    plot(lines, tmp_path / "plot.png", parameters=1000)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_hundreds_of_rounds_are_left_to_machines_with_a_gpu() -> None:
    assert _scope("cpu", 3) == ("cpu", 3)
    with pytest.raises(PlatformError, match="days"):
        _scope("cpu", None)


def _task(publication: Publication, folder: Path) -> Task:
    layout = layout_of(publication.recipe)
    weights = np.empty(layout.padded, dtype=np.float32)
    flatten_into(build_model(publication.recipe), weights)
    np.save(folder / "weights.npy", weights)
    return Task(
        arm=parse_arm("ours:ramp=0"),
        seed=0,
        publication=publication,
        layout=layout,
        weights=folder / "weights.npy",
        workers=2,
        rounds=2,
        steps=8,
        device="cpu",
        evaluate_every=1,
        evaluate_slots=8,
        final_slots=8,
        warmup_fraction=0.0,
        out=folder / "out.json",
    )


def test_attackers_turn_or_replace_what_they_computed_and_count_until_they_are_expelled() -> None:
    deltas = np.random.default_rng(0).standard_normal((8, 4096), dtype=np.float32)

    def attackers(attack: Attack, *, scale: float = 1.0, expelled: bool = True) -> Attackers:
        return Attackers(attack, attackers=2, workers=8, scale=scale, expelled=expelled, rounds=60, seed=3)

    assert np.array_equal(attackers("none").corrupt(deltas), deltas)
    turned = attackers("flip", scale=3.0).corrupt(deltas)
    assert np.array_equal(turned[:6], deltas[:6])
    assert np.array_equal(turned[6:], np.float32(-3.0) * deltas[6:])
    noise = attackers("noise").corrupt(deltas)
    assert np.linalg.norm(noise[7]) == pytest.approx(np.linalg.norm(deltas[7]), rel=1e-5)
    assert abs(np.dot(noise[7], deltas[7])) < 0.1 * np.linalg.norm(deltas[7]) ** 2
    found = attackers("flip")
    assert all(4 < number < 60 for number in found.expelled)
    assert found.weights(0) == [1.0] * 8
    assert found.weights(max(found.expelled)) == [1.0] * 6 + [0.0] * 2
    assert attackers("flip", expelled=False).weights(59) == [1.0] * 8
    assert attackers("absent").weights(0) == [1.0] * 6 + [0.0] * 2
