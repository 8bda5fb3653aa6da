"""How other peers behave: what each sent that it must not, how much it asks for, and which are banned.

Nothing here does I/O or reads a clock: times are seconds of any steady clock, passed in.

**Strikes.** Only what no honest peer ever sends is one (`Offence`): what does not parse, is longer than its
kind may be, bears a forged signature, belongs to another run, or is not what its hash or claim says. A block
on another branch, a segment whose roster is not known here, a piece that is not here: those happen to honest
peers, and count for nothing. A strike is forgiven after a minute. The tenth that is not brings a ban of two
minutes; each further one is twice as long, up to an hour; six hours without a strike wipe the slate. Bans are
short because a broken disk looks like a lie, and because identities cost nothing: a ban saves us work, it
does not punish.

**Rates.** Each peer has, for each kind of request, a bucket of requests and for large messages one of bytes.
What goes beyond is refused as busy. That is a sixteenth of a strike: only a peer that goes on is banned.
No honest peer comes near the numbers in `ALLOWANCES`. A round takes at least the second that a recipe's
window lasts at least, and in one, a peer sends each other peer at most

    4        of each of ready, claim, roster, block and co-signature (first and repeated, several attempts)
    2048     segments: 1024 to the other of a swarm of two, and each once more if it failed; to one of 64
             peers at most 64, and 128 in all
    1024     reductions, and requests for reduced segments
    64       spot checks, if a recipe asks for as many and all fall to one reducer

and all of these in turn, at less than a thousand calls a second: on loopback, two peers on two cores came to
230 one by one and 440 with twelve at a time. A burst of 4096 holds two such rounds whole, and 512 a second
refill it faster than they come. Pieces of data and state have 1 MiB and come whole wherever a line is fast,
three at a time: 256 a second are 2 Gbit/s. Only 64 claims of 1024 segments make rosters of 2 MiB and blocks
of 4, and such rounds take many seconds: 1 and 2 MiB a second.

The peer that came longest ago is forgotten first, so that memory is bounded; those that are banned, after all
others.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from peers.network.token_bucket import Rate, TokenBucket
from recipes.errors import MessageError, Offence
from recipes.keys.keys import PeerId

STRIKES = 10  # that bring a ban
FORGIVEN_PER_SECOND = 1 / 60
FIRST_BAN_SECONDS = 120.0
LONGEST_BAN_SECONDS = 3600.0
CLEAN_SLATE_SECONDS = 6 * 3600.0  # without a strike
MOST_PEERS = 1024  # remembered at a time
WEIGHTS = {Offence.TOO_MANY: 1 / 16}  # of a strike; all others are whole ones


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits on what other peers may take from this one."""

    requests_per_peer: int = 16  # in flight; further ones are refused as busy
    requests: int = 256  # in flight, from all peers together
    stall_seconds: float = 30.0  # a body may take this long, and in addition
    slowest_bytes_per_second: float = 2048.0  # its length divided by this

    def transfer_seconds(self, length: int) -> float:
        """Return how long a body of `length` bytes may take to arrive or to be fetched."""
        return self.stall_seconds + length / self.slowest_bytes_per_second


@dataclass(frozen=True)
class Allowance:
    """The limits on one peer's requests of one kind: their number, and their bodies' bytes if bounded."""

    requests: Rate
    bytes: Rate | None = None


_MIB = 1 << 20
_RARE = Allowance(Rate(1, 32))
_A_FEW_A_ROUND = Allowance(Rate(16, 256))
MANY_A_ROUND = Allowance(Rate(512, 4096))

OF_A_LATER_BUILD = "of a later build"
"""Stands for all kinds of request that this build does not know."""

ALLOWANCES: Mapping[str, Allowance] = {
    "ready": _A_FEW_A_ROUND,
    "claims-wanted": _A_FEW_A_ROUND,
    "claim": Allowance(Rate(16, 256), Rate(256 << 10, 8 * _MIB)),
    "roster": Allowance(Rate(16, 256), Rate(1 * _MIB, 32 * _MIB)),
    "reduction": Allowance(Rate(512, 4096), Rate(1 * _MIB, 16 * _MIB)),
    "receipt": Allowance(Rate(512, 4096), Rate(1 * _MIB, 16 * _MIB)),
    "missing": _A_FEW_A_ROUND,
    "block": Allowance(Rate(16, 256), Rate(2 * _MIB, 64 * _MIB)),
    "cosignature": _A_FEW_A_ROUND,
    "checkpoint": _A_FEW_A_ROUND,
    "verdict": _A_FEW_A_ROUND,
    "dispute": _A_FEW_A_ROUND,
    "rotation": _A_FEW_A_ROUND,
    "evidence": Allowance(Rate(16, 256), Rate(256 << 10, 8 * _MIB)),
    "head": _A_FEW_A_ROUND,
    "accepted": _A_FEW_A_ROUND,
    "blocks": _A_FEW_A_ROUND,
    "segment": MANY_A_ROUND,
    "reduced": MANY_A_ROUND,
    "check": Allowance(Rate(64, 1024)),
    "audit": _RARE,
    "recipe": _RARE,
    "tokenizer": _RARE,
    "manifest": _RARE,
    "data": Allowance(Rate(256, 1024)),
    "snapshots": _RARE,
    "snapshot": _RARE,
    "piece": Allowance(Rate(256, 1024)),
    OF_A_LATER_BUILD: Allowance(Rate(1, 64)),
}
"""By the kinds of request that this build knows, and one for all that it does not know together."""


@dataclass(frozen=True)
class ConductStatistics:
    """How peers behaved, as it stood when this was taken."""

    offences: Mapping[Offence, int]  # of all peers ever
    turned_away: int  # streams of banned peers that were closed
    banned: tuple[PeerId, ...]  # now
    remembered: int  # peers


@dataclass
class _Record:
    """One peer's record of requests and offences."""

    patience: TokenBucket  # strikes that are left
    offences: Counter[Offence] = field(default_factory=Counter)
    requests: dict[str, tuple[TokenBucket, TokenBucket | None]] = field(default_factory=dict)
    struck_at: float = float("-inf")
    bans: int = 0  # since the slate was clean
    banned_until: float = float("-inf")


class Conduct:
    """Judges other peers; see the module's text for how."""

    def __init__(
        self, *, allowances: Mapping[str, Allowance] = ALLOWANCES, most_peers: int = MOST_PEERS
    ) -> None:
        self._allowances = allowances
        self._most_peers = most_peers
        self._records: OrderedDict[PeerId, _Record] = OrderedDict()  # the one that came last stands last
        self._offences: Counter[Offence] = Counter()
        self._turned_away = 0

    def knows(self, kind: str) -> bool:
        """Return whether an honest peer may ask for `kind`, if perhaps not here and now."""
        return kind in self._allowances

    def admits(self, peer: PeerId, kind: str, length: int, now: float) -> bool:
        """Return whether a request of `kind` with a body of `length` bytes is within the peer's rates.

        If it is, it is counted against them.
        """
        record = self._record(peer, now)
        allowance = self._allowances.get(kind, MANY_A_ROUND)
        if kind not in record.requests:
            weighed = TokenBucket(allowance.bytes, now) if allowance.bytes is not None else None
            record.requests[kind] = (TokenBucket(allowance.requests, now), weighed)
        requests, weighed = record.requests[kind]
        if requests.left(now) < 1 or (weighed is not None and weighed.left(now) < length):
            return False
        requests.take(1)
        if weighed is not None:
            weighed.take(length)
        return True

    def strike(self, peer: PeerId, offence: Offence, now: float) -> float:
        """Count an offence; return for how many seconds it gets the peer banned, 0 if it does not."""
        record = self._record(peer, now)
        self._offences[offence] += 1
        record.offences[offence] += 1
        if now - record.struck_at > CLEAN_SLATE_SECONDS:
            record.bans = 0
        record.struck_at = now
        left = record.patience.left(now)
        record.patience.take(min(left, WEIGHTS.get(offence, 1.0)))
        if now < record.banned_until or record.patience.left(now) >= 1:
            return 0.0
        seconds = min(LONGEST_BAN_SECONDS, math.ldexp(FIRST_BAN_SECONDS, record.bans))
        record.bans = min(record.bans + 1, 16)
        record.banned_until = now + seconds
        record.patience = _patience(now)
        return seconds

    def banned_seconds(self, peer: PeerId, now: float) -> float:
        """Return for how long the peer is still banned; 0 if it is not."""
        record = self._records.get(peer)
        return max(0.0, record.banned_until - now) if record is not None else 0.0

    def turns_away(self, peer: PeerId, now: float) -> bool:
        """Return whether a stream that the peer opened has to be closed at once, and count it if so."""
        banned = self.banned_seconds(peer, now) > 0
        self._turned_away += banned
        return banned

    def offences(self, peer: PeerId) -> dict[str, int]:
        """Return what the peer sent that it must not, by its name, as far as it is remembered."""
        record = self._records.get(peer)
        return {offence.value: count for offence, count in record.offences.items()} if record else {}

    def statistics(self, now: float) -> ConductStatistics:
        """Return how peers behaved so far; the snapshot does not change afterwards."""
        banned = tuple(peer for peer in self._records if self.banned_seconds(peer, now) > 0)
        return ConductStatistics(dict(self._offences), self._turned_away, banned, len(self._records))

    def _record(self, peer: PeerId, now: float) -> _Record:
        if peer not in self._records:
            if len(self._records) >= self._most_peers:
                del self._records[self._least_missed(now)]
            self._records[peer] = _Record(_patience(now))
        self._records.move_to_end(peer)
        return self._records[peer]

    def _least_missed(self, now: float) -> PeerId:
        """Return the peer to forget: not banned and the longest away, else the one whose ban ends first."""
        for peer, record in self._records.items():
            if record.banned_until <= now:
                return peer
        return min(self._records, key=lambda peer: self._records[peer].banned_until)


@contextlib.contextmanager
def counts_as(offence: Offence) -> Iterator[None]:
    """Mark what is refused inside as an offence of its sender, unless it names one already."""
    try:
        yield
    except MessageError as error:
        error.offence = error.offence or offence
        raise


def _patience(now: float) -> TokenBucket:
    return TokenBucket(Rate(FORGIVEN_PER_SECOND, STRIKES), now)
