"""An observer fetches blocks as peers do, also from a source that failed before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rounds import RUN, Swarm, trunk

from monitoring.sources.network_source import Observer
from peers.network.loopback import LoopbackNetwork
from peers.protocol.events import NOBODY_LISTENS
from peers.protocol.length_prefixed import join_parts
from peers.protocol.messages import Block, Signed
from peers.protocol.requests import decode_round
from recipes.keys.keys import PeerId


async def test_a_source_that_failed_once_is_asked_again() -> None:
    swarm = Swarm(3)
    head = swarm.grow(swarm.genesis, swarm.keys, 7)
    blocks = [link.block for link in trunk(swarm, head) if link.block is not None]
    chain, network = swarm.fresh_chain(), LoopbackNetwork()
    source, observing = (key.peer_id for key in swarm.keys[:2])

    async def some_blocks(_: PeerId, body: bytes) -> bytes:
        later = [block for block in blocks if block.body.round > decode_round(body)]
        return join_parts([block.canonical() for block in later[:2]])

    def take(new: list[Signed[Block]], **_: object) -> list[Signed[Block]]:
        taken = [one for one in new if one.hash not in chain and one.body.parent in chain]
        for one in taken:
            chain.add(one)
        return taken

    watch: Any = SimpleNamespace(chain=chain, head=chain.root, take=take)
    store: Any = SimpleNamespace(save_block=lambda _: None)
    crowd: Any = None
    observer = Observer(
        watch,
        store,
        network.join(observing),
        crowd,
        run=RUN,
        window_seconds=1.0,
        listener=NOBODY_LISTENS,
    )
    search = observer._search
    search.name(source, head.hash, head.round, 0.0)
    assert not await observer._fetch()
    assert search.failed(source)
    network.join(source).serve("blocks", some_blocks, limit=8)
    search.name(source, head.hash, head.round, float("inf"))  # long after
    assert await observer._fetch()
    assert head.hash in chain
