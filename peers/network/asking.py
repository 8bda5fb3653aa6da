"""Asking one peer after the other for what any of them may have; those silent lately are asked last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from peers.network.transport import Request, Transport
from recipes.errors import UnreachableError
from recipes.keys.keys import PeerId

_SILENT_SECONDS = 120.0  # for which a peer that did not answer is asked last


class Asking:
    """Calls peers, and remembers for a while which of them did not answer."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._silent: dict[PeerId, float] = {}  # by peer that did not answer: when

    async def ask(self, peer: PeerId, request: Request) -> bytes:
        """Call a peer.

        Raises:
            UnreachableError: it did not answer, which is remembered.
            RemoteError: it refused.
            MessageError: its answer is malformed or longer than the request allows.
        """
        try:
            return await self._transport.call(peer, request)
        except UnreachableError:
            self._silent[peer] = asyncio.get_running_loop().time()
            raise

    def silent_last(self, peers: Iterable[PeerId]) -> list[PeerId]:
        """Return the peers in their order, but those last that did not answer a while ago."""
        since = asyncio.get_running_loop().time() - _SILENT_SECONDS
        self._silent = {peer: at for peer, at in self._silent.items() if at >= since}
        return sorted(dict.fromkeys(peers), key=lambda peer: peer in self._silent)
