"""Multiaddrs as text: where a peer listens, where others may find it, and to which peer one leads.

An address looks like `/ip4/203.0.113.5/tcp/31330/p2p/12D3Koo...`: a place, then the peer id that must answer
there (https://multiformats.io/multiaddr). Nothing here opens a connection.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Sequence

from recipes.errors import NetworkError
from recipes.keys.keys import PeerId, public_key

EXAMPLE_ADDRESS = "/ip4/203.0.113.5/tcp/31330/p2p/12D3Koo..."
_PEER_MARK = "/p2p/"


def listen_address(host: str, port: int) -> str:
    """Return the multiaddr on which to listen for TCP connections; port 0 lets the system choose one.

    Raises:
        NetworkError: `host` is not an IP address of version 4 or 6, or `port` is not a port.
    """
    try:
        version = ipaddress.ip_address(host).version
    except ValueError as error:
        raise NetworkError(
            f"Cannot listen on {host!r}: it is not an IP address.",
            remedy="Give the address of one of this machine's interfaces, or 0.0.0.0 for all of them.",
        ) from error
    if not 0 <= port <= 65535:
        raise NetworkError(f"Cannot listen on port {port}.", remedy="A port is a number from 0 to 65535.")
    return f"/ip{version}/{host}/tcp/{port}"


def split_peer(address: str) -> tuple[str, PeerId]:
    """Return the place and the peer id of a full address.

    Raises:
        NetworkError: the address does not start with `/`, or does not end in `/p2p/` and an Ed25519 peer id.
    """
    place, mark, peer = address.rpartition(_PEER_MARK)
    if not (place.startswith("/") and mark) or public_key(PeerId(peer)) is None:
        raise NetworkError(
            f"{address!r} is not the address of a peer.",
            remedy=f"A full address looks like {EXAMPLE_ADDRESS}; each peer prints its own when it starts.",
        )
    return place, PeerId(peer)


def places_of(peer: PeerId, addresses: Iterable[str]) -> list[str]:
    """Return the addresses that are `peer`'s, without its id; a stranger's malformed ones are passed over."""
    places = []
    for address in addresses:
        with contextlib.suppress(NetworkError):
            place, owner = split_peer(address)
            if owner == peer:
                places.append(place)
    return places


def ip_of(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that a multiaddr starts with, or None for a name or a malformed address."""
    parts = address.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return None
    try:
        return ipaddress.ip_address(parts[2])
    except ValueError:
        return None


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach the address."""
    ip = ip_of(address)
    return ip is not None and ip.is_loopback


def by_usefulness(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses worth telling others: public ones, then private ones; loopback only if alone."""
    distinct = list(dict.fromkeys(addresses))
    reachable = [address for address in distinct if not is_loopback(address)] or distinct
    return tuple(sorted(reachable, key=_distance))


def pin_ports(listen: Sequence[str], addresses: Iterable[str]) -> tuple[str, ...]:
    """Return `listen` with each port 0 replaced by the port that the system chose, as `addresses` show it.

    Where they do not show it, since another address is announced, it stays 0.
    """
    shown = [address.split("/") for address in addresses]

    def pinned(address: str) -> str:
        parts = address.split("/")
        ip = ip_of(address)
        if ip is None or len(parts) < 5 or parts[4] != "0":
            return address
        for other in shown:
            same = other[1:2] == parts[1:2] and other[3:4] == parts[3:4] and len(other) > 4
            if same and (ip.is_unspecified or other[2] == parts[2]):
                return "/".join([*parts[:4], other[4], *parts[5:]])
        return address

    return tuple(pinned(address) for address in listen)


def check_ports_free(addresses: Sequence[str]) -> None:
    """Check that nobody on this machine listens on the TCP and UDP ports named in `addresses`.

    The network daemon cannot be asked: it binds with SO_REUSEPORT, so a second one starts on a taken port
    without a word, and then each of them gets half of the other's visitors.

    Raises:
        NetworkError: a port is taken, reserved, or on an address that this machine does not have.
    """
    for address in addresses:
        ip = ip_of(address)
        parts = address.split("/")
        if ip is None or len(parts) < 5 or parts[3] not in ("tcp", "udp") or not parts[4].isdecimal():
            continue  # whatever this is, the daemon knows better what is wrong with it
        kind = socket.SOCK_STREAM if parts[3] == "tcp" else socket.SOCK_DGRAM
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        with socket.socket(family, kind) as probe:
            # Without this, a port on which a dead process's connections linger would look taken for a minute.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1 if parts[3] == "tcp" else 0)
            try:
                probe.bind((str(ip), int(parts[4])))
            except (OSError, OverflowError) as error:
                raise NetworkError(
                    f"Cannot listen on {address}: {getattr(error, 'strerror', None) or error}.",
                    remedy="Choose another port (0: any free one), or end the program that holds this one.",
                ) from error


def _distance(address: str) -> int:
    ip = ip_of(address)
    if ip is None or ip.is_global:
        return 0  # a name is announced by hand, so somebody wants it known
    return 2 if ip.is_link_local else 1
