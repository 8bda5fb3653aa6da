"""p2pd with its streams and its notice board, started anew when it dies.

It is another program, and may be killed: by the system when memory runs short, by a fault of its own. That
ends no peer: a new one takes its place with the same key, on the same port, so that others find it again.
Five tries within five minutes, with ever longer pauses in between; after that something is wrong for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from peers.network.addresses import pin_ports
from peers.network.p2pd.board import Board
from peers.network.p2pd.client import StreamHandler, Streams
from peers.network.p2pd.process import Daemon, DaemonSettings
from recipes.errors import ManyhandsError, NetworkError
from recipes.keys.keys import SigningKey

_log = logging.getLogger(__name__)

PAUSES_SECONDS: Sequence[float] = (0.0, 1.0, 4.0, 16.0, 64.0)  # before each try to start it anew
WITHIN_SECONDS = 300.0  # for so long a try counts
_START_SECONDS = 60.0  # for p2pd, its streams and the notice board
_NOTICE_SECONDS = 5.0  # within which the death of a p2pd that does not answer is noticed


class Uplink:
    """What this peer has of its p2pd: `daemon`, `streams` and `board`, each replaced when p2pd dies.

    `died` is set when it is gone and could not be started again.
    """

    daemon: Daemon
    streams: Streams
    board: Board

    def __init__(self, settings: DaemonSettings, *, key: SigningKey, run_id: str | None) -> None:
        self._settings = settings
        self._key = key
        self._run_id = run_id
        self._handlers: Mapping[str, StreamHandler] = {}
        self._tries: list[float] = []
        self._failure = ""
        self._changed = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self.died = asyncio.Event()

    async def open(self, handlers: Mapping[str, StreamHandler]) -> None:
        """Start p2pd, and let the handler of its protocol deal with each stream that another peer opens.

        Raises:
            NetworkError: it does not start; its own words are inside.
            PlatformError: it is missing or cannot run on this machine.
        """
        self._handlers = handlers
        await self._start(self._settings)

    def keep(self, back: Callable[[str], Awaitable[None]]) -> None:
        """Start p2pd anew whenever it dies from now on.

        Args:
            back: called after each new start, with the last words of the p2pd that died.
        """
        self._keeping = asyncio.create_task(self._keep_running(back))
        self._keeping.add_done_callback(self._kept)

    def last_words(self) -> str:
        """Return p2pd's last lines of output, and why it could not be started again if it could not."""
        return f"{self.daemon.last_words()}\n{self._failure}".rstrip()

    async def up(self) -> Daemon:
        """Wait until p2pd runs, and return it.

        Raises:
            NetworkError: it does not run any more.
        """
        while self.daemon.died.is_set() and not self.died.is_set():
            self._changed.clear()
            await self._changed.wait()
        if self.died.is_set():
            raise NetworkError(f"The network daemon p2pd died. It said:\n{self.last_words()}")
        return self.daemon

    async def noticed(self, daemon: Daemon) -> bool:
        """Wait until it is noticed that `daemon`, which does not answer, is dead; False if it lives on."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(daemon.died.wait(), _NOTICE_SECONDS)
        return daemon.died.is_set()

    async def close(self) -> None:
        """End p2pd; handlers that still run are cancelled."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._stop()

    async def _start(self, settings: DaemonSettings) -> None:
        async with contextlib.AsyncExitStack() as undo:
            daemon = await Daemon.start(settings)
            undo.push_async_callback(daemon.stop)
            streams = Streams(daemon.folder.control_socket, daemon.folder.stream_socket)
            undo.push_async_callback(streams.close)
            board = await Board.open(daemon.folder.control_socket, streams, self._key, self._run_id)
            undo.push_async_callback(board.close)
            await streams.accept(self._handlers)
            listen = pin_ports(settings.listen, await streams.addresses())
            undo.pop_all()
        self.daemon, self.streams, self.board = daemon, streams, board
        self._pinned = dataclasses.replace(settings, listen=listen)

    async def _stop(self) -> None:
        await self.streams.close()
        await self.board.close()
        await self.daemon.stop()

    async def _keep_running(self, back: Callable[[str], Awaitable[None]]) -> None:
        while True:
            await self.daemon.died.wait()
            words = self.daemon.last_words()
            _log.info("The network daemon p2pd ended by itself. Its last words:\n%s", words)
            await self._stop()
            if not await self._start_anew():
                return
            self._changed.set()
            await back(words)

    async def _start_anew(self) -> bool:
        """Start p2pd again; False if that was tried too often of late."""
        loop = asyncio.get_running_loop()
        settings = self._pinned
        while True:
            self._tries = [at for at in self._tries if at > loop.time() - WITHIN_SECONDS]
            if len(self._tries) >= len(PAUSES_SECONDS):
                return False
            await asyncio.sleep(PAUSES_SECONDS[len(self._tries)])
            self._tries.append(loop.time())
            try:
                await asyncio.wait_for(self._start(settings), _START_SECONDS)
            except (ManyhandsError, OSError, asyncio.TimeoutError) as error:
                self._failure = f"It could not be started again: {error or 'it took too long'}"
                settings = self._settings  # the port that the system chose may be somebody else's by now
            else:
                self._failure = ""
                return True

    def _kept(self, keeping: asyncio.Task[None]) -> None:
        if keeping.cancelled():
            return
        if (error := keeping.exception()) is not None:
            _log.error("p2pd is not started anew any more because of a fault of ours", exc_info=error)
        self.died.set()
        self._changed.set()
