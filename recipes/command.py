"""The edge of every command: an expected error becomes a message and an exit code, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from recipes.errors import ManyhandsError


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print a `ManyhandsError` from the block to stderr and leave with its exit code (docs/errors.md).

    A message may hold text from a stranger's file; what steers a terminal is escaped.
    """
    try:
        yield
    except ManyhandsError as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def printable(text: str) -> str:
    """Return the text with all that steers a terminal escaped; lines stay lines."""
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape").decode()
        for character in text
    )
