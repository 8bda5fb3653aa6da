"""The peers of a run that this one knows of: found on the notice board, kept connected, remembered on disk.

peers.json    where each peer was last met; tried again after a restart, and now and then while it is away
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from peers.network.presence import MOST_ADDRESSES, Address, Presence
from peers.network.transport import Transport
from recipes.errors import UnreachableError
from recipes.formats.files import write_atomic
from recipes.keys.keys import PeerId

LOOK_AROUND_SECONDS = 10.0
PEERS_FILE = "peers.json"
_CONNECT_SECONDS = 5.0
_MOST_PEERS = 256
_OLD_FRIENDS = 2  # tried again each time

_Addresses = TypeAdapter(dict[PeerId, tuple[Address, ...]])


class Sources(Protocol):
    """Peers that can be asked for something."""

    def peers(self) -> Sequence[PeerId]:
        """Return those known now: more may turn up later."""


class SourceFinder(Sources, Protocol):
    """Sources, of which more can be looked for."""

    async def look_around(self) -> tuple[PeerId, ...]:
        """Look for peers of the run, and return those found."""


class Crowd:
    """The peers of a run that are about, as of the last look around."""

    def __init__(self, transport: Transport, run: str, *, folder: Path) -> None:
        self._transport = transport
        self._run = run
        self._folder = folder
        self._met = remembered_peers(folder)  # the longest not tried first
        self._present: tuple[PeerId, ...] = ()
        self._connected: frozenset[PeerId] = frozenset()

    def peers(self) -> list[PeerId]:
        """Return the peers that can be asked: those on the notice board, or else those connected."""
        return [peer for peer in self._present or self._connected if peer != self._transport.peer_id]

    async def look_around(self, *, announce_round: int | None = None) -> tuple[PeerId, ...]:
        """Read the notice board, connect to the peers that it names, and return those that can be asked.

        If the board names nobody, as to a machine whose clock makes every notice look old, those are all that
        are connected.

        Args:
            announce_round: the round that this peer has applied, to be posted there; None to stay silent.

        Raises:
            NetworkError: the network daemon is gone.
            StorageError: the disk refuses.
        """
        if announce_round is not None:
            await self._announce(announce_round)
        present = await self._transport.roll_call()
        present.pop(self._transport.peer_id, None)
        connected = await self._transport.connected()
        strangers = {peer: presence.addresses for peer, presence in present.items() if peer not in connected}
        away = [peer for peer in self._met if peer not in connected and peer not in present]
        friends = {peer: self._met[peer] for peer in away[:_OLD_FRIENDS]}
        await asyncio.gather(*(self._connect(*item) for item in (strangers | friends).items()))
        self._connected = await self._transport.connected()
        self._present = tuple(peer for peer in present if peer in self._connected)[:_MOST_PEERS]
        self._remember({peer: present[peer].addresses for peer in self._present}, tried=tuple(friends))
        return tuple(self.peers())

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

    def _remember(self, met: dict[PeerId, tuple[str, ...]], *, tried: tuple[PeerId, ...]) -> None:
        before = dict(self._met)
        last = {peer: self._met.pop(peer) for peer in (*tried, *met) if peer in self._met}
        merged = self._met | last | met
        self._met = dict(list(merged.items())[-_MOST_PEERS:])
        if self._met != before:  # another order alone is not worth a write
            write_atomic(self._folder / PEERS_FILE, json.dumps(self._met).encode())


def remembered_peers(folder: Path) -> dict[PeerId, tuple[str, ...]]:
    """Return the peers that were met in earlier lives, with their addresses; none if that is not known."""
    try:
        return _Addresses.validate_json((folder / PEERS_FILE).read_bytes())
    except (OSError, ValidationError):
        return {}
