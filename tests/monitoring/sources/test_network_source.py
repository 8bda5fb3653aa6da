"""An observer fetches blocks as peers do, also from a source that failed before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rounds import RUN, Swarm, trunk

from monitoring.sources.network_source import Observer
from peers.network.transport import Request
from peers.protocol.length_prefixed import join_parts
from peers.protocol.messages import Block, Signed
from peers.protocol.requests import decode_round
from recipes.errors import UnreachableError


async def test_a_source_that_failed_once_is_asked_again() -> None:
    swarm = Swarm(3)
    head = swarm.grow(swarm.genesis, swarm.keys, 7)
    blocks = [link.block for link in trunk(swarm, head) if link.block is not None]
    chain, source, failing = swarm.fresh_chain(), swarm.keys[0].peer_id, True

    async def call(_: object, request: Request) -> bytes:
        assert request.kind == "blocks"
        if failing:
            raise UnreachableError("gone for a moment")
        later = [block for block in blocks if block.body.round > decode_round(request.body)]
        return join_parts([block.canonical() for block in later[:2]])

    def take(new: list[Signed[Block]], **_: object) -> list[Signed[Block]]:
        taken = [one for one in new if one.hash not in chain and one.body.parent in chain]
        for one in taken:
            chain.add(one)
        return taken

    watch: Any = SimpleNamespace(chain=chain, head=chain.root, take=take)
    store: Any = SimpleNamespace(save=lambda _: None)
    transport: Any = SimpleNamespace(call=call, blame=lambda *_: None)
    crowd: Any = None
    observer = Observer(watch, store, transport, crowd, run=RUN, window_seconds=1.0, tell=lambda _: None)
    search = observer._search
    search.name(source, head.hash, head.round, 0.0)
    assert not await observer._fetch()
    assert search.failed(source)
    failing = False
    search.name(source, head.hash, head.round, float("inf"))  # long after
    assert await observer._fetch()
    assert head.hash in chain
