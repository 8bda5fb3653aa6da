"""Faults for real peers: what shall go wrong, and at which point of a round.

    Faults().before("send", "claim").at_round(3).kill()
    Faults().after("write", "promise").kill().before("send", "block").from_round(5).stop(seconds=8)

A fail point is a moment (before, after), an act and what is acted on:

    send      a request to another peer, by its kind: ready, claim, roster, reduction, block, cosignature,
              head, blocks, segment, reduced, check, snapshot, piece ...
    receive   such a request from another peer: before it is looked at, and before it is answered
    write     to disk: block, claim, vote_lock (chain.sqlite), weights (one segment of them), state
              (state.json), snapshot, feedback, frame, record, trace, reduced, peers ...

fault_join.py runs a real `trainer.join` that heeds them. Each fault happens once, to the first peer armed
with it that gets there: a marker on disk remembers that, also when this peer is started again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

Moment = Literal["before", "after"]
Act = Literal["send", "receive", "write"]
Deed = Literal["kill", "kill_daemon", "stop", "disk_full", "read_only", "corrupt", "step_clock"]


@dataclass(frozen=True)
class Point:
    """A step of a round, and whether the fault comes before or after it."""

    moment: Moment
    act: Act
    what: str

    def __str__(self) -> str:
        return f"{self.moment} {self.act} {self.what}"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong once.

    Attributes:
        point: where.
        deed: what.
        first_round: not before this round, counted as the one that the peer works on.
        last_round: nor after this one.
        seconds: how long a stop takes, or how far a clock is stepped.
        files: which files are corrupted, as a pattern under the peer's home.
    """

    point: Point
    deed: Deed
    first_round: int = 0
    last_round: int = 2**53
    seconds: float = 0.0
    files: str = ""

    def concerns(self, point: Point, round_number: int) -> bool:
        """Say whether it is to happen at this point of this round."""
        return self.point == point and self.first_round <= round_number <= self.last_round


@dataclass(frozen=True)
class Faults:
    """What shall go wrong, put together call by call."""

    all: tuple[Fault, ...] = ()

    def at(self, point: Point) -> Place:
        """Name the point at which the next fault comes."""
        return Place(self, point)

    def before(self, act: Act, what: str) -> Place:
        """Name the step before which the next fault comes."""
        return Place(self, Point("before", act, what))

    def after(self, act: Act, what: str) -> Place:
        """Name the step after which the next fault comes."""
        return Place(self, Point("after", act, what))


@dataclass(frozen=True)
class Place:
    """Where the next fault comes: its methods say what it is."""

    _faults: Faults
    _point: Point
    _rounds: tuple[int, int] = field(default=(0, 2**53))

    def at_round(self, number: int) -> Place:
        """In this round alone."""
        return replace(self, _rounds=(number, number))

    def from_round(self, number: int) -> Place:
        """In this round or the first one after it in which the peer gets there."""
        return replace(self, _rounds=(number, 2**53))

    def kill(self) -> Faults:
        """The process ends at once, as by a power cut."""
        return self._with("kill")

    def kill_daemon(self) -> Faults:
        """Its network daemon ends at once."""
        return self._with("kill_daemon")

    def stop(self, *, seconds: float) -> Faults:
        """The process stands still for a while, as when a laptop's lid is closed."""
        return self._with("stop", seconds=seconds)

    def disk_full(self) -> Faults:
        """From now on, every write says that no space is left."""
        return self._with("disk_full")

    def read_only(self) -> Faults:
        """From now on, every write says that the file system is read-only."""
        return self._with("read_only")

    def corrupt(self, files: str) -> Faults:
        """A byte in the middle of each file that matches, under the peer's home, is turned over."""
        return self._with("corrupt", files=files)

    def step_clock(self, *, seconds: float) -> Faults:
        """The time of day jumps; how long things take is still measured rightly."""
        return self._with("step_clock", seconds=seconds)

    def _with(self, deed: Deed, *, seconds: float = 0.0, files: str = "") -> Faults:
        fault = Fault(self._point, deed, *self._rounds, seconds=seconds, files=files)
        return Faults((*self._faults.all, fault))


class Orders:
    """The faults that peers are armed with, as a file that each reads again when it has changed.

    Several peers may share a folder of markers: then a fault happens to only one of them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] = (0, 0)
        self._markers = Path()
        self._armed: tuple[tuple[str, Fault], ...] = ()

    def arm(self, faults: Faults, *, markers: Path) -> None:
        """Write the orders down, in place of all earlier ones."""
        markers.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"markers": str(markers), "faults": [asdict(fault) for fault in faults.all]})
        beside = self._path.with_suffix(".new")
        beside.write_text(content)
        beside.replace(self._path)

    def take(self, point: Point, round_number: int) -> list[Fault]:
        """Return the faults that happen now, and mark them as happened."""
        self._read()
        due = [item for item in self._armed if item[1].concerns(point, round_number)]
        return [fault for name, fault in due if self._is_first(name)]

    def _read(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return
        if self._read_at == (status.st_mtime_ns, status.st_ino):
            return
        self._read_at = (status.st_mtime_ns, status.st_ino)
        orders = json.loads(self._path.read_text())
        self._markers = Path(orders["markers"])
        faults = [Fault(**{**each, "point": Point(**each["point"])}) for each in orders["faults"]]
        self._armed = tuple((str(place), fault) for place, fault in enumerate(faults))

    def _is_first(self, name: str) -> bool:
        try:
            handle = os.open(self._markers / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        os.write(handle, str(self._path.parent).encode())
        os.fsync(handle)
        os.close(handle)
        return True


def happened(markers: Path) -> dict[int, Path]:
    """Return which of the faults that share a folder of markers happened, and the homes that they hit."""
    found = {int(marker.name): marker.read_text() for marker in markers.iterdir()}
    return {place: Path(home) for place, home in sorted(found.items()) if home}


def corrupt(home: Path, files: str) -> Sequence[Path]:
    """Turn over a byte in the middle of each file under `home` that matches; return them."""
    hit = [path for path in sorted(home.glob(files)) if path.is_file() and path.stat().st_size]
    for path in hit:
        with path.open("r+b") as stream:
            stream.seek(path.stat().st_size // 2)
            (value,) = stream.read(1)
            stream.seek(-1, os.SEEK_CUR)
            stream.write(bytes([value ^ 0xFF]))
    return hit
