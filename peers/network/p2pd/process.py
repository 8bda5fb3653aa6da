"""The network daemon p2pd as a child process: started, listened to, and never left behind.

p2pd is a libp2p node that hivemind's wheel brings along. hivemind starts it, too, but hides what it says
when it cannot start, lets Ctrl+C reach it, and leaves it running for a while when Python is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.network.addresses import check_ports_free, is_loopback
from peers.network.p2pd.sockets import SocketFolder, remove_abandoned
from recipes.errors import NetworkError, PlatformError

_log = logging.getLogger(__name__)

_STARTUP_SECONDS = 30.0
_STOP_SECONDS = 3.0
_KEPT_LINES = 30
_LINE_CHARACTERS = 400
_READ_BYTES = 4096

# Run by a small Python that then becomes p2pd. PR_SET_PDEATHSIG (1) makes the kernel kill p2pd when the
# thread that started it ends, however it ends, and outlives execve (prctl(2)). subprocess's preexec_fn could
# do the same, but is unsafe in a process with threads. Had the parent died before prctl, none would come.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class DaemonSettings:
    """What p2pd is told when it starts. Addresses are multiaddrs."""

    key_path: Path
    listen: tuple[str, ...]
    announce: tuple[str, ...] = ()  # where others find this peer, if that is not where it listens
    relays: tuple[str, ...] = ()  # peers that forward to this one if nobody can dial it


class Daemon:
    """A running p2pd. `died` is set when it ended by itself; `last_words` says what it printed.

    Its sockets lie in `folder`.
    """

    def __init__(self, process: asyncio.subprocess.Process, folder: SocketFolder) -> None:
        self._process = process
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen_to_output())
        self.folder = folder
        self.died = asyncio.Event()

    @classmethod
    async def start(cls, settings: DaemonSettings) -> Daemon:
        """Start p2pd and wait until it takes requests.

        Raises:
            NetworkError: a port is taken, an address or the key is malformed, or p2pd ended or stayed silent.
            PlatformError: p2pd is missing or cannot run on this machine.
        """
        check_ports_free(settings.listen)
        binary = _find_binary()
        remove_abandoned()
        async with contextlib.AsyncExitStack() as undo:
            folder = SocketFolder()
            undo.callback(folder.remove)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())),
                *(str(binary), *_arguments(settings, folder)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                # Ctrl+C is for this process alone: to finish the round, it still needs the network.
                start_new_session=True,
            )
            daemon = cls(process, folder)
            undo.push_async_callback(daemon.stop)
            await daemon._wait_until_ready()
            undo.pop_all()
        return daemon

    @property
    def process_id(self) -> int:
        """p2pd's process id."""
        return self._process.pid

    def last_words(self) -> str:
        """Return p2pd's last lines of output, at most thirty, each cut at 400 characters."""
        return "\n".join(f"  p2pd: {line}" for line in self._lines) or "  p2pd said nothing."

    async def stop(self) -> None:
        """End p2pd, by force after three seconds, and remove its sockets. Doing so twice is harmless."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        if self._process.returncode is None:
            # Not Process.terminate, which reaps a process that has ended already, behind asyncio's back.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(self._drain_until_exit(), _STOP_SECONDS)
            except asyncio.TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._drain_until_exit()
        self.folder.remove()

    async def _wait_until_ready(self) -> None:
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait(
                {ready, self._listening}, timeout=_STARTUP_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            ready.cancel()
        if self.died.is_set():
            raise NetworkError(
                f"The network daemon p2pd ended while it started. It said:\n{self.last_words()}",
                remedy="Check the addresses to listen on and to announce, and that the key file is intact.",
            )
        if not self._ready.is_set():
            raise NetworkError(
                f"The network daemon p2pd was not ready after {_STARTUP_SECONDS:g} s. It said:\n"
                f"{self.last_words()}",
                remedy="Is the machine very busy? Try again.",
            )

    async def _listen_to_output(self) -> None:
        """Keep p2pd's last lines and read on, so that it never blocks on a full pipe."""
        output = self._process.stdout
        if output is None:
            return
        rest = ""
        while data := await output.read(_READ_BYTES):
            *lines, rest = (rest + data.decode(errors="replace")).split("\n")
            rest = rest[:_LINE_CHARACTERS]
            for line in lines:
                self._lines.append(line[:_LINE_CHARACTERS])
                _log.debug("p2pd: %s", line)
                if line.startswith("Peer ID:"):  # printed once the control socket takes requests
                    self._ready.set()
        await self._process.wait()
        self.died.set()

    async def _drain_until_exit(self) -> None:
        if self._process.stdout is not None:
            while await self._process.stdout.read(_READ_BYTES):
                pass
        await self._process.wait()


def _find_binary() -> Path:
    hivemind = importlib.util.find_spec("hivemind")  # finds it without the seconds that importing it takes
    folders = hivemind.submodule_search_locations if hivemind else None
    binary = Path(folders[0]) / "hivemind_cli" / "p2pd" if folders else None
    if binary is None or not os.access(binary, os.X_OK):
        raise PlatformError(
            "The network daemon p2pd is missing: it comes with the package hivemind, for Linux on x86_64.",
            remedy="Install Manyhands again, on such a machine, into a fresh virtual environment.",
        )
    return binary


def _arguments(settings: DaemonSettings, folder: SocketFolder) -> list[str]:
    only_here = all(is_loopback(address) for address in settings.listen)
    arguments = [
        f"-listen=/unix{folder.control_socket}",
        f"-id={settings.key_path}",
        f"-hostAddrs={_joined(settings.listen)}",
        "-dhtServer=1",  # libp2p's own DHT, by which peers find each other's addresses from their ids
        "-b=0",  # no bootstrap by p2pd: it would turn to IPFS, and not say which address failed
        "-connManager=1",
        "-tls=1",
        "-autonat=1",
        f"-natPortMap={0 if only_here else 1}",
        f"-autoRelay={1 if settings.relays else 0}",
        "-relayDiscovery=0",  # only through the relays that were named
    ]
    if settings.announce:
        arguments.append(f"-announceAddrs={_joined(settings.announce)}")
    if settings.relays:
        arguments.append(f"-trustedRelays={_joined(settings.relays)}")
    return arguments


def _joined(addresses: Sequence[str]) -> str:
    return ",".join(addresses)
