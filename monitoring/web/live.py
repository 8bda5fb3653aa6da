"""The newest picture, and the connections that are told when there is a new one. None waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from monitoring.swarm.view import Picture

MOST_FOLLOWERS = 64


class TooManyError(Exception):
    """The limit of followers is reached."""


class Live:
    """The newest picture, and its followers: the live connections that want each new one."""

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
        """How many followers there are."""
        return len(self._followers)

    @property
    def closed(self) -> bool:
        """Whether there will be no more pictures."""
        return self._closed

    def publish(self, picture: Picture) -> None:
        """Take in a new picture. A follower that has not fetched the last one yet gets this one instead."""
        self._picture = picture
        self._wake()

    def close(self) -> None:
        """End every follower's wait for good."""
        self._closed = True
        self._wake()

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set whenever there is a new picture; the follower clears it before it waits.

        Raises:
            TooManyError: the limit of followers is reached.
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
