"""Virtual links: every peer's line with its rates and latency, and what can go wrong between two lines.

Bytes queue on the sender's way up, travel, and queue again on the receiver's way down. Rates are bytes a
second; everything else about time is in seconds of virtual time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from peers.protocol.messages import AnyMessage, Block, Claim, Roster, Signed

MEGABIT = 125_000  # bytes
_JITTER = 2.0  # a message takes up to this many times its lines' latency
LONGEST_QUEUE_SECONDS = 120.0  # of bytes on the way up a line; what comes on top is dropped
_LATE_SECONDS = 4.0  # by how much a reordered message comes later, at most
_SMALL_BYTES = 400  # of a message with a name or two in it, and a signature
_CLAIM_BYTES = 1400


@dataclass
class Line:
    """One peer's access to the network."""

    up_bytes_per_second: float
    down_bytes_per_second: float
    latency_seconds: float  # one way, to the middle of the network
    up_free_at: float = 0.0
    down_free_at: float = 0.0
    sent_bytes: int = 0
    sent_messages: int = 0
    received_bytes: int = 0


def home_line(chance: random.Random) -> Line:
    """Return a line as homes have them, from old DSL to fibre."""
    up = 5 * 20 ** chance.random()
    return Line(up * MEGABIT, up * chance.uniform(1, 10) * MEGABIT, chance.uniform(0.005, 0.15))


class Links:
    """The network between the lines. `loss`, `duplication` and `reordering` are shares of the messages."""

    def __init__(self, chance: random.Random) -> None:
        self.loss = 0.0
        self.duplication = 0.0
        self.reordering = 0.0
        self._chance = chance
        self._cuts: Counter[tuple[str, str]] = Counter()

    def cut(self, senders: Collection[str], receivers: Collection[str]) -> None:
        """Let nothing from `senders` reach `receivers`; the way back stays open."""
        self._cuts.update((one, other) for one in senders for other in receivers)

    def heal(self, senders: Collection[str], receivers: Collection[str]) -> None:
        """Take back one `cut`."""
        self._cuts.subtract((one, other) for one in senders for other in receivers)

    def is_cut(self, sender: str, receiver: str) -> bool:
        """Whether nothing from `sender` reaches `receiver`."""
        return self._cuts[sender, receiver] > 0

    def copies(self) -> int:
        """Draw how many times the next message arrives: 0 if it is lost, 2 if it is doubled."""
        if self._chance.random() < self.loss:
            return 0
        return 1 + (self._chance.random() < self.duplication)

    def send(self, sender: Line, receiver: Line, size: int, now: float) -> float | None:
        """Send `size` bytes up a line; return when the last of them reaches the receiver's line.

        None if more waits on the line than it carries in `LONGEST_QUEUE_SECONDS`: then they are dropped.
        """
        if sender.up_free_at - now > LONGEST_QUEUE_SECONDS:
            return None
        sender.up_free_at = max(now, sender.up_free_at) + size / sender.up_bytes_per_second
        sender.sent_bytes += size
        sender.sent_messages += 1
        latency = (sender.latency_seconds + receiver.latency_seconds) * self._chance.uniform(1.0, _JITTER)
        late = self._chance.random() < self.reordering
        return sender.up_free_at + latency + (self._chance.uniform(0, _LATE_SECONDS) if late else 0.0)

    def receive(self, receiver: Line, size: int, now: float) -> float:
        """Receive `size` bytes that came to a line; return when the last of them is down."""
        receiver.down_free_at = max(now, receiver.down_free_at) + size / receiver.down_bytes_per_second
        receiver.received_bytes += size
        return receiver.down_free_at


def size_of(message: AnyMessage) -> int:
    """Return about how many bytes a message takes: exact enough for queues, and cheap to know."""
    body = message.body if isinstance(message, Signed) else message
    match body:
        case Claim():
            return _CLAIM_BYTES + 20 * len(body.norms)
        case Roster():
            return _SMALL_BYTES + sum(size_of(claim) for claim in body.claims)
        case Block():
            return size_of(body.roster) + _SMALL_BYTES * (1 + len(body.reductions) + len(body.cosignatures))
        case _:
            return _SMALL_BYTES
