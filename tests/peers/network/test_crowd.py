"""Whom a peer knows of, also when the notice board is of no use to it, or is full of strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from peers.network.dialling import DIALS, GROUP_DIALS
from peers.network.discovery import Crowd, remembered_peers
from peers.network.presence import Presence
from peers.network.transport import Introducer
from recipes.errors import UnreachableError
from recipes.keys.keys import PeerId, SigningKey

ME, FRIEND, STRANGER = (SigningKey(bytes([number] * 32)).peer_id for number in range(3))
RUN = "ab" * 32
PLACE = "/ip4/127.0.0.1/tcp/1"
VICTIM = "/ip4/203.0.113.5/tcp"


class Street:
    """A transport on which some are connected and some have posted a notice; `dead` places do not answer."""

    def __init__(
        self,
        *,
        connected: Iterable[PeerId] = (),
        present: Iterable[PeerId] = (),
        named: Mapping[PeerId, Introducer] | None = None,
        own: str = PLACE,
    ) -> None:
        self.peer_id = ME
        self.notices: dict[PeerId, tuple[str, ...]] = dict.fromkeys(present, (PLACE,))
        self.dead: set[str] = set()
        self.dialled: list[str] = []
        self._own = own
        self._named = named or {}
        self._connected: dict[PeerId, tuple[str, ...]] = dict.fromkeys(connected, (PLACE,))

    def introducers(self) -> Mapping[PeerId, Introducer]:
        return self._named

    def came_from(self, peer: PeerId) -> str | None:
        return None

    async def addresses(self) -> tuple[str, ...]:
        return (self._own,)

    async def roll_call(self) -> dict[PeerId, Presence]:
        return {
            peer: Presence(run=RUN, peer=peer, addresses=places, round=0, time=0)
            for peer, places in self.notices.items()
        }

    async def connected(self) -> Mapping[PeerId, tuple[str, ...]]:
        return dict(self._connected)

    async def connect(self, peer: PeerId, addresses: Iterable[str], *, timeout: float) -> None:
        places = list(addresses)
        self.dialled += places
        answers = [place for place in places if place not in self.dead]
        if not answers:
            raise UnreachableError("nobody is there")
        self._connected[peer] = tuple(answers)

    def hang_up(self, peer: PeerId) -> None:
        del self._connected[peer]


def crowd_on(street: Any, folder: Path) -> Crowd:
    return Crowd(street, RUN, folder=folder, chance=Random(1))


def identities(count: int) -> list[PeerId]:
    return [SigningKey((1000 + number).to_bytes(32, "big")).peer_id for number in range(count)]


def takes_part(*, yes: bool = True) -> Introducer:
    return Introducer((PLACE,), takes_part=yes)


async def test_those_who_posted_a_notice_are_met_and_remembered(tmp_path: Path) -> None:
    crowd = crowd_on(Street(connected={FRIEND}, present={ME, STRANGER}), tmp_path)
    assert await crowd.look_around() == (STRANGER,)
    assert remembered_peers(tmp_path) == {STRANGER: (PLACE,)}


async def test_a_peer_whose_clock_makes_every_notice_look_old_still_knows_those_it_is_connected_to(
    tmp_path: Path,
) -> None:
    street = Street(connected={FRIEND})
    assert await crowd_on(street, tmp_path).look_around() == (FRIEND,)


async def test_the_peer_that_a_newcomer_joined_by_is_asked_first_whatever_the_board_says(
    tmp_path: Path,
) -> None:
    strangers = identities(400)
    street = Street(connected=[*strangers, FRIEND], present=strangers, named={FRIEND: takes_part()})
    found = await crowd_on(street, tmp_path).look_around()
    assert found[0] == FRIEND
    assert len(found) == 192


async def test_a_bootstrap_peer_that_only_keeps_the_board_is_not_asked_beside_those_on_it(
    tmp_path: Path,
) -> None:
    named = {FRIEND: takes_part(yes=False)}
    street = Street(connected=[FRIEND], present=[STRANGER], named=named)
    assert await crowd_on(street, tmp_path).look_around() == (STRANGER,)


async def test_who_was_on_the_board_and_is_still_connected_is_not_forgotten_when_pushed_off_it(
    tmp_path: Path,
) -> None:
    street = Street(present=[FRIEND])
    crowd = crowd_on(street, tmp_path)
    await crowd.look_around()
    street.notices = {STRANGER: (PLACE,)}
    assert set(await crowd.look_around()) == {FRIEND, STRANGER}


async def test_who_has_others_to_ask_does_not_wait_for_strangers_that_do_not_answer(tmp_path: Path) -> None:
    class Silence(Street):
        async def connect(self, peer: PeerId, addresses: Iterable[str], *, timeout: float) -> None:
            await asyncio.Event().wait()

    street = Silence(connected=[FRIEND], present=[STRANGER], named={FRIEND: takes_part()})
    crowd = crowd_on(street, tmp_path)
    assert await asyncio.wait_for(crowd.look_around(), 5) == (FRIEND,)
    assert await asyncio.wait_for(crowd.look_around(), 5) == (FRIEND,)


async def test_two_hundred_notices_that_name_a_third_machine_bring_it_two_dials(tmp_path: Path) -> None:
    street = Street()
    for number, liar in enumerate(identities(200)):
        street.notices[liar] = tuple(f"{VICTIM}/{8 * number + port + 1}" for port in range(8))
    street.dead = {place for places in street.notices.values() for place in places}
    street.notices[FRIEND] = ("/ip4/198.51.100.7/tcp/1",)
    crowd = crowd_on(street, tmp_path)
    found = [await crowd.look_around() for _ in range(6)]
    assert len([place for place in street.dialled if place.startswith(VICTIM)]) == GROUP_DIALS
    assert found == [(FRIEND,)] * 6


async def test_notices_that_name_a_thousand_networks_bring_them_thirty_dials_together(tmp_path: Path) -> None:
    street = Street()
    for number, liar in enumerate(identities(1000)):
        street.notices[liar] = (f"/ip4/93.{number // 250}.{number % 250}.1/tcp/1",)
    street.dead = {place for places in street.notices.values() for place in places}
    await crowd_on(street, tmp_path).look_around()
    assert len(street.dialled) == DIALS


async def test_a_hundred_peers_of_one_machine_all_meet_in_one_look_around(tmp_path: Path) -> None:
    street = Street()
    street.notices = {peer: (f"{PLACE}{number}",) for number, peer in enumerate(identities(100))}
    assert len(await crowd_on(street, tmp_path).look_around()) == 100


async def test_only_addresses_that_a_connection_has_proven_are_remembered(tmp_path: Path) -> None:
    own, other = "/ip4/198.51.100.7/tcp/1", f"{VICTIM}/80"
    street = Street()
    street.notices[FRIEND] = (own, other)
    street.dead = {other}
    await crowd_on(street, tmp_path).look_around()
    assert remembered_peers(tmp_path) == {FRIEND: (own,)}


async def test_a_peer_is_cut_off_if_nobody_is_connected_though_others_were_named(tmp_path: Path) -> None:
    street = Street(connected=[FRIEND], named={FRIEND: takes_part()})
    crowd = crowd_on(street, tmp_path)
    await crowd.look_around()
    assert not crowd.is_cut_off
    street.hang_up(FRIEND)
    street.dead = {PLACE}
    assert await crowd.look_around() == ()
    assert crowd.is_cut_off
    street.dead = set()
    assert await crowd.look_around() == (FRIEND,)  # at once: nobody is backed off from while all are gone
    assert not crowd.is_cut_off


async def test_who_names_nobody_is_never_cut_off(tmp_path: Path) -> None:
    crowd = crowd_on(Street(), tmp_path)
    assert await crowd.look_around() == ()
    assert not crowd.is_cut_off
