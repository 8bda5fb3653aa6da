"""Messages are handed on in a tree that reaches everybody once."""

from __future__ import annotations

import pytest
from bench import sent
from rounds import Swarm

from peers.chain.finality import Promise
from peers.consensus.engine import RoundEngine
from peers.consensus.host import Remembered
from peers.protocol.messages import Claim, Signed
from peers.protocol.rules import FANOUT


@pytest.fixture(scope="module")
def many() -> list[RoundEngine]:
    swarm = Swarm(65)
    return [
        RoundEngine(
            key=key,
            chain=swarm.chain,
            head=swarm.genesis.hash,
            state_digest=swarm.genesis_digest,
            remembered=Remembered(promise=Promise()),
            now=0.0,
        )
        for key in swarm.keys
    ]


@pytest.mark.parametrize("outside", [False, True])
def test_everybody_but_the_root_is_reached_exactly_once(many: list[RoundEngine], outside: bool) -> None:
    swarm = Swarm(1)
    message: Signed[Claim] = swarm.claim(swarm.keys[0], swarm.genesis)
    root = many[-1] if outside else many[0]
    for size in range(1, 65):
        audience = [engine.me for engine in many[:size]]
        links: list[tuple[str, str]] = []
        for engine in many:
            engine.context.begin_step(0.0)
            engine.context.spread(message, audience, root=root.me)
            sends = sent(engine.context.effects(), Claim)
            assert sum(len(send.peers) for send in sends) <= FANOUT
            links += [(engine.me, peer) for send in sends for peer in send.peers]
        assert sorted(to for _, to in links) == sorted(set(audience) - {root.me})
        reached: set[str] = {root.me}
        hops = 0
        while newly := {to for by, to in links if by in reached} - reached:
            reached |= newly
            hops += 1
        assert reached == {root.me, *audience}
        assert hops <= 2


def test_who_is_not_addressed_hands_nothing_on(many: list[RoundEngine]) -> None:
    swarm = Swarm(1)
    message = swarm.claim(swarm.keys[0], swarm.genesis)
    stranger = many[20]
    stranger.context.begin_step(0.0)
    stranger.context.spread(message, [engine.me for engine in many[:10]], root=many[0].me)
    assert not stranger.context.effects()


def test_different_messages_take_different_ways(many: list[RoundEngine]) -> None:
    """So that nobody bears the load of every round."""
    swarm = Swarm(1)
    first: set[tuple[str, ...]] = set()
    for steps in range(5):
        many[0].context.begin_step(0.0)
        message = swarm.claim(swarm.keys[0], swarm.genesis, steps=steps)
        many[0].context.spread(message, [engine.me for engine in many], root=many[0].me)
        first |= {send.peers for send in sent(many[0].context.effects(), Claim)}
    assert len(first) == 5
