"""What a peer measures of its swarm and reports in its next claim; timeouts.py makes deadlines of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from peers.protocol.messages import Milliseconds, Pace
from peers.protocol.timeouts import decile
from recipes.keys.keys import PeerId

_REPLIES = 16  # the newest answers are kept
_MOST_SAMPLES = 4096
_MOST_MS = 86_400_000


class Measures:
    """Stopwatches for transfers and questions, and the lateness of claims. Times are seconds on one clock."""

    def __init__(self) -> None:
        self._transfers: dict[Hashable, float] = {}  # under way, with their beginnings
        self._transferred: list[int] = []
        self._questions: dict[PeerId, float] = {}
        self._replies: deque[int] = deque(maxlen=_REPLIES)
        self._late: list[int] = []
        self._exchange: int | None = None

    def transfer_began(self, what: Hashable, now: float) -> None:
        """Note that a transfer begins."""
        self._transfers.setdefault(what, now)

    def transfer_ended(self, what: Hashable, now: float) -> None:
        """Note that a transfer ended."""
        began = self._transfers.pop(what, None)
        if began is not None and len(self._transferred) < _MOST_SAMPLES:
            self._transferred.append(_milliseconds(now - began))

    def transfer_failed(self, what: Hashable) -> None:
        """Forget a transfer whose other side is gone: it tells nothing about speed."""
        self._transfers.pop(what, None)

    def exchange_over(self, now: float, *, allowed: float) -> None:
        """Count transfers that are still under way after `allowed` seconds, with their time so far."""
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
        """Note how long after this peer's window another's claim came; 0 or less is in time."""
        if len(self._late) < _MOST_SAMPLES:
            self._late.append(_milliseconds(max(0.0, seconds_late)))

    def exchange_took(self, seconds: float) -> None:
        """Note how long after this peer's claim the block came."""
        self._exchange = _milliseconds(seconds)

    def take_pace(self, *, compute_seconds: float | None = None) -> Pace:
        """Return what was measured, and begin again; the newest answers are kept.

        Transfers count by their ninth decile: they share a line, and a reducer waits for the last of them.

        Args:
            compute_seconds: for how long the trainer computed in the window that is claimed.
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
