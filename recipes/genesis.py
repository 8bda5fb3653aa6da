"""The first weights of a run, and the Merkle root by which the recipe names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recipes.errors import DataError, StorageError
from recipes.formats.blake3_tree import leaf_hash, root
from recipes.layout import PIECE_BYTES, layout_of
from recipes.model import build_model, flatten_into
from recipes.schema.recipe import Recipe

GENESIS_WEIGHTS = Path("snapshots", "0", "weights.f32")


def write_genesis(recipe: Recipe, folder: Path) -> bytes:
    """Draw the recipe's first weights and write them to folder/snapshots/0/weights.f32.

    The file holds the padded flat vector of `recipes.layout` as little-endian fp32.

    Returns:
        The Merkle root over the file's pieces, 32 bytes.

    Raises:
        ModelError: the recipe's model cannot be built.
        StorageError: the file cannot be written.
    """
    layout = layout_of(recipe)
    path = folder / GENESIS_WEIGHTS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = np.memmap(path, dtype="<f4", mode="w+", shape=(layout.padded,))
        flatten_into(build_model(recipe), weights)
        weights.flush()
    except OSError as error:
        raise StorageError(
            f"Cannot write the first weights to {path}: {error.strerror or error}.",
            remedy=f"They take {4 * layout.padded:,} bytes: free some space, or choose another folder.",
        ) from error
    return weights_root(path)


def weights_root(path: Path) -> bytes:
    """Return the Merkle root over the leaf hashes of a weight file's 1 MiB pieces, 32 bytes.

    Raises:
        DataError: the file cannot be read.
    """
    return root([leaf_hash(piece) for piece in _pieces(path)])


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise DataError(
            f"Cannot read the weights {path}: {error.strerror}.", remedy="Join again: they are fetched."
        ) from error
