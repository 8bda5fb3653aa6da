"""Signals for orders from other threads: that one is to stop, or to end earlier than it was told.

A signal may come before its order begins or while it runs, and is forgotten when the order is over.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MOST_REMEMBERED = 256
"""Orders that have not begun and whose signals are kept; of more, those that came first are forgotten."""


@dataclass
class Signals:
    """Whether an order is to stop, and when it ends at the latest, on `time.monotonic`."""

    stopped: bool = False
    until: float = math.inf


class Orders:
    """The signals for one trainer's orders, by number. Its methods may be called in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, Signals] = {}
        self._early: dict[int, Signals] = {}  # also late ones: an order that is over does not begin again

    def stop(self, number: int) -> None:
        """Let an order end after the step at hand."""
        with self._lock:
            self._of(number).stopped = True

    def end_by(self, number: int, until: float) -> None:
        """Let an order end by `until` at the latest."""
        with self._lock:
            self._of(number).until = until

    @contextmanager
    def running(self, number: int) -> Iterator[Signals]:
        """Give the signals for an order; they change as signals come, until the block is left."""
        with self._lock:
            self._running[number] = signals = self._early.pop(number, None) or Signals()
        try:
            yield signals
        finally:
            with self._lock:
                del self._running[number]

    def _of(self, number: int) -> Signals:
        if number in self._running:
            return self._running[number]
        signals = self._early.setdefault(number, Signals())
        if len(self._early) > MOST_REMEMBERED:
            del self._early[next(iter(self._early))]
        return signals
