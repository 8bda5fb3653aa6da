"""How long rounds took, by the clock of who watches, and where the time went."""

from __future__ import annotations

import pytest
from watching import ROUND_SECONDS, Watched, watched

from monitoring.swarm.round_times import timing_of
from monitoring.swarm.view import RoundPicture
from peers.protocol.messages import Pace


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


def test_pace_is_that_of_the_rounds_that_were_watched() -> None:
    run = watched()
    run.swarm.pace = Pace()
    run.grow(run.swarm.keys, 5)
    watch = run.picture().watched
    assert watch.rounds == 4  # of the first block, nobody saw when its round began
    assert watch.compute_ratio is None  # no claim says how long its author computed
    assert watch.tokens_per_second is not None
    tokens = sum(one.tokens for one in run.picture().rounds[:4])
    assert watch.tokens_per_second == pytest.approx(tokens / (4 * ROUND_SECONDS))


def compute(run: Watched, *computed_ms: int | None) -> None:
    """See a round whose claims say that their authors computed for so long."""
    swarm = run.swarm
    paces = [Pace(compute_ms=one) for one in computed_ms]
    claims = [swarm.claim(key, run.head, pace=pace) for key, pace in zip(swarm.keys, paces, strict=True)]
    run.see(swarm.add(swarm.block(run.head, swarm.keys, roster=swarm.roster(claims, run.head))))


def test_utilisation_is_the_mean_share_of_the_time_in_which_claimants_computed() -> None:
    run = watched(3)
    compute(run, 1000, 1000, 1000)  # nobody saw when this round began
    compute(run, 10_000, 4000, None)
    assert run.picture().watched.compute_ratio == pytest.approx(7 / ROUND_SECONDS)
    compute(run, 13_000, 13_000, 13_000)
    assert run.picture().watched.compute_ratio == pytest.approx(10 / ROUND_SECONDS)


def test_nobody_claims_to_have_computed_for_longer_than_a_window() -> None:
    run = watched(2)
    window_ms = round(1000 * run.swarm.rules.window_seconds)
    compute(run, window_ms, window_ms)
    compute(run, 86_400_000, 0)
    assert run.picture().rounds[0].compute_ms == window_ms / 2


def test_a_run_that_nobody_watched_has_no_pace_and_no_utilisation() -> None:
    watch = watched().picture().watched
    assert (watch.compute_ratio, watch.tokens_per_second, watch.round_seconds) == (None, None, None)
