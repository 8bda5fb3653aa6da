"""Real transports keep to their limits: bulk is held back, and messages are answered meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from p2pd_peers import OpenPeer, echo, open_peer

from peers.network.bandwidth import BURST_SECONDS, STEP_SECONDS, BandwidthLimits
from peers.network.p2pd.transport import P2pdTransport
from peers.network.transport import Request
from recipes.keys.keys import PeerId

__all__ = ["open_peer"]  # the fixture

BITS = 800_000.0
RATE = BITS / 8
BULK = 10_000_000  # bytes: far more than passes during a test


def serve_bulk(peer: P2pdTransport) -> None:
    async def piece(_: PeerId, __: bytes) -> bytes:
        return bytes(BULK)

    peer.serve("segment", echo, limit=BULK)
    peer.serve("piece", piece, limit=0)
    peer.serve("ready", echo, limit=100)


@pytest.mark.parametrize("kind", ["segment", "piece"])  # pushed, or fetched
@pytest.mark.parametrize("limited", ["sender", "receiver"])
async def test_bulk_keeps_to_the_limit_and_messages_are_answered_meanwhile(
    open_peer: OpenPeer, kind: str, limited: str
) -> None:
    limits = (
        BandwidthLimits(upload_bits_per_second=BITS)
        if limited == "sender"
        else BandwidthLimits(download_bits_per_second=BITS)
    )
    asker_is_limited = (kind == "segment") == (limited == "sender")
    anna: P2pdTransport = await open_peer("anna", bandwidth=None if asker_is_limited else limits)
    bert: P2pdTransport = await open_peer("bert", via=anna, bandwidth=limits if asker_is_limited else None)
    serve_bulk(anna)
    limited_peer = bert if asker_is_limited else anna

    def moved() -> int:
        traffic = limited_peer.traffic.statistics()
        return (traffic.sent if limited == "sender" else traffic.received).get(kind, 0)

    loop = asyncio.get_running_loop()
    began = loop.time()
    body = bytes(BULK) if kind == "segment" else b""
    moving = asyncio.create_task(bert.call(anna.peer_id, Request(kind, body, limit=BULK, timeout=600)))
    messages = 0
    while moved() < RATE / 2 or messages < 10:
        assert await bert.call(anna.peer_id, Request("ready", b"I am", limit=100, timeout=20)) == b"I am"
        messages += 1
    assert moved() <= RATE * (BURST_SECONDS + STEP_SECONDS + loop.time() - began)
    assert not moving.done()
    moving.cancel()
