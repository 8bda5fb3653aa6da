"""Copies of the error feedback before the last few contributions: an audit may ask for chunks of them.

Each contribution changes the error feedback in place. The author of a claim learns whether it is audited in
full only from the second block after the one that includes it, when two more contributions are made already,
or more, if it was on another branch meanwhile. So the file is copied before each contribution, named by its
root, which the claim before commits to:

    contributions/before/NUMBER.ROOT.bf16

The last `COPIES_KEPT` are kept: 10 bytes a parameter on disk. A copy also replaces an error feedback that a
crash has torn. Copies are not trusted: their readers hash them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.formats import blake3_tree
from recipes.formats.files import PRIVATE, replacing
from recipes.layout import CHUNK_VALUES

COPIES_KEPT = 5
LEAF_BYTES = 2 * CHUNK_VALUES

_READ_BYTES = 128 * LEAF_BYTES


class FeedbackCopies:
    """Copies of one peer's error feedback, by the root that each has."""

    def __init__(self, folder: Path, *, kept: int = COPIES_KEPT) -> None:
        self._folder = folder / "before"
        self._kept = kept

    def keep(self, file: Path, *, root: bytes) -> None:
        """Copy the error feedback's file, which has this root, and delete the oldest copy.

        Raises:
            StorageError: the disk refuses.
        """
        copies = self._copies()
        for same in [copy for copy in copies if _root_in(copy) == root.hex()]:
            same.unlink(missing_ok=True)
        number = 1 + max((int(copy.name.partition(".")[0]) for copy in copies), default=0)
        copy = self._folder / f"{number:08d}.{root.hex()}.bf16"
        with replacing(copy, mode=PRIVATE) as target, file.open("rb") as source:
            shutil.copyfileobj(source, target, _READ_BYTES)
        for old in self._copies()[: -self._kept]:
            old.unlink(missing_ok=True)

    def find(self, root: str) -> Path | None:
        """Return the newest copy of an error feedback with this root, hex, unchecked; None without one."""
        return next((copy for copy in reversed(self._copies()) if _root_in(copy) == root), None)

    def _copies(self) -> list[Path]:
        """Return all copies, the oldest first."""
        return sorted(path for path in self._folder.glob("*.*.bf16") if path.name[0].isdecimal())


def leaves_of(file: Path) -> list[bytes]:
    """Return the leaf hashes of an error feedback's file, one for each chunk; [] if it cannot be read."""
    leaves: list[bytes] = []
    try:
        with file.open("rb") as stream:
            while batch := stream.read(_READ_BYTES):
                leaves += [
                    blake3_tree.leaf_hash(batch[start : start + LEAF_BYTES])
                    for start in range(0, len(batch), LEAF_BYTES)
                ]
    except OSError:
        return []
    return leaves


def read_chunk(file: Path, chunk: int) -> NDArray[np.uint16]:
    """Return one chunk of an error feedback's file: the bits of bfloat16, shape (4096,).

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is shorter.
    """
    with file.open("rb") as stream:
        stream.seek(chunk * LEAF_BYTES)
        return np.frombuffer(stream.read(LEAF_BYTES), dtype="<u2").astype(np.uint16).reshape(CHUNK_VALUES)


def _root_in(copy: Path) -> str:
    return copy.name.split(".")[1]
