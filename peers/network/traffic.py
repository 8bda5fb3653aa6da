"""Traffic: the bytes that went over the wire, by direction and purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

REFUSED = "refused"
"""The purpose under which the bytes of refusals are counted, and of requests that nobody here serves."""


@dataclass(frozen=True)
class TrafficStatistics:
    """Bytes since the start, by purpose: requests and responses with their heads, asked and served.

    Left out is what libp2p adds below (encryption, TCP/IP) and the notice board's small records.
    """

    sent: Mapping[str, int]
    received: Mapping[str, int]

    @property
    def sent_bytes(self) -> int:
        return sum(self.sent.values())

    @property
    def received_bytes(self) -> int:
        return sum(self.received.values())


class TrafficMeter:
    """Counts bytes as they pass."""

    def __init__(self) -> None:
        self._sent: Counter[str] = Counter()
        self._received: Counter[str] = Counter()

    def count_sent(self, purpose: str) -> Callable[[int], None]:
        """Return a function that adds bytes to what was sent for `purpose`."""
        return lambda size: self._sent.update({purpose: size})

    def count_received(self, purpose: str) -> Callable[[int], None]:
        """Return a function that adds bytes to what was received for `purpose`."""
        return lambda size: self._received.update({purpose: size})

    def statistics(self) -> TrafficStatistics:
        """Return a snapshot that later traffic does not change."""
        return TrafficStatistics(
            sent=MappingProxyType(dict(self._sent)), received=MappingProxyType(dict(self._received))
        )
