"""Large arrays in files that are mapped into memory, so that the system can reclaim their pages any time."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from recipes.errors import StorageError
from recipes.formats.files import PRIVATE, private_folder

Scalar = TypeVar("Scalar", bound=np.generic)


class MappedArray(Generic[Scalar]):
    """A one-dimensional array in a file; zeros where nothing was written yet.

    A write survives the death of this process at once, and that of the machine once the system has written it
    back. So the content has to be checked by hash at the next start.

    Attributes:
        array: the values, shape (count,), writable.
    """

    def __init__(self, path: Path, *, dtype: np.dtype[Scalar], count: int) -> None:
        """Map the file at `path`. It is made, or cut or extended to the right size, if need be.

        Raises:
            StorageError: the disk is full, or refuses.
        """
        size = count * dtype.itemsize
        try:
            private_folder(path.parent)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
            try:
                os.ftruncate(handle, size)
                # A full disk has to be an error here: later, a write to mapped memory would kill the process.
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
        """Give the pages back to the system. They are read from the file again when they are accessed."""
        self._map.madvise(mmap.MADV_DONTNEED)
