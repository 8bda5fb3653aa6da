"""A swarm that is cut into parts for some rounds, and what becomes of their rounds when the parts meet again.

    split = cut_apart(world, (5, 3))
    world.run(until_round=split.after_round + 10)
    healing = meet(split)

Each part goes on by itself. Which branch prevails, and whether one does, is the engine's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from peers.protocol.events import BlockAdopted, BlockFinal, Rewound
from peers.simulation.scenario import recovery_bound
from peers.simulation.simulator import World
from recipes.keys.keys import PeerId

_TOGETHER_AT_MOST_SECONDS = 1800.0  # until all are electors
_ROUNDS_AFTER = 3  # within two, all return what the chain does not count


@dataclass(frozen=True)
class Split:
    """A world in parts. All peers stood on the block of round `after_round` when they were cut apart."""

    world: World
    parts: tuple[tuple[str, ...], ...]
    after_round: int
    cut_at: float


@dataclass(frozen=True)
class Healing:
    """The outcome of a split.

    Attributes:
        reached: the newest round of each part when they met.
        final_apart: blocks made by a part alone that were final to somebody before they met.
        seconds: virtual, from their meeting until all stood on one branch; None if they never did.
        undone: how many rounds each peer went back that left its branch.
        lost: the blocks of the branches that were left.
        returned: by the claim in a lost block: how many segments of its contribution returned to the sender.
    """

    reached: tuple[int, ...]
    final_apart: frozenset[str]
    seconds: float | None
    undone: dict[str, int]
    lost: frozenset[str]
    returned: dict[str, int]


def parts_of(sizes: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """Return the names of each part's peers, in the order of their numbers."""
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return tuple(
        tuple(f"p{number}" for number in range(start, start + size))
        for start, size in zip(starts, sizes, strict=True)
    )


def cut_apart(world: World, sizes: Sequence[int]) -> Split:
    """Start all peers, wait until everybody elects and stands on one block, and cut all links between parts.

    Raises:
        InvariantBrokenError: something that must always hold did not, or the peers never got that far.
    """
    for name in world.peers:
        world.start(name)
    while world.now < _TOGETHER_AT_MOST_SECONDS and not _everybody_elects(world):
        world.run(
            until_round=min(map(world.round_of, world.peers)) + 1, at_most_seconds=_TOGETHER_AT_MOST_SECONDS
        )
    world.watch.require(_everybody_elects(world), "the peers never stood on one block as electors")
    split = Split(world, parts_of(sizes), world.round_of("p0"), world.now)
    for one, other in combinations(split.parts, 2):
        world.links.cut(one, other)
        world.links.cut(other, one)
        world.remark(f"{' '.join(one)} and {' '.join(other)} are cut off from each other")
    return split


def meet(split: Split) -> Healing:
    """Join the parts again, and run until all stand on one branch, or for as long as that may take.

    Raises:
        InvariantBrokenError: something that must always hold did not.
    """
    world, met_at = split.world, split.world.now
    reached = tuple(max(map(world.round_of, names)) for names in split.parts)
    final_apart = frozenset(
        event.block
        for at, _, event in world.events
        if at >= split.cut_at and isinstance(event, BlockFinal) and event.round > split.after_round
    )
    for one, other in combinations(split.parts, 2):
        world.links.heal(one, other)
        world.links.heal(other, one)
    world.remark("all can talk to each other again")
    bound, first, returned = recovery_bound(world.rules, liars=0), max(reached) + 1, dict[str, int]()
    world.run(until_round=first, at_most_seconds=met_at + bound)
    healed = len({world.block_at(name, first) for name in world.peers}) == 1
    for number in range(_ROUNDS_AFTER if healed else 0):
        world.run(until_round=first + number + 1, at_most_seconds=world.now + bound)
        returned |= _returned(world, _lost(split, met_at))
    return Healing(
        reached=reached,
        final_apart=final_apart,
        seconds=_together_at(world, met_at, first) - met_at if healed else None,
        undone=_undone(world, met_at),
        lost=_lost(split, met_at) if healed else frozenset(),
        returned=returned,
    )


def _everybody_elects(world: World) -> bool:
    """Whether all peers stand on one block, and their co-signatures are a quorum in both electorates."""
    if not all(peer.alive for peer in world.peers.values()):
        return False
    engine = world.peers["p0"].running
    electorate = engine.chain.link(engine.head).finality.electorate
    everybody: frozenset[PeerId] = frozenset(world.by_id)
    one_head = len({peer.running.head for peer in world.peers.values()}) == 1
    return one_head and {*map(frozenset, electorate.terms)} == {everybody}


def _undone(world: World, met_at: float) -> dict[str, int]:
    found: dict[str, int] = {}
    for at, name, event in world.events:
        if at >= met_at and isinstance(event, Rewound):
            found[name] = max(found.get(name, 0), event.round - event.to_round)
    return found


def _together_at(world: World, met_at: float, number: int) -> float:
    """Return when the last peer adopted a block, of round `number` or later, that all hold now."""
    shared = {world.block_at("p0", later) for later in range(number, world.round_of("p0") + 1)}
    first: dict[str, float] = {}
    for at, name, event in world.events:
        if at >= met_at and isinstance(event, BlockAdopted) and event.block in shared:
            first.setdefault(name, at)
    return max(first.values())


def _lost(split: Split, met_at: float) -> frozenset[str]:
    """Return the blocks made apart that the peers which stood on them have left."""
    return frozenset(
        event.block
        for at, name, event in split.world.events
        if split.cut_at <= at < met_at
        and isinstance(event, BlockAdopted)
        and split.world.block_at(name, event.round) != event.block
    )


def _returned(world: World, lost: frozenset[str]) -> dict[str, int]:
    """Return by claim how many segments of a contribution to a lost block have returned so far."""
    found: dict[str, int] = {}
    for peer in world.peers.values():
        rosters = [signed.body.roster.body for signed in peer.disk.blocks if signed.hash in lost]
        own = {claim.hash for roster in rosters for claim in roster.claims if claim.body.peer == peer.id}
        entries = [entry for entry in peer.disk.entries if entry.claim in own]
        found |= {entry.claim: len(entry.returned) for entry in entries if entry.claim is not None}
    return found
