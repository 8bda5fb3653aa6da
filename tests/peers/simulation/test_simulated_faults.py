"""Drawn faults and liars: whole worlds in which nothing breaks, and the command that runs them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer import Typer
from typer.testing import CliRunner

from peers import simulate
from peers.credit.entries import Contradicted
from peers.protocol.counters import counted_segments
from peers.protocol.events import Event, Refused
from peers.simulation.byzantine import Liar, Lie
from peers.simulation.faults import Fault
from peers.simulation.invariants import InvariantWatch
from peers.simulation.scenario import Plan, prepare, recovery_bound, run_plan, shrink
from peers.simulation.simulator import World
from peers.simulation.virtual_disk import DiskAfter
from peers.simulation.virtual_peer import VirtualPeer

LONE_LIES = [lie for lie in Lie if lie is not Lie.CONSPIRE]


def among_liars(lie: Lie, *, seed: int = 1, peers: int = 7) -> World:
    world = World(seed=seed, peers=peers)
    for name in world.peers:
        world.start(name)
    for name in ("p2", "p5"):
        world.peers[name].liar = Liar(lie, seed)
    return world


@pytest.mark.parametrize("fault", list(Fault))
def test_the_swarm_outlives_each_fault(fault: Fault) -> None:
    outcome = run_plan(Plan(seed=1, peers=6, rounds=5, faults=frozenset({fault})))
    assert outcome.broken == ""
    assert outcome.rounds >= 4


@pytest.mark.parametrize("seed", range(6))
def test_the_swarm_outlives_all_faults_at_once(seed: int) -> None:
    outcome = run_plan(Plan(seed=seed, peers=5 + seed, rounds=6, faults=frozenset(Fault)))
    assert outcome.broken == ""


@pytest.mark.parametrize("lie", LONE_LIES)
def test_rounds_go_on_among_liars(lie: Lie) -> None:
    world = among_liars(lie)
    bound = 7 * recovery_bound(world.rules, liars=2) / 5
    world.run(until_round=7, at_most_seconds=bound)
    assert min(world.round_of(peer.name) for peer in world.honest()) >= 7


def test_a_reducer_that_serves_nothing_is_replaced_by_its_backup() -> None:
    world = among_liars(Lie.WITHHOLD)
    world.run(until_round=8)
    liars = {peer.id for peer in world.peers.values() if peer.liar is not None}
    block = world.head_block("p0")
    made = {reduction.body.peer for reduction in block.reductions if reduction is not None}
    assert made
    assert not made & liars


def test_a_false_reduction_is_never_counted() -> None:
    world = among_liars(Lie.MISCOMPUTE)
    world.run(until_round=8)
    liars = {peer.id for peer in world.peers.values() if peer.liar is not None}
    engine = world.peers["p0"].running
    for link in engine.chain.after(0):
        assert link.block is not None
        if link.block.body.peer not in liars:
            assert not {r.body.peer for r in link.block.body.reductions if r is not None} & liars


@pytest.mark.parametrize(
    ("lie", "breach"),
    [
        (Lie.TWO_ROSTERS, "two rosters"),
        (Lie.TWO_BLOCKS, "two blocks"),
        (Lie.LEAVES_OUT, "broken receipt"),
    ],
)
def test_leaders_and_reducers_that_contradict_themselves_are_expelled_by_the_chain(
    lie: Lie, breach: str
) -> None:
    world = among_liars(lie)
    world.run(until_round=16, at_most_seconds=600)
    liars = {peer.id for peer in world.peers.values() if peer.liar is not None}
    engine = world.peers["p0"].running
    entries = [entry for link in engine.chain.after(0) for entry in link.ledger.entries]
    found = {entry.peer: entry for entry in entries if isinstance(entry, Contradicted)}
    assert found
    assert found.keys() <= liars
    assert {entry.reason for entry in found.values()} == {breach}
    accounts = engine.chain.link(engine.head).accounts
    assert all(accounts.expelled_until(peer) for peer in found)
    assert all(entry.until > entry.round for entry in found.values())


def test_a_leader_empties_no_segment_that_it_could_have() -> None:
    world = among_liars(Lie.EMPTIES)
    world.run(until_round=10, at_most_seconds=600)
    engine = world.peers["p0"].running
    blocks = [link.block.body for link in engine.chain.after(0) if link.block is not None]
    assert len(blocks) >= 9
    assert not [block.round for block in blocks if None in block.reductions]
    refused = [event.fault for _, _, event in world.events if isinstance(event, Refused)]
    assert any("empty without the electors' words" in fault for fault in refused)


@pytest.mark.parametrize(
    ("lie", "fault"),
    [
        (Lie.ORDERS, "not in the order of their peers' names"),
        (Lie.GRINDS, "does not show the preimage that its hash chain has for this round"),
    ],
)
def test_who_chooses_an_order_or_a_preimage_is_refused(lie: Lie, fault: str) -> None:
    world = among_liars(lie)
    world.run(until_round=10, at_most_seconds=600)
    refused = [event.fault for _, _, event in world.events if isinstance(event, Refused)]
    assert any(fault in one for one in refused)


@pytest.mark.parametrize("lie", [Lie.OMITS, Lie.HOLDS_BACK])
def test_whose_preimage_is_left_out_or_held_back_is_drawn_for_audits_all_the_same(lie: Lie) -> None:
    world = among_liars(lie)
    world.run(until_round=30, at_most_seconds=1500)
    chain = world.peers["p0"].running.chain
    auditors = {audit.auditors[0] for link in chain.after(0) for audit in link.accounts.audits}
    assert {peer.id for peer in world.honest()} <= auditors | {world.peers["p0"].id}


def test_a_flood_costs_an_honest_peer_no_more_than_its_bounds() -> None:
    world = among_liars(Lie.FLOOD)
    world.run(until_round=6)  # the bounds are checked after every step
    assert len(world.peers["p0"].running.context.inbox.waiting) > 1


@pytest.mark.parametrize("seed", [3, 4, 5])
@pytest.mark.parametrize("conspirators", [("p2", "p5"), ("p1", "p2", "p5")])
def test_electors_who_conspire_make_no_two_final_blocks(seed: int, conspirators: tuple[str, ...]) -> None:
    """Each signs on both sides, unseen: less than half of the seven, they are in no two quorums alone.

    Three of them may keep the others from getting on (LOG.md); two may not.
    """
    world = World(seed=seed, peers=7)
    for name in world.peers:
        world.start(name)
    for name in conspirators:
        world.peers[name].liar = Liar(Lie.CONSPIRE, seed)
    world.run(until_round=20, at_most_seconds=500)  # what is final is checked after every step
    if len(conspirators) == 2:
        assert min(world.round_of(peer.name) for peer in world.honest()) >= 6


def test_a_first_elector_started_again_out_of_hearing_makes_no_second_final_block() -> None:
    """It forgot the others' words, but not what was final; alone it is no quorum of their term."""
    world = World(seed=0, peers=5)
    for name in world.peers:
        world.start(name)
    world.run(until_round=4)
    died = world.now + 0.4
    world.crash("p0", at=died)
    world.partition({"p0"}, at=died, until=died + 60)
    world.start("p0", at=died + 1)
    world.run(until_round=10**6, at_most_seconds=died + 160)
    rounds = [world.round_of(name) for name in world.peers]
    assert max(rounds) - min(rounds) <= 1
    assert len({world.block_at(name, min(rounds) - 1) for name in world.peers}) == 1


def test_who_lost_its_disk_and_kept_its_key_does_not_claim_twice() -> None:
    """It may have claimed in the round that it finds, so it sits that one out, and is counted later again."""
    world = World(seed=0, peers=5)
    for name in world.peers:
        world.start(name)
    world.peers["p3"].speed = 50
    world.run(until_round=6)
    while not any("p3 Claimed(round=7" in line for line in world.trace):
        world.run(until_round=10**6, at_most_seconds=world.now + 0.05)
    world.crash("p3", at=world.now, disk=DiskAfter.LOST)
    world.start("p3", at=world.now + 0.2)
    world.run(until_round=11)  # two claims of one peer would be noticed
    assert world.peers["p3"].id in counted_segments(world.head_block("p0"))


def test_leaving_a_fault_out_leaves_the_others_as_they_were() -> None:
    remarks = []
    for faults in ({Fault.CRASH, Fault.PARTITION}, {Fault.CRASH}):
        plan = Plan(seed=5, peers=6, rounds=5, faults=frozenset(faults))
        world = prepare(plan)
        world.run(until_round=10**6, at_most_seconds=plan.peace_at)
        remarks.append([line for line in world.trace if " dies" in line])
    assert remarks[0] == remarks[1] != []


# ---------------------------------------------------------------- the command

app = Typer()
app.command()(simulate.main)


def test_the_command_tells_of_one_world() -> None:
    told = CliRunner().invoke(app, ["--seed", "3", "--peers", "4", "--rounds", "2", "--faults", "crash,slow"])
    assert told.exit_code == 0, told.output
    assert "round 1: block" in told.output
    assert "dies; its disk is kept" in told.output
    assert "No invariant broke." in told.output


def test_the_command_counts_many_worlds() -> None:
    told = CliRunner().invoke(
        app, ["--seeds", "0..2", "--peers", "2..3", "--rounds", "1", "--faults", "none"]
    )
    assert told.exit_code == 0, told.output
    assert "Simulated worlds" in told.output


@pytest.mark.parametrize("wrong", [["--faults", "rain"], ["--seeds", "9..3"], ["--peers", "0"]])
def test_the_command_says_what_it_does_not_understand(wrong: list[str]) -> None:
    told = CliRunner().invoke(app, wrong)
    assert told.exit_code == 2


def test_a_broken_world_is_told_with_its_seed_and_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.simulation.scenario.ROUNDS_TO_RECOVER", 0)
    told = CliRunner().invoke(app, ["--seed", "3", "--peers", "3", "--rounds", "1", "--faults", "none"])
    assert told.exit_code == simulate.BROKEN
    assert "BROKEN" in told.output
    assert "python -m peers.simulate --seed 3 --peers 3 --rounds 1 --faults none" in told.output


def test_a_broken_world_shrinks_to_the_mishaps_that_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was started again is required never to have died: one death is what is left."""
    told = InvariantWatch.told

    def no_second_life(watch: InvariantWatch, peer: VirtualPeer, event: Event) -> None:
        told(watch, peer, event)
        watch.require(peer.life < 2, f"{peer.name} died")

    monkeypatch.setattr(InvariantWatch, "told", no_second_life)
    faults = frozenset({Fault.CRASH, Fault.PAUSE, Fault.PARTITION})
    broken = run_plan(Plan(seed=5, peers=5, rounds=4, faults=faults))
    smallest = shrink(broken)
    assert len(broken.plan.mishaps()) > 3
    assert [mishap.fault for _, mishap in smallest.plan.mishaps()] == [Fault.CRASH]
    assert smallest.broken.endswith("died")
    assert f"--only {smallest.plan.mishaps()[0][0]}" in smallest.plan.command()
    assert run_plan(smallest.plan).trace == smallest.trace


def test_a_world_is_its_seed_in_every_process() -> None:
    command = (
        "import hashlib; from peers.simulation.faults import Fault; "
        "from peers.simulation.scenario import Plan, run_world; "
        "world, _ = run_world(Plan(seed=4, peers=6, rounds=3, faults=frozenset(Fault))); "
        "print(hashlib.sha256('\\n'.join(world.trace).encode()).hexdigest())"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", command],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(traces) == 1
