"""How good the model is, measured by this observer itself every so many rounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from monitoring.evaluation.evaluating import Evaluator
from monitoring.evaluation.model import ModelFile, NewestModel
from monitoring.swarm.watch import SwarmWatch
from recipes.errors import ManyhandsError, MessageError, UnreachableError

_LOOK_SECONDS = 0.5
_PAUSE_SECONDS = 15.0  # after something failed


class OwnState(Protocol):
    """The state of an observer that keeps it itself."""

    async def bring_to(self, block: str) -> None:
        """Make the state the one after a block of the chain, so that its weights lie in the run's folder.

        Raises:
            UnreachableError: no peer has what is needed, for now.
            ManyhandsError: the state cannot be made.
        """


class Validation:
    """Measures the loss of the newest model every so many rounds."""

    def __init__(
        self,
        watch: SwarmWatch,
        model: NewestModel,
        evaluator: Evaluator,
        *,
        every: int,
        state: OwnState | None,
    ) -> None:
        """Begin with nothing.

        Args:
            watch: takes what was measured.
            model: the file that is measured.
            evaluator: measures it.
            every: rounds between two measurements, 1 or more.
            state: of an observer that keeps it itself; None where a peer does.
        """
        self.trouble = ""
        self._watch = watch
        self._model = model
        self._evaluator = evaluator
        self._every = every
        self._state = state
        self._due = 0

    async def go_on(self, *, changed: Callable[[], None]) -> None:
        """Measure again and again, and tell when something is new, until cancelled."""
        if 0 not in self._watch.measured:
            await self._attempt(self._measure_untrained, changed)
        while True:
            if self._watch.round < max(1, self._due):
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            if not await self._attempt(self._measure_newest, changed):
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _attempt(self, work: Callable[[], Awaitable[bool]], changed: Callable[[], None]) -> bool:
        """Do some work, and return whether it could be done; what kept it from that is known as `trouble`."""
        try:
            if await work():
                changed()
        except (UnreachableError, MessageError) as error:
            self.trouble = f"The model cannot be fetched for now. {error}"
            return False
        except ManyhandsError as error:
            self.trouble = f"The model cannot be measured. {error}"
            return False
        self.trouble = ""
        return True

    async def _measure_untrained(self) -> bool:
        found = await self._model.refresh(until=0)
        return found is not None and await self._measure(found)

    async def _measure_newest(self) -> bool:
        """Measure the newest model, and return whether there was one that is new."""
        target = self._watch.round
        if self._state is not None:
            await self._state.bring_to(self._watch.head)
        found = await self._model.refresh()
        self._due = target + self._every
        return found is not None and await self._measure(found)

    async def _measure(self, found: ModelFile) -> bool:
        if found.round in self._watch.measured:
            return False
        loss = await self._evaluator.loss(found.path)
        self._watch.validated(found.round, loss, at=time.time())
        return True
