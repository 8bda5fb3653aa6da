"""A run outlives the upgrade of all its peers, one by one, and a rule comes into force everywhere at once."""

from __future__ import annotations

import pytest

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.protocol.events import BlockAdopted, Notice
from peers.simulation.faults import QUIET_SECONDS, Fault, draw
from peers.simulation.simulator import NEXT_BUILD, UPGRADE_LEAD, World, WorldForm
from recipes.schema.sections import Overlap

PEERS = 4


def world_of(*, overlap: Overlap = "none") -> World:
    world = World(seed=11, peers=PEERS, form=WorldForm(overlap=overlap))
    for number, name in enumerate(world.peers):
        world.start(name, at=0.1 * number)
    return world


def rules_at(world: World, name: str) -> dict[str, int]:
    engine = world.peers[name].running
    return dict(engine.chain.link(engine.head).counters.rules or {})


@pytest.mark.parametrize("overlap", ["none", "eager"])
def test_no_round_is_lost_while_the_peers_are_upgraded_in_turn(overlap: Overlap) -> None:
    world = world_of(overlap=overlap)
    for number, name in enumerate(world.peers):
        world.upgrade(name, at=80.0 + 40.0 * number, until=82.0 + 40.0 * number)
    world.run(until_round=24, at_most_seconds=900.0)
    assert {peer.build for peer in world.peers.values()} == {NEXT_BUILD}
    rounds = sorted({e.round for _, _, e in world.events if isinstance(e, BlockAdopted)})
    assert rounds == list(range(1, max(rounds) + 1))
    in_force = [rules_at(world, name) for name in world.peers]
    assert in_force == [in_force[0]] * PEERS
    assert in_force[0].keys() == {"trial"}
    digests = {e.digest for _, _, e in world.events if isinstance(e, BlockAdopted) and e.round == 24}
    assert len(digests) == 1


@pytest.mark.parametrize("peers", [1, 3, 12, 30])
@pytest.mark.parametrize("seconds", [14.0, 140.0])
def test_drawn_upgrades_come_in_turn_each_peer_back_before_the_next_goes(
    peers: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    down: list[tuple[float, float, str]] = []
    monkeypatch.setattr(World, "upgrade", lambda _, name, *, at, until: down.append((at, until, name)))
    until, orders = QUIET_SECONDS + seconds, set()
    for seed in range(8):
        world = World(seed=seed, peers=peers)
        down.clear()
        for mishap in draw({Fault.UPGRADE}, seed=seed, names=list(world.peers), until=until):
            mishap.write(world)
        down.sort()
        assert sorted(name for _, _, name in down) == sorted(world.peers)
        assert all(0 < again - at <= 5.0 for at, again, _ in down)
        ends = [QUIET_SECONDS, *(again for _, again, _ in down)]
        begins = [*(at for at, _, _ in down), until]
        assert all(again < at for again, at in zip(ends, begins, strict=True))
        orders.add(tuple(name for _, _, name in down))
    assert len(orders) > 1 or peers == 1


def test_a_rule_is_in_force_three_rounds_after_three_quarters_named_it_and_not_before() -> None:
    world = world_of()
    for name in ("p0", "p1"):
        world.upgrade(name, at=60.0, until=61.0)
    world.run(until_round=14, at_most_seconds=900.0)
    world.upgrade("p2", at=world.now, until=world.now + 1.0)
    until = world.round_of("p0") + 2 * UPGRADE_LEAD + 8
    world.run(until_round=until, at_most_seconds=1800.0)
    chain = world.peers["p0"].running.chain
    locked_in = [link.round for link in chain.links.values() if "trial" in (link.counters.rules or {})]
    agreed = [link.round for link in chain.links.values() if _is_agreed(chain, link)]
    assert min(locked_in) == min(agreed)
    assert rules_at(world, "p0")["trial"] == min(locked_in) + 1 + UPGRADE_LEAD


def _is_agreed(chain: Chain, link: Link) -> bool:
    """Whether electors of three quarters of the weight name the rule."""
    if link.parent not in chain:
        return False
    say = chain.link(link.parent).say
    named = [peer for peer, record in link.counters.peers.items() if "trial" in (record.signals or ())]
    return 4 * say.of(named) >= 3 * say.of(link.counters.peers)


def test_a_peer_of_a_build_that_does_not_know_a_rule_says_so_in_time_stops_and_goes_on_upgraded() -> None:
    world = world_of()
    for name in ("p0", "p1", "p2"):
        world.upgrade(name, at=60.0, until=61.0)
    world.run(until_round=24, at_most_seconds=1800.0)
    notices = [event.text for _, name, event in world.events if name == "p3" and isinstance(event, Notice)]
    [warning] = [text for text in notices if "does not know (trial)" in text]
    assert "Install a newer build" in warning
    assert any("p3 is upgraded" in line for line in world.trace)
    assert world.peers["p3"].build == NEXT_BUILD
    assert world.round_of("p3") == world.round_of("p0")
    [told] = [text for text in notices if "run a newer build" in text]
    assert told.startswith("2 of 3 peers")


def test_rosters_are_sorted_whoever_leads_and_whomever_the_chain_knows() -> None:
    world = World(seed=11, peers=PEERS)
    newcomer, *others = sorted(world.peers, key=lambda name: world.peers[name].key.peer_id)
    for number, name in enumerate(others):
        world.start(name, at=0.1 * number)
    world.run(until_round=8, at_most_seconds=900.0)
    world.start(newcomer, at=world.now)  # first by name, and taken in last: the chain does not know it
    world.run(until_round=16, at_most_seconds=900.0)
    chain = world.peers[others[0]].running.chain
    rosters = [link.block.body.roster.body for link in chain.links.values() if link.block is not None]
    listed = [[claim.body.peer for claim in roster.claims] for roster in rosters]
    assert listed == [sorted(peers) for peers in listed]
    assert {roster.peer for roster in rosters} >= {world.peers[name].key.peer_id for name in others}
    assert max(map(len, listed)) == PEERS
