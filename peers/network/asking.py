"""Asking one peer after the other for what any of them may have; those silent lately are asked last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from peers.network.transport import Request, Transport
from recipes.errors import UnreachableError
from recipes.keys.keys import PeerId

CALL_SECONDS = 600.0  # for an answer that comes slowly
STALL_SECONDS = 30.0  # without a byte of it
_SILENT_SECONDS = 120.0  # for which a peer that did not answer is asked last


class Asking:
    """Calls peers, and remembers for a while which of them did not answer."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._silent: dict[PeerId, float] = {}  # by peer that did not answer: when

    async def ask(
        self,
        peer: PeerId,
        kind: str,
        body: bytes,
        *,
        limit: int,
        stall: float = STALL_SECONDS,
        purpose: str | None = None,
    ) -> bytes:
        """Call a peer.

        Raises:
            UnreachableError: it did not answer, which is remembered.
            RemoteError: it refused.
            MessageError: its answer is malformed or longer than `limit`.
        """
        try:
            return await self._transport.call(
                peer, Request(kind, body, limit=limit, timeout=CALL_SECONDS, stall=stall, purpose=purpose)
            )
        except UnreachableError:
            self._silent[peer] = asyncio.get_running_loop().time()
            raise

    def silent_last(self, peers: Iterable[PeerId]) -> list[PeerId]:
        """Return the peers in their order, but those last that did not answer a while ago."""
        since = asyncio.get_running_loop().time() - _SILENT_SECONDS
        self._silent = {peer: at for peer, at in self._silent.items() if at >= since}
        return sorted(dict.fromkeys(peers), key=lambda peer: peer in self._silent)
