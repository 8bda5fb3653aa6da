"""The state of an earlier round is made again from what is on disk, and kept there while audits need it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from replicas import LAYOUT, OUTER, Replica, World

from peers.chain.link import Link
from peers.state.past_state import PastState, Way, way_to
from recipes.errors import StateError


class History:
    """A peer that went through some rounds, and the weights that it had after each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.peer: Replica = world.replica(0)
        self.links: list[Link] = [world.swarm.genesis]
        self.weights: list[NDArray[np.float32]] = [np.array(self.peer.state.weights)]
        self.past = PastState(
            self.peer.folder, self.peer.snapshots, self.peer.exchange, layout=LAYOUT, outer=OUTER
        )

    async def go_on(self, rounds: int) -> None:
        for _ in range(rounds):
            link = await self.world.round(self.links[-1], self.peer, seed=len(self.links))
            await self.peer.bring_to(link)
            self.links.append(link)
            self.weights.append(np.array(self.peer.state.weights))

    def way(self, number: int) -> Way:
        link = self.links[number]
        return way_to(link.hash, self.world.swarm.chain, digest=self.world.swarm.digests[link.hash])

    def made(self, number: int) -> NDArray[np.float32]:
        return np.array(self.past.make(self.way(number)))


@pytest.fixture
async def history(tmp_path: Path) -> History:
    made = History(World(tmp_path, snapshot_interval=4))
    await made.go_on(9)
    return made


async def test_any_round_since_the_oldest_snapshot_is_made_again_bit_for_bit(history: History) -> None:
    for number in (5, 4, 8, 7, 0, 3, 9):  # forwards and backwards
        np.testing.assert_array_equal(history.made(number), history.weights[number])
    np.testing.assert_array_equal(history.peer.state.weights, history.weights[9])
    assert history.peer.state.block == history.links[9].hash


async def test_without_a_reduced_segment_the_state_cannot_be_made(history: History) -> None:
    history.peer.exchange.forget_reduced(before_round=7)
    with pytest.raises(StateError, match="cannot be recomputed"):
        history.made(6)
    np.testing.assert_array_equal(history.made(9), history.weights[9])


async def test_a_state_that_comes_out_as_another_one_is_not_used(history: History) -> None:
    way = history.way(6)
    with pytest.raises(StateError, match="another digest"):
        history.past.make(replace(way, digest="00" * 32))


async def test_what_audits_need_stays_until_they_need_it_no_more(tmp_path: Path) -> None:
    history = History(World(tmp_path, snapshot_interval=2))
    await history.go_on(5)
    history.peer.sync.keep_for_audits(5)
    await history.go_on(10)
    assert history.peer.snapshots.rounds() == [0, 4, 12, 14]
    assert history.peer.sync.oldest_needed_round() <= 4
    np.testing.assert_array_equal(history.made(5), history.weights[5])
    history.peer.sync.keep_for_audits(13)
    await history.go_on(2)
    assert history.peer.snapshots.rounds() == [0, 12, 14, 16]


async def test_a_newcomer_keeps_its_first_snapshot_while_audits_need_states_since(tmp_path: Path) -> None:
    history = History(World(tmp_path, snapshot_interval=2))
    await history.go_on(5)
    newcomer = history.world.replica(7, genesis=False)
    newcomer.sources = [history.peer]
    await newcomer.bring_to(history.links[5])
    assert newcomer.snapshots.rounds() == [4]
    newcomer.sync.keep_for_audits(3)  # an audit of a claim from before it came is open, among others
    for _ in range(7):
        await history.go_on(1)
        await newcomer.bring_to(history.links[-1])
    assert newcomer.snapshots.rounds() == [4, 10, 12]
    past = PastState(newcomer.folder, newcomer.snapshots, newcomer.exchange, layout=LAYOUT, outer=OUTER)
    np.testing.assert_array_equal(past.make(history.way(6)), history.weights[6])
    newcomer.sync.keep_for_audits(11)
    await history.go_on(2)
    await newcomer.bring_to(history.links[-1])
    assert newcomer.snapshots.rounds() == [10, 12, 14]
