"""A newcomer's way to its first counted contribution follows from its events and the counts of its line."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from benchmarks.join.figures import (
    COUNTED,
    DATA,
    FIRST_PACKET,
    ON_LINE,
    RECIPE,
    STATE,
    TRAINS,
    Course,
    Moment,
    Seen,
    compared,
    hivemind_stages,
    our_stages,
    period,
    show,
)
from benchmarks.join.settings import VETERANS, JoinSettings
from benchmarks.join.watch import lines_of


def at(seconds: float, down: int = 0, up: int = 0) -> Moment:
    return Moment(seconds=seconds, up_bytes=up, down_bytes=down)


def seen(*events: dict[str, Any]) -> list[Seen]:
    """Return these events, one a second."""
    return [(at(second, down=1000 * second), event) for second, event in enumerate(events)]


def fetching(what: str, done: int, total: int = 2) -> dict[str, Any]:
    return {"event": "Fetching", "what": what, "done": done, "total": total}


def adopted(counted: int) -> dict[str, Any]:
    return {"event": "BlockAdopted", "counted_segments": counted}


def averaged(*members: str, samples: int = 8) -> dict[str, Any]:
    return {"event": "Averaged", "members": list(members), "samples": samples}


def course(counted: float | None, *, on_line: float = 1.0, sent: int = 0) -> Course:
    stages = {ON_LINE: at(on_line)}
    if counted is not None:
        stages[COUNTED] = at(counted, down=1_000_000, up=sent)
    return Course(name="ours", stages=stages, period_seconds=5.0, loads=1, limit_seconds=100.0)


def seconds(stages: dict[str, Moment]) -> dict[str, float]:
    return {name: moment.seconds for name, moment in stages.items()}


def test_each_stage_of_ours_is_when_it_was_first_reached() -> None:
    stages = our_stages(
        seen(
            FIRST_PACKET,
            fetching("data", 0),
            fetching("data", 2),
            fetching("the state after round 4", 1),
            fetching("the state after round 4", 2),
            adopted(0),
            {"event": "WindowStarted"},
            adopted(0),
            adopted(3),
            adopted(8),
        )
    )
    assert seconds(stages) == {ON_LINE: 0, RECIPE: 1, DATA: 2, STATE: 4, TRAINS: 6, COUNTED: 8}
    assert stages[STATE].down_bytes == 4000


def test_a_snapshot_that_had_to_be_fetched_again_is_there_at_the_second_time() -> None:
    stages = our_stages(seen(fetching("the state after round 4", 2), fetching("the state after round 8", 2)))
    assert seconds(stages) == {STATE: 1}


def test_who_has_the_data_beforehand_does_not_fetch_it() -> None:
    stages = our_stages(seen(FIRST_PACKET, fetching("the state after round 4", 2)))
    assert seconds(stages) == {ON_LINE: 0, STATE: 1}


def test_hivemind_has_its_state_when_it_needs_no_further_load() -> None:
    stages = hivemind_stages(
        seen(
            FIRST_PACKET,
            {"event": "Loaded"},
            {"event": "Stepped"},
            {"event": "Loaded"},
            {"event": "Stepped"},
            averaged("a", "me"),
            {"event": "Loaded"},
        ),
        peer="me",
    )
    assert seconds(stages) == {ON_LINE: 0, STATE: 3, TRAINS: 4, COUNTED: 5}


@pytest.mark.parametrize(
    "nothing", [averaged(), averaged("me"), averaged("a", "b"), averaged("a", "me", samples=0)]
)
def test_an_average_without_the_newcomers_samples_or_without_others_does_not_count_it(
    nothing: dict[str, Any],
) -> None:
    stages = hivemind_stages(seen({"event": "Loaded"}, {"event": "Stepped"}, nothing), peer="me")
    assert COUNTED not in stages


def test_the_period_is_the_median_time_between_blocks() -> None:
    events = [{"event": "BlockAdopted", "at_seconds": at_seconds} for at_seconds in (1.0, 6.0, 12.0, 90.0)]
    assert period([*events, {"event": "Claimed", "at_seconds": 7.0}], "BlockAdopted") == 6.0


def test_two_newcomers_are_compared_by_time_and_by_bytes_in_both_directions() -> None:
    sentence = compared(course(10.0), course(31.0, sent=1_000_000))
    assert sentence is not None
    assert "3.1 times as soon" in sentence
    assert "with 50% of the bytes" in sentence
    assert "3.3 times from the first packet" in sentence


def test_who_was_not_counted_within_the_limit_took_at_least_that_long() -> None:
    assert "at least 10.0 times as soon" in (compared(course(10.0), course(None)) or "")
    assert compared(course(None), course(10.0)) is None
    console = Console(file=io.StringIO(), width=200)
    show(console, [course(None), course(10.0)])
    assert "nothing counted within 100 s" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_round_trip_to_the_newcomer_is_the_one_asked_for() -> None:
    settings = JoinSettings(
        up_megabits=1.0,
        down_megabits=10.0,
        round_trip_ms=100.0,
        loss=0.01,
        fast_megabits=100.0,
        window_seconds=10.0,
        limit_seconds=900.0,
        half_state=False,
    )
    lines = lines_of(settings, newcomers=2)
    veteran, newcomer = lines[0], lines[-1]
    assert len(lines) == VETERANS + 2
    assert 2 * (veteran.delay_seconds + newcomer.delay_seconds) == pytest.approx(0.1)
    assert (newcomer.up_bits_per_second, newcomer.down_bits_per_second) == (1e6, 10e6)
    assert (veteran.loss, newcomer.loss) == (0.0, 0.01)
