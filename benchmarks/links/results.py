"""The cells that benchmarks/links/__main__.py has measured, in a file that is complete after each of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import TypeAdapter, ValidationError

from benchmarks.links.figures import Cell, as_records, comparable
from recipes.formats.files import write_atomic

_DERIVED = ("of_unshaped", "of_no_network")
_CELLS = TypeAdapter(list[Cell])


def read_cells(path: Path) -> list[Cell]:
    """Return the cells that were written before; none if there is no such file.

    Raises:
        typer.BadParameter: the file holds something else.
    """
    if not path.exists():
        return []
    try:
        records = json.loads(path.read_bytes())["cells"]
        return _CELLS.validate_python(
            [{key: value for key, value in record.items() if key not in _DERIVED} for record in records]
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise typer.BadParameter(
            f"{path} does not hold results of this benchmark ({said}): name another file, or remove this one"
        ) from error


def write_cells(path: Path, cells: Sequence[Cell], about: dict[str, Any]) -> None:
    """Write all cells with their ratios, and what there is to say about them."""
    write_atomic(path, json.dumps({**about, "cells": as_records(cells)}, indent=1).encode())


def measured(cells: Sequence[Cell], wanted: Cell) -> Cell | None:
    """Return the cell that was measured as the wanted one would be; None if it was not, or failed."""
    for cell in cells:
        same = (cell.arm, cell.link, cell.settings) == (wanted.arm, wanted.link, wanted.settings)
        if same and cell.speed is not None:
            return cell
    return None


def with_cell(cells: Sequence[Cell], new: Cell) -> list[Cell]:
    """Return the cells with the new one in the place of its predecessor, if it has one.

    That is the same arm on a link of the same name, under the same conditions otherwise.
    """
    for at, cell in enumerate(cells):
        if (cell.arm, cell.link.name) == (new.arm, new.link.name) and comparable(cell, new):
            return [*cells[:at], new, *cells[at + 1 :]]
    return [*cells, new]
