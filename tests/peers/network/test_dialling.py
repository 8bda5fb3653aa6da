"""Strangers' addresses are dialled within limits, and what was not answered counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest

from peers.network.dialling import (
    DIALS,
    FIRST_BACK_OFF_SECONDS,
    GROUP_DIALS,
    LONGEST_BACK_OFF_SECONDS,
    OWN_GROUP_DIALS,
    PROVEN_BACK_OFF_SECONDS,
    BackOff,
    Candidate,
    Dial,
    Dialling,
)
from recipes.keys.keys import PeerId

OWN = ("/ip4/198.51.100.1/tcp/1",)
ON_LOOPBACK = ("/ip4/127.0.0.1/tcp/1",)
VICTIM = "/ip4/203.0.113.5/tcp"
ANNA = PeerId("anna")
HOME = "/ip4/192.0.2.7/tcp/1"


def liars(count: int, *, addresses: int = 1) -> list[Candidate]:
    """Peers that name ports of one machine, each its own."""
    return [
        Candidate(PeerId(f"liar {n}"), tuple(f"{VICTIM}/{n * addresses + k}" for k in range(addresses)))
        for n in range(count)
    ]


def dial(dialling: Dialling, who: Sequence[Candidate], now: float, *, own: Sequence[str] = OWN) -> list[Dial]:
    """Let dials go out of which none is answered."""
    dials = dialling.next(who, own, now)
    for each in dials:
        dialling.unanswered(each, now, online=True)
    return dials


def test_a_network_gets_two_unanswered_dials_in_any_minute() -> None:
    dialling = Dialling(Random(1))
    dialled = [
        float(second)
        for second in range(600)
        for each in dial(dialling, liars(200, addresses=8), float(second))
        for _ in each.addresses
    ]
    assert all(sum(start <= at < start + 60 for at in dialled) <= GROUP_DIALS for start in range(600))
    assert len(dialled) == 10 * GROUP_DIALS


def test_an_address_that_answers_costs_nothing() -> None:
    dialling = Dialling(Random(1))
    waiting = {candidate.peer: candidate for candidate in liars(50)}
    while dials := dialling.next(waiting.values(), OWN, 0.0):
        assert len(dials) <= GROUP_DIALS  # at once: it is not known yet whether they answer
        for each in dials:
            dialling.answered(each)
            del waiting[each.peer]
    assert not waiting


def test_a_peers_own_network_is_dialled_more_often() -> None:
    assert len(dial(Dialling(Random(1)), liars(200), 0.0, own=(f"{VICTIM}/1",))) == OWN_GROUP_DIALS


def test_all_networks_together_get_thirty() -> None:
    everywhere = [Candidate(PeerId(str(n)), (f"/ip4/93.184.{n}.1/tcp/1",)) for n in range(200)]
    dialling = Dialling(Random(1))
    assert len(dial(dialling, everywhere, 0.0)) == DIALS
    assert not dial(dialling, everywhere, 59.0)
    assert len(dial(dialling, everywhere, 61.0)) == DIALS


def test_one_notice_leads_to_one_dial_into_each_network() -> None:
    addresses = (f"{VICTIM}/1", f"{VICTIM}/2", HOME)
    (only,) = Dialling(Random(1)).next([Candidate(ANNA, addresses)], OWN, 0.0)
    assert only == Dial(ANNA, (f"{VICTIM}/1", HOME), proven=False)


def test_a_notice_that_its_writer_brought_here_leads_to_where_it_came_from_alone() -> None:
    relay = "/ip4/192.0.2.99/tcp/1/p2p/12D3/p2p-circuit"
    candidate = Candidate(ANNA, (f"{VICTIM}/1", HOME, relay), came_from="/ip4/192.0.2.7/tcp/40000")
    (only,) = Dialling(Random(1)).next([candidate], OWN, 0.0)
    assert only.addresses == (HOME,)  # the relay is in the same network: another time
    liar = Candidate(ANNA, (f"{VICTIM}/1", "/dns4/victim.org/tcp/1"), came_from="/ip4/192.0.2.7/tcp/40000")
    assert not Dialling(Random(1)).next([liar], OWN, 0.0)


def test_a_notice_that_its_writer_brought_here_goes_before_those_that_came_by_way_of_others() -> None:
    mine = Candidate(ANNA, (f"{VICTIM}/9999",), came_from=f"{VICTIM}/9999")
    for seed in range(20):
        assert Dialling(Random(seed)).next([*liars(100), mine], OWN, 0.0)[0].peer == ANNA


@pytest.mark.parametrize("address", ["/ip4/224.0.0.1/tcp/1", "/ip4/0.0.0.0/tcp/1", "/ip4/127.0.0.1/tcp/22"])
def test_a_stranger_cannot_have_a_peer_dial_its_own_machine_or_nobodys(address: str) -> None:
    assert not Dialling(Random(1)).next([Candidate(ANNA, (address,))], OWN, 0.0)


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"])
def test_peers_of_one_machine_find_each_other_on_loopback(address: str) -> None:
    assert Dialling(Random(1)).next([Candidate(ANNA, (address,))], ON_LOOPBACK, 0.0)


def test_a_silent_address_is_left_alone_for_twice_as_long_each_time_up_to_an_hour() -> None:
    dialling = Dialling(Random(1))
    who = [Candidate(ANNA, (HOME,))]
    tried = [float(second) for second in range(0, 20_000, 10) if dial(dialling, who, float(second))]
    pauses = [after - before for before, after in pairwise(tried)]
    assert pauses == [120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]


def test_an_address_is_left_alone_under_whatever_name_it_is_posted() -> None:
    dialling = Dialling(Random(1))
    assert dial(dialling, [Candidate(PeerId("first"), (HOME,))], 0.0)
    assert not dial(dialling, [Candidate(PeerId("second"), (HOME,))], 100.0)
    assert dial(dialling, [Candidate(PeerId("second"), (HOME,))], FIRST_BACK_OFF_SECONDS)


def test_what_a_connection_has_proven_is_tried_again_soon_and_within_no_limit() -> None:
    dialling = Dialling(Random(1))
    dialling.met(ANNA, (HOME, f"{VICTIM}/1"), ["/ip4/192.0.2.7/tcp/50000"])
    assert dialling.proven(ANNA) == (HOME,)
    dial(dialling, [Candidate(PeerId(str(n)), (f"/ip4/192.0.2.7/tcp/{n}",)) for n in range(100, 110)], 0.0)
    who = [Candidate(ANNA, (HOME, f"{VICTIM}/1"))]
    assert dial(dialling, who, 0.0) == [Dial(ANNA, (HOME,), proven=True)]
    assert not dial(dialling, who, PROVEN_BACK_OFF_SECONDS - 1)
    assert dial(dialling, who, PROVEN_BACK_OFF_SECONDS)


def test_a_proven_peer_that_is_silent_is_looked_for_elsewhere_in_between() -> None:
    dialling = Dialling(Random(1))
    dialling.vouch(ANNA, [HOME])
    who = [Candidate(ANNA, (HOME, "/ip4/192.0.3.7/tcp/1"))]
    assert dial(dialling, who, 0.0) == [Dial(ANNA, (HOME,), proven=True)]
    (second,) = dial(dialling, who, PROVEN_BACK_OFF_SECONDS)
    assert "/ip4/192.0.3.7/tcp/1" in second.addresses


def test_a_peer_without_a_network_backs_off_from_nobody_that_it_has_met() -> None:
    dialling = Dialling(Random(1))
    dialling.vouch(ANNA, [HOME])
    for now in range(100):
        (each,) = dialling.next([Candidate(ANNA, (HOME,))], OWN, float(now))
        dialling.unanswered(each, float(now), online=False)


def test_a_dial_that_is_under_way_is_not_begun_again() -> None:
    dialling = Dialling(Random(1))
    assert dialling.next([Candidate(ANNA, (HOME,))], OWN, 0.0)
    assert not dialling.next([Candidate(ANNA, (HOME,))], OWN, 1.0)


def test_what_is_remembered_is_bounded() -> None:
    off: BackOff[str] = BackOff()
    for number in range(5000):
        off.failed(str(number), 0.0, first_seconds=10.0)
    assert sum(off.holds(str(number), 1.0) for number in range(5000)) == 4096
    for _ in range(100):
        off.failed("again", 0.0, first_seconds=10.0)
    assert off.holds("again", LONGEST_BACK_OFF_SECONDS - 1)
    assert not off.holds("again", LONGEST_BACK_OFF_SECONDS)
