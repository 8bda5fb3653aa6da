"""Places shared out between networks, so that who has many identities has no more of them.

Identities cost nothing, addresses do. Peers are therefore counted by the network that they come from: the /24
of an IPv4 address, the /48 of an IPv6 address. As in Bitcoin's address manager (Heilman et al. 2015, "Eclipse
Attacks on Bitcoin's Peer-to-Peer Network", section 2.2), each group belongs to one of several buckets, only
this process knows to which, and in a full bucket chance decides who gives way. Unlike there, it decides among
those of the group that has the most places in the bucket: a group of few is not pushed out by one of many.

Nothing here does I/O or reads a clock: chance and the salt are passed in.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from random import Random
from typing import Generic, TypeVar

from peers.network.addresses import ip_of

BUCKETS = 32
PLACES_A_BUCKET = 16
"""Hence at most 16 places for a group, as many peers as a large lab behind one router may have, and 512 in
all: twice the peers that one knows, and at 2 KiB a notice what a keeper can send in one answer of 4 MiB."""

_NAMES = frozenset(("dns", "dns4", "dns6", "dnsaddr"))
_CIRCUIT = "/p2p-circuit"

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


def group_of(address: str) -> str:
    """Return the network that a multiaddr leads into or comes from; for a relay circuit, that of the relay.

    Names are one group, all together: whoever has a domain has any number of names in it, and may point them
    to any address.
    """
    ip = ip_of(address)
    if ip is None:
        protocol = address.split("/")[1] if address.startswith("/") else ""
        return "names" if protocol in _NAMES else f"/{protocol}"
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    length = 24 if ip.version == 4 else 48
    return str(ipaddress.ip_network((ip, length), strict=False))


def is_circuit(address: str) -> bool:
    """Return whether an address leads to its peer by way of a relay."""
    return _CIRCUIT in address


def same_ip(address: str, other: str) -> bool:
    """Return whether two multiaddrs name the same IP address, neither by way of a relay."""
    ip = ip_of(address)
    return ip is not None and ip == ip_of(other) and not (is_circuit(address) or is_circuit(other))


def taking_turns(items: Iterable[Item], group: Callable[[Item], str], chance: Random) -> Iterator[Item]:
    """Return the items one of each group, then another one of each, and so on; chance orders the rest."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(group(item), []).append(item)
    for members in groups.values():
        chance.shuffle(members)
    for turn in itertools.zip_longest(*chance.sample(list(groups.values()), len(groups)), fillvalue=None):
        yield from (item for item in turn if item is not None)


class Places(Generic[Key]):
    """Who has a place: at most 16 of a group, and 512 in all."""

    def __init__(self, *, salt: bytes, chance: Random) -> None:
        """Begin with all places free.

        Args:
            salt: nobody else's to know, else somebody could choose groups that meet in one bucket.
            chance: decides who gives way.
        """
        self._salt = salt
        self._chance = chance
        self._buckets: list[dict[Key, str]] = [{} for _ in range(BUCKETS)]  # each one's group
        self._bucket_of: dict[Key, int] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._bucket_of

    def __iter__(self) -> Iterator[Key]:
        return iter(self._bucket_of)

    def __len__(self) -> int:
        return len(self._bucket_of)

    def take(self, key: Key, group: str) -> Key | None:
        """Give a place to `key`, which comes from `group`; return who had to give way, if anybody."""
        number = self._bucket(group)
        bucket = self._buckets[number]
        if bucket.get(key) == group:
            return None
        self.leave(key)
        gone = self._choose(bucket, group) if len(bucket) >= PLACES_A_BUCKET else None
        if gone is not None:
            self.leave(gone)
        bucket[key] = group
        self._bucket_of[key] = number
        return gone

    def leave(self, key: Key) -> None:
        """Free the place of `key`, if it has one."""
        number = self._bucket_of.pop(key, None)
        if number is not None:
            del self._buckets[number][key]

    def _choose(self, bucket: dict[Key, str], newcomer: str) -> Key:
        """Return one of the groups that would have the most places with the newcomer among them."""
        counts = Counter([*bucket.values(), newcomer])
        most = max(counts.values())
        return self._chance.choice([key for key, group in bucket.items() if counts[group] == most])

    def _bucket(self, group: str) -> int:
        digest = hashlib.blake2b(group.encode(), key=self._salt, digest_size=8).digest()
        return int.from_bytes(digest, "big") % BUCKETS
