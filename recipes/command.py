"""The edge of every command: an expected error becomes a message and an exit code, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from recipes.errors import ManyhandsError


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print a `ManyhandsError` from the block to stderr and leave with its exit code (docs/errors.md)."""
    try:
        yield
    except ManyhandsError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
