"""Messages that came before the block or roster to which they belong: kept for a while, within bounds.

When that block or roster is here, `release` hands them over, and the engine takes them in next (engine.py,
`handle`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from peers.protocol.messages import AnyMessage, Roster, Signed
from recipes.keys.keys import PeerId

MAX_KEYS = 64
MAX_OF_ONE_KEY = 512
MAX_OF_ONE_SENDER = 16  # for one key
MAX_ROSTERS = 32


class Inbox:
    """Messages that wait, by the hash of the block or roster for which they wait.

    Attributes:
        waiting: the messages under each hash, each with its sender.
        since: when the first message under each hash came, in seconds.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, list[tuple[PeerId, AnyMessage]]] = {}
        self.since: dict[str, float] = {}
        self._released: deque[tuple[PeerId, AnyMessage]] = deque()

    def keep(self, key: str, sender: PeerId, message: AnyMessage, now: float) -> None:
        """Keep a message for the block or roster with hash `key`, if it fits; the oldest key gives way."""
        if key not in self.waiting and len(self.waiting) >= MAX_KEYS:
            self.drop(next(iter(self.waiting)))
        waiting = self.waiting.setdefault(key, [])
        self.since.setdefault(key, now)
        if sum(other == sender for other, _ in waiting) >= MAX_OF_ONE_SENDER or self._is_bulk(message):
            return
        if len(waiting) < MAX_OF_ONE_KEY:
            waiting.append((sender, message))

    def release(self, key: str) -> None:
        """Hand over the messages for `key`, which is here now."""
        self._released += self._take(key)

    def drop(self, key: str) -> None:
        """Drop the messages for `key`, which never came."""
        self._take(key)

    def drop_older_than(self, moment: float) -> None:
        """Drop all messages under keys that have waited since before `moment` (seconds)."""
        for key in [key for key, since in self.since.items() if since < moment]:
            self.drop(key)

    def released(self) -> Iterator[tuple[PeerId, AnyMessage]]:
        """Yield the messages that were handed over, in order, and those handed over meanwhile."""
        while self._released:
            yield self._released.popleft()

    def _take(self, key: str) -> list[tuple[PeerId, AnyMessage]]:
        self.since.pop(key, None)
        return self.waiting.pop(key, [])

    def _is_bulk(self, message: AnyMessage) -> bool:
        """Whether a message is a roster, which is large, and as many as may wait are here already."""
        if not isinstance(message, Signed) or not isinstance(message.body, Roster):
            return False
        waiting = (other for messages in self.waiting.values() for _, other in messages)
        rosters = (other for other in waiting if isinstance(other, Signed) and isinstance(other.body, Roster))
        return sum(1 for _ in rosters) >= MAX_ROSTERS
