"""Addresses are told apart before anything is dialled."""

from __future__ import annotations

import socket

import pytest

from peers.network.addresses import by_usefulness, check_ports_free, listen_address, pin_ports, split_peer
from recipes.errors import NetworkError
from recipes.keys.keys import SigningKey

PEER = SigningKey(bytes(32)).peer_id


def test_a_full_address_names_a_place_and_a_peer() -> None:
    assert split_peer(f"/dns4/example.org/tcp/31330/p2p/{PEER}") == ("/dns4/example.org/tcp/31330", PEER)


def test_an_address_through_a_relay_names_the_last_peer() -> None:
    relay = SigningKey(bytes([1]) * 32).peer_id
    place = f"/ip4/203.0.113.5/tcp/1/p2p/{relay}/p2p-circuit"
    assert split_peer(f"{place}/p2p/{PEER}") == (place, PEER)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "example.org:31330",
        "/ip4/203.0.113.5/tcp/31330",
        f"/p2p/{PEER}",
        "/ip4/203.0.113.5/tcp/1/p2p/QmWrong",
    ],
)
def test_an_address_without_a_place_or_a_peer_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(NetworkError, match="looks like /ip4/"):
        split_peer(address)


def test_hosts_become_multiaddrs_of_their_ip_version() -> None:
    assert listen_address("0.0.0.0", 0) == "/ip4/0.0.0.0/tcp/0"
    assert listen_address("::1", 31330) == "/ip6/::1/tcp/31330"
    with pytest.raises(NetworkError, match="not an IP address"):
        listen_address("localhost", 0)
    with pytest.raises(NetworkError, match="65536"):
        listen_address("127.0.0.1", 65536)


def test_others_are_told_public_addresses_first_and_loopback_only_if_there_is_nothing_else() -> None:
    loopback, private, public = (
        f"/ip4/{ip}/tcp/1/p2p/{PEER}" for ip in ("127.0.0.1", "192.168.0.2", "8.8.8.8")
    )
    assert by_usefulness([loopback, private, public, private]) == (public, private)
    assert by_usefulness([loopback]) == (loopback,)


@pytest.mark.parametrize(
    ("listen", "pinned"),
    [
        ("/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/4001"),
        ("/ip4/10.0.0.7/tcp/0", "/ip4/10.0.0.7/tcp/4002"),
        ("/ip4/0.0.0.0/udp/0/quic", "/ip4/0.0.0.0/udp/4003/quic"),
        ("/ip6/::/tcp/0", "/ip6/::/tcp/0"),  # not shown
        ("/ip4/10.0.0.8/tcp/0", "/ip4/10.0.0.8/tcp/0"),
        ("/ip4/0.0.0.0/tcp/31330", "/ip4/0.0.0.0/tcp/31330"),
        ("/dns4/example.org/tcp/0", "/dns4/example.org/tcp/0"),
    ],
)
def test_the_port_that_the_system_chose_is_kept(listen: str, pinned: str) -> None:
    places = ("/ip4/127.0.0.1/tcp/4001", "/ip4/10.0.0.7/tcp/4002", "/ip4/10.0.0.7/udp/4003/quic")
    assert pin_ports([listen], [f"{place}/p2p/{PEER}" for place in places]) == (pinned,)


def test_a_port_that_another_program_shares_without_protest_is_still_taken() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            NetworkError, match=f"Cannot listen on /ip4/127.0.0.1/tcp/{port}: Address already in use"
        ):
            check_ports_free([f"/ip4/127.0.0.1/tcp/{port}"])
    check_ports_free([f"/ip4/127.0.0.1/tcp/{port}"])
