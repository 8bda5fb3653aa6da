"""A majority of names, all of one mind and without vested credit, beside a few that worked for longer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

import peers.credit.electors
from peers.protocol.chance.say import UNIT
from peers.simulation.byzantine import Liar, Lie
from peers.simulation.simulator import World
from recipes.keys.keys import PeerId

WORKED = ("p0", "p1", "p2", "p3")
NAMES = tuple(f"p{number}" for number in range(4, 12))


def besieged(seed: int) -> World:
    """Four that have vested credit, and twice as many electors without, all of whom lie from here on."""
    world = World(seed=seed, peers=len(WORKED) + len(NAMES))
    for name in WORKED:
        world.start(name)
    world.run(until_round=24, at_most_seconds=1500)
    accounts = world.peers["p0"].running.chain.link(world.peers["p0"].running.head).accounts
    assert sum(accounts.peers[world.peers[name].id].vested > 0 for name in WORKED) >= 3
    for name in NAMES:
        world.start(name)
    names, engine = {world.peers[name].id for name in NAMES}, world.peers["p0"].running
    while not names <= engine.chain.electors_at(engine.head):
        world.run(until_round=world.round_of("p0") + 1, at_most_seconds=world.now + 100)
    for name in NAMES:
        world.peers[name].liar = Liar(Lie.FALSE_DIGEST, seed)
    return world


def alike(vested: Mapping[PeerId, int], *, mean_claim: int) -> dict[PeerId, int]:
    """The weights of a chain in which each name has one vote."""
    assert mean_claim >= 0
    return dict.fromkeys(sorted(vested), UNIT)


def goes_on(world: World) -> bool:
    """Whether rounds go on and become final, until the names, too, have worked long enough to have a say."""
    began = world.round_of("p0")
    world.run(until_round=began + 3, at_most_seconds=world.now + 300)
    chains = [world.peers[name].running.chain for name in WORKED]
    return all(chain.link(chain.final).round > began for chain in chains)


@pytest.mark.parametrize("seed", [1, 2])
def test_names_without_work_cannot_say_which_state_is_right(seed: int) -> None:
    assert goes_on(besieged(seed))


def test_where_each_name_has_one_vote_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.credit.electors, "weigh", alike)
    assert not goes_on(besieged(1))
