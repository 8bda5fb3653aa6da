"""Speeds over links follow from event logs and rivals' counts, and are compared with the right others."""

from __future__ import annotations

import io
from typing import Any

import pytest
import typer
from rich.console import Console

from benchmarks.links.__main__ import arms_of, rates_of
from benchmarks.links.cells import rows
from benchmarks.links.figures import (
    ALONE,
    NO_NETWORK,
    SCALED,
    UNSHAPED,
    Cell,
    Count,
    Link,
    Speed,
    in_order,
    ratio,
    scaled_megabits,
    show,
    speed_between,
    speed_of_rounds,
)
from benchmarks.links.hivemind_swarm import MATCHMAKING_SECONDS, Settings, least_seconds, settings_for
from benchmarks.links.measure import with_sent_bytes
from recipes.errors import NetworkError


def adopted(number: int, *, at: float, tokens: int, counted: int = 8) -> dict[str, Any]:
    return {
        "event": "BlockAdopted",
        "round": number,
        "at_seconds": at,
        "tokens": tokens,
        "counted_segments": counted,
    }


def window(number: int, *, seconds: float, waited: float) -> dict[str, Any]:
    return {"event": "WindowFinished", "round": number, "seconds": seconds, "waited": waited}


def log(*, start: float, counted: int = 8) -> list[dict[str, Any]]:
    """Return what a peer reported of rounds 4 to 6, by its own clock."""
    return [
        window(4, seconds=1.0, waited=9.0),
        adopted(4, at=start, tokens=1_000),
        window(5, seconds=8.0, waited=2.0),
        adopted(5, at=start + 10, tokens=3_000),
        window(6, seconds=9.0, waited=1.0),
        adopted(6, at=start + 20, tokens=5_000, counted=counted),
    ]


def speed(tokens_per_second: float) -> Speed:
    return Speed(tokens_per_second=tokens_per_second, utilisation=0.5, exchanges=2.0, span_seconds=10.0)


def cell(arm: str, link: Link, tokens_per_second: float, **settings: Any) -> Cell:
    return Cell(arm=arm, link=link, settings={"peers": 4, **settings}, speed=speed(tokens_per_second))


def test_the_scaled_link_is_ten_megabits_for_a_billion_parameters_in_windows_of_five_minutes() -> None:
    assert scaled_megabits(10**9, window_seconds=300) == pytest.approx(10)
    assert scaled_megabits(10**6, window_seconds=10) == pytest.approx(0.3)


def test_our_speed_is_what_blocks_counted_over_the_time_that_they_took() -> None:
    measured = speed_of_rounds([log(start=50.0), log(start=7.0, counted=0)], 4, 2)
    assert measured.tokens_per_second == pytest.approx(200)
    assert measured.span_seconds == pytest.approx(20)
    assert measured.exchanges == pytest.approx(1.5)


def test_utilisation_is_of_the_measured_windows_only() -> None:
    assert speed_of_rounds([log(start=0.0)], 4, 2).utilisation == pytest.approx(17 / 20)


def test_a_peer_that_stepped_over_the_last_block_tells_no_time() -> None:
    stepped_over = log(start=0.0)[:-1]
    assert speed_of_rounds([log(start=0.0), stepped_over], 4, 2).tokens_per_second == pytest.approx(200)
    with pytest.raises(NetworkError, match="from beginning to end"):
        speed_of_rounds([stepped_over], 4, 2)


def test_rivals_are_timed_each_by_its_own_steps() -> None:
    before = [Count(100.0, 50, 1.0, 1.0), Count(101.0, 60, 2.0, 1.0)]
    after = [Count(110.0, 150, 6.0, 3.0), Count(121.0, 260, 7.0, 3.0)]
    measured = speed_between(before, after)
    assert measured.tokens_per_second == pytest.approx(100 / 10 + 200 / 20)
    assert measured.utilisation == pytest.approx(10 / 30)
    assert (measured.exchanges, measured.span_seconds) == (2.0, 15.0)


def test_a_process_that_took_no_step_has_no_speed() -> None:
    still = [Count(100.0, 50, 1.0, 1.0)]
    with pytest.raises(NetworkError, match="no step"):
        speed_between(still, still)


def test_bytes_are_those_of_a_peer_and_of_its_own_tokens() -> None:
    measured = with_sent_bytes(speed(100.0), [0, 1_000], [20_000, 21_000])
    assert measured.sent_bytes_per_second == pytest.approx(2_000)
    assert measured.sent_bytes_per_token == pytest.approx(40)
    assert with_sent_bytes(speed(100.0), [], []).sent_bytes_per_second is None


def test_a_cell_is_compared_with_its_own_arm_under_its_own_conditions() -> None:
    thin = cell("blocking", Link("1", 1.0), 30.0)
    others = [
        cell("blocking", Link(UNSHAPED), 10.0, peers=2),
        cell("all-reduce", Link(UNSHAPED), 20.0),
        cell("blocking", Link(UNSHAPED), 60.0),
        cell(ALONE, Link(NO_NETWORK), 90.0),
    ]
    assert ratio(others, thin, UNSHAPED) == pytest.approx(0.5)
    assert ratio(others, thin, NO_NETWORK, arm=ALONE) == pytest.approx(1 / 3)
    assert ratio(others[:2], thin, UNSHAPED) is None


def test_cells_stand_from_no_network_to_the_thinnest_link() -> None:
    links = [Link(NO_NETWORK), *rows([3, 10], scaled=4.0)]
    assert [link.name for link in links] == [NO_NETWORK, UNSHAPED, "10", "3", SCALED]
    cells = [cell("blocking", link, 1.0) for link in reversed(links)]
    assert [each.link.name for each in in_order(cells)] == [NO_NETWORK, UNSHAPED, "10", SCALED, "3"]


def test_the_table_shows_a_failed_cell_and_why_within_eighty_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    cells = [
        cell("hivemind-gradients", Link(UNSHAPED), 12_345.0),
        Cell(arm="all-reduce", link=Link(SCALED, 0.412), failed="No exchange within 300 s."),
    ]
    show(console, cells, "What a reader must know.")
    text = console.export_text()
    assert "12,345" in text
    assert "scaled: 0.412 Mbit/s, all-reduce: No exchange within 300 s." in text
    assert "…" not in text


def hivemind(averaged: Any, *, megabits: float | None = None, slots_per_second: float = 100.0) -> Settings:
    return settings_for(
        averaged,
        parameters=10**6,
        peers=4,
        batch_slots=8,
        slots_per_second=slots_per_second,
        window_seconds=10.0,
        megabits=megabits,
    )


def test_hivemind_waits_longer_where_an_average_takes_longer() -> None:
    assert least_seconds(10**6, peers=4, megabits=1.0) == pytest.approx(12)
    assert hivemind("parameters").averaging_timeout == 30.0
    assert hivemind("parameters", megabits=100.0).averaging_timeout == 30.0
    assert hivemind("parameters", megabits=1.0).averaging_timeout == pytest.approx(48)
    assert hivemind("parameters", megabits=0.4).next_chunk_timeout > MATCHMAKING_SECONDS


def test_hivemind_averages_parameters_once_a_window_and_gradients_no_faster_than_peers_meet() -> None:
    assert hivemind("parameters").target_batch_size == 1000
    assert hivemind("gradients").target_batch_size == 500
    assert hivemind("gradients", slots_per_second=1.0).target_batch_size == 4 * 8 * 4


def test_an_arm_or_a_rate_that_does_not_exist_is_refused() -> None:
    assert (arms_of("blocking,all-reduce"), rates_of("1,0.5")) == (["blocking", "all-reduce"], [1.0, 0.5])
    with pytest.raises(typer.BadParameter, match="blokking"):
        arms_of("blokking")
    for text in ("1,fast", "0"):
        with pytest.raises(typer.BadParameter):
            rates_of(text)
