"""Handing pictures on: whoever follows live is told when there is a new one, and nobody waits for anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from monitoring.swarm.view import Picture

MOST_FOLLOWERS = 64


class TooManyError(Exception):
    """As many follow already as may."""


class Live:
    """The newest picture, and those who follow."""

    def __init__(self, picture: Picture, *, most_followers: int = MOST_FOLLOWERS) -> None:
        self._picture = picture
        self._most = most_followers
        self._followers: set[asyncio.Event] = set()
        self._closed = False

    @property
    def picture(self) -> Picture:
        """The newest picture."""
        return self._picture

    @property
    def followers(self) -> int:
        """How many follow."""
        return len(self._followers)

    @property
    def closed(self) -> bool:
        """Whether there will be no more pictures."""
        return self._closed

    def publish(self, picture: Picture) -> None:
        """Take in a new picture. Who has not fetched the last one yet gets this one instead."""
        self._picture = picture
        self._wake()

    def close(self) -> None:
        """Let everybody who follows go."""
        self._closed = True
        self._wake()

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set whenever there is a new picture; who waits for it clears it.

        Raises:
            TooManyError: as many follow as may.
        """
        if len(self._followers) >= self._most:
            raise TooManyError
        news = asyncio.Event()
        self._followers.add(news)
        try:
            yield news
        finally:
            self._followers.discard(news)

    def _wake(self) -> None:
        for news in self._followers:
            news.set()
