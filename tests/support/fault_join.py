"""A real `trainer.join` to which things happen: run as a program, it heeds the faults of fault_points.py.

    python -m fault_join ORDERS [ARGUMENTS OF trainer.join ...]

Nothing in the rooms knows of this. The seams through which a peer reaches others and its disk are wrapped
here, before the first module that uses them is loaded; then trainer.join runs as ever.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import typer
from fault_points import Act, Fault, Moment, Orders, Point, corrupt

import recipes.formats.files

Written = dict[str, str]
_NAMES: Written = {".frame": "frame", ".mask": "mask", ".sqlite": "chain"}  # by a file's suffix
_FOLDERS: Written = {"reduced": "reduced", "traces": "trace", "data": "data"}  # by a folder above it


class Clock:
    """The time of day, for all who ask `time.time`. How long things take is measured by another clock."""

    def __init__(self) -> None:
        self._real = time.time
        self.offset = 0.0  # seconds

    def __call__(self) -> float:
        return self._real() + self.offset


class Injector:
    """Lets the ordered faults happen at the points that the process passes."""

    def __init__(self, orders: Path, clock: Clock) -> None:
        self._clock = clock
        self._orders = Orders(orders)
        self._home = orders.parent
        self.round = 0  # that the peer works on
        self.refusal: OSError | None = None  # of every write, from some moment on

    def passes(self, moment: Moment, act: Act, what: str) -> None:
        """Let happen what is ordered for this point."""
        for fault in self._orders.take(Point(moment, act, what), self.round):
            self._happen(fault)

    def _happen(self, fault: Fault) -> None:
        match fault.deed:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill_daemon":
                for child in daemons(os.getpid()):
                    os.kill(child, signal.SIGKILL)
            case "stop":
                # One process both stops and wakes this one: were this one to stop itself, it might come to
                # that only after the signal that is to wake it, and then never wake.
                me = os.getpid()
                script = f"trap '' HUP INT TERM; kill -STOP {me}; sleep {fault.seconds}; kill -CONT {me}"
                subprocess.run(["/bin/sh", "-c", script], start_new_session=True, check=True)
            case "disk_full":
                self.refusal = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "read_only":
                self.refusal = OSError(errno.EROFS, os.strerror(errno.EROFS))
            case "corrupt":
                corrupt(self._home, fault.files)
            case "step_clock":
                self._clock.offset += fault.seconds


def daemons(pid: int) -> list[int]:
    """Return the network daemons among a process's children."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [child for child in children if "p2pd" in Path(f"/proc/{child}/comm").read_text()]


class _FullDatabase:
    """In place of a database connection, once the disk refuses."""

    def __init__(self, refusal: OSError) -> None:
        full = refusal.errno == errno.ENOSPC
        self._words = "database or disk is full" if full else "attempt to write a readonly database"

    def __enter__(self) -> _FullDatabase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def execute(self, *_: object) -> NoReturn:
        raise sqlite3.OperationalError(self._words)

    def close(self) -> None:
        pass


def wrap_disk(injector: Injector) -> None:
    """Pass a point around every file that is written whole; let fsync refuse if the disk does.

    To be called before anything else of the rooms is imported: they take `write_atomic` by its name.
    """
    write_atomic, fsync = recipes.formats.files.write_atomic, os.fsync

    @functools.wraps(write_atomic)
    def watched(path: Path, content: bytes, *, mode: int | None = None) -> None:
        what = name_of(path)
        injector.passes("before", "write", what)
        write_atomic(path, content, mode=mode)
        injector.passes("after", "write", what)

    def refusing(fd: Any) -> None:
        if injector.refusal is not None:
            raise injector.refusal
        fsync(fd)

    recipes.formats.files.write_atomic = watched
    os.fsync = refusing


def name_of(path: Path) -> str:
    """Return what a file is called in a fail point."""
    folders = [name for folder, name in _FOLDERS.items() if folder in path.parts]
    return next(iter(folders), None) or _NAMES.get(path.suffix, path.stem)


def wrap_rooms(injector: Injector) -> None:
    """Pass a point around every message and every other write, and follow the round."""
    from peers.exchange.error_feedback import ErrorFeedback
    from peers.network.p2pd.transport import P2pdTransport
    from peers.state.block_store import ChainStore
    from peers.state.canonical_state import CanonicalState
    from peers.state.snapshots import SnapshotStore
    from trainer.screen import Screen

    around(SnapshotStore, "save", injector, "snapshot")
    around(ErrorFeedback, "compress", injector, "feedback")
    around(CanonicalState, "_step", injector, "weights")
    around(CanonicalState, "_step_with_momentum", injector, "weights")
    _watch_chain(ChainStore, injector)
    _watch_requests(P2pdTransport, injector)
    tell = Screen.tell

    def heard(screen: Any, event: Any) -> None:
        if type(event).__name__ in ("WindowStarted", "Waiting"):
            injector.round = event.round
        elif type(event).__name__ == "BlockAdopted":
            injector.round = event.round + 1
        tell(screen, event)

    Screen.tell = heard  # type: ignore[method-assign, assignment]


def around(owner: type, name: str, injector: Injector, what: str) -> None:
    """Pass a point before and after a method that writes `what`."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def watched(*arguments: Any, **named: Any) -> Any:
        injector.passes("before", "write", what)
        result = method(*arguments, **named)
        injector.passes("after", "write", what)
        return result

    setattr(owner, name, watched)


def _watch_chain(store_class: Any, injector: Injector) -> None:
    """Pass a point around each row that chain.sqlite takes in.

    It is named as its table, in the singular; one of `memory` as what is remembered: vote_lock, final, ...
    """
    write = store_class._write

    def watched(store: Any, statement: str, values: tuple[object, ...]) -> None:
        table = re.search(r"INTO (\w+)", statement)
        what = table.group(1).rstrip("s") if table else "chain"
        what = str(values[0]) if what == "memory" else what
        injector.passes("before", "write", what)
        if injector.refusal is not None:
            store._database.close()
            store._database = _FullDatabase(injector.refusal)
        write(store, statement, values)
        injector.passes("after", "write", what)

    store_class._write = watched


def _watch_requests(transport_class: Any, injector: Injector) -> None:
    """Pass a point around each request to others, and around each of theirs."""
    call, serve = transport_class.call, transport_class.serve

    async def watched_call(transport: Any, peer: str, request: Any) -> bytes:
        injector.passes("before", "send", request.kind)
        answer: bytes = await call(transport, peer, request)
        injector.passes("after", "send", request.kind)
        return answer

    def watched_serve(
        transport: Any, kind: str, handler: Callable[[str, bytes], Awaitable[bytes]], **named: Any
    ) -> None:
        async def watched(peer: str, body: bytes) -> bytes:
            injector.passes("before", "receive", kind)
            answer = await handler(peer, body)
            injector.passes("after", "receive", kind)
            return answer

        serve(transport, kind, watched, **named)

    transport_class.call, transport_class.serve = watched_call, watched_serve


if __name__ == "__main__":
    time.time = Clock()  # hivemind, too, takes it by its name
    armed = Injector(Path(sys.argv.pop(1)), time.time)
    wrap_disk(armed)
    wrap_rooms(armed)
    from trainer.join import main

    typer.run(main)
