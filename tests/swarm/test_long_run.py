"""Newcomers enter a real run of more blocks than one answer holds, also among liars.

The figures that docs/measurements.md tells are those of longer runs: `python -m benchmarks.newcomers`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.newcomers.__main__ import Outcome, rehearse
from peers.node.serving import ANSWER_BYTES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MOST_LINES = 60  # a few of its own, and one a round


def check(outcome: Outcome) -> None:
    """Everybody is in, counted together with others, and fetched everything once; nobody is banned."""
    assert outcome.bans == 0
    for one in outcome.arrivals:
        assert one.counted_after is not None, f"{one.name} never was counted"
        assert one.alone == 0, f"{one.name} trained beside the run"
        assert one.lines <= MOST_LINES
        assert one.snapshot_bytes <= 1.1 * one.snapshot_size
        if not one.among_liars:
            # On a busy machine, an answer may stay out for so long that another source is asked beside it.
            assert one.block_bytes <= 1.1 * one.chain_bytes + ANSWER_BYTES


def test_five_newcomers_enter_a_run_of_one_publisher_and_one_more_among_seven_liars(tmp_path: Path) -> None:
    outcome = rehearse(tmp_path, rounds=80, newcomers=5, volunteers=0, liars=7, tell=print)
    assert outcome.arrivals[0].chain_bytes > ANSWER_BYTES
    check(outcome)


def test_five_newcomers_enter_a_run_with_branches_that_were_left_and_a_restart(tmp_path: Path) -> None:
    outcome = rehearse(tmp_path, rounds=40, newcomers=5, volunteers=3, liars=0, tell=print)
    assert outcome.arrivals[0].chain_bytes > ANSWER_BYTES
    check(outcome)
