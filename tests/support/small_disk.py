"""A disk that can be filled and made read-only, for one peer's files. It needs root: see `may_mount`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_BALLAST = "ballast"


class SmallDisk:
    """A file system in memory, mounted over a folder."""

    def __init__(self, folder: Path, *, mebibytes: int) -> None:
        """Mount it.

        Raises:
            CalledProcessError: this process may not mount.
        """
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder))

    def fill(self) -> None:
        """Leave no room on it."""
        with (self._folder / _BALLAST).open("wb", buffering=0) as stream:
            for size in (1 << 20, 1 << 12):
                try:
                    while stream.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue

    def empty(self) -> None:
        """Give the room back."""
        (self._folder / _BALLAST).unlink()

    def freeze(self) -> None:
        """Make it read-only. Nobody may have a file on it open for writing."""
        _run("mount", "-o", "remount,ro", str(self._folder))

    def thaw(self) -> None:
        """Make it writable again."""
        _run("mount", "-o", "remount,rw", str(self._folder))

    def unmount(self) -> None:
        """Take it away, with everything on it, once nobody uses it any more."""
        _run("umount", "--lazy", str(self._folder))


def may_mount(folder: Path) -> bool:
    """Say whether this process may mount a disk; tried in `folder`."""
    if os.geteuid() != 0:
        return False
    try:
        SmallDisk(folder / "trial", mebibytes=1).unmount()
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False
    return True


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
