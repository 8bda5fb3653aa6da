"""Writing files so that a crash leaves the old content or the new, never a torn one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from recipes.errors import StorageError

PRIVATE = 0o600
"""Mode of a file that is nobody else's business, whatever the umask."""
_PRIVATE_FOLDER = 0o700
_BY_UMASK = 0o666


def write_atomic(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write `content` to `path` through a temporary file, fsync and rename.

    With a mode such as `PRIVATE`, the file has it whatever the umask, and folders that are missing are made
    for this user alone; without one, both are as the umask says. On return, the new content is there also
    after a power cut: a name is on disk once its folder is.

    Raises:
        StorageError: the disk is full, read-only or failing; `path` holds what it held before, or all of
            `content` if only the folder could not be written.
    """
    with replacing(path, mode=mode) as stream:
        stream.write(content)


@contextmanager
def replacing(path: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Yield a stream whose content takes the place of `path` when the block ends without an error.

    For content that is too large to hold in memory; else as `write_atomic`.

    Raises:
        StorageError: as `write_atomic`.
    """
    temporary: Path | None = None
    try:
        changed = [path.parent]
        while not changed[-1].exists():
            changed.append(changed[-1].parent)
        if mode is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            private_folder(path.parent)
        name = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _BY_UMASK if mode is None else PRIVATE)
        temporary = name
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            if mode is not None:
                os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        temporary = None
        for folder in changed:
            _sync_folder(folder)
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error.strerror or error}.",
            remedy="Free some space or make the folder writable, then run the same command again: it goes on "
            "from what is on disk.",
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # a disk that refused the content may refuse this, too
                temporary.unlink()


def private_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, for this user alone; what is there stays as it is.

    Raises:
        OSError: the disk refuses.
    """
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for one in reversed(missing):
        one.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)


def private_file(path: Path) -> None:
    """Make an empty file for this user alone, for what writes it by itself; one that is there stays as it is.

    Raises:
        OSError: the disk refuses.
    """
    private_folder(path.parent)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
