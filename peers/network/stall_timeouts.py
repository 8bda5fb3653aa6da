"""Waiting for the other side of a stream: no longer than it shows signs of life."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from peers.network.bandwidth import STEP_SECONDS, Passage
from peers.network.framing import Count
from recipes.errors import UnreachableError
from recipes.keys.keys import PeerId

Outcome = TypeVar("Outcome")


class Received:
    """Counts the bytes of a response, and notes when the last ones came."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self.last_at = _now()

    def __call__(self, size: int) -> None:
        self._count(size)
        self.last_at = _now()


async def unless_stalled(
    answering: Awaitable[bytes], received: Received, *, peer: PeerId, stall_seconds: float
) -> bytes:
    """Return what `answering` gives.

    Raises:
        UnreachableError: for so long, nothing was received from `peer`.
    """
    answer = asyncio.ensure_future(answering)
    try:
        while not answer.done():
            left = received.last_at + stall_seconds - _now()
            if left <= 0:
                raise UnreachableError(f"{peer} sent nothing more for {stall_seconds:g} s.")
            await asyncio.wait({answer}, timeout=left)
        return answer.result()
    finally:
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)


async def unless_slow(moving: Awaitable[Outcome], passage: Passage, *, seconds: float) -> Outcome:
    """Return what `moving` gives, a body on its way through `passage`.

    Raises:
        asyncio.TimeoutError: it took longer, without the time for which our own limit made it wait.
    """
    body = asyncio.ensure_future(moving)
    began = _now()
    try:
        while not body.done():
            left = began + seconds + passage.waited_seconds - _now()
            if left <= 0:
                raise asyncio.TimeoutError
            await asyncio.wait({body}, timeout=max(left, STEP_SECONDS if passage.waits else 0.0))
        return body.result()
    finally:
        body.cancel()
        await asyncio.gather(body, return_exceptions=True)


async def while_listening(reader: asyncio.StreamReader, answering: Awaitable[bytes]) -> bytes | None:
    """Return what `answering` gives, or None if the other side closes the stream before that."""
    answer = asyncio.ensure_future(answering)
    hang_up = asyncio.ensure_future(reader.read(1))  # a second request on the stream counts as one, too
    try:
        await asyncio.wait({answer, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()
        hang_up.cancel()
        await asyncio.gather(answer, hang_up, return_exceptions=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
