"""The peers of a run that this one knows of: found on the notice board, kept connected, remembered on disk.

Those by whose addresses this peer joined come first, whatever the board says; then those on the board; then
those that were on it and are still connected: a board that strangers fill hides nobody who is here.

peers.json    where each peer was last met; tried again after a restart, and now and then while it is away
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random, SystemRandom
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from peers.network.addresses import ip_of
from peers.network.dialling import Candidate, Dial, Dialling
from peers.network.network_groups import group_of, is_circuit, taking_turns
from peers.network.presence import MOST_ADDRESSES, Address, Presence
from peers.network.transport import Transport
from recipes.errors import UnreachableError
from recipes.formats.files import write_atomic
from recipes.keys.keys import PeerId

LOOK_AROUND_SECONDS = 10.0
PEERS_FILE = "peers.json"
_CONNECT_SECONDS = 5.0
_WITH_OTHERS_SECONDS = 0.5  # for which a look around waits for dials if there are others to ask
_DIALLING_SECONDS = 15.0  # after which a look around begins no more of it
_MOST_PEERS = 192  # the round engine knows 256, with those of the last roster
_MOST_MET = 256
_MOST_SEEN = 1024
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

    def __init__(self, transport: Transport, run: str, *, folder: Path, chance: Random | None = None) -> None:
        self._transport = transport
        self._run = run
        self._folder = folder
        self._chance = chance or SystemRandom()
        self._dialling = Dialling(self._chance)
        self._met = remembered_peers(folder)  # the longest not tried first
        self._seen: dict[PeerId, None] = {}  # on the board while they were connected, the last one last
        self._about: tuple[PeerId, ...] = ()
        self._dials: asyncio.Task[None] | None = None  # goes on while the rest of the peer does
        self.is_cut_off = False  # others were named to join by, and nobody at all is connected

    def peers(self) -> list[PeerId]:
        """Return the peers that can be asked: all are connected, and those to ask first stand first."""
        return list(self._about)

    async def look_around(self, *, announce_round: int | None = None) -> tuple[PeerId, ...]:
        """Read the notice board, connect to the peers that it names, and return those that can be asked.

        If no peer of the run is known for one, as to a machine whose clock makes every notice look old, those
        are all that are connected.

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
        friends = [peer for peer in self._met if peer not in present][:_OLD_FRIENDS]
        await self._dial_beside(present, friends)
        connected = await self._transport.connected()
        self.is_cut_off = bool(self._transport.introducers()) and not connected
        here = [peer for peer in present if peer in connected]
        for peer in here:
            self._dialling.met(peer, present[peer].addresses, connected[peer])
            self._seen.pop(peer, None)
            self._seen[peer] = None
        self._seen = dict.fromkeys(list(self._seen)[-_MOST_SEEN:])
        self._about = self._in_order(here, connected)
        self._remember(
            {peer: self._worth_keeping(peer, present[peer].addresses) for peer in here}, tried=friends
        )
        return self._about

    async def _dial_beside(self, present: Mapping[PeerId, Presence], friends: Sequence[PeerId]) -> None:
        """Connect to those that are not; who knows peers to ask already does not wait for strangers."""
        if self._dials is None or self._dials.done():
            self._dials = asyncio.create_task(self._dial(present, friends))
            self._dials.add_done_callback(_pass_over)
        connected = await self._transport.connected()
        known = self._known([peer for peer in present if peer in connected], connected)
        await asyncio.wait({self._dials}, timeout=_WITH_OTHERS_SECONDS if known else None)
        if self._dials.done():
            self._dials.result()

    async def _dial(self, present: Mapping[PeerId, Presence], friends: Sequence[PeerId]) -> None:
        """Connect to those that are not: all whose turn it is, and more as long as they answer."""
        loop = asyncio.get_running_loop()
        introducers = self._transport.introducers()
        for peer, introducer in introducers.items():
            self._dialling.vouch(peer, introducer.addresses)
        candidates = {peer: Candidate(peer, self._met[peer]) for peer in friends}
        for peer, presence in present.items():
            candidates[peer] = Candidate(peer, presence.addresses, self._transport.came_from(peer))
        for peer, named in introducers.items():
            posted = present[peer].addresses if peer in present else ()
            candidates[peer] = Candidate(peer, (*named.addresses, *posted), self._transport.came_from(peer))
        own = await self._transport.addresses()
        until = loop.time() + _DIALLING_SECONDS
        while loop.time() < until:
            connected = await self._transport.connected()
            away = [candidate for peer, candidate in candidates.items() if peer not in connected]
            dials = self._dialling.next(away, own, loop.time())
            if not dials:
                return
            await asyncio.gather(*(self._connect(dial) for dial in dials))

    async def _connect(self, dial: Dial) -> None:
        answered = online = False
        try:
            await self._transport.connect(dial.peer, dial.addresses, timeout=_CONNECT_SECONDS)
            answered = True
        except UnreachableError:
            online = bool(await self._transport.connected())
        finally:
            if answered:
                self._dialling.answered(dial)
            else:
                self._dialling.unanswered(dial, asyncio.get_running_loop().time(), online=online)

    def _in_order(
        self, here: Sequence[PeerId], connected: Mapping[PeerId, tuple[str, ...]]
    ) -> tuple[PeerId, ...]:
        """Return whom to ask, first those to ask first; of too many, as many of each network."""
        introducers = self._transport.introducers()
        found = self._known(here, connected) or list(connected)
        if len(found) > _MOST_PEERS:
            first = [peer for peer in found if peer in introducers]
            rest = [peer for peer in found if peer not in first]
            found = [*first, *taking_turns(rest, lambda peer: group_of(_end(connected[peer])), self._chance)]
        return tuple(peer for peer in found if peer != self._transport.peer_id)[:_MOST_PEERS]

    def _known(self, here: Sequence[PeerId], connected: Mapping[PeerId, tuple[str, ...]]) -> list[PeerId]:
        """Return those of the connected peers that are known to take part in the run."""
        introducers = [peer for peer, named in self._transport.introducers().items() if named.takes_part]
        return list(dict.fromkeys(peer for peer in (*introducers, *here, *self._seen) if peer in connected))

    def _worth_keeping(self, peer: PeerId, addresses: Sequence[str]) -> tuple[str, ...]:
        """Return where to look for a peer later: where it was, or else where no connection can prove it."""
        proven = self._dialling.proven(peer)
        return proven or tuple(
            address for address in addresses if ip_of(address) is None or is_circuit(address)
        )

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

    def _remember(self, met: dict[PeerId, tuple[str, ...]], *, tried: Sequence[PeerId]) -> None:
        before = dict(self._met)
        met = {peer: addresses for peer, addresses in met.items() if addresses}
        last = {peer: self._met.pop(peer) for peer in (*tried, *met) if peer in self._met}
        merged = self._met | last | met
        self._met = dict(list(merged.items())[-_MOST_MET:])
        if self._met != before:  # another order alone is not worth a write
            write_atomic(self._folder / PEERS_FILE, json.dumps(self._met).encode())


def _pass_over(dials: asyncio.Task[None]) -> None:
    """Let a failure be: whoever waits for the task learns of it, and else the next look around fails, too."""
    if not dials.cancelled():
        dials.exception()


def _end(connections: Sequence[str]) -> str:
    return connections[0] if connections else ""


def remembered_peers(folder: Path) -> dict[PeerId, tuple[str, ...]]:
    """Return the peers that were met in earlier lives, with their addresses; none if that is not known."""
    try:
        return _Addresses.validate_json((folder / PEERS_FILE).read_bytes())
    except (OSError, ValidationError):
        return {}
