"""Whom a peer knows of, also when the notice board is of no use to it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peers.network.discovery import Crowd, remembered_peers
from peers.network.presence import Presence
from recipes.keys.keys import PeerId, SigningKey

ME, FRIEND, STRANGER = (SigningKey(bytes([number] * 32)).peer_id for number in range(3))
RUN = "ab" * 32
PLACE = "/ip4/127.0.0.1/tcp/1"


class Street:
    """A transport on which some are connected and some have posted a notice."""

    def __init__(self, *, connected: set[PeerId], present: set[PeerId]) -> None:
        self.peer_id = ME
        self.present = present
        self._connected = connected

    async def roll_call(self) -> dict[PeerId, Presence]:
        return {
            peer: Presence(run=RUN, peer=peer, addresses=(PLACE,), round=0, time=0) for peer in self.present
        }

    async def connected(self) -> frozenset[PeerId]:
        return frozenset(self._connected)

    async def connect(self, peer: PeerId, addresses: Iterable[str], *, timeout: float) -> None:
        self._connected.add(peer)


def crowd_on(street: Any, folder: Path) -> Crowd:
    return Crowd(street, RUN, folder=folder)


async def test_those_who_posted_a_notice_are_met_and_remembered(tmp_path: Path) -> None:
    crowd = crowd_on(Street(connected={FRIEND}, present={ME, STRANGER}), tmp_path)
    assert await crowd.look_around() == (STRANGER,)
    assert remembered_peers(tmp_path) == {STRANGER: (PLACE,)}


async def test_a_peer_whose_clock_makes_every_notice_look_old_still_knows_those_it_is_connected_to(
    tmp_path: Path,
) -> None:
    street = Street(connected={FRIEND}, present=set())
    assert await crowd_on(street, tmp_path).look_around() == (FRIEND,)
