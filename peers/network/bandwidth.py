"""The bandwidth budget: how many bytes a second this peer sends and receives at most, in all its transfers.

A token bucket for each direction fills at the limit's rate and holds a second's worth; what passes takes
out its size, and what finds too little waits. Transfers pass in steps of a sixteenth of a second, each
transfer's next one behind those that wait in its line already: so the transfers of a line share evenly what
the line gets. There are three lines (`Line`). Messages of the round protocol (the first 64 KiB of each), and
the first KiB of everything else, go before the bulk, which leaves them a quarter of the bucket. Bulk of the
round's exchange takes four turns for one of what newcomers fetch. So no message waits for a segment, no round
for newcomers, and still never more than rate x time + burst passes, in any stretch of time.

What is sent waits before it is written, so the limit is exact. What is received can only be read slowly: a
step is read, and then waited for before the next one is read; what stands unread makes p2pd, and then the
sender, wait. docs/design.md says what lies in their buffers meanwhile, and which traffic is not counted here.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from peers.network.token_bucket import Rate, TokenBucket

BURST_SECONDS = 1.0  # that a bucket holds
RESERVED = 0.25  # of it, which bulk leaves to what goes first
STEP_SECONDS = 1 / 16  # of a limit's rate, that one transfer takes at a time
MOST_STEP_BYTES = 256 * 1024
FIRST_BYTES = 1 << 10  # of a request or response of bulk that go before all other bulk,
FIRST_MESSAGE_BYTES = 64 << 10  # and of a message
EXCHANGE_TURNS = 4  # of the round's exchange, for one of what newcomers fetch


class Line(IntEnum):
    """The transfers that wait together, in the order in which they go."""

    MESSAGES = 0
    EXCHANGE = 1
    SUPPLY = 2  # of newcomers, of peers that come back, and of auditors


BULK: Mapping[str, Line] = {
    "segment": Line.EXCHANGE,
    "reduced": Line.EXCHANGE,
    "blocks": Line.EXCHANGE,
    "audit": Line.SUPPLY,
    "recipe": Line.SUPPLY,
    "tokenizer": Line.SUPPLY,
    "manifest": Line.SUPPLY,
    "data": Line.SUPPLY,
    "snapshot": Line.SUPPLY,
    "piece": Line.SUPPLY,
}
"""The kinds of requests (serving.py) with long bodies or answers. All others are messages."""

LEAST_MBITS = 0.05  # in the 10 s that a message may take, 60 kB pass: a roster of 16 claims
MOST_MBITS = 100_000.0  # beyond that, somebody took the unit for another


@dataclass(frozen=True, kw_only=True)
class BandwidthLimits:
    """Most bits a second in each direction; None: as many as the line carries."""

    upload_bits_per_second: float | None = None
    download_bits_per_second: float | None = None


@dataclass(frozen=True)
class _Waiter:
    size: int
    turn: asyncio.Future[None]


class Throttle:
    """One direction's limit, shared by all transfers of this peer; without a rate, nothing ever waits."""

    def __init__(self, bits_per_second: float | None = None) -> None:
        self._rate = _rate(bits_per_second) if bits_per_second is not None else None
        self._bucket: TokenBucket | None = None  # from its first use on: until then there may be no clock
        self._lines: Mapping[Line, deque[_Waiter]] = {line: deque() for line in Line}
        self._turns = 0  # that the exchange took while a supply waited
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def limits(self) -> bool:
        """Whether there is a limit at all."""
        return self._rate is not None

    @property
    def step_bytes(self) -> int:
        """The most bytes for which a transfer may ask at once."""
        if self._rate is None:
            return MOST_STEP_BYTES
        return max(1, min(MOST_STEP_BYTES, math.floor(self._rate.per_second * STEP_SECONDS)))

    async def admit(self, size: int, line: Line) -> None:
        """Return when `size` bytes, at most `step_bytes`, may pass, after those that wait in this line."""
        if self._rate is None:
            return
        if self._bucket is None:
            self._bucket = TokenBucket(self._rate, _now())
        waiter = _Waiter(size, asyncio.get_running_loop().create_future())
        self._lines[line].append(waiter)
        self._let_pass(self._bucket, RESERVED * self._rate.burst)
        await waiter.turn

    def _let_pass(self, bucket: TokenBucket, reserved: float) -> None:
        """Let those pass that may by now, and come back when the next one may."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while (line := self._next_line()) is not None:
            waiter = self._lines[line][0]
            if not waiter.turn.done():  # it is if the waiting transfer was cancelled
                leaving = 0.0 if line is Line.MESSAGES else reserved
                if seconds := bucket.seconds_until(waiter.size + leaving, _now()):
                    loop = asyncio.get_running_loop()
                    self._alarm = loop.call_later(seconds, self._let_pass, bucket, reserved)
                    return
                bucket.take(waiter.size)
                waiter.turn.set_result(None)
                if line is not Line.MESSAGES:
                    self._turns = self._turns + 1 if line is Line.EXCHANGE and self._lines[Line.SUPPLY] else 0
            self._lines[line].popleft()

    def _next_line(self) -> Line | None:
        """Return the line whose turn it is; None if nothing waits."""
        if self._turns >= EXCHANGE_TURNS and self._lines[Line.SUPPLY] and not self._lines[Line.MESSAGES]:
            return Line.SUPPLY
        return next((line for line in Line if self._lines[line]), None)


class Passage:
    """One transfer's way through a throttle: a request or a response of some kind, in one direction."""

    def __init__(self, throttle: Throttle, kind: str) -> None:
        self._throttle = throttle
        self._line = BULK.get(kind, Line.EXCHANGE)  # of what does not go first; of a message, that is little
        self._first = FIRST_BYTES if kind in BULK else FIRST_MESSAGE_BYTES  # bytes left that go first
        self._waited = 0.0
        self._since: float | None = None

    @property
    def step_bytes(self) -> int:
        """The most bytes for which to ask at once."""
        return self._throttle.step_bytes

    @property
    def waits(self) -> bool:
        """Whether this peer's own limit has this transfer wait now."""
        return self._since is not None

    @property
    def waited_seconds(self) -> float:
        """For how long this peer's own limit has had this transfer wait so far."""
        return self._waited + (0.0 if self._since is None else _now() - self._since)

    async def admit(self, size: int) -> None:
        """Return when `size` more bytes, at most `step_bytes`, may pass."""
        if not self._throttle.limits:
            return
        self._first -= size
        line = Line.MESSAGES if self._first >= 0 else self._line
        self._since = _now()
        try:
            await self._throttle.admit(size, line)
        finally:
            self._waited = self.waited_seconds
            self._since = None


UNLIMITED = Passage(Throttle(), "")
"""The way of what nothing limits."""


class Budget:
    """The throttles of both directions."""

    def __init__(self, limits: BandwidthLimits) -> None:
        self._upload = Throttle(limits.upload_bits_per_second)
        self._download = Throttle(limits.download_bits_per_second)

    def sending(self, kind: str) -> Passage:
        """Return the way of a request or response of this kind to another peer."""
        return Passage(self._upload, kind)

    def receiving(self, kind: str) -> Passage:
        """Return the way of a request or response of this kind from another peer."""
        return Passage(self._download, kind)


def read_limit(text: str) -> float:
    """Return the bits a second that a volunteer's number of Mbit/s stands for.

    Raises:
        ValueError: it is no such number; the message says what to write.
    """
    try:
        mbits = float(text)
    except ValueError:
        mbits = math.nan
    if math.isnan(mbits):
        raise ValueError(f"{text!r} is not a number. Write Mbit/s, such as 2 or 0.5.")
    if mbits <= 0:
        raise ValueError(f"{text} Mbit/s would let nothing pass. Leave the option out to set no limit.")
    if mbits < LEAST_MBITS:
        raise ValueError(
            f"{text} Mbit/s is too little to take part: messages alone would come too late. "
            f"Give at least {LEAST_MBITS:g}."
        )
    if mbits > MOST_MBITS:
        raise ValueError(
            f"{text} Mbit/s is more than any line carries: the unit is Mbit/s, a million bits a second. "
            "Leave the option out to set no limit."
        )
    return mbits * 1e6


def _rate(bits_per_second: float) -> Rate:
    return Rate(per_second=bits_per_second / 8, burst=bits_per_second / 8 * BURST_SECONDS)


def _now() -> float:
    return asyncio.get_running_loop().time()
