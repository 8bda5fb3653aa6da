"""The interface of a store of reduced segments, for those parts that read them and fetch none."""

from __future__ import annotations

from typing import Protocol

from peers.codec.segment import SegmentFrame


class ReducedSegments(Protocol):
    """Reduced segments on disk. `peers.exchange.segment_store.ExchangeStore` is the real store."""

    def read_reduced(self, root: str, *, tokens: int) -> SegmentFrame:
        """Return a reduced segment.

        Args:
            root: its root, hex.
            tokens: trained on by the block below its round, from which its density follows.

        Raises:
            MessageError: it is missing or damaged.
        """
        ...
