"""Sizes of swarms, as a benchmark's option lists them."""

from __future__ import annotations

import re

import typer


def sizes_of(text: str) -> list[int]:
    """Return the sizes of a list such as `4,8,16`.

    Raises:
        typer.BadParameter: it is not such a list.
    """
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise typer.BadParameter(f"{text!r} is not a list of sizes, such as 4,8,16")
    return [int(size) for size in text.split(",")]
