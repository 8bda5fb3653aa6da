"""When blocks came, kept on disk: no signed record says it, so it cannot be found out again later.

seen.jsonl    a block and its time a line
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from recipes.errors import StorageError
from recipes.formats.files import write_atomic

_MOST_BLOCKS = 8192  # whose times are read at the start
_MOST_BYTES = 4 << 20  # of the file, beyond which it is written anew with the newest


class Seen:
    """Blocks' times, Unix seconds."""

    def __init__(self, path: Path | None) -> None:
        """Read what was seen in earlier lives; lines that are torn are left out. Without a path, nothing.

        Raises:
            StorageError: the disk refuses.
        """
        self._path = path
        self._times: dict[str, float] = {}
        if path is not None and path.exists():
            lines = path.read_bytes().splitlines()[-_MOST_BLOCKS:]
            self._times = dict(found for line in lines if (found := _parse(line)) is not None)
            if path.stat().st_size > _MOST_BYTES:
                write_atomic(path, b"".join(_line(block, at) for block, at in self._times.items()))

    def note(self, block: str, at: float) -> None:
        """Keep when a block came, the first time that it is told.

        Raises:
            StorageError: the disk refuses.
        """
        if block in self._times:
            return
        self._times[block] = at
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as stream:
                stream.write(_line(block, at))
        except OSError as error:
            raise StorageError(
                f"Cannot write {self._path}: {error.strerror}.", remedy="Free some space."
            ) from error

    def at(self, block: str) -> float | None:
        """Return when a block came, or None if it was not watched."""
        return self._times.get(block)

    def forget_oldest(self) -> None:
        """Keep the newest times in memory alone."""
        if len(self._times) > 2 * _MOST_BLOCKS:
            self._times = dict(list(self._times.items())[-_MOST_BLOCKS:])


def _line(block: str, at: float) -> bytes:
    return json.dumps({"block": block, "at": round(at, 3)}).encode() + b"\n"


def _parse(line: bytes) -> tuple[str, float] | None:
    try:
        found = json.loads(line)
        block, at = str(found["block"]), float(found["at"])
    except (ValueError, KeyError, TypeError):
        return None
    return (block, at) if math.isfinite(at) else None
