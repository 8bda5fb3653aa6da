"""The tasks and worker threads of a node, and its end: asked for, or by the first failure past mending."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from peers.exchange.host import Result
from peers.network.transport import RemoteError
from recipes.errors import ManyhandsError, MessageError, StorageError, UnreachableError


class RunningTasks:
    """Everything that runs beside the event loop's turn at hand.

    Attributes:
        over: set when the node is to end.
        failure: why, if it is to end because of one.
    """

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._compute_thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._proving_thread = ThreadPoolExecutor(1, thread_name_prefix="proving")

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside everything else; a failure that it cannot mend ends the node."""
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        task.add_done_callback(lambda _: work.close())  # it never began if the task ended at once
        return task

    def fail(self, error: BaseException) -> None:
        """Let the node end with an error; the first one counts."""
        if isinstance(error, OSError):  # peers' failures have names of their own: this is the disk
            error = StorageError(
                f"The disk refused: {error}.",
                remedy="Free some space or make the folder writable, then run the same command again: it "
                "goes on from what is on disk.",
            )
        self.failure = self.failure or error
        self.over.set()

    async def compute(self, work: Callable[[], Result]) -> Result:
        """Run heavy arithmetic off the event loop, one piece at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._compute_thread, work)

    async def prove(self, work: Callable[[], Result]) -> Result:
        """Run the answer to a spot check: its peer waits some seconds only, and averaging can take longer."""
        return await asyncio.get_running_loop().run_in_executor(self._proving_thread, work)

    async def cancel(self) -> None:
        """End all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def shutdown(self) -> None:
        """End the threads, once the work at hand is done."""
        self._compute_thread.shutdown(wait=True, cancel_futures=True)
        self._proving_thread.shutdown(wait=True, cancel_futures=True)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (UnreachableError, RemoteError, MessageError):
            pass  # a peer's failure is never ours
        except (ManyhandsError, OSError) as error:
            self.fail(error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)  # a fault of ours: let it be seen
