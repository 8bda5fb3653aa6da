"""Large arrays in files, mapped into memory, so that the system may take their pages back at any time."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from recipes.errors import StorageError

Scalar = TypeVar("Scalar", bound=np.generic)


class MappedArray(Generic[Scalar]):
    """A one-dimensional array in a file, zero where nothing was written yet.

    What is written survives the death of this process at once, and that of the machine once the system has
    written it back: whoever relies on the content checks it by hash.

    Attributes:
        array: the values, shape (count,), writable.
    """

    def __init__(self, path: Path, *, dtype: np.dtype[Scalar], count: int) -> None:
        """Map the file at `path`, which is made, or cut or extended to the right size, as needed.

        Raises:
            StorageError: the disk has no room for it, or refuses.
        """
        size = count * dtype.itemsize
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(handle, size)
                # A full disk must show here, as an error: on writing to mapped memory it would kill us.
                os.posix_fallocate(handle, 0, size)
                self._map = mmap.mmap(handle, size)
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageError(
                f"Cannot keep {size} bytes in {path}: {error.strerror or error}.",
                remedy="Free some space, or move the home folder to a larger disk with $MANYHANDS_HOME.",
            ) from error
        self.array: NDArray[Scalar] = np.frombuffer(self._map, dtype=dtype)

    def bytes_between(self, start: int, end: int) -> memoryview[Any]:
        """Return the file's bytes from `start` up to `end` or the file's end, without copying them."""
        return memoryview(self._map)[start:end]

    def release(self) -> None:
        """Let the system have the pages back; they come back from the file when touched."""
        self._map.madvise(mmap.MADV_DONTNEED)
