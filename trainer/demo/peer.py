"""One peer of the demo: a real `trainer.join` process, watched through its event log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from recipes.home import IDENTITY_KEY
from recipes.keys.keys import PeerId, load_or_create_key


class Process(Protocol):
    """What a peer's process must offer: a part of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


Launch = Callable[[Sequence[str], Path], Process]
"""Starts `trainer.join` with these arguments; what it prints goes to the end of the file."""


def launch(
    arguments: Sequence[str],
    log: Path,
    *,
    prefix: Sequence[str] = (),
    program: Sequence[str] = ("-m", "trainer.join"),
) -> Process:
    """Start it as a volunteer does; `prefix` stands before the command, as `ip netns exec NAME` may."""
    command = [*prefix, sys.executable, *program, *arguments]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)


@dataclass
class Tally:
    """What one peer reported so far, over all its lives."""

    state: str = "starting"
    connected: bool = False  # to the network, in this life or an earlier one
    round: int = 0
    digests: dict[int, str] = field(default_factory=dict)  # by round
    counted_rounds: set[int] = field(default_factory=set)
    tokens: int = 0  # trained on
    steps: int = 0
    loss: float = float("nan")
    validation: dict[int, float] = field(default_factory=dict)  # by round
    contribution_bytes: list[int] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)
    computed_seconds: float = 0.0  # in finished windows
    waited_seconds: float = 0.0  # before them, since the trainer had computed last
    sent: dict[str, int] = field(default_factory=dict)  # by purpose
    received: dict[str, int] = field(default_factory=dict)


class DemoPeer:
    """A peer with a home folder of its own; it can be killed and started again.

    It listens on `host`, and `launched_by` says how its process is started.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        run: str,
        port: int,
        address: str | None,
        host: str = "127.0.0.1",
        launched_by: Launch = launch,
    ) -> None:
        self.name = name
        self.home = folder / name
        self.tally = Tally()
        self.lives = 0
        self.reported: list[dict[str, Any]] = []  # every event
        self._run = run
        self._port = port
        self._bootstrap = address
        self._host = host
        self._launch = launched_by
        self._process: Process | None = None
        self._events = self.home / "events.jsonl"
        self._read = 0
        self._sent_before: dict[str, int] = {}  # in earlier lives
        self._received_before: dict[str, int] = {}
        self._peak_memory = 0
        self._windows: dict[int, int] = {}  # tokens trained on, by round
        self.peer_id: PeerId = load_or_create_key(self.home / IDENTITY_KEY).peer_id

    def launch_by(self, launched_by: Launch) -> None:
        """Start its process otherwise from now on."""
        self._launch = launched_by

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """What its process prints."""
        return self.home / "log.txt"

    @property
    def peak_memory(self) -> int:
        """Largest resident memory of the process and its network daemon seen so far, bytes."""
        return self._peak_memory

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"/ip4/{self._host}/tcp/{self._port}/p2p/{self.peer_id}"

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return self._port

    @property
    def daemons(self) -> list[int]:
        """Process ids of its network daemon; none while it does not run."""
        return _children(self._process.pid) if self._process is not None and self.running else []

    @property
    def returncode(self) -> int | None:
        """How its process ended, or None."""
        return self._process.poll() if self._process is not None else None

    def start(self, *, validate: bool, address: str | None = None) -> None:
        """Start its process, for the first time or again, and name a peer to it: `address`, if given.

        A peer that starts again has met others: it is told of none.
        """
        arguments = [self._run, "--home", str(self.home)]
        arguments += ["--host", self._host, "--port", str(self._port), "--device", "cpu", "--threads", "1"]
        arguments += ["--events", str(self._events), "--validate-every", str(int(validate))]
        arguments += ["--metrics-port", "0"]
        named = address or (self._bootstrap if self.lives == 0 else None)
        arguments += ["--peer", named] if named else []
        self._sent_before, self._received_before = dict(self.tally.sent), dict(self.tally.received)
        self.lives += 1
        self.tally.state = "starting" if self.lives == 1 else "restarting"
        self._process = self._launch(arguments, self.log)

    def kill(self) -> None:
        """End its process as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self.tally.state = "killed"

    def pause(self) -> None:
        """Let its process and its network daemon stand still, as when a laptop's lid is closed."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            for pid in (self._process.pid, *self.daemons):
                os.kill(pid, number)

    def leave(self) -> None:
        """Ask its process to leave, as one Ctrl+C does; a second one makes it leave at once."""
        if self.running and self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def wait(self, seconds: float) -> None:
        """Wait for the end of its process; past the time, end it."""
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.tally.state = "left"

    def look(self) -> None:
        """Read what its process has reported since the last look."""
        self._watch_memory()
        events, self._read = events_since(self._events, self._read)
        for event in events:
            self.reported.append(event)
            self._take(event)

    def _take(self, event: Mapping[str, Any]) -> None:
        tally = self.tally
        tally.sent = _added(self._sent_before, event["sent"])
        tally.received = _added(self._received_before, event["received"])
        match event["event"]:
            case "Connected":
                tally.connected = True
            case "Fetching":
                tally.state = "fetching"
            case "WindowStarted" | "WindowGoesOn":
                tally.state = "training"
            case "Waiting":
                tally.state = "waiting"
            case "WindowFinished":
                tally.steps += event["steps"]
                tally.loss = event["loss"]
                tally.computed_seconds += event["seconds"]
                tally.waited_seconds += event["waited"]
                self._windows[event["round"]] = event["tokens"]
            case "Claimed":
                tally.state = "claimed"
                tally.contribution_bytes.append(event["contribution_bytes"])
            case "RosterAccepted":
                tally.state = "exchanging"
            case "Validated":
                tally.validation[event["round"]] = event["loss"]
            case "BlockAdopted":
                tally.round = event["round"]
                tally.digests[tally.round] = event["digest"]
                if event["phases"]:
                    tally.phases.append(event["phases"])
                if event["counted_segments"]:
                    tally.counted_rounds.add(tally.round)
                tally.tokens = sum(self._windows.get(number, 0) for number in tally.counted_rounds)

    def _watch_memory(self) -> None:
        if self._process is None or not self.running:
            return
        pids = [self._process.pid, *_children(self._process.pid)]
        self._peak_memory = max(self._peak_memory, sum(_resident(pid) for pid in pids))


def events_since(log: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Return the events that an event log holds whole after byte `start`, and the byte after them."""
    if not log.exists():
        return [], start
    with log.open("rb") as stream:
        stream.seek(start)
        content = stream.read()
    complete = content[: content.rfind(b"\n") + 1]
    return [json.loads(line) for line in complete.splitlines()], start + len(complete)


def free_port() -> int:
    """Return a TCP port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
