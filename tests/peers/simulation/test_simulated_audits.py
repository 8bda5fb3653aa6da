"""Audits in whole swarms: what all peers' accounts come to, whoever is silent, lies or opens nothing."""

from __future__ import annotations

from collections import Counter

from peers.credit.escrow import Account
from peers.protocol.events import AuditAsked, AuditDecided, CreditChanged, Notice, VerdictGiven
from peers.simulation.simulator import World
from peers.simulation.virtual_disk import DiskAfter
from peers.simulation.virtual_surroundings import Manner


def swarm(seed: int, *, peers: int = 5, **manners: Manner) -> World:
    """A world in which some peers behave as said in audits; it checks that all hold one ledger."""
    world = World(seed=seed, peers=peers)
    for number, name in enumerate(world.peers):
        world.start(name, at=0.1 * number)
    for name, manner in manners.items():
        world.peers[name].manner = manner
    return world


def account(world: World, name: str) -> Account:
    """A peer's account as the first peer sees it."""
    engine = world.peers["p0"].running
    return engine.chain.link(engine.head).accounts.peers[world.peers[name].id]


def told(world: World, kind: type[object]) -> Counter[str]:
    return Counter(name for _, name, event in world.events if isinstance(event, kind))


def test_honest_work_is_audited_passes_and_vests() -> None:
    world = swarm(6)
    world.run(until_round=25)
    assert set(told(world, AuditAsked)) == set(told(world, CreditChanged)) == set(world.peers)
    for name in world.peers:
        found = account(world, name)
        assert found.passes > 0
        assert found.vested > 0
        assert not found.lost
    newest = {
        name: event for _, name, event in world.events if isinstance(event, CreditChanged)
    }  # the last of each
    heads = {name: world.peers[name].running for name in world.peers}
    for name, event in newest.items():
        mine = heads[name].chain.link(heads[name].head).accounts.peers[world.peers[name].id]
        assert (event.pending, event.vested) == (mine.in_escrow, mine.vested)


def test_who_opens_nothing_loses_what_it_has_pending_and_disputes_in_vain() -> None:
    world = swarm(5, p3=Manner.SHUT)
    world.run(until_round=32)
    found = account(world, "p3")
    assert (found.passes, found.vested) == (0, 0)
    assert set(found.lost) == {"not reachable for audit"}
    assert any(
        "disputes it" in e.text for _, name, e in world.events if isinstance(e, Notice) and name == "p3"
    )
    outcomes = {e.decision for _, name, e in world.events if isinstance(e, AuditDecided) and name == "p3"}
    assert outcomes == {"unreachable", "undecided"}


def test_one_who_calls_all_work_false_or_says_nothing_costs_nobody_a_thing() -> None:
    for manner in (Manner.FALSE, Manner.SILENT):
        world = swarm(7, p4=manner)
        world.run(until_round=25)
        for name in ("p0", "p1", "p2", "p3"):
            assert account(world, name).vested > 0
            assert not account(world, name).lost
        assert ("p4" in told(world, VerdictGiven)) == (manner is Manner.FALSE)


def test_an_auditor_that_dies_in_mid_audit_is_asked_again_when_it_comes_back() -> None:
    world = swarm(5)
    name = "p0"
    while name == "p0":  # the first peer stays, so that there is somebody to stand beside
        world.run(until_round=max(map(world.round_of, world.peers)) + 1)
        asked = [name for _, name, event in world.events if isinstance(event, AuditAsked)]
        name = asked[-1] if asked else "p0"
    before = told(world, AuditAsked)[name]
    given = told(world, VerdictGiven)[name]
    world.crash(name, at=world.now, disk=DiskAfter.KEPT)
    world.start(name, at=world.now + 0.5)
    world.run(until_round=world.round_of("p0") + 2)
    assert told(world, AuditAsked)[name] > before
    assert told(world, VerdictGiven)[name] > given
