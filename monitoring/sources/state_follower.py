"""Keeping a run's state without training: the observer applies the blocks to the weights as every peer does.

So it has the model after each round for a few reduced segments instead of all of the weights, and finds out
by itself whether the digest that the chain agrees on is that of the state.
"""

from __future__ import annotations

import asyncio

from peers.chain.chain import Chain
from peers.codec.round_codec import exchange_format
from peers.exchange.segment_store import ExchangeStore
from peers.network.discovery import Crowd
from peers.network.transport import Transport
from peers.protocol.events import Listener
from peers.protocol.rules import Rules
from peers.state.genesis import open_state
from peers.sync.run_download import Run
from peers.sync.state_sync import StateSync
from recipes.layout import Layout


class StateKeeper:
    """The canonical state in this observer's folder."""

    def __init__(
        self, run: Run, layout: Layout, transport: Transport, crowd: Crowd, *, listener: Listener
    ) -> None:
        """Open the state, or begin with the first weights if they are here.

        Raises:
            StorageError: the disk refuses.
        """
        recipe = run.signed.recipe
        self._exchange = ExchangeStore(run.folder, exchange_format(recipe, layout))
        self._sync = StateSync(
            open_state(run.folder, run.signed, layout),
            self._exchange,
            rules=Rules.of(recipe, run.signed.run_id),
            layout=layout,
            has_momentum=bool(recipe.outer.momentum),
            transport=transport,
            sources=crowd,
            listener=listener,
        )
        self._busy = asyncio.Lock()

    async def bring_to(self, block: str, chain: Chain) -> None:
        """Make the state the one after `block`.

        Raises:
            UnreachableError: no peer has what is needed, for now.
            MessageError: a block on the way starts from a state that no co-signature names.
            StateError: this machine computes another state than everybody else.
            StorageError: the disk refuses.
        """
        async with self._busy:
            await self._sync.bring_to(block, chain)
            self._exchange.forget_reduced(before_round=self._sync.oldest_needed_round())
