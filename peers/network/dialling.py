"""Which strangers' addresses are dialled, and how often: so that nobody makes a swarm knock at a third door.

A notice says where its writer can be reached, and may lie. So an address that no connection has proven is
dialled within limits, and what counts against them is what was not answered: honest addresses answer, and
cost nothing. Back-off is for each peer and each address, doubled each time and capped, and outlives the look
around in which it began.

- An address is *proven* if a connection to this very peer was open to or from its IP. It is bound by back-off
  alone, which begins short: a peer that was here may come back.
- If the notice was brought here by its writer, then only at the IP that the writer came from, or by way of a
  relay.
- Else the notice came by way of another keeper, and nobody knows: that address waits for those before it.
- Loopback addresses are dialled by a peer that is on loopback itself; multicast and the like, by nobody.

Nothing here does I/O or reads a clock: times are seconds of any steady clock, passed in.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from peers.network.addresses import ip_of, is_loopback
from peers.network.network_groups import group_of, is_circuit, same_ip
from recipes.keys.keys import PeerId

MINUTE_SECONDS = 60.0
GROUP_DIALS = 2
"""Unanswered ones a minute into one group: two, so that a dead address does not keep a live one waiting for a
whole minute. 256 peers that are all lied to come to nine connections a second, all together."""

OWN_GROUP_DIALS = 16
"""The same for a group of this peer's own: this machine, this lab. Neighbours are the likeliest peers, small
swarms live in one group, and the harm stays at home."""

DIALS = 30
"""The same into all groups together."""

FIRST_BACK_OFF_SECONDS = 120.0
"""Two minutes, for which p2pd remembers an address that it was given: before that, a dial of another address
of the same peer would dial this one again."""

PROVEN_BACK_OFF_SECONDS = 10.0
LONGEST_BACK_OFF_SECONDS = 3600.0
MOST_REMEMBERED = 4096  # peers and addresses in back-off: at 30 a minute, those of two hours
MOST_PROVEN = 256  # peers whose proven addresses are remembered
_PROVEN_AT_ONCE = 16
_DOUBLINGS = 16  # more than it takes to the longest

Key = TypeVar("Key", PeerId, str)


@dataclass(frozen=True)
class Candidate:
    """A peer that is not connected, and the full addresses where it may be.

    Attributes:
        peer: its id.
        addresses: as its notice has them, or as they were remembered.
        came_from: the address from which it posted that notice here; None if it came by way of others.
    """

    peer: PeerId
    addresses: tuple[str, ...]
    came_from: str | None = None


@dataclass(frozen=True)
class Dial:
    """Addresses to dial at once for one peer: at most one into each group, or all that are proven."""

    peer: PeerId
    addresses: tuple[str, ...]
    proven: bool


class BackOff(Generic[Key]):
    """What did not answer, and when it may be tried again."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Key, tuple[int, float]] = OrderedDict()  # failed last, stands last

    def holds(self, key: Key, now: float) -> bool:
        """Whether it is too soon to try again."""
        return key in self._entries and now < self._entries[key][1]

    def failures(self, key: Key) -> int:
        """Return how often it failed in a row."""
        return self._entries.get(key, (0, 0.0))[0]

    def failed(self, key: Key, now: float, *, first_seconds: float) -> None:
        """Wait for twice as long as the time before."""
        failures = self.failures(key)
        pause = min(LONGEST_BACK_OFF_SECONDS, first_seconds * 2.0 ** min(failures, _DOUBLINGS))
        self._entries[key] = (failures + 1, now + pause)
        self._entries.move_to_end(key)
        if len(self._entries) > MOST_REMEMBERED:
            self._entries.popitem(last=False)

    def succeeded(self, key: Key) -> None:
        """Forget how often it failed."""
        self._entries.pop(key, None)


class Dialling:
    """Chooses what to dial next among those that are not connected."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._peers: BackOff[PeerId] = BackOff()
        self._places: BackOff[str] = BackOff()
        self._proven: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self._unanswered: deque[tuple[float, str]] = deque()  # of the last minute: when, and into which group
        self._under_way: dict[PeerId, Dial] = {}

    def proven(self, peer: PeerId) -> tuple[str, ...]:
        """Return the addresses that a connection to the peer has proven."""
        return self._proven.get(peer, ())

    def met(self, peer: PeerId, addresses: Sequence[str], connections: Collection[str]) -> None:
        """Note that a peer that names `addresses` is connected, at or from `connections`."""
        self._peers.succeeded(peer)
        shown = [address for address in addresses if any(same_ip(address, other) for other in connections)]
        for address in shown:
            self._places.succeeded(address)
        if not shown and peer not in self._proven:
            return
        self._proven[peer] = tuple(shown) or self._proven[peer]
        self._proven.move_to_end(peer)
        if len(self._proven) > MOST_PROVEN:
            self._proven.popitem(last=False)

    def vouch(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Take addresses that the volunteer named as if a connection had proven them."""
        self._proven[peer] = tuple(dict.fromkeys((*addresses, *self.proven(peer))))

    def next(self, candidates: Iterable[Candidate], own: Collection[str], now: float) -> list[Dial]:
        """Return what to dial now; `answered` or `unanswered` has to be called for each.

        Args:
            candidates: in any order; those that posted their notice here come before others, and chance
                decides among the rest.
            own: this peer's own addresses.
            now: seconds.
        """
        self._forget_before(now - MINUTE_SECONDS)
        taken = Counter(group for _, group in self._unanswered)
        taken.update(group_of(place) for dial in self._strangers() for place in dial.addresses)
        near = {group_of(address) for address in own}
        at_home = any(map(is_loopback, own))
        due = [c for c in candidates if c.peer not in self._under_way and not self._peers.holds(c.peer, now)]
        self._chance.shuffle(due)
        due.sort(key=lambda candidate: candidate.came_from is None)
        chosen = []
        for candidate in due:
            dial = self._dial_proven(candidate)
            if dial is None or self._peers.failures(candidate.peer) % 2:  # it may have moved
                dial = self._dial_stranger(candidate, taken, near, now, at_home=at_home) or dial
            if dial is not None:
                self._under_way[dial.peer] = dial
                chosen.append(dial)
        return chosen

    def answered(self, dial: Dial) -> None:
        """Note that the peer is there: what was dialled counts for nothing."""
        del self._under_way[dial.peer]
        self._peers.succeeded(dial.peer)

    def unanswered(self, dial: Dial, now: float, *, online: bool) -> None:
        """Note that nobody answered there, or another peer did.

        Unless this peer is `online`, which is to say that anybody at all is connected, that says nothing of
        an address that is proven: after a night without a network, it is tried at once.
        """
        del self._under_way[dial.peer]
        if dial.proven and not online:
            return
        first = PROVEN_BACK_OFF_SECONDS if dial.proven else FIRST_BACK_OFF_SECONDS
        self._peers.failed(dial.peer, now, first_seconds=first)
        if dial.proven:
            return
        for place in dial.addresses:
            self._unanswered.append((now, group_of(place)))
            self._places.failed(place, now, first_seconds=first)

    # ------------------------------------------------------------ choosing

    def _dial_proven(self, candidate: Candidate) -> Dial | None:
        places = tuple(place for place in candidate.addresses if place in self.proven(candidate.peer))
        under_way = sum(dial.proven for dial in self._under_way.values())
        return Dial(candidate.peer, places, proven=True) if places and under_way < _PROVEN_AT_ONCE else None

    def _dial_stranger(
        self, candidate: Candidate, taken: Counter[str], near: set[str], now: float, *, at_home: bool
    ) -> Dial | None:
        chosen: dict[str, str] = {}  # by group
        # sorted() keeps the writer's order, the best first, among those that failed equally often
        for place in sorted(candidate.addresses, key=lambda address: self._places.failures(address)):
            group = group_of(place)
            most = OWN_GROUP_DIALS if group in near else GROUP_DIALS
            if (
                group not in chosen
                and taken[group] < most
                and taken.total() < DIALS
                and not self._places.holds(place, now)
                and _may_be_dialled(place, candidate.came_from, at_home=at_home)
            ):
                chosen[group] = place
                taken[group] += 1
        return Dial(candidate.peer, tuple(chosen.values()), proven=False) if chosen else None

    def _strangers(self) -> list[Dial]:
        return [dial for dial in self._under_way.values() if not dial.proven]

    def _forget_before(self, then: float) -> None:
        while self._unanswered and self._unanswered[0][0] <= then:
            self._unanswered.popleft()


def _may_be_dialled(address: str, came_from: str | None, *, at_home: bool) -> bool:
    """Whether a stranger's address is one to dial at all; `came_from` as in `Candidate`."""
    ip = ip_of(address)
    if ip is not None and ip.is_loopback:
        if not at_home:
            return False
    elif ip is not None and (ip.is_multicast or ip.is_unspecified or ip.is_reserved):
        return False
    return came_from is None or is_circuit(address) or same_ip(address, came_from)
