"""What was measured of thin links is on disk after each cell, and is not measured again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from rich.console import Console

from benchmarks.links.cells import Benchmark
from benchmarks.links.figures import UNSHAPED, Cell, Link, Speed, comparable
from benchmarks.links.measure import Conditions, last_count
from benchmarks.links.results import measured, read_cells, with_cell, write_cells
from recipes.publication import Publication

SPEED = Speed(
    tokens_per_second=100.0,
    utilisation=0.9,
    exchanges=3.0,
    span_seconds=30.5,
    sent_bytes_per_second=12.5,
    sent_bytes_per_token=0.5,
)
WANTED = Cell(
    arm="hivemind-local",
    link=Link("10", 10.0),
    settings={"peers": 4, "window_seconds": 10.0, "hivemind": {"target_batch_size": 7}},
)
DONE = replace(WANTED, speed=SPEED)


def test_cells_come_back_from_the_file_as_they_were(tmp_path: Path) -> None:
    out = tmp_path / "links.json"
    unshaped = replace(DONE, link=Link(UNSHAPED), speed=replace(SPEED, sent_bytes_per_second=None))
    failed = replace(WANTED, arm="all-reduce", failed="It hung.")
    write_cells(out, [DONE, unshaped, failed], {"processors": 2})
    assert read_cells(out) == [DONE, unshaped, failed]
    assert json.loads(out.read_bytes())["cells"][0]["of_unshaped"] == 1.0


def test_before_the_first_cell_there_is_no_file(tmp_path: Path) -> None:
    assert read_cells(tmp_path / "links.json") == []


@pytest.mark.parametrize("content", ["", "[]", '{"cells": 1}', '{"cells": [{"arm": "x"}]}', '{"cells": [1]}'])
def test_a_file_with_something_else_is_refused(tmp_path: Path, content: str) -> None:
    out = tmp_path / "links.json"
    out.write_text(content)
    with pytest.raises(typer.BadParameter, match="does not hold"):
        read_cells(out)


def test_a_cell_is_known_only_with_the_same_settings_and_link() -> None:
    assert measured([DONE], WANTED) == DONE
    for other in (
        replace(WANTED, arm="all-reduce"),
        replace(WANTED, link=Link("10", 9.0)),
        replace(WANTED, settings={**WANTED.settings, "peers": 8}),
        replace(WANTED, settings={**WANTED.settings, "hivemind": {"target_batch_size": 8}}),
    ):
        assert measured([DONE], other) is None


def test_a_cell_that_failed_is_tried_again() -> None:
    assert measured([replace(WANTED, failed="It hung.")], WANTED) is None


def test_a_new_measurement_replaces_its_predecessor_and_no_other() -> None:
    eight = replace(DONE, settings={**DONE.settings, "peers": 8})
    again = replace(DONE, settings={**DONE.settings, "hivemind": {"target_batch_size": 9}})
    assert with_cell([eight, DONE], again) == [eight, again]
    assert with_cell([DONE], replace(DONE, link=Link(UNSHAPED))) == [DONE, replace(DONE, link=Link(UNSHAPED))]


def test_the_newest_whole_line_of_a_file_that_is_being_written_counts(tmp_path: Path) -> None:
    path = tmp_path / "counts.jsonl"
    assert last_count(path).tokens == 0
    line = '{"at": 1.0, "tokens": %d, "computing_seconds": 0.5, "exchanges": 2.0}\n'
    path.write_text(line % 10 + line % 20 + (line % 30)[:15])
    assert (last_count(path).tokens, last_count(path).exchanges) == (20, 2.0)


def benchmark(tmp_path: Path, **changed: Any) -> Benchmark:
    """Return a benchmark of which nothing is measured here."""
    conditions: dict[str, Any] = {
        "peers": 4,
        "window_seconds": 10.0,
        "rounds": 3,
        "warm_up_rounds": 1,
        "seconds": 30.0,
        "delay_ms": 50.0,
        "loss": 0.01,
        "congestion": "bbr",
    }
    return Benchmark(
        conditions=Conditions(**{**conditions, **changed}),
        overlap="eager",
        plain=cast(Publication, None),
        parameters=10**6,
        folder=tmp_path,
        console=Console(),
    )


@pytest.mark.parametrize(
    ("arm", "megabits", "changed", "again"),
    [
        ("blocking", 10.0, {"rounds": 5}, True),
        ("blocking", 10.0, {"seconds": 60.0}, False),
        ("all-reduce", 10.0, {"seconds": 60.0}, True),
        ("all-reduce", 10.0, {"rounds": 5}, False),
        ("all-reduce", 10.0, {"loss": 0.0}, True),
        ("all-reduce", None, {"loss": 0.0}, False),
    ],
)
def test_a_cell_is_measured_again_only_after_a_change_that_it_depends_on(
    arm: str, megabits: float | None, changed: dict[str, Any], again: bool, tmp_path: Path
) -> None:
    link = Link("some", megabits)
    done = replace(benchmark(tmp_path).wanted(arm, link, None), speed=SPEED)
    other = benchmark(tmp_path, **changed)
    assert (measured([done], other.wanted(arm, link, None)) is None) == again
    assert comparable(done, other.reference) != again
