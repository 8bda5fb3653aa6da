"""The losses that this observer measured, kept on disk: no other record has them.

validation.jsonl    one measurement a line: round, tokens, loss, when
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

from monitoring.swarm.view import Validation
from recipes.errors import StorageError

_MOST_LINES = 100_000
_MOST_BYTES = 32 << 20


class Measured:
    """Validation losses by round, oldest first."""

    def __init__(self, path: Path | None) -> None:
        """Read what was measured in earlier lives; lines that are torn are left out. Without a path, none."""
        self._path = path
        self._found: dict[int, Validation] = {}
        if path is not None and path.exists() and path.stat().st_size <= _MOST_BYTES:
            for line in path.read_bytes().splitlines()[-_MOST_LINES:]:
                one = _parse(line)
                if one is not None:
                    self._found[one.round] = one

    def add(self, one: Validation) -> None:
        """Keep a measurement.

        Raises:
            StorageError: the disk refuses.
        """
        self._found[one.round] = one
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as stream:
                stream.write(json.dumps(asdict(one)).encode() + b"\n")
        except OSError as error:
            raise StorageError(
                f"Cannot write {self._path}: {error.strerror}.", remedy="Free some space."
            ) from error

    def __contains__(self, round_number: int) -> bool:
        return round_number in self._found

    def up_to(self, round_number: int) -> tuple[Validation, ...]:
        """Return the measurements of rounds up to one, oldest first."""
        return tuple(self._found[number] for number in sorted(self._found) if number <= round_number)


def _parse(line: bytes) -> Validation | None:
    try:
        found = json.loads(line)
        one = Validation(
            int(found["round"]), int(found["tokens"]), float(found["loss"]), float(found["measured_at"])
        )
    except (ValueError, KeyError, TypeError):
        return None
    return one if math.isfinite(one.measured_at) and one.round >= 0 else None
