"""What the simulator is made of: clocks, lines, disks and pauses behave as their real models do."""

from __future__ import annotations

import random

import pytest

from peers.simulation.invariants import InvariantBrokenError
from peers.simulation.simulator import World
from peers.simulation.virtual_clock import VirtualClock
from peers.simulation.virtual_disk import DiskAfter
from peers.simulation.virtual_links import LONGEST_QUEUE_SECONDS, MEGABIT, Line, Links
from peers.state.block_store import CLAIMS_KEPT


def swarm(seed: int, *, peers: int) -> World:
    world = World(seed=seed, peers=peers)
    for number in range(peers):
        world.start(f"p{number}", at=0.1 * number)
    return world


def line(*, up: float = 8 * MEGABIT, down: float = 80 * MEGABIT, latency: float = 0.0) -> Line:
    return Line(up, down, latency)


def test_a_clock_shows_its_drift_and_stands_still_while_its_laptop_sleeps() -> None:
    clock = VirtualClock(rate=1.01, offset=5.0)
    before = clock.reading(100.0)
    assert before == pytest.approx(106.0)
    assert clock.moment(before) == pytest.approx(100.0)
    clock.stand_still(40.0)
    assert clock.reading(140.0) == pytest.approx(before)


def test_bytes_queue_on_the_way_up_and_on_the_way_down() -> None:
    links = Links(random.Random(0))
    sender, receiver = line(), line()
    second = 8 * MEGABIT
    doors = [links.send(sender, receiver, second, now=0.0) for _ in range(2)]
    assert doors == pytest.approx([1.0, 2.0])
    assert links.receive(receiver, second, now=1.0) == pytest.approx(1.1)
    slow = line(down=MEGABIT)
    assert [links.receive(slow, MEGABIT, now=0.125) for _ in range(2)] == pytest.approx([1.125, 2.125])
    assert links.receive(slow, MEGABIT, now=10.0) == pytest.approx(11.0)
    assert (sender.sent_bytes, sender.sent_messages) == (2 * second, 2)


def test_a_line_with_too_long_a_queue_drops_what_comes_on_top() -> None:
    links = Links(random.Random(0))
    sender = line(up=MEGABIT)
    assert links.send(sender, line(), int(LONGEST_QUEUE_SECONDS + 1) * MEGABIT, now=0.0) is not None
    assert links.send(sender, line(), 1, now=0.0) is None
    assert links.send(sender, line(), 1, now=2.0) is not None


def test_a_reordered_message_does_not_hold_up_the_one_after_it() -> None:
    links = Links(random.Random(1))
    sender = line()
    links.reordering = 1.0
    late = links.send(sender, line(), 100, now=0.0)
    links.reordering = 0.0
    after = links.send(sender, line(), 100, now=0.0)
    assert late is not None
    assert after is not None
    assert after < late


def test_a_cut_can_be_one_way_and_two_cuts_need_two_healings() -> None:
    links = Links(random.Random(0))
    links.cut(["a"], ["b"])
    links.cut(["a"], ["b", "c"])
    assert links.is_cut("a", "b")
    assert not links.is_cut("b", "a")
    links.heal(["a"], ["b"])
    assert links.is_cut("a", "b")
    links.heal(["a"], ["b", "c"])
    assert not links.is_cut("a", "b")


def test_a_torn_disk_forgets_its_newest_blocks_and_keeps_its_promises() -> None:
    world = swarm(1, peers=3)
    world.run(until_round=8)
    before = world.peers["p1"].disk
    after = before.torn()
    assert 0 < len(after.blocks) < len(before.blocks)
    assert after.head in {signed.hash for signed in after.blocks}
    assert after.promise == before.promise
    assert after.claims == before.claims


def test_a_disk_keeps_as_many_own_claims_as_a_real_one() -> None:
    world = swarm(1, peers=1)
    disk = world.peers["p0"].disk
    world.run(until_round=CLAIMS_KEPT + 2)
    newest = world.head_block("p0").roster.body.claims[0]
    assert len(disk.claims) == CLAIMS_KEPT
    assert newest in disk.claims[-2:]


@pytest.mark.parametrize("disk", list(DiskAfter))
def test_a_peer_comes_back_whatever_its_disk_lost(disk: DiskAfter) -> None:
    world = swarm(2, peers=5)
    world.run(until_round=7)
    world.crash("p3", at=world.now + 3, disk=disk)
    world.start("p3", at=world.now + 20)
    world.run(until_round=7 + 5)
    assert world.round_of("p3") >= 12
    assert world.block_at("p3", 11) == world.block_at("p0", 11) != ""


@pytest.mark.parametrize("clock_stops", [False, True])
def test_a_laptop_that_slept_through_rounds_finds_the_head(clock_stops: bool) -> None:
    world = swarm(3, peers=5)
    world.run(until_round=4)
    woken = world.now + 60
    world.pause("p2", at=world.now + 1, until=woken, clock_stops=clock_stops)
    world.run(until_round=10**6, at_most_seconds=woken - 0.1)
    assert world.round_of("p0") > world.round_of("p2") + 1
    world.run(until_round=world.round_of("p0") + 2, at_most_seconds=woken + 60)
    assert abs(world.round_of("p0") - world.round_of("p2")) <= 1


def test_rounds_complete_whatever_the_clocks_show() -> None:
    world = swarm(4, peers=5)
    for number, peer in enumerate(world.peers.values()):
        peer.clock = VirtualClock(rate=0.96 + 0.02 * number, offset=1e6 * number)
    world.run(until_round=8, at_most_seconds=200)
    assert min(world.round_of(name) for name in world.peers) >= 8


def test_a_peer_on_a_thin_line_slows_no_round_to_a_standstill() -> None:
    world = swarm(5, peers=6)
    world.peers["p4"].line = line(up=MEGABIT, down=8 * MEGABIT, latency=0.3)
    world.run(until_round=8, at_most_seconds=8 * 20)
    assert min(world.round_of(name) for name in world.peers) >= 8


def test_who_trains_fast_leaves_the_whole_window_to_the_slow() -> None:
    world = World(seed=6, peers=4)
    for peer, speed in zip(world.peers.values(), (50, 20, 1.2, 1.2), strict=True):
        peer.speed = speed
    for name in world.peers:
        world.start(name)
    world.run(until_round=6)
    assert len(world.head_block("p0").roster.body.claims) == 4


def test_a_broken_invariant_says_what_broke_and_shows_the_trace() -> None:
    world = swarm(7, peers=2)
    world.run(until_round=2)
    with pytest.raises(InvariantBrokenError, match="what was asked for") as broken:
        world.watch.require(False, "what was asked for")
    assert broken.value.lines == world.trace[-len(broken.value.lines) :]
