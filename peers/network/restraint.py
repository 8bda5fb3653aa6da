"""How much this peer asks of another one: never so much that it would be banned for it.

The other one refuses what goes beyond its allowances (peer_scores.py), and bans a peer that goes on. Each
request waits here until it is well within them. A caller that would wait longer than the answer is worth is
told so, and asks another peer.

Nothing here does I/O or reads a clock: times are seconds of any steady clock, passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from peers.network.peer_scores import ALLOWANCES, MANY_A_ROUND, Allowance
from peers.network.token_bucket import Rate, TokenBucket
from recipes.keys.keys import PeerId

BURST_SHARE = 0.5  # of the other's: it may still count what was asked before a restart
RATE_SHARE = 0.8  # of the other's: its clock and the network may make this one's look faster than it is
MOST_BUCKETS = 4096  # remembered at a time


@dataclass
class _Buckets:
    requests: TokenBucket
    bytes: TokenBucket | None


class Restraint:
    """When the next request of a kind may go to a peer."""

    def __init__(self, allowances: Mapping[str, Allowance] = ALLOWANCES) -> None:
        self._allowances = allowances
        self._buckets: OrderedDict[tuple[PeerId, str], _Buckets] = OrderedDict()  # used last, stands last

    def wait_seconds(
        self, peer: PeerId, kind: str, length: int, now: float, *, patience: float
    ) -> float | None:
        """Return for how long a request has to wait, and count it; None, uncounted, if beyond `patience`.

        Args:
            peer: the one that it goes to.
            kind: of request.
            length: bytes of its body.
            now: seconds.
            patience: seconds.
        """
        buckets = self._of(peer, kind, now)
        seconds = buckets.requests.seconds_until(1, now)
        if buckets.bytes is not None:
            seconds = max(seconds, buckets.bytes.seconds_until(length, now))
        if seconds > patience:
            return None
        buckets.requests.take(1)
        if buckets.bytes is not None:
            buckets.bytes.take(length)
        return seconds

    def _of(self, peer: PeerId, kind: str, now: float) -> _Buckets:
        place = (peer, kind)
        if place not in self._buckets:
            if len(self._buckets) >= MOST_BUCKETS:
                self._buckets.popitem(last=False)
            allowance = self._allowances.get(kind, MANY_A_ROUND)
            weighed = TokenBucket(_part_of(allowance.bytes), now) if allowance.bytes is not None else None
            self._buckets[place] = _Buckets(TokenBucket(_part_of(allowance.requests), now), weighed)
        self._buckets.move_to_end(place)
        return self._buckets[place]


def _part_of(rate: Rate) -> Rate:
    return Rate(RATE_SHARE * rate.per_second, BURST_SHARE * rate.burst)
