"""The event log: every event as one line of JSON, added to the end of a file (`--events`)."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from peers.protocol.events import Event, as_json_line
from recipes.errors import StorageError

if TYPE_CHECKING:
    from peers.network.traffic import TrafficMeter


class EventLog:
    """A listener that writes events down, each with the seconds since the log began and the bytes moved."""

    def __init__(self, path: Path) -> None:
        """Open the file, which may exist.

        Raises:
            StorageError: it cannot be written.
        """
        self._path = path
        self._began = time.monotonic()
        self._traffic: TrafficMeter | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._refused(error) from error

    def count_traffic(self, meter: TrafficMeter) -> None:
        """Let each line from now on tell the bytes that this meter has counted."""
        self._traffic = meter

    def tell(self, event: Event) -> None:
        """Write an event down.

        Raises:
            StorageError: the disk refuses.
        """
        moved = self._traffic.statistics() if self._traffic is not None else None
        line = as_json_line(
            event,
            seconds=time.monotonic() - self._began,
            sent=moved.sent if moved is not None else {},
            received=moved.received if moved is not None else {},
        )
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Close the file. A disk that refuses has been told of when a line could not be written."""
        with contextlib.suppress(OSError):
            self._stream.close()

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(
            f"Cannot write the events to {self._path}: {error.strerror}.",
            remedy="Free some space, or name another file with --events.",
        )
