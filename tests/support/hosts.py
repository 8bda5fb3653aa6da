"""A host for one part of a node: what the part hands over lies ready for the test to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from peers.consensus.effects import Input
from peers.exchange.host import Result
from peers.network.transport import Request
from peers.protocol.events import Event
from recipes.errors import MessageError, Offence, UnreachableError
from recipes.keys.keys import PeerId

PATIENCE = 60.0  # seconds, for what has to come


def nobody(peer: PeerId, request: Request) -> bytes:
    """Answer no request."""
    raise UnreachableError(f"{peer} is away.")


class BenchHost:
    """Carries requests to `answer`, computes in another thread, and notes all else."""

    def __init__(self, answer: Callable[[PeerId, Request], bytes] = nobody) -> None:
        self.answer = answer
        self.taken: list[Input] = []
        self.told: list[Event] = []
        self.blamed: list[tuple[PeerId, Offence | None]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._inputs: asyncio.Queue[Input] = asyncio.Queue()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def take(self, happened: Input) -> None:
        self.taken.append(happened)
        self._inputs.put_nowait(happened)

    def tell(self, event: Event) -> None:
        self.told.append(event)
        self._events.put_nowait(event)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def compute(self, work: Callable[[], Result]) -> Result:
        return await asyncio.to_thread(work)

    async def call(self, peer: PeerId, request: Request) -> bytes:
        return self.answer(peer, request)

    def blame(self, peer: PeerId, error: MessageError) -> None:
        self.blamed.append((peer, error.offence))

    async def next_input(self) -> Input:
        """Wait for the engine's next input."""
        return await asyncio.wait_for(self._inputs.get(), PATIENCE)

    async def next_event(self) -> Event:
        """Wait for the next event."""
        return await asyncio.wait_for(self._events.get(), PATIENCE)
