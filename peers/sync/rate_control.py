"""How much to ask for at once, and how long to wait for it: what a line carries is found out, never set.

What was asked for and has not come waits somewhere on its way, and everything else on that connection waits
behind it: messages of the round, and the signs of life without which libp2p's muxer (yamux) hangs up after
10 s. So a source is asked for as much as it sends in about `PART_SECONDS`, and only when that has come for
more: at 1 Mbit/s for a few hundred kilobytes, less if others share that line, at 10 Mbit/s for a whole piece.

A long way needs several parts on it. Their number grows for as long as that brings more bytes a second, and
shrinks where fewer bring as many: a hill is climbed, as TCP Vegas does (Brakmo and Peterson, 1995), though by
what arrives and not by delay, which here is mostly other peers' queues.

Nothing here reads a clock: times are passed in.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

PART_SECONDS = 2.0  # that a part is meant to take
LEAST_PART_BYTES = 32 << 10
FIRST_IN_FLIGHT = 2  # parts, over all sources
MOST_IN_FLIGHT = 64
GAIN = 1.15  # what one more in flight must bring to be kept
LOSS = 0.95  # what one fewer may cost to be kept
PARTS_PER_TRIAL = 3  # times those in flight: what comes by chance evens out
TRIALS_OF_REST = 3  # between two attempts to change the number

FIRST_PATIENCE_SECONDS = 60.0  # the least part at 550 bytes a second
LEAST_PATIENCE_SECONDS = 15.0  # the other side's disk, processor or line may be busy for a while
MOST_PATIENCE_SECONDS = 120.0
_PATIENCE = 8  # times the time that parts take: they vary as much when many share a line
_SMOOTHING = 1 / 4  # of a new time in the mean, after RFC 6298's 1/8: there are fewer of them


@dataclass
class TransferPace:
    """One source's parts: how large, and how long to wait for one."""

    part_bytes: int = LEAST_PART_BYTES
    patience_seconds: float = FIRST_PATIENCE_SECONDS
    _mean_seconds: float | None = None

    def came(self, size: int, seconds: float) -> None:
        """Note that a part of `size` bytes took that long."""
        mean = seconds if self._mean_seconds is None else self._mean_seconds
        self._mean_seconds = mean + _SMOOTHING * (seconds - mean)
        self.patience_seconds = min(
            max(_PATIENCE * self._mean_seconds, LEAST_PATIENCE_SECONDS), MOST_PATIENCE_SECONDS
        )
        factor = min(max(PART_SECONDS / max(seconds, 1e-6), 0.5), 2.0)
        if size >= self.part_bytes or factor < 1:  # a short one that is fast says nothing about long ones
            self.part_bytes = max(round(size * factor), LEAST_PART_BYTES)

    def failed(self) -> None:
        """Note that none came: what comes next is small, and waited for longer."""
        self.part_bytes = LEAST_PART_BYTES
        self.patience_seconds = min(2 * self.patience_seconds, MOST_PATIENCE_SECONDS)


class _Trial(enum.Enum):
    """A trial of another number of parts in flight."""

    NOTHING = 0
    MORE = 1
    FEWER = -1


@dataclass
class Flow:
    """How many parts may be in flight, over all sources."""

    in_flight: int = FIRST_IN_FLIGHT
    _trial: _Trial = _Trial.NOTHING
    _last: _Trial = _Trial.FEWER
    _rest: int = 0  # trials left without a change
    _rate: float = 0.0  # bytes a second before the trial
    _bytes: int = 0
    _parts: int = 0
    _since: float | None = None
    _lost_at: float = 0.0
    _paces: dict[str, TransferPace] = field(default_factory=dict)

    def pace(self, source: str) -> TransferPace:
        """Return what is known about one source."""
        return self._paces.setdefault(source, TransferPace())

    def began(self, now: float) -> None:
        """Note that a part is asked for."""
        if self._since is None:
            self._since = now

    def came(self, size: int, now: float) -> None:
        """Note that `size` bytes are here."""
        self._bytes += size
        self._parts += 1
        if self._since is not None and self._parts >= PARTS_PER_TRIAL * self.in_flight and now > self._since:
            self._judge(self._bytes / (now - self._since))
            self._measure_from(now)

    def failed(self, source: str, *, asked_at: float, now: float) -> None:
        """Note that a part was lost, perhaps for there were too many: half as many are enough for now.

        Those that were on their way together are lost together, and count once.
        """
        if asked_at < self._lost_at:
            return
        self._lost_at = now
        self.pace(source).failed()
        self.in_flight = max(1, self.in_flight // 2)
        self._trial, self._rest, self._rate = _Trial.NOTHING, TRIALS_OF_REST, 0.0
        self._measure_from(now)

    def _measure_from(self, now: float) -> None:
        self._bytes = self._parts = 0
        self._since = now

    def _judge(self, rate: float) -> None:
        """Keep what was tried or take it back, and decide what to try next."""
        trial, self._trial = self._trial, _Trial.NOTHING
        if trial is _Trial.MORE and rate >= GAIN * self._rate:
            self._rest = 0  # on, while it goes up
        elif trial is _Trial.FEWER and rate >= LOSS * self._rate:
            self._rest = 0
        elif trial is not _Trial.NOTHING:
            self.in_flight -= trial.value
            self._rest = TRIALS_OF_REST
            return
        self._rate = rate
        if self._rest:
            self._rest -= 1
            return
        kept = trial is not _Trial.NOTHING
        self._last = trial if kept else (_Trial.MORE if self._last is _Trial.FEWER else _Trial.FEWER)
        changed = self.in_flight + self._last.value
        if 1 <= changed <= MOST_IN_FLIGHT:
            self._trial, self.in_flight = self._last, changed
