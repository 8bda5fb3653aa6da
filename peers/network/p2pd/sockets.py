"""The folder in which p2pd's sockets lie: only this user may enter it, and it never stays for long.

Its owner holds a lock on a file in it for as long as it lives. The kernel frees the lock with the process,
however that dies, and the next process to start removes the folders that none holds. A process id could be
another process's by then, or mean nothing outside a container; a lock is held, or it is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path

_ROOT = Path("/tmp")  # a socket's name has at most 108 bytes (unix(7)), and $TMPDIR may be long
_PREFIX = "manyhands-"
_LOCK = "p2pd.lock"
_SOCKETS = ("control.sock", "streams.sock")


class SocketFolder:
    """A folder of this process's own."""

    def __init__(self, *, root: Path = _ROOT) -> None:
        """Make it."""
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        # Locked before it gets the name by which others find it: they never see it free.
        beside = self.path / f"{_LOCK}.new"
        self._lock = beside.open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        beside.rename(self.path / _LOCK)

    @property
    def control_socket(self) -> Path:
        """Where p2pd takes requests."""
        return self.path / _SOCKETS[0]

    @property
    def stream_socket(self) -> Path:
        """Where p2pd shall hand over the streams that other peers open."""
        return self.path / _SOCKETS[1]

    def remove(self) -> None:
        """Remove it. Doing so twice is harmless."""
        if not self._lock.closed:
            with contextlib.suppress(OSError):
                _remove(self.path)
            self._lock.close()


def remove_abandoned(root: Path = _ROOT) -> None:
    """Remove the folders of this user's processes that are gone, and nothing else.

    What has no lock file is none of them. Links are not followed, and of what a folder holds only what
    belongs there is deleted.
    """
    for path in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another one is at it, or it is not ours
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                handle = os.open(path / _LOCK, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(path)
                finally:
                    os.close(handle)


def _remove(path: Path) -> None:
    for name in (*_SOCKETS, _LOCK):
        (path / name).unlink(missing_ok=True)
    path.rmdir()
