"""The peers of a run that this one knows of: found on the notice board, and kept connected."""

from __future__ import annotations

import asyncio
import time

from peers.noticeboard import MOST_ADDRESSES, Presence
from peers.transport import Transport
from recipes.errors import UnreachableError
from recipes.keys import PeerId

LOOK_AROUND_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
_MOST_PEERS = 256


class Crowd:
    """Who is about, as of the last look around."""

    def __init__(self, transport: Transport, run: str) -> None:
        self._transport = transport
        self._run = run
        self._known: dict[PeerId, tuple[str, ...]] = {}  # newest last
        self._connected: frozenset[PeerId] = frozenset()

    def peers(self) -> list[PeerId]:
        """Return the peers that can be asked: who announced itself, or else whoever is connected."""
        return [peer for peer in self._known or self._connected if peer != self._transport.peer_id]

    async def look_around(self, *, announce_round: int | None = None) -> tuple[PeerId, ...]:
        """Read the notice board, connect to whom it names, and return who takes part in the run.

        Args:
            announce_round: the round that this peer has applied, to be posted there; None to stay silent.

        Raises:
            NetworkError: the network daemon is gone.
        """
        if announce_round is not None:
            await self._announce(announce_round)
        present = await self._transport.roll_call()
        connected = await self._transport.connected()
        strangers = [peer for peer in present if peer not in connected and peer != self._transport.peer_id]
        reached = await asyncio.gather(*(self._connect(peer, present[peer].addresses) for peer in strangers))
        gone = {peer for peer, success in zip(strangers, reached, strict=True) if not success}
        self._known = {
            peer: presence.addresses
            for peer, presence in list(present.items())[:_MOST_PEERS]
            if peer not in gone and peer != self._transport.peer_id
        }
        self._connected = await self._transport.connected()
        return tuple(self._known)

    async def _connect(self, peer: PeerId, addresses: tuple[str, ...]) -> bool:
        try:
            await self._transport.connect(peer, addresses, timeout=_CONNECT_SECONDS)
        except UnreachableError:
            return False
        return True

    async def _announce(self, round_number: int) -> None:
        addresses = await self._transport.addresses()
        presence = Presence(
            run=self._run,
            peer=self._transport.peer_id,
            addresses=tuple(addresses[:MOST_ADDRESSES]),
            round=round_number,
            time=int(time.time()),
        )
        await self._transport.announce(presence)
