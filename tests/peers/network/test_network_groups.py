"""Peers are counted by the network that they come from, and no network takes the places of others."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.network.network_groups import (
    BUCKETS,
    PLACES_A_BUCKET,
    Places,
    group_of,
    is_circuit,
    same_ip,
    taking_turns,
)

RELAY = "/ip4/203.0.113.5/tcp/1/p2p/12D3KooW/p2p-circuit"


def places(seed: int = 1) -> Places[str]:
    return Places(salt=bytes([seed]) * 32, chance=Random(seed))


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("/ip4/203.0.113.5/tcp/1", "203.0.113.0/24"),
        ("/ip4/127.0.0.1/udp/1/quic-v1", "127.0.0.0/24"),
        ("/ip4/192.168.7.9/tcp/1", "192.168.7.0/24"),
        ("/ip6/2001:db8:1:2::3/tcp/1", "2001:db8:1::/48"),
        ("/ip6/::ffff:203.0.113.5/tcp/1", "203.0.113.0/24"),
        ("/ip6/::1/tcp/1", "::/48"),
        ("/dns4/a.example.org/tcp/1", "names"),
        ("/dnsaddr/b.example.com", "names"),
        ("/memory/x", "/memory"),
        (RELAY, "203.0.113.0/24"),
        ("", "/"),
        ("x", "/"),
        ("/", "/"),
    ],
)
def test_an_address_belongs_to_the_network_that_it_leads_into(address: str, group: str) -> None:
    assert group_of(address) == group


@given(st.text(alphabet="/ip46.:0123456789abcdfx", max_size=40))
def test_any_text_belongs_to_some_group(address: str) -> None:
    assert len(group_of(address)) <= max(50, len(address))


def test_the_same_ip_by_way_of_a_relay_is_the_relays() -> None:
    assert same_ip("/ip4/203.0.113.5/tcp/1", "/ip4/203.0.113.5/udp/9/quic-v1")
    assert not same_ip("/ip4/203.0.113.5/tcp/1", "/ip4/203.0.113.6/tcp/1")
    assert is_circuit(RELAY)
    assert not same_ip(RELAY, "/ip4/203.0.113.5/tcp/1")
    assert not same_ip("/dns4/a.org/tcp/1", "/dns4/a.org/tcp/1")


def test_a_group_has_sixteen_places_and_further_ones_push_out_its_own() -> None:
    board = places()
    gone = [board.take(f"liar {number}", "203.0.113.0/24") for number in range(1000)]
    assert len(board) == PLACES_A_BUCKET == 16
    assert [out for out in gone if out is not None] == list(dict.fromkeys(filter(None, gone)))
    assert sum(out is None for out in gone) == PLACES_A_BUCKET


@given(st.integers(min_value=0, max_value=255))
def test_a_group_of_one_is_not_pushed_out_by_groups_of_many(seed: int) -> None:
    board = places(seed)
    assert board.take("honest", "198.51.100.0/24") is None
    for number in range(15 * 40):
        board.take(f"liar {number}", f"203.0.{number % 15}.0/24")
    assert "honest" in board


def test_all_groups_together_have_five_hundred_and_twelve_places() -> None:
    board = places()
    for number in range(20_000):
        board.take(str(number), f"10.{number // 256}.{number % 256}.0/24")
    assert len(board) == len(list(board)) == BUCKETS * PLACES_A_BUCKET == 512


def test_which_groups_share_a_bucket_is_known_only_to_who_has_the_salt() -> None:
    def rivals(seed: int) -> set[int]:
        board = places(seed)
        for number in range(16):
            board.take(f"mine {number}", "198.51.100.0/24")
        return {n for n in range(400) if board.take(str(n), f"10.0.{n}.0/24") is not None}

    assert rivals(1) == rivals(1) != rivals(2)


def test_who_comes_from_elsewhere_moves_and_who_leaves_makes_room() -> None:
    board = places()
    board.take("anna", "198.51.100.0/24")
    assert board.take("anna", "203.0.113.0/24") is None
    assert len(board) == 1
    board.leave("anna")
    board.leave("anna")
    assert len(board) == 0


def test_groups_take_turns_however_many_one_of_them_has() -> None:
    items = [*(f"a{number}" for number in range(50)), "b1", "b2", "c1"]
    for seed in range(20):
        order = list(taking_turns(items, lambda item: item[0], Random(seed)))
        assert {item[0] for item in order[:3]} == {"a", "b", "c"}
        assert {item[0] for item in order[3:5]} == {"a", "b"}
        assert sorted(order) == sorted(items)
