"""Faults by name, drawn from a world's seed as a list of mishaps, and written into its future.

Each fault draws from a chance of its own, and each mishap stands alone, so that leaving some out leaves the
others as they were: that is how a failing world is shrunk, and how what is left of it is replayed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from peers.simulation.byzantine import Liar, Lie
from peers.simulation.simulator import World
from peers.simulation.virtual_disk import DiskAfter
from peers.simulation.virtual_links import MEGABIT, Line
from peers.simulation.virtual_surroundings import Manner

QUIET_SECONDS = 15.0  # before the first fault: a swarm needs a first round
_LONGEST_CUT_SECONDS = 60.0
_PAUSE_SECONDS = (1.0, 6.0, 20.0, 60.0)
_THERE_FROM_THE_START = 5  # peers at least: what fewer hold, two or three bad disks can lose for good
_DEAD_SECONDS = (1.0, 5.0, 20.0, 45.0)
_INSTALL_SECONDS = (1.0, 5.0)


class Fault(str, Enum):
    """The faults that may occur in a world."""

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
    LONG = "long"  # some come late to a chain of many answers, of which old snapshots are gone
    UPGRADE = "upgrade"  # the peers are upgraded to the next build, one by one
    AUDITS = "audits"  # up to a third are silent or false as auditors, or open nothing


@dataclass(frozen=True)
class Mishap:
    """One thing that befalls a world; `write` puts it into the world's future, before anyone has started."""

    fault: Fault
    text: str
    write: Callable[[World], None]


Draw = Callable[[list[str], random.Random, float], Iterator[tuple[str, Callable[[World], None]]]]


def draw(faults: Collection[Fault], *, seed: int, names: list[str], until: float) -> list[Mishap]:
    """Return what `seed` holds for peers of these names. All heals at `until` at the latest.

    Lines, clocks and liars stay as they are to the end.
    """
    return [
        Mishap(fault, text, write)
        for fault in Fault
        if fault in faults
        for text, write in _DRAWS[fault](names, random.Random(f"{seed}/{fault.value}"), until)
    ]


def _crash(
    names: list[str], chance: random.Random, until: float, disk: DiskAfter = DiskAfter.KEPT
) -> Iterator[tuple[str, Callable[[World], None]]]:
    for _ in range(chance.randint(1, max(2, len(names) // 2))):
        name, at = chance.choice(sorted(names)), chance.uniform(QUIET_SECONDS, until)
        yield _death(name, at, min(until, at + chance.choice(_DEAD_SECONDS)), disk)


def _torn(
    names: list[str], chance: random.Random, until: float
) -> Iterator[tuple[str, Callable[[World], None]]]:
    yield from _crash(names, chance, until, DiskAfter.TORN)


def _lost(
    names: list[str], chance: random.Random, until: float
) -> Iterator[tuple[str, Callable[[World], None]]]:
    name, at = chance.choice(sorted(names)[1:] or sorted(names)), chance.uniform(QUIET_SECONDS, until)
    yield _death(name, at, min(until, at + chance.choice(_DEAD_SECONDS)), DiskAfter.LOST)


def _upgrade(
    names: list[str], chance: random.Random, until: float
) -> Iterator[tuple[str, Callable[[World], None]]]:
    """Upgrade all peers in turn, as an operator does: each is back before the next goes down.

    Most peers down at once beside a lost disk is not what this fault is for: then nobody may be left who
    remembers what the peer without its disk has claimed, and it claims there again. What such a peer should
    do is open (LOG.md, seed 940182).
    """
    pause = (until - QUIET_SECONDS) / (len(names) + 1)
    for number, name in enumerate(chance.sample(sorted(names), len(names)), start=1):
        at = QUIET_SECONDS + number * pause
        yield _upgraded(name, at, at + min(chance.choice(_INSTALL_SECONDS), pause / 2))


def _upgraded(name: str, at: float, again: float) -> tuple[str, Callable[[World], None]]:
    text = f"{name} is upgraded at {at:.1f} s, and starts again at {again:.1f} s"
    return text, lambda world: world.upgrade(name, at=at, until=again)


def _death(name: str, at: float, again: float, disk: DiskAfter) -> tuple[str, Callable[[World], None]]:
    def write(world: World) -> None:
        world.crash(name, at=at, disk=disk)
        world.start(name, at=again)

    return f"{name} dies at {at:.1f} s, its disk is {disk.value}, and starts again at {again:.1f} s", write


def _loss(_: list[str], chance: random.Random, until: float) -> Iterator[tuple[str, Callable[[World], None]]]:
    loss = chance.choice([0.01, 0.05, 0.15])
    duplication, reordering = chance.choice([0.0, 0.1]), chance.choice([0.0, 0.1])
    text = f"of all messages, {loss:.0%} are lost, {duplication:.0%} doubled, {reordering:.0%} late"

    def write(world: World) -> None:
        links = world.links
        links.loss, links.duplication, links.reordering = loss, duplication, reordering
        world.remark(text)

        def clear() -> None:
            links.loss = links.duplication = links.reordering = 0.0
            world.remark("the links are good again")

        world.at(until, clear)

    yield text, write


def _partition(
    names: list[str], chance: random.Random, until: float, *, one_way: bool = False
) -> Iterator[tuple[str, Callable[[World], None]]]:
    for _ in range(chance.randint(1, 2)):
        inside = set(chance.sample(sorted(names), chance.randint(1, max(1, len(names) // 2))))
        at = chance.uniform(QUIET_SECONDS, until)
        yield _cut(inside, at, min(until, at + chance.uniform(2, _LONGEST_CUT_SECONDS)), one_way)


def _cut(inside: set[str], at: float, end: float, one_way: bool) -> tuple[str, Callable[[World], None]]:
    how = "are not heard" if one_way else "are cut off"
    return (
        f"{' '.join(sorted(inside))} {how} from {at:.1f} to {end:.1f} s",
        lambda world: world.partition(inside, at=at, until=end, one_way=one_way),
    )


def _oneway(
    names: list[str], chance: random.Random, until: float
) -> Iterator[tuple[str, Callable[[World], None]]]:
    yield from _partition(names, chance, until, one_way=True)


def _pause(
    names: list[str], chance: random.Random, until: float
) -> Iterator[tuple[str, Callable[[World], None]]]:
    for _ in range(chance.randint(1, max(2, len(names) // 2))):
        name, at = chance.choice(sorted(names)), chance.uniform(QUIET_SECONDS, until)
        end = min(until, at + chance.choice(_PAUSE_SECONDS))
        yield _standstill(name, at, end, chance.random() < 0.5)


def _standstill(name: str, at: float, end: float, clock_stops: bool) -> tuple[str, Callable[[World], None]]:
    return (
        f"{name} stands still from {at:.1f} to {end:.1f} s{', its clock too' if clock_stops else ''}",
        lambda world: world.pause(name, at=at, until=end, clock_stops=clock_stops),
    )


def _clock(
    names: list[str], chance: random.Random, _: float
) -> Iterator[tuple[str, Callable[[World], None]]]:
    clocks = {name: (chance.uniform(0.98, 1.02), chance.uniform(0, 1e6)) for name in names}

    def write(world: World) -> None:
        for name, (rate, offset) in clocks.items():
            world.peers[name].clock.rate, world.peers[name].clock.offset = rate, offset

    yield "clocks run up to 2% fast or slow, and show other times", write


def _slow(names: list[str], chance: random.Random, _: float) -> Iterator[tuple[str, Callable[[World], None]]]:
    for name in sorted(chance.sample(sorted(names), max(1, len(names) // 3))):
        up, down, latency = chance.uniform(1, 4), chance.uniform(2, 16), chance.uniform(0.1, 0.3)
        yield _thin_line(name, Line(up * MEGABIT, down * MEGABIT, latency), chance.choice([0.05, 0.5, 2.0]))


def _thin_line(name: str, line: Line, disk_seconds: float) -> tuple[str, Callable[[World], None]]:
    text = (
        f"{name} has {line.up_bytes_per_second / MEGABIT:.1f} Mbit/s up, "
        f"{1000 * line.latency_seconds:.0f} ms to the middle of the network, and "
        f"a disk that takes {disk_seconds:g} s"
    )

    def write(world: World) -> None:
        world.peers[name].line, world.peers[name].disk_delay_seconds = line, disk_seconds
        world.remark(text)

    return text, write


def _liars(
    names: list[str], chance: random.Random, _: float
) -> Iterator[tuple[str, Callable[[World], None]]]:
    others = sorted(names)[1:]  # the publisher is honest: it wrote the recipe
    count = (len(names) - 1) // 3
    lies = [lie for lie in Lie if lie is not Lie.CONSPIRE]
    conspiracy = chance.random() < 0.2  # alone, nobody conspires: then all liars do
    for name in sorted(chance.sample(others, chance.randint(min(1, count), count))):
        lie = Lie.CONSPIRE if conspiracy else chance.choice(lies)
        yield _lie(name, lie, chance.randrange(2**32))


def _lie(name: str, lie: Lie, seed: int) -> tuple[str, Callable[[World], None]]:
    def write(world: World) -> None:
        world.peers[name].liar = Liar(lie, seed)
        world.remark(text)

    text = f"{name} lies: {lie.value}"
    return text, write


def _audits(
    names: list[str], chance: random.Random, _: float
) -> Iterator[tuple[str, Callable[[World], None]]]:
    for name in sorted(chance.sample(sorted(names), chance.randint(1, max(1, len(names) // 3)))):
        yield _manner(name, chance.choice([Manner.SILENT, Manner.FALSE, Manner.SHUT]))


def _manner(name: str, manner: Manner) -> tuple[str, Callable[[World], None]]:
    text = f"{name} is {manner.value} in audits"

    def write(world: World) -> None:
        world.peers[name].manner = manner
        world.remark(text)

    return text, write


def _long(
    names: list[str], chance: random.Random, until: float
) -> Iterator[tuple[str, Callable[[World], None]]]:
    blocks, interval = chance.randint(1, 4), chance.choice([2, 3, 4])
    spare = max(0, len(names) - _THERE_FROM_THE_START)
    late = chance.sample(
        sorted(names)[1:], chance.randint(min(1, spare), min(spare, max(1, len(names) // 3)))
    )
    arrivals = {name: chance.uniform(until / 2, until) for name in sorted(late)}
    come = ", ".join(f"{name} at {at:.1f} s" for name, at in arrivals.items()) or "nobody"
    text = f"answers hold {blocks} blocks, and snapshots are of every {interval} rounds; late comes {come}"

    def write(world: World) -> None:
        world.blocks_at_once = blocks
        world.play_by(replace(world.rules, snapshot_interval=interval))
        world.arrivals = arrivals
        world.remark(text)

    yield text, write


_DRAWS: dict[Fault, Draw] = {
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
    Fault.LONG: _long,
    Fault.UPGRADE: _upgrade,
    Fault.AUDITS: _audits,
}
