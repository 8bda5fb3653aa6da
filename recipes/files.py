"""Writing files so that a crash leaves the old content or the new, never a torn one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from recipes.errors import StorageError


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write `content` to `path` through a temporary file, fsync and rename.

    Raises:
        StorageError: the disk is full, read-only or failing; `path` is as it was before.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise StorageError(
            f"Cannot write {path}: {error.strerror or error}.",
            remedy="Free some space or make the folder writable, then run the same command again: it goes on "
            "from what is on disk.",
        ) from error
