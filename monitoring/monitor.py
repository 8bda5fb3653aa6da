"""One run being watched: a source of blocks, what is made of them, and the model beside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from monitoring.evaluation.validating import Validation
from monitoring.swarm.view import Picture
from monitoring.swarm.watch import SwarmWatch
from monitoring.web.downloads import Downloads
from monitoring.web.live import Live
from peers.network.traffic import TrafficMeter
from recipes.keys.keys import PeerId

REFRESH_SECONDS = 5.0  # at least so often a new picture is taken, for time passes


class BlockSource(Protocol):
    """Where blocks come from (network_source.Observer, folder_source.PeersFolder)."""

    @property
    def heard_at(self) -> float | None:
        """When the swarm was last heard, Unix time."""

    @property
    def board(self) -> Iterable[PeerId] | None:
        """Who is on the notice board; None where none is read."""

    @property
    def trouble(self) -> str:
        """What keeps it from its work, in a sentence; empty if nothing does."""

    async def follow(self, *, changed: Callable[[], None]) -> None:
        """Bring blocks until cancelled."""


@dataclass(frozen=True)
class Station:
    """Everything that watches one run."""

    watch: SwarmWatch
    source: BlockSource
    validation: Validation | None
    downloads: Downloads
    traffic: TrafficMeter | None = None  # of the network, where there is one
    extra: tuple[Coroutine[Any, Any, None], ...] = ()

    def picture(self) -> Picture:
        """Return what is known now."""
        return self.watch.picture(
            now=time.time(),
            heard_at=self.source.heard_at,
            board=self.source.board,
            trouble=self.source.trouble,
            model_trouble=self.validation.trouble if self.validation is not None else "",
        )

    async def work(self, live: Live) -> None:
        """Watch until cancelled, and hand each new picture on.

        Raises:
            ManyhandsError: what cannot be mended here: disk, network daemon.
        """

        def changed() -> None:
            live.publish(self.picture())

        tasks = [asyncio.ensure_future(self.source.follow(changed=changed))]
        tasks.append(asyncio.ensure_future(_again_and_again(changed)))
        tasks += [asyncio.ensure_future(one) for one in self.extra]
        if self.validation is not None:
            tasks.append(asyncio.ensure_future(self.validation.go_on(changed=changed)))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _again_and_again(changed: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        changed()
