"""Messages that overtook the block or roster that they belong to: kept for a while, within bounds."""

from __future__ import annotations

from peers.protocol.messages import AnyMessage, Roster, Signed
from recipes.keys.keys import PeerId

MAX_EARLY_KEYS = 64
MAX_EARLY_EACH = 512
MAX_EARLY_OF_ONE = 16  # sender, for one key
MAX_EARLY_ROSTERS = 32


class EarlyMessages:
    """What waits, by the hash of what it waits for; `since` says when the first of it came, in seconds."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[tuple[PeerId, AnyMessage]]] = {}
        self.since: dict[str, float] = {}

    def keep(self, key: str, sender: PeerId, message: AnyMessage, now: float) -> None:
        """Keep a message for the block or roster `key`, if there is room; the oldest key gives way."""
        if key not in self.waiting and len(self.waiting) >= MAX_EARLY_KEYS:
            self.take(next(iter(self.waiting)))
        waiting = self.waiting.setdefault(key, [])
        self.since.setdefault(key, now)
        if sum(other == sender for other, _ in waiting) >= MAX_EARLY_OF_ONE or self._is_bulk(message):
            return
        if len(waiting) < MAX_EARLY_EACH:
            waiting.append((sender, message))

    def take(self, key: str) -> list[tuple[PeerId, AnyMessage]]:
        """Return what waits for `key`, and forget it."""
        self.since.pop(key, None)
        return self.waiting.pop(key, [])

    def _is_bulk(self, message: AnyMessage) -> bool:
        """Say whether a roster, which is large, comes on top of as many as may wait."""
        if not isinstance(message, Signed) or not isinstance(message.body, Roster):
            return False
        waiting = (other for messages in self.waiting.values() for _, other in messages)
        rosters = (other for other in waiting if isinstance(other, Signed) and isinstance(other.body, Roster))
        return sum(1 for _ in rosters) >= MAX_EARLY_ROSTERS
