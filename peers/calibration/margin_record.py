"""Measured margins on disk: so that a run that was interrupted goes on, and figures outlive it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from peers.calibration.margins import Comparison, Plan
from recipes.errors import DataError
from recipes.formats.files import write_atomic


@dataclass(frozen=True)
class Record:
    """A record of measured margins, and of the conditions under which they were measured.

    Attributes:
        recipe: name of the run.
        run_id: of the publication that was trained; 64 hex digits.
        machine: processor, GPUs and torch's version.
        day: UTC, such as 2026-01-31.
        numerics: labels, in order.
        plan: how much was to be measured.
        comparisons: of the windows measured so far.
    """

    recipe: str
    run_id: str
    machine: str
    day: str
    numerics: tuple[str, ...]
    plan: Plan
    comparisons: tuple[Comparison, ...] = ()

    @property
    def windows(self) -> frozenset[int]:
        """Numbers of the windows measured so far."""
        return frozenset(one.window for one in self.comparisons)

    def continues(self, other: Record) -> bool:
        """Whether the margins of `other` belong to this record: all conditions but the day are the same."""
        return replace(other, comparisons=self.comparisons, day=self.day) == self

    def with_window(self, comparisons: Sequence[Comparison]) -> Record:
        """Return the record with one window more."""
        return replace(self, comparisons=(*self.comparisons, *comparisons))

    def words(self) -> str:
        """Return the conditions in a line."""
        return f"{self.day}, {self.machine}: {len(self.windows)} windows of {self.plan.steps} steps"


def write_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all.

    Raises:
        StorageError: the disk refuses.
    """
    write_atomic(path, json.dumps(asdict(record)).encode())


def read_record(path: Path) -> Record:
    """Read what `write_record` wrote.

    Raises:
        DataError: it is missing or malformed.
    """
    try:
        # json and not pydantic reads the text: a gap may be infinite.
        return TypeAdapter(Record).validate_python(json.loads(path.read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise DataError(
            f"{path} holds no margins: {error}.",
            remedy="Name a file that `python -m peers.calibrate` wrote, or another folder with --out.",
        ) from error
