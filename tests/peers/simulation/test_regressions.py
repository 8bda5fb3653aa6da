"""Worlds that once broke: each found a fault that LOG.md tells of."""

from __future__ import annotations

import random

import pytest

from peers.simulation.faults import Fault
from peers.simulation.scenario import Plan, run_plan

SHRUNK = [
    (
        174,
        11,
        (0, 4, 5, 9, 10, 13, 14, 15, 16, 18),
    ),  # a lone elector waited for ever
    (210, 16, (1, 5, 10, 12, 13, 14, 22, 23, 24, 25, 27)),  # branches that merge late
    (357, 7, (2, 4, 8)),  # what was final was torn off the only disk that had it
    (490, 7, (4, 5, 6, 8, 9, 11, 13, 14)),  # a lost disk, and co-signatures made again while catching up
]
AT_FOUR = [
    (20075, 9, None),  # a state that only liars vouched for
    (20303, 13, None),  # a block that came late
    (20507, 6, (4, 8, 9, 12, 15)),  # final by one elector, whose disk was the only one with its segments
    (20967, 29, (14, 22, 24, 49, 51, 52, 53)),  # the same, with liars who withhold beside it
]
WHOLE = [4, 24, 38, 55, 57, 76]  # lost disks, a starved downlink, blocks asked for from too far up


@pytest.mark.parametrize(("seed", "peers", "only"), SHRUNK)
def test_a_shrunk_world_that_broke_once_holds(seed: int, peers: int, only: tuple[int, ...]) -> None:
    plan = Plan(seed=seed, peers=peers, rounds=6, faults=frozenset(Fault), only=only)
    assert run_plan(plan).broken == ""


@pytest.mark.parametrize("seed", WHOLE)
def test_a_world_that_broke_once_holds(seed: int) -> None:
    peers = random.Random(f"{seed}/peers").randint(5, 14)
    assert run_plan(Plan(seed=seed, peers=peers, rounds=10, faults=frozenset(Fault))).broken == ""


@pytest.mark.parametrize(("seed", "peers", "only"), AT_FOUR)
def test_a_world_of_the_long_run_that_broke_holds(
    seed: int, peers: int, only: tuple[int, ...] | None
) -> None:
    plan = Plan(seed=seed, peers=peers, rounds=4, faults=frozenset(Fault), only=only)
    assert run_plan(plan).broken == ""
