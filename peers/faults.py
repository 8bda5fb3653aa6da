"""Faults by name, drawn from a world's seed and written into its future.

Each fault draws from a chance of its own, so that leaving one out leaves the others as they were: that is how
a failing world is shrunk.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from enum import Enum

from peers.liars import Liar, Lie
from peers.virtual_disk import DiskAfter
from peers.virtual_links import MEGABIT, Line
from peers.world import World

QUIET_SECONDS = 15.0  # before the first fault: a swarm needs a first round
_LONGEST_CUT_SECONDS = 60.0
_DRAWN_LIES = [lie for lie in Lie if lie is not Lie.CONSPIRE]
"""Finality is a bare majority: a leader and a few electors who conspire can make two, and no draw should find
again what is known."""
_PAUSE_SECONDS = (1.0, 6.0, 20.0, 60.0)
_DEAD_SECONDS = (1.0, 5.0, 20.0, 45.0)


class Fault(str, Enum):
    """What may befall a world."""

    CRASH = "crash"  # peers die, and come back with their disks
    TORN = "torn"  # the same, with the newest items on the disk damaged
    LOST = "lost"  # the same, with nothing left but the key
    LOSS = "loss"  # messages are lost, doubled and come late
    PARTITION = "partition"  # some peers are cut off from the others
    ONEWAY = "oneway"  # some peers hear the others, and are not heard
    PAUSE = "pause"  # stopped processes and closed lids
    CLOCK = "clock"  # clocks with offsets and drifts
    SLOW = "slow"  # a third of the lines is slow or far away, and disks are slow
    LIARS = "liars"  # fewer than a third of the peers depart from the protocol


def afflict(world: World, faults: Collection[Fault], *, seed: int, until: float) -> None:
    """Write faults into the world's future, before anyone has started. All heals at `until` at the latest.

    Lines, clocks and liars stay as they are to the end.
    """
    for fault in Fault:
        if fault in faults:
            _AFFLICTIONS[fault](world, random.Random(f"{seed}/{fault.value}"), until)


def _crash(world: World, chance: random.Random, until: float, disk: DiskAfter = DiskAfter.KEPT) -> None:
    for _ in range(chance.randint(1, max(2, len(world.peers) // 2))):
        name, at = chance.choice(sorted(world.peers)), chance.uniform(QUIET_SECONDS, until)
        world.crash(name, at=at, disk=disk)
        world.start(name, at=min(until, at + chance.choice(_DEAD_SECONDS)))


def _torn(world: World, chance: random.Random, until: float) -> None:
    _crash(world, chance, until, DiskAfter.TORN)


def _lost(world: World, chance: random.Random, until: float) -> None:
    name, at = chance.choice(sorted(world.peers)[1:] or ["p0"]), chance.uniform(QUIET_SECONDS, until)
    world.crash(name, at=at, disk=DiskAfter.LOST)
    world.start(name, at=min(until, at + chance.choice(_DEAD_SECONDS)))


def _loss(world: World, chance: random.Random, until: float) -> None:
    links = world.links
    links.loss = chance.choice([0.01, 0.05, 0.15])
    links.duplication = chance.choice([0.0, 0.1])
    links.reordering = chance.choice([0.0, 0.1])

    def clear() -> None:
        links.loss = links.duplication = links.reordering = 0.0
        world.remark("the links are good again")

    doubled, late = f"{links.duplication:.0%} doubled", f"{links.reordering:.0%} late"
    world.remark(f"of all messages, {links.loss:.0%} are lost, {doubled}, {late}")
    world.at(until, clear)


def _partition(world: World, chance: random.Random, until: float, *, one_way: bool = False) -> None:
    names = sorted(world.peers)
    for _ in range(chance.randint(1, 2)):
        inside = set(chance.sample(names, chance.randint(1, max(1, len(names) // 2))))
        at = chance.uniform(QUIET_SECONDS, until)
        end = min(until, at + chance.uniform(2, _LONGEST_CUT_SECONDS))
        world.partition(inside, at=at, until=end, one_way=one_way)


def _oneway(world: World, chance: random.Random, until: float) -> None:
    _partition(world, chance, until, one_way=True)


def _pause(world: World, chance: random.Random, until: float) -> None:
    for _ in range(chance.randint(1, max(2, len(world.peers) // 2))):
        name, at = chance.choice(sorted(world.peers)), chance.uniform(QUIET_SECONDS, until)
        end = min(until, at + chance.choice(_PAUSE_SECONDS))
        world.pause(name, at=at, until=end, clock_stops=chance.random() < 0.5)


def _clock(world: World, chance: random.Random, _: float) -> None:
    for peer in world.peers.values():
        peer.clock.rate = chance.uniform(0.98, 1.02)
        peer.clock.offset = chance.uniform(0, 1e6)


def _slow(world: World, chance: random.Random, _: float) -> None:
    slow = sorted(chance.sample(sorted(world.peers), max(1, len(world.peers) // 3)))
    for name in slow:
        peer = world.peers[name]
        peer.disk_delay_seconds = chance.choice([0.05, 0.5, 2.0])
        peer.line = Line(
            chance.uniform(1, 4) * MEGABIT, chance.uniform(2, 16) * MEGABIT, chance.uniform(0.1, 0.3)
        )
    world.remark(f"{' '.join(slow)} have slow lines")


def _liars(world: World, chance: random.Random, _: float) -> None:
    names = sorted(world.peers)[1:]  # the publisher is honest: it wrote the recipe
    count = (len(world.peers) - 1) // 3
    for name in sorted(chance.sample(names, chance.randint(min(1, count), count))):
        lie = chance.choice(_DRAWN_LIES)
        world.peers[name].liar = Liar(lie, chance.randrange(2**32))
        world.remark(f"{name} lies: {lie.value}")


_AFFLICTIONS = {
    Fault.CRASH: _crash,
    Fault.TORN: _torn,
    Fault.LOST: _lost,
    Fault.LOSS: _loss,
    Fault.PARTITION: _partition,
    Fault.ONEWAY: _oneway,
    Fault.PAUSE: _pause,
    Fault.CLOCK: _clock,
    Fault.SLOW: _slow,
    Fault.LIARS: _liars,
}
