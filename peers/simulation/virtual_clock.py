"""A virtual peer's clock: with an offset and a drift of its own, and standing still while a laptop sleeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class VirtualClock:
    """A peer's monotonic clock; `rate` is its seconds per second of virtual time."""

    rate: float = 1.0
    offset: float = 0.0

    def reading(self, moment: float) -> float:
        """Return what the clock shows at a moment of virtual time."""
        return self.offset + self.rate * moment

    def moment(self, reading: float) -> float:
        """Return the moment of virtual time at which the clock shows `reading`."""
        return (reading - self.offset) / self.rate

    def stand_still(self, seconds: float) -> None:
        """Leave out some seconds of virtual time, as Linux's monotonic clock does in suspend."""
        self.offset -= self.rate * seconds
