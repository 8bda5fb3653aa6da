"""Whole swarms in virtual time: the production engine under joins, crashes, partitions and loss."""

from __future__ import annotations

import random

import pytest

from peers.protocol.counters import counted_segments
from peers.protocol.rules import Bounds
from peers.simulation.simulator import World, WorldForm
from peers.simulation.virtual_links import MEGABIT, Line


def swarm(seed: int, *, peers: int, present: int | None = None) -> World:
    world = World(seed=seed, peers=peers)
    for number in range(peers if present is None else present):
        world.start(f"p{number}", at=0.1 * number)
    return world


def test_a_swarm_of_one_trains() -> None:
    world = swarm(1, peers=1)
    world.run(until_round=5)
    assert world.round_of("p0") == 5
    assert world.now < 5 * (world.rules.window_seconds + world.rules.grace.most)


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    traces = []
    for seed in (3, 3, 4):
        world = swarm(seed, peers=4)
        world.links.loss = 0.05
        world.crash("p2", at=33.3)
        world.start("p2", at=47.0)
        world.run(until_round=6)
        traces.append(world.trace)
    assert traces[0] == traces[1] != traces[2]


def test_everybody_present_is_counted_in_every_segment() -> None:
    world = swarm(5, peers=5)
    world.run(until_round=4)
    counted = counted_segments(world.head_block("p1"))
    assert len(counted) == 5
    assert all(len(segments) == world.rules.segments for segments in counted.values())


def test_a_newcomer_trains_in_the_round_that_it_finds_or_the_next() -> None:
    world = swarm(6, peers=5, present=4)
    world.start("p4", at=34.0)
    world.run(until_round=3)
    found = max(world.round_of(name) for name in ("p0", "p1", "p2", "p3"))
    world.run(until_round=found + 2)
    assert world.peers["p4"].key.peer_id in counted_segments(world.head_block("p4"))


def test_newcomers_do_not_share_slots_with_anyone() -> None:
    world = swarm(7, peers=6)
    world.run(until_round=6)
    used: set[int] = set()
    engine = world.peers["p0"].engine
    assert engine is not None
    for link in engine.chain.after(0):
        assert link.block is not None
        for claim in link.block.body.roster.body.claims:
            slots = {slot for start, count in claim.body.slots for slot in range(start, start + count)}
            assert not slots & used
            used |= slots


@pytest.mark.parametrize("victim", ["p0", "p1", "p3"])
def test_a_peer_killed_in_mid_round_comes_back_and_counts_again(victim: str) -> None:
    world = swarm(8, peers=5)
    world.crash(victim, at=45.0)
    world.run(until_round=5)
    assert world.round_of("p2") >= 5
    world.start(victim, at=world.now + 1)
    world.run(until_round=9)
    assert len({world.round_of(name) for name in world.peers}) <= 2
    assert world.peers[victim].key.peer_id in counted_segments(world.head_block(victim))


def test_the_run_goes_on_when_the_only_elector_dies_in_the_first_round() -> None:
    world = swarm(9, peers=4)
    world.crash("p0", at=5.0)
    world.run(until_round=6)
    assert {world.round_of(name) for name in ("p1", "p2", "p3")} >= {6}


def test_when_every_leader_of_a_round_dies_the_next_in_rank_leads() -> None:
    world = swarm(10, peers=6)
    world.run(until_round=5)
    engine = world.peers["p0"].engine
    assert engine is not None
    by_id = {peer.key.peer_id: name for name, peer in world.peers.items()}
    first_three = [by_id[peer] for peer in engine.context.leaders()[:3]]
    for name in first_three:
        world.crash(name, at=world.now + 1)
    world.run(until_round=8)
    living = [name for name in world.peers if name not in first_three]
    assert min(world.round_of(name) for name in living) >= 8


def test_a_reducer_that_dies_after_the_roster_is_replaced_by_its_backup() -> None:
    world = swarm(11, peers=5)
    world.run(until_round=5)
    victim = "p3"
    roster_seen = len(world.trace)
    while not any("p3 RosterAccepted" in line for line in world.trace[roster_seen:]):
        world.run(until_round=10**6, at_most_seconds=world.now + 0.05)
    world.crash(victim, at=world.now)
    world.run(until_round=6)
    block = world.head_block("p0")
    assert block.round == 6
    assert all(reduction is not None for reduction in block.reductions)
    assert world.peers[victim].key.peer_id not in {r.body.peer for r in block.reductions if r is not None}


def test_a_partition_heals_into_one_chain() -> None:
    world = swarm(12, peers=7)
    world.run(until_round=6)
    world.partition({"p1", "p4"}, at=world.now + 2, until=world.now + 30)
    world.run(until_round=14)
    world.run(until_round=15)
    assert min(world.round_of(name) for name in world.peers) >= 14
    rounds = {name: world.round_of(name) for name in world.peers}
    assert max(rounds.values()) - min(rounds.values()) <= 1


@pytest.mark.parametrize("rounds", [8, 25])
def test_a_peer_that_trained_on_alone_comes_back_however_long_it_was_cut_off(rounds: int) -> None:
    world = swarm(1, peers=4)
    until = rounds * 22.0
    world.partition({"p3"}, at=0.05, until=until)
    world.run(until_round=10**6, at_most_seconds=until + 200)
    newest = [world.round_of(name) for name in world.peers]
    assert max(newest) - min(newest) <= 1
    assert world.peers["p3"].key.peer_id in counted_segments(world.head_block("p0"))


def test_a_peer_on_a_lost_branch_rewinds() -> None:
    world = swarm(13, peers=7)
    world.run(until_round=6)
    world.partition({"p1", "p4"}, at=world.now + 2, until=world.now + 30)
    world.run(until_round=13)
    assert any("Rewound" in line for line in world.trace)


def test_who_asks_to_leave_finishes_the_round_first() -> None:
    from peers.consensus.effects import LeaveRequested

    world = swarm(14, peers=4)
    world.run(until_round=3)
    leaver = world.peers["p2"]
    world.at(world.now + 4, lambda: leaver.take(LeaveRequested()))
    world.run(until_round=4)
    assert leaver.key.peer_id in counted_segments(world.head_block("p0"))
    world.run(until_round=6)
    assert leaver.left
    assert not leaver.alive


@pytest.mark.parametrize("seed", range(12))
def test_mixed_faults_break_nothing_and_the_swarm_goes_on(seed: int) -> None:
    world = World(seed=seed, peers=6)
    dice = random.Random(seed)
    for number in range(6):
        world.start(f"p{number}", at=dice.uniform(0, 30) if number else 0.0)
    world.links.loss = dice.choice([0.0, 0.01, 0.05])
    world.links.duplication = dice.choice([0.0, 0.1])
    for _ in range(6):
        name, time = f"p{dice.randrange(6)}", dice.uniform(20, 120)
        world.crash(name, at=time)
        world.start(name, at=time + dice.choice([1, 5, 20]))
    world.run(until_round=12, at_most_seconds=500)
    living = [name for name, peer in world.peers.items() if peer.alive]
    assert len(living) >= 3
    assert min(world.round_of(name) for name in living) >= 12


@pytest.mark.parametrize("peers", [1, 4])
def test_a_swarm_of_which_everybody_dies_between_claim_and_block_goes_on(peers: int) -> None:
    world = swarm(15, peers=peers)
    world.run(until_round=2)
    seen = len(world.trace)
    while sum("Claimed(round=3" in line for line in world.trace[seen:]) < peers:
        world.run(until_round=10**6, at_most_seconds=world.now + 0.01)
    for name in world.peers:
        world.crash(name, at=world.now)
        world.start(name, at=world.now + 5)
    world.run(until_round=5, at_most_seconds=world.now + 300)
    assert min(world.round_of(name) for name in world.peers) >= 5


@pytest.mark.parametrize(("megabits", "one_way_seconds"), [(1, 0.3), (10, 0.05), (100, 0.01), (1000, 0.0005)])
def test_rounds_complete_on_links_of_any_rate_and_latency_without_a_changed_setting(
    megabits: float, one_way_seconds: float
) -> None:
    world = World(
        seed=16,
        peers=6,
        form=WorldForm(
            window_seconds=60,
            contribution_bytes=500_000,
            reduced_bytes=2_000_000,
            bounds=(Bounds(1.0, 120.0), Bounds(3.0, 1800.0), Bounds(2.0, 120.0)),  # a recipe's defaults
        ),
    )
    for number, (name, peer) in enumerate(world.peers.items()):
        peer.line = Line(megabits * MEGABIT, megabits * MEGABIT, one_way_seconds / 2)
        peer.speed = 1.0
        world.start(name, at=0.1 * number)
    world.run(until_round=9)
    counted = counted_segments(world.head_block("p0"))
    assert [len(segments) for segments in counted.values()] == [world.rules.segments] * 6
    slowest = 2_500_000 / (megabits * MEGABIT) + 2 * one_way_seconds
    assert world.peers["p0"].running.deadlines.transfer < 8 + 4 * slowest  # it falls by a quarter a round
