"""Calibrating finds thresholds that let honest work pass and catch the cheats, and writes them down."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rounds import keys_of
from tiny_run import RECIPE, publish_tiny

import trainer.replay
from peers import calibrate
from peers.audit.judging import thresholds_of
from peers.calibration.cheats import CHEATS
from peers.calibration.margin_record import Record, read_record, write_record
from peers.calibration.margin_report import table, threshold_table, with_thresholds
from peers.calibration.margins import HONEST, Bench, Comparison, Plan
from peers.calibration.thresholds import Row, choose, outcomes
from peers.training.interface import Numerics
from recipes.corpus import TokenArray
from recipes.errors import DataError, RecipeError
from recipes.formats.files import PRIVATE, write_atomic
from recipes.home import IDENTITY_KEY, OWNER_KEY
from recipes.publication import Publication
from recipes.schema.recipe import parse_recipe

PLAN = Plan(warmup=1, windows=2, steps=8, chunks=128)
NUMERICS = (
    Numerics("cpu-fp32", threads=1),
    Numerics("cpu-fp32, micro-batch 2", micro_batch=2, threads=1),
    Numerics("cpu-bf16", precision="bf16", threads=1),
    Numerics("cpu-bf16, micro-batch 2", precision="bf16", micro_batch=2, threads=1),
)
HIDDEN_FROM_TRACES = {"update doubled", "sign flipped"}
BARELY_VISIBLE = {"nine tenths of the steps"}
"""Eight steps of a model of 30,000 parameters are too few to tell seven of them by."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    """The same run in every test session.

    A run's id, and so its owner's key, orders the text. In one of ten orders, honest bf16 of so small a model
    lies farther apart in the second window than any threshold that the first one alone can give.
    """
    folder = tmp_path_factory.mktemp("run")
    home = folder / "home"
    for file, key in zip((OWNER_KEY, IDENTITY_KEY), keys_of(2), strict=True):
        write_atomic(home / file, key.file_bytes(), mode=PRIVATE)
    return publish_tiny(folder, home=home)


def _measure(
    run: Publication, known: frozenset[int] = frozenset(), plan: Plan = PLAN
) -> list[list[Comparison]]:
    bench = Bench(
        recipe=run.recipe,
        tokens=TokenArray(run.data, run.manifest, "train"),
        run_id=run.run_id,
        source=trainer.replay,
        numerics=NUMERICS,
        plan=plan,
        tell=lambda _: None,
    )
    return list(bench.measure(np.memmap(run.weights, dtype="<f4", mode="r"), known=known))


@pytest.fixture(scope="module")
def windows(run: Publication) -> list[list[Comparison]]:
    return _measure(run)


@pytest.fixture(scope="module")
def record(run: Publication, windows: list[list[Comparison]]) -> Record:
    empty = Record(
        recipe=run.recipe.run.name,
        run_id=run.run_id,
        machine="a test's",
        day="2026-01-31",
        numerics=tuple(one.label for one in NUMERICS),
        plan=PLAN,
    )
    return empty.with_window(windows[0]).with_window(windows[1])


def test_honest_work_is_measured_by_itself_and_from_untrained_weights(run: Publication) -> None:
    plan = Plan(warmup=0, windows=1, steps=2, chunks=8, cheats=False)
    [found] = _measure(run, plan=plan)
    assert {one.cheat for one in found} == {HONEST}
    assert len(found) == len(NUMERICS) * (len(NUMERICS) - 1)


def _rows(windows: list[list[Comparison]]) -> dict[tuple[str, str], Row]:
    everything = [one for window in windows for one in window]
    rows = outcomes(everything, choose(everything))
    return {(row.numeric_class, row.cheat): row for row in rows}


def test_every_class_is_calibrated_and_every_cheat_is_tried_in_it(windows: list[list[Comparison]]) -> None:
    rows = _rows(windows)
    assert set(rows) == {(name, kind) for name in ("cpu-fp32", "cpu-bf16") for kind in (HONEST, *CHEATS)}
    assert [choice.reason for choice in choose(windows[0])] == ["", ""]


def test_no_honest_work_fails_and_what_it_was_chosen_by_passes(windows: list[list[Comparison]]) -> None:
    for (_, kind), row in _rows(windows).items():
        if kind == HONEST:
            assert (row.prefix["pass"], row.full["pass"]) == (1, 1)


def test_thresholds_of_one_window_fail_nobody_honest_in_another(windows: list[list[Comparison]]) -> None:
    rows = outcomes(windows[1], choose(windows[0]))
    assert [(row.prefix["fail"], row.full["fail"]) for row in rows if row.cheat == HONEST] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("cheat", sorted(set(CHEATS) - BARELY_VISIBLE))
def test_an_audit_of_all_steps_with_opened_chunks_fails_every_cheat(
    windows: list[list[Comparison]], cheat: str
) -> None:
    rows = _rows(windows)
    assert [rows[name, cheat].full["fail"] for name in ("cpu-fp32", "cpu-bf16")] == [1, 1]


def test_an_audit_of_all_steps_lets_nobody_pass_who_skipped_some(windows: list[list[Comparison]]) -> None:
    rows = _rows(windows)
    assert rows["cpu-fp32", "nine tenths of the steps"].full["pass"] < 0.5


@pytest.mark.parametrize("cheat", sorted(set(CHEATS) - BARELY_VISIBLE - HIDDEN_FROM_TRACES))
def test_a_loss_trace_alone_tells_those_who_did_other_work(
    windows: list[list[Comparison]], cheat: str
) -> None:
    assert _rows(windows)["cpu-fp32", cheat].prefix["fail"] > 0


@pytest.mark.parametrize("cheat", sorted(HIDDEN_FROM_TRACES))
def test_a_loss_trace_alone_does_not_tell_what_was_changed_after_the_work(
    windows: list[list[Comparison]], cheat: str
) -> None:
    assert _rows(windows)["cpu-fp32", cheat].prefix["fail"] == 0


def test_a_measure_that_tells_no_cheat_leaves_the_class_uncalibrated(
    windows: list[list[Comparison]],
) -> None:
    blind = [dataclasses.replace(one, direction=0.5) for one in windows[0]]
    choices = choose(blind)
    assert [choice.thresholds for choice in choices] == [None, None]
    assert "direction tells no cheat" in choices[0].reason
    assert {(row.prefix["fail"], row.full["fail"]) for row in outcomes(blind, choices)} == {(0, 0)}
    assert "direction tells no cheat" in threshold_table(choices)


@pytest.mark.parametrize("honest", [0.3, math.inf])
def test_an_infinite_gap_of_a_cheat_does_not_calibrate_where_honest_work_lies_far_apart(
    windows: list[list[Comparison]], honest: float
) -> None:
    far = [
        dataclasses.replace(one, loss_worst=(honest if one.cheat == HONEST else math.inf,) * PLAN.steps)
        for one in windows[0]
    ]
    assert [choice.reason for choice in choose(far)] == ["loss_worst tells no cheat from honest work"] * 2


def test_thresholds_come_back_from_the_recipe_as_they_were_chosen(record: Record) -> None:
    choices = choose(record.comparisons)
    text = with_thresholds(RECIPE, choices, provenance=["measured in a test"])
    recipe = parse_recipe(text.encode(), name="tiny")
    assert thresholds_of(recipe, "cpu-fp32") == choices[0].thresholds
    assert thresholds_of(recipe, "cpu-bf16") == choices[1].thresholds
    assert thresholds_of(recipe, "cuda-fp32") is None
    assert "# measured in a test" in text
    assert text.startswith(RECIPE.rstrip())
    again = with_thresholds(text, choices, provenance=["measured in a test"])
    assert parse_recipe(again.encode(), name="tiny") == recipe
    assert again.count("measured in a test") == 2


def test_a_class_that_was_calibrated_elsewhere_keeps_its_table(record: Record) -> None:
    both = choose(record.comparisons)
    first = with_thresholds(RECIPE, both[:1], provenance=["here"])
    text = with_thresholds(first, both[1:], provenance=["there"])
    assert set(parse_recipe(text.encode(), name="tiny").verification.thresholds) == {"cpu-fp32", "cpu-bf16"}
    assert "# here" in text


def test_a_recipe_with_thresholds_can_be_published(record: Record, tmp_path: Path) -> None:
    choices = choose(record.comparisons)
    published = publish_tiny(tmp_path, recipe=with_thresholds(RECIPE, choices, provenance=["here"]))
    assert thresholds_of(published.recipe, "cpu-bf16") == choices[1].thresholds


def test_a_recipe_without_thresholds_punishes_nobody(run: Publication, record: Record) -> None:
    assert thresholds_of(run.recipe, "cpu-fp32") is None
    rows = outcomes(
        record.comparisons, [dataclasses.replace(c, thresholds=None) for c in choose(record.comparisons)]
    )
    assert {(row.prefix["inconclusive"], row.full["inconclusive"]) for row in rows} == {(1, 1)}


def test_a_record_survives_the_disk(record: Record, tmp_path: Path) -> None:
    write_record(tmp_path / "margins.json", record)
    assert read_record(tmp_path / "margins.json") == record
    (tmp_path / "margins.json").write_text('{"recipe": "tiny"}')
    with pytest.raises(DataError, match="holds no margins"):
        read_record(tmp_path / "margins.json")


def test_an_interrupted_run_goes_on_with_the_windows_that_it_lacks(
    run: Publication, windows: list[list[Comparison]], record: Record
) -> None:
    assert record.windows == {0, 1}
    assert _measure(run, known=frozenset({0})) == windows[1:]
    begun = dataclasses.replace(record, comparisons=tuple(windows[0]), day="2026-01-30")
    assert dataclasses.replace(record, comparisons=()).continues(begun)
    assert not dataclasses.replace(record, plan=Plan(1, 2, 9, 128)).continues(begun)


@pytest.fixture
def read_command(record: Record, tmp_path: Path) -> Callable[..., None]:
    write_record(tmp_path / "margins.json", record)

    def command(recipe: Path, into: Path | None = None) -> None:
        calibrate.main(str(recipe), out=tmp_path / "out", into=into, read=[tmp_path / "margins.json"])

    return command


def test_the_command_writes_thresholds_into_a_template_and_draws_the_margins(
    read_command: Callable[..., None], record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "recipe.toml"
    template.write_text(RECIPE)
    read_command(template)
    choices = choose(record.comparisons)
    assert thresholds_of(parse_recipe(template.read_bytes(), name="t"), "cpu-fp32") == choices[0].thresholds
    assert (tmp_path / "out" / "margins.png").read_bytes().startswith(b"\x89PNG")
    assert "[verification.thresholds.cpu-bf16]" in (tmp_path / "out" / "thresholds.toml").read_text()
    assert table(outcomes(record.comparisons, choices)) in capsys.readouterr().out


def test_the_command_leaves_a_published_recipe_as_it_is(
    read_command: Callable[..., None], run: Publication, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.folder / "recipe.toml"
    before = path.read_bytes()
    read_command(run.folder)
    assert path.read_bytes() == before
    with pytest.raises(SystemExit) as left:
        read_command(run.folder, into=path)
    assert left.value.code == RecipeError.exit_code
    assert "its signature void" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_template_needs_text_and_a_run_made_of_another_recipe_is_not_taken_for_it(
    run: Publication, tmp_path: Path
) -> None:
    template = tmp_path / "recipe.toml"
    template.write_text(RECIPE)
    with pytest.raises(RecipeError, match="--data"):
        calibrate.find_publication(template, (), tmp_path / "out", tell=lambda _: None)
    assert (
        calibrate.find_publication(run.folder / "recipe.toml", (), tmp_path, tell=print).run_id == run.run_id
    )
    made = calibrate.find_publication(template, (), run.folder.parent, tell=lambda _: None)
    assert made.run_id == run.run_id
    template.write_text(RECIPE.replace("batch_slots = 4", "batch_slots = 8"))
    with pytest.raises(RecipeError, match="trains otherwise"):
        calibrate.find_publication(template, (), run.folder.parent, tell=lambda _: None)
