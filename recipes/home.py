"""The home folder, where one peer keeps its key and its runs: $MANYHANDS_HOME, or ~/.manyhands.

owner.key       signs the recipes that you publish
identity.key    this peer's identity in the swarm; identity-PEER.key: a former one
runs/RUN_ID/    recipe, data, state and snapshots of one run
lock            held by the process that works here
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.errors import HomeInUseError, StorageError

OWNER_KEY = "owner.key"
IDENTITY_KEY = "identity.key"


def home_folder(explicit: Path | None = None) -> Path:
    """Return the home folder, which may not exist yet: `explicit`, $MANYHANDS_HOME or ~/.manyhands."""
    if explicit is not None:
        return explicit.expanduser()
    return Path(os.environ.get("MANYHANDS_HOME") or "~/.manyhands").expanduser()


def run_folder(home: Path, run_id: str) -> Path:
    """Return the folder in `home` for everything about one run."""
    return home / "runs" / run_id


@contextmanager
def lock_home(home: Path) -> Iterator[None]:
    """Keep every other process out of `home` until the block ends.

    The kernel frees the lock with the process, however that dies.

    Raises:
        HomeInUseError: another process works there.
        StorageError: the folder or the lock file cannot be made.
    """
    path = home / "lock"
    try:
        home.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+")
    except OSError as error:
        raise _refused(path, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            holder = stream.read(32).strip() or "unknown"
            raise HomeInUseError(
                f"Process {holder} already works in {home}.",
                remedy="Stop it first, or choose another home with $MANYHANDS_HOME or --home.",
            ) from error
        try:  # past the stream's buffer: what that cannot write, it would try to write again on closing
            os.ftruncate(stream.fileno(), 0)
            os.write(stream.fileno(), f"{os.getpid()}\n".encode())
        except OSError as error:
            raise _refused(path, error) from error
        yield


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot open {path}: {error.strerror or error}.",
        remedy="Free some space, make the folder writable, or choose another with $MANYHANDS_HOME or --home.",
    )
