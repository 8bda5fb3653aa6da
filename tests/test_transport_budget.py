"""Real transports keep to their limits: bulk is held back, and messages are answered meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from loopback import OpenPeer, echo, open_peer

from peers.budget import BURST_SECONDS, BandwidthLimits
from peers.transport import Transport

__all__ = ["open_peer"]  # the fixture

BITS = 800_000.0
RATE = BITS / 8
SEGMENT = 10_000_000  # far more than passes during a test


@pytest.mark.parametrize("limited", ["sender", "receiver"])
async def test_bulk_keeps_to_the_limit_and_messages_are_answered_meanwhile(
    open_peer: OpenPeer, limited: str
) -> None:
    up, down = BandwidthLimits(upload_bits_per_second=BITS), BandwidthLimits(download_bits_per_second=BITS)
    anna: Transport = await open_peer("anna", bandwidth=down if limited == "receiver" else None)
    bert: Transport = await open_peer("bert", via=anna, bandwidth=up if limited == "sender" else None)
    anna.serve("segment", echo, limit=SEGMENT)
    anna.serve("ready", echo, limit=100)

    def moved() -> int:
        count = bert.traffic.statistics().sent if limited == "sender" else anna.traffic.statistics().received
        return count.get("segment", 0)

    loop = asyncio.get_running_loop()
    began = loop.time()
    pushing = asyncio.create_task(bert.call(anna.peer_id, "segment", bytes(SEGMENT), limit=0, timeout=600))
    messages = 0
    while moved() < RATE / 2 or messages < 10:
        assert await bert.call(anna.peer_id, "ready", b"I am", limit=100, timeout=20) == b"I am"
        messages += 1
    step = RATE / 16
    assert moved() <= RATE * BURST_SECONDS + step + RATE * (loop.time() - began)
    assert not pushing.done()
    pushing.cancel()
