"""The home folder, where one peer keeps its key and its runs: $MANYHANDS_HOME, or ~/.manyhands.

owner.key       signs the recipes that you publish
identity.key    this peer's identity in the swarm; identity-PEER.key: a former one
runs/RUN_ID/    recipe, data, state and snapshots of one run
lock            held by the process that works here
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.errors import HomeInUseError, StorageError
from recipes.formats.files import private_folder

LOCK = "lock"
RUNS = "runs"
OWNER_KEY = "owner.key"
IDENTITY_KEY = "identity.key"


def home_folder(explicit: Path | None = None) -> Path:
    """Return the home folder, which may not exist yet: `explicit`, $MANYHANDS_HOME or ~/.manyhands."""
    if explicit is not None:
        return explicit.expanduser()
    return Path(os.environ.get("MANYHANDS_HOME") or "~/.manyhands").expanduser()


def run_folder(home: Path, run_id: str) -> Path:
    """Return the folder in `home` for everything about one run."""
    return home / RUNS / run_id


@contextmanager
def lock_home(home: Path) -> Iterator[None]:
    """Keep every other process out of `home` until the block ends, and other users out of what is in it.

    The kernel frees the lock with the process, however that dies.

    Raises:
        HomeInUseError: another process works there.
        StorageError: the folder or the lock file cannot be made.
    """
    path = home / LOCK
    try:
        private_folder(home)
        _close_to_others(home)
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


def _close_to_others(home: Path) -> None:
    """Take away what other users may do in a home folder that an earlier version made, and say so.

    A folder that is more than a home, such as /tmp or the user's own, stays as it is: its `runs` is closed.
    """
    found = home.stat()
    is_home = any((home / name).exists() for name in (LOCK, OWNER_KEY, IDENTITY_KEY)) or not any(
        home.iterdir()
    )
    is_shared = found.st_mode & stat.S_ISVTX or home.resolve() == _user_folder()
    if is_shared or not is_home or found.st_uid != os.getuid():
        home = home / RUNS
        private_folder(home)
        found = home.stat()
    if found.st_mode & 0o077 and found.st_uid == os.getuid():
        home.chmod(0o700)
        print(f"Other users of this machine could read {home}: now it is open to you alone.", file=sys.stderr)


def _user_folder() -> Path | None:
    try:
        return Path.home().resolve()
    except RuntimeError:  # a user without one
        return None


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot open {path}: {error.strerror or error}.",
        remedy="Free some space, make the folder writable, or choose another with $MANYHANDS_HOME or --home.",
    )
