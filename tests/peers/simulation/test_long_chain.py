"""Newcomers enter a run of any length: answers hold a few blocks, and old snapshots and segments are gone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from peers.consensus import effects as do
from peers.protocol.events import BlockAdopted, WindowStarted
from peers.simulation.byzantine import Liar, Lie
from peers.simulation.simulator import World
from peers.simulation.virtual_peer import VirtualPeer

A_FEW = 3  # blocks in an answer
ROUNDS = 40  # of them, and so far more than a few answers
WITHIN_SECONDS = 60.0


def long_world(*, peers: int, first: int, seed: int = 3) -> World:
    """A world in which the first few have trained for long, and the others have not come yet."""
    world = World(seed=seed, peers=peers)
    world.blocks_at_once = A_FEW
    world.play_by(replace(world.rules, snapshot_interval=4))
    for number in range(first):
        world.start(f"p{number}", at=float(number))
    world.run(until_round=ROUNDS)
    return world


def blocks_taken(world: World, names: list[str]) -> dict[str, Counter[str]]:
    """Count from now on how often each block comes to each of these peers in answers."""
    found: dict[str, Counter[str]] = {name: Counter() for name in names}

    def take(peer: VirtualPeer, plain: object, happened: do.Input) -> None:
        if isinstance(happened, do.BlocksFetched):
            found[peer.name].update(block.hash for block in happened.blocks)
        plain(happened)  # type: ignore[operator]

    for name in names:
        peer = world.peers[name]
        peer.take = partial(take, peer, peer.take)  # type: ignore[method-assign]
    return found


def counted(world: World, name: str) -> list[int]:
    """The rounds in which a peer's work counted together with others'."""
    events = [event for _, who, event in world.events if who == name and isinstance(event, BlockAdopted)]
    return [event.round for event in events if event.counted_segments and event.claims > 1]


@pytest.mark.parametrize("first", [1, 3])
def test_five_newcomers_at_once_enter_and_fetch_each_block_once(first: int) -> None:
    world = long_world(peers=first + 5, first=first)
    names = [f"p{number}" for number in range(first, first + 5)]
    taken = blocks_taken(world, names)
    came_at = world.now
    for name in names:
        world.start(name, at=came_at)
    world.run(until_round=ROUNDS + 8, at_most_seconds=came_at + 600)
    for name in names:
        began = [event for _, who, event in world.events if who == name and isinstance(event, WindowStarted)]
        assert began[0].round > ROUNDS, "trained beside the run"
        assert counted(world, name)
        assert taken[name].total() <= 1.1 * ROUNDS + 2 * first + A_FEW


def test_a_newcomer_enters_among_seven_liars_who_name_heads_that_they_cannot_deliver() -> None:
    world = long_world(peers=9, first=1)
    for number in range(1, 8):
        world.peers[f"p{number}"].liar = Liar(Lie.BOAST, number)
        world.start(f"p{number}", at=world.now)
    world.run(until_round=ROUNDS + 3)
    came_at = world.now
    world.start("p8", at=came_at)
    world.run(until_round=10**6, at_most_seconds=came_at + WITHIN_SECONDS)
    assert counted(world, "p8")


def test_who_was_away_comes_back_to_a_chain_that_went_on_for_many_answers() -> None:
    """And not block by block, nor to a branch of its own."""
    world = World(seed=5, peers=4)
    world.blocks_at_once = A_FEW
    world.play_by(replace(world.rules, snapshot_interval=4))
    for name in world.peers:
        world.start(name)
    world.run(until_round=6)
    world.crash("p3", at=world.now)
    world.run(until_round=6 + ROUNDS)
    taken = blocks_taken(world, ["p3"])
    again_at = world.now + 1
    world.start("p3", at=again_at)
    world.run(until_round=6 + ROUNDS + 6, at_most_seconds=again_at + 600)
    assert counted(world, "p3")[-1] > 6 + ROUNDS
    assert taken["p3"].total() <= 1.1 * ROUNDS + 3 * A_FEW
