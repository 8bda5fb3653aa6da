"""Writing files so that a crash leaves the old content or the new, never a torn one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from recipes.errors import StorageError


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write `content` to `path` through a temporary file, fsync and rename.

    On return, the new content is there also after a power cut: a name is on disk once its folder is.

    Raises:
        StorageError: the disk is full, read-only or failing; `path` holds what it held before, or all of
            `content` if only the folder could not be written.
    """
    with replacing(path, mode=mode) as stream:
        stream.write(content)


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Yield a stream whose content takes the place of `path` when the block ends without an error.

    For content that is too large to hold in memory; else as `write_atomic`.

    Raises:
        StorageError: as `write_atomic`.
    """
    temporary = ""
    try:
        changed = [path.parent]
        while not changed[-1].exists():
            changed.append(changed[-1].parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
        temporary = ""
        for folder in changed:
            _sync_folder(folder)
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error.strerror or error}.",
            remedy="Free some space or make the folder writable, then run the same command again: it goes on "
            "from what is on disk.",
        ) from error
    finally:
        if temporary:
            with suppress(OSError):  # a disk that refused the content may refuse this, too
                Path(temporary).unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
