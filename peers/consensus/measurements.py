"""What one peer measures of its swarm, to be said in its next claim; timeouts.py has what becomes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from peers.protocol.messages import Milliseconds, Pace
from peers.protocol.timeouts import decile
from recipes.keys.keys import PeerId

_REPLIES = 16  # newest answers remembered
_MOST_SAMPLES = 4096
_MOST_MS = 86_400_000


class Measures:
    """Stopwatches for transfers and questions, and the lateness of claims. Times are seconds on one clock."""

    def __init__(self) -> None:
        self._transfers: dict[Hashable, float] = {}  # that are under way, and since when
        self._transferred: list[int] = []
        self._questions: dict[PeerId, float] = {}
        self._replies: deque[int] = deque(maxlen=_REPLIES)
        self._late: list[int] = []
        self._exchange: int | None = None

    def transfer_began(self, what: Hashable, now: float) -> None:
        """Note that a transfer begins."""
        self._transfers.setdefault(what, now)

    def transfer_ended(self, what: Hashable, now: float) -> None:
        """Note that a transfer came to its end."""
        began = self._transfers.pop(what, None)
        if began is not None and len(self._transferred) < _MOST_SAMPLES:
            self._transferred.append(_milliseconds(now - began))

    def transfer_failed(self, what: Hashable) -> None:
        """Forget a transfer whose other side is gone: that tells nothing about speed."""
        self._transfers.pop(what, None)

    def exchange_over(self, now: float, *, allowed: float) -> None:
        """Count what is still under way after more than `allowed` seconds, with its time so far."""
        for began in self._transfers.values():
            if now - began >= allowed and len(self._transferred) < _MOST_SAMPLES:
                self._transferred.append(_milliseconds(now - began))
        self._transfers = {}

    def asked(self, peer: PeerId, now: float) -> None:
        """Note that a question goes to `peer`."""
        self._questions[peer] = now

    def answered(self, peer: PeerId, now: float) -> None:
        """Note that `peer` answered."""
        asked = self._questions.pop(peer, None)
        if asked is not None:
            self._replies.append(_milliseconds(now - asked))

    def claim_came(self, seconds_late: float) -> None:
        """Note how long after the own window's end another peer's claim came; less than 0 is in time."""
        if len(self._late) < _MOST_SAMPLES:
            self._late.append(_milliseconds(max(0.0, seconds_late)))

    def exchange_took(self, seconds: float) -> None:
        """Note how long after the own claim the block came."""
        self._exchange = _milliseconds(seconds)

    def take_pace(self, *, compute_seconds: float | None = None) -> Pace:
        """Return what was measured, and begin afresh; answers are remembered for longer.

        Of transfers the ninth decile counts: they share a line, and a reducer waits for the last of them.

        Args:
            compute_seconds: how long the trainer computed in the window that is claimed.
        """
        pace = Pace(
            claims_late_ms=decile(self._late, 9),
            transfer_ms=decile(self._transferred, 9),
            reply_ms=decile(self._replies, 8),
            exchange_ms=self._exchange,
            compute_ms=None if compute_seconds is None else _milliseconds(compute_seconds),
        )
        self._late, self._transferred, self._exchange = [], [], None
        self._questions = {}
        return pace


def _milliseconds(seconds: float) -> Milliseconds:
    return min(_MOST_MS, max(0, round(1000 * seconds)))
