"""Windows that begin while the round before is exchanged: what the engine orders, and when it goes on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TypeVar

import pytest
from bench import Bench, sent, told

from peers.chain.link import Link
from peers.consensus.effects import Applied, Apply, Effect, GoOn, LeaveRequested, Train
from peers.protocol.events import BlockAdopted, WindowGoesOn, WindowStarted
from peers.protocol.messages import Block, Claim, Pace, Ready, Signed
from peers.simulation.faults import Fault
from peers.simulation.scenario import Plan, plans, run_world
from peers.simulation.simulator import World, WorldForm
from recipes.keys.keys import SigningKey

Wanted = TypeVar("Wanted")


def of(effects: list[Effect], kind: type[Wanted]) -> list[Wanted]:
    return [effect for effect in effects if isinstance(effect, kind)]


class Overlapping(Bench):
    """An engine of a run with overlap, among peers that all claim."""

    def __init__(self, *, me: int = 1) -> None:
        super().__init__(me=me, overlap="eager")

    def next_block(
        self, parent: Link, *, members: list[SigningKey] | None = None, exchange_ms: int | None = None
    ) -> Signed[Block]:
        """The block of the round after `parent`, the engine's own claim in it unless `members` are named."""
        pace = Pace(exchange_ms=exchange_ms)
        claims = [self.swarm.claim(key, parent, pace=pace) for key in members or self.others]
        if members is None and self.engine.own_claim is not None:
            claims.append(self.engine.own_claim)
        return self.swarm.block(parent, (), roster=self.swarm.roster(claims, parent))

    def adopt(self, block: Signed[Block], *, after: float = 0.0) -> list[Effect]:
        """Let a block arrive, and the state be brought to it."""
        effects = self.receive(self.swarm.by_id[block.body.peer], block)
        assert of(effects, Apply) == [Apply(block.hash)]
        self.swarm.digests[block.hash] = state = f"{block.hash[:32]}{'0' * 32}"
        return self.take(Applied(block.hash, state, checked=True), after=after)


def test_a_window_begins_with_the_claim_and_goes_on_when_its_block_comes() -> None:
    bench = Overlapping()
    link = bench.head
    effects = bench.finish_window()
    [order] = of(effects, Train)
    assert order.ahead
    assert (order.parent, order.round) == (link.hash, link.round + 2)
    assert order.slots == link.counters.slots_ahead(bench.engine.me, bench.swarm.rules)
    assert order.seconds == bench.swarm.rules.window_seconds
    assert [event.round for event in told(effects, WindowStarted)] == [link.round + 2]

    block = bench.next_block(link)
    effects = bench.adopt(block)
    assert of(effects, Train) == []
    [go_on] = of(effects, GoOn)
    assert go_on.parent == block.hash
    assert [event.seconds for event in told(effects, WindowGoesOn)] == [go_on.seconds]
    assert sent(effects, Ready)


def test_what_a_window_ahead_came_to_is_claimed_under_the_block_that_came() -> None:
    bench = Overlapping()
    bench.finish_window()
    first = bench.engine.own_claim
    block = bench.next_block(bench.head)
    bench.adopt(block)
    link = bench.engine.chain.link(block.hash)
    effects = bench.take(replace(bench.work(link), ahead=True), after=3.0)
    claim = bench.engine.own_claim
    assert claim is not None
    assert first is not None
    assert (claim.body.ahead, claim.body.predecessor) == (True, first.hash)
    assert (claim.body.parent, claim.body.start_digest) == (block.hash, bench.engine.digest)
    assert sent(effects, Claim)
    assert [order.round for order in of(effects, Train)] == [link.round + 2]


def test_windows_are_anchored_before_their_block_by_what_exchanges_took() -> None:
    bench = Overlapping()
    bench.finish_window()
    block = bench.next_block(bench.head, exchange_ms=2000)
    effects = bench.adopt(block, after=1.25)
    exchange = bench.engine.chain.link(block.hash).counters.deadlines.exchange
    assert exchange == 1.0  # from nothing, half the way
    left = bench.swarm.rules.window_seconds - exchange
    assert [go_on.seconds for go_on in of(effects, GoOn)] == [pytest.approx(left)]
    assert bench.engine.context.silence_base() == pytest.approx(bench.now + left)
    notice = bench.engine.head_notice(age_seconds=0.5)
    assert notice is not None
    assert notice.age_seconds == 0.5 + exchange  # whoever joins now ends its window with the others
    bench.take(replace(bench.work(bench.engine.chain.link(block.hash)), ahead=True), after=3.0)
    claim = bench.engine.own_claim
    assert claim is not None
    assert claim.body.pace.exchange_ms == pytest.approx(1270, abs=20)


def test_an_own_claim_that_the_block_leaves_out_does_not_end_the_window() -> None:
    bench = Overlapping()
    bench.finish_window()
    assert of(bench.adopt(bench.next_block(bench.head, members=bench.others)), GoOn)


def test_a_window_ahead_of_another_block_is_replaced() -> None:
    """While this peer waited for one block, two came: the window ran for a round that is over."""
    bench = Overlapping()
    bench.finish_window()
    first = bench.next_block(bench.head, members=bench.others)
    bench.receive(bench.swarm.by_id[first.body.peer], first)
    link = bench.engine.chain.link(first.hash)
    second = bench.swarm.block(link, bench.swarm.keys)  # of everybody: its leader's turn is the first
    bench.receive(bench.others[0], second)
    effects = bench.take(Applied(first.hash, "00" * 32, checked=True))
    assert of(effects, Apply) == [Apply(second.hash)]
    assert not of(effects, GoOn)
    [order] = of(bench.take(Applied(second.hash, "11" * 32, checked=True)), Train)
    assert not order.ahead
    assert order.parent == second.hash


def test_who_is_about_to_leave_trains_nothing_ahead() -> None:
    bench = Overlapping()
    bench.take(LeaveRequested())
    assert not of(bench.finish_window(), Train)


def test_who_asks_to_leave_in_the_exchange_ends_the_window_that_runs_ahead() -> None:
    bench = Overlapping()
    bench.finish_window()
    bench.take(LeaveRequested())
    effects = bench.adopt(bench.next_block(bench.head))
    assert not of(effects, GoOn)
    assert [order.slots for order in of(effects, Train)] == [()]


def test_no_window_begins_ahead_while_the_state_is_about_to_change() -> None:
    bench = Overlapping()
    block = bench.next_block(bench.head, members=bench.others)
    bench.receive(bench.swarm.by_id[block.body.peer], block)
    link = bench.swarm.add(block)
    for key in bench.others:  # most stand on it, so it is followed before this peer's window is over
        bench.receive(key, bench.swarm.cosign(key, link))
    assert not of(bench.finish_window(), Train)


def test_without_overlap_nothing_runs_ahead() -> None:
    bench = Bench()
    assert not of(bench.finish_window(), Train)


def test_a_first_leader_whose_window_was_over_gives_the_last_rounds_peers_time_to_say_that_they_train() -> (
    None
):
    leading = next(
        bench
        for me in range(4)
        if (bench := Overlapping(me=me)).swarm.order(bench.head)[0] == bench.engine.me
    )
    leading.take(leading.work(leading.head), after=0.5)
    assert leading.engine.own_claim is not None
    assert leading.engine.roster is None
    leading.tick(after=leading.engine.deadlines.leader)  # nobody did
    assert leading.engine.roster is not None


# ---------------------------------------------------------------- whole worlds


def periods(world: World, name: str) -> list[float]:
    at = [at for at, who, event in world.events if who == name and isinstance(event, BlockAdopted)]
    return [later - earlier for earlier, later in itertools.pairwise(at)]


@pytest.mark.parametrize("seed", range(3))
def test_a_round_takes_one_window_where_the_exchange_takes_less(seed: int) -> None:
    world = World(seed=seed, peers=5, form=WorldForm(overlap="eager"))
    for name in world.peers:
        world.start(name)
    world.run(until_round=30)
    window = world.rules.window_seconds
    steady = periods(world, "p0")[-15:]
    assert 0.95 * window < sum(steady) / len(steady) < 1.02 * window
    assert max(steady) < 1.3 * window


def test_an_exchange_longer_than_a_window_is_waited_for_and_nothing_breaks() -> None:
    """The window ends in its own time, and its claim follows the block at once."""
    world = World(
        seed=3,
        peers=4,
        form=WorldForm(overlap="eager", contribution_bytes=7_000_000, reduced_bytes=14_000_000),
    )
    for name in world.peers:
        world.start(name)
    world.run(until_round=14)
    assert all(world.round_of(name) >= 14 for name in world.peers)
    steady = periods(world, "p0")[-7:]
    assert sum(steady) / len(steady) > 1.2 * world.rules.window_seconds
    blocks = [event for _, _, event in world.events if isinstance(event, BlockAdopted) and event.round > 7]
    assert {(event.claims, event.empty_segments) for event in blocks} == {(4, 0)}
    assert max(event.phases["train"] for event in blocks) < 0.5 * world.rules.window_seconds


@pytest.mark.parametrize("seed", [11, 12])
def test_worlds_of_all_faults_hold_with_overlap(seed: int) -> None:
    [plan] = plans([seed], fewest=5, most=8, rounds=6, faults=frozenset(Fault), overlap="eager")
    world, outcome = run_world(plan)
    assert outcome.broken == ""
    assert any(isinstance(event, WindowGoesOn) for _, _, event in world.events)


def test_a_plan_with_overlap_says_so_in_its_command() -> None:
    plan = Plan(seed=1, peers=5, rounds=3, faults=frozenset(), overlap="delayed")
    assert plan.command().endswith("--faults none --overlap delayed")
