"""Token buckets: so much at once, and then so much a second. They read no clock: times are passed in."""

from __future__ import annotations

from dataclasses import dataclass

_TOLERANCE = 1e-6  # what floating-point arithmetic may lack


@dataclass(frozen=True)
class Rate:
    """A bucket's capacity, and the amount that flows in per second."""

    per_second: float
    burst: float


class TokenBucket:
    """The amount that is left in a bucket. It begins full."""

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate, self._left, self._at = rate, rate.burst, now

    def left(self, now: float) -> float:
        """Return how much may be taken now; less than 0 if more was taken than there was."""
        self._left = min(self._rate.burst, self._left + max(0.0, now - self._at) * self._rate.per_second)
        self._at = now
        return self._left

    def take(self, amount: float) -> None:
        """Take out `amount` as of the time of the last look."""
        self._left -= amount

    def seconds_until(self, amount: float, now: float) -> float:
        """Return in how many seconds `amount` is there if nothing is taken meanwhile; 0 if it is now."""
        lacking = amount - self.left(now)
        return lacking / self._rate.per_second if lacking > _TOLERANCE else 0.0
