"""Peers that take rounds for themselves: before their turn, many at once, or without the others' claims."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from peers.consensus.engine import RoundEngine
from peers.protocol.messages import Claim, Roster, Signed
from peers.simulation.byzantine import Liar, Lie
from peers.simulation.simulator import World
from peers.simulation.virtual_peer import VirtualPeer
from recipes.keys.keys import PeerId

PEERS = 7


def grown(seed: int = 5) -> tuple[World, VirtualPeer]:
    """A swarm in which some have vested credit, and the peer of the least weight."""
    world = World(seed=seed, peers=PEERS)
    for number in range(PEERS):
        world.start(f"p{number}", at=0.1 * number)
    world.run(until_round=14)
    say = world.peers["p1"].running.chain.link(world.peers["p1"].running.head).say
    lightest = min(world.peers.values(), key=lambda peer: say.weights[peer.id])
    assert 10 * say.weights[lightest.id] < say.total
    return world, lightest


def usurp(peer: VirtualPeer, monkeypatch: pytest.MonkeyPatch, *, at_once: bool) -> None:
    """Let a peer lead with its own claim alone; `at_once`: as any attempt, as soon as it has claimed."""
    engine = peer.running
    leader, allreduce = engine.leader, engine.allreduce

    def own_alone() -> Sequence[Signed[Claim]]:
        held = engine.context.round.pool.held.get(engine.me)
        return [held[0]] if held is not None else []

    def take(signed: Signed[Roster], taken: object = allreduce.take_roster) -> None:
        taken(signed)  # type: ignore[operator]
        if signed.body.peer == engine.me and engine.roster is None:
            allreduce._accept(signed)

    monkeypatch.setattr(leader, "_compatible_claims", own_alone)
    if at_once:
        peer.speed = 1e6
        monkeypatch.setattr(leader, "_claims_are_in", lambda _: True)
        monkeypatch.setattr(allreduce, "take_roster", take)
    peer.liar = Liar(Lie.OMITS, 1)


def rounds_since(engine: RoundEngine, first: int) -> list[tuple[PeerId, int]]:
    """Each block after a round up to a head: its author, and how many claims it lists."""
    found = []
    link = engine.chain.link(engine.head)
    while link.block is not None and link.round > first and link.parent in engine.chain:
        block = link.block.body
        found.append((block.peer, len(block.roster.body.claims)))
        link = engine.chain.link(link.parent)
    return found


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in its turn"])
def test_who_leads_alone_gets_the_rounds_that_it_leads_by_right_and_no_more(
    at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, usurper = grown()
    honest = next(peer for peer in world.peers.values() if peer is not usurper)
    first = honest.running.chain.link(honest.running.head).round
    usurp(usurper, monkeypatch, at_once=at_once)
    world.run(until_round=10**6, at_most_seconds=world.now + 240)
    taken = rounds_since(honest.running, first)
    alone = [author for author, claims in taken if claims == 1]
    assert len(taken) >= 10
    assert 4 * len(alone) <= len(taken)
    assert sum(claims >= PEERS - 1 for _, claims in taken) >= len(taken) / 2
    final = honest.running.chain.link(honest.running.chain.final).round
    assert final >= honest.running.chain.link(honest.running.head).round - 4
