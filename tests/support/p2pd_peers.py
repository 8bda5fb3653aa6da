"""Real transports on the loopback interface: opened by name, each with its p2pd, closed after the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from peers.network import framing
from peers.network.bandwidth import BandwidthLimits
from peers.network.p2pd.transport import P2pdTransport, TransportSettings
from peers.network.peer_scores import Conduct, Limits
from peers.network.presence import Presence
from peers.network.transport import Transport
from peers.protocol.events import NOBODY_LISTENS, Event, Listener
from recipes.keys.keys import PeerId, SigningKey

RUN, OTHER_RUN = "ab" * 32, "cd" * 32
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
NOBODY = SigningKey(bytes(32)).peer_id

OpenPeer = Callable[..., Awaitable[P2pdTransport]]


@pytest.fixture
async def open_peer(tmp_path: Path) -> AsyncIterator[OpenPeer]:
    """Open transports on loopback, and close them after the test."""
    async with AsyncExitStack() as peers:

        async def open_one(
            name: str,
            *,
            via: P2pdTransport | None = None,
            run_id: str | None = RUN,
            limits: Limits | None = None,
            conduct: Conduct | None = None,
            bandwidth: BandwidthLimits | None = None,
            listener: Listener = NOBODY_LISTENS,
        ) -> P2pdTransport:
            bootstrap: Sequence[str] = await via.addresses() if via else ()
            return await peers.enter_async_context(
                await P2pdTransport.open(
                    key_path=tmp_path / f"{name}.key",
                    run_id=run_id,
                    listen=LOOPBACK,
                    bootstrap=bootstrap,
                    settings=TransportSettings(
                        limits=limits or Limits(),
                        conduct=conduct or Conduct(),
                        bandwidth=bandwidth or BandwidthLimits(),
                    ),
                    listener=listener,
                )
            )

        yield open_one


async def echo(_: PeerId, body: bytes) -> bytes:
    return body


async def presence_of(transport: Transport, *, run: str = RUN) -> Presence:
    return Presence(
        run=run,
        peer=transport.peer_id,
        addresses=await transport.addresses(),
        round=3,
        time=int(time.time()),
    )


async def answer_to(request: bytes, *, asker: P2pdTransport, answerer: P2pdTransport) -> bytes:
    """Send raw bytes on a stream of their own and read the response."""
    reader, writer = await asker._uplink.streams.open(answerer.peer_id, asker._protocol)
    with closing(writer):
        writer.write(request)
        response = framing.read_response(reader, limit=1000, count=lambda _: None)
        return await asyncio.wait_for(response, 10)


class Told:
    """Hears events and lets a test wait for one."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def tell(self, event: Event) -> None:
        self._events.put_nowait(event)

    async def next(self, kind: type[Event]) -> Any:
        while True:
            event = await asyncio.wait_for(self._events.get(), 30)
            if isinstance(event, kind):
                return event
