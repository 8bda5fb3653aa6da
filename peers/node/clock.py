"""The clock of a real peer."""

from __future__ import annotations

import time


class MachineClock:
    """The machine's monotonic clock, as a `Clock` of peers/consensus/host.py."""

    def now(self) -> float:
        """Return the time, in seconds."""
        return time.monotonic()
