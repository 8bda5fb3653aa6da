"""How long rounds took, by the clock of who watches, and where the time went."""

from __future__ import annotations

import pytest
from watching import ROUND_SECONDS, WINDOW_SECONDS, watched

from monitoring.picture import RoundPicture
from monitoring.stopwatch import timing_of
from peers.messages import Pace


def measured(late_ms: int | None, transfer_ms: int | None, exchange_ms: int | None = None) -> RoundPicture:
    run = watched(2)
    pace = Pace(claims_late_ms=late_ms, transfer_ms=transfer_ms, exchange_ms=exchange_ms)
    swarm = run.swarm
    claims = [swarm.claim(key, swarm.genesis, pace=pace) for key in swarm.keys]
    roster = swarm.roster(claims, swarm.genesis)
    run.see(swarm.add(swarm.block(swarm.genesis, swarm.keys, roster=roster)))
    return run.picture().rounds[0]


def test_a_rounds_phases_add_up_to_its_time_and_follow_what_was_measured() -> None:
    timing = timing_of(20.0, measured=measured(500, 2000), window_seconds=15.0, overlaps=False)
    assert timing.phases == pytest.approx({"train": 15.0, "roster": 0.5, "exchange": 2.0, "block": 2.5})


def test_before_the_next_round_tells_all_but_the_window_counts_as_waiting_for_the_block() -> None:
    timing = timing_of(20.0, measured=None, window_seconds=15.0, overlaps=False)
    assert timing.phases == {"train": 15.0, "roster": 0.0, "exchange": 0.0, "block": 5.0}


def test_where_windows_overlap_the_exchange_it_takes_its_part_of_the_time() -> None:
    found = measured(500, 2000, exchange_ms=6000)
    timing = timing_of(15.0, measured=found, window_seconds=15.0, overlaps=True)
    assert timing.phases == pytest.approx({"train": 9.0, "roster": 0.5, "exchange": 2.0, "block": 3.5})


def test_what_peers_claim_to_have_measured_is_never_more_than_the_time_there_was() -> None:
    timing = timing_of(16.0, measured=measured(60_000, 60_000), window_seconds=15.0, overlaps=False)
    assert sum(timing.phases.values()) == pytest.approx(16.0)
    assert min(timing.phases.values()) >= 0


def test_utilisation_and_pace_are_those_of_the_rounds_that_were_watched() -> None:
    run = watched()
    run.grow(run.swarm.keys, 5)
    watch = run.picture().watched
    assert watch.rounds == 4  # of the first block, nobody saw when its round began
    assert watch.compute_ratio == pytest.approx(WINDOW_SECONDS / ROUND_SECONDS)
    assert watch.tokens_per_second is not None
    tokens = sum(one.tokens for one in run.picture().rounds[:4])
    assert watch.tokens_per_second == pytest.approx(tokens / (4 * ROUND_SECONDS))


def test_a_run_that_nobody_watched_has_no_pace_and_no_utilisation() -> None:
    watch = watched().picture().watched
    assert (watch.compute_ratio, watch.tokens_per_second, watch.round_seconds) == (None, None, None)
