"""The newest whole weights in a run's folder, checked (also while a peer works there), and saved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from peers.state.snapshots import SnapshotStore
from recipes.errors import StateError
from recipes.formats import blake3_tree
from recipes.genesis import GENESIS_WEIGHTS
from recipes.layout import PIECE_BYTES, Layout
from recipes.schema.recipe import Recipe, published


@dataclass(frozen=True)
class WholeWeights:
    """The padded weights after a round, fp32 of shape (padded,). Those of round 0 are untrained."""

    round: int
    values: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Candidate:
    """A file of weights, and the Merkle root that its pieces have if it is whole."""

    path: Path
    round: int
    root: bytes


def newest_weights(
    run: Path, recipe: Recipe, layout: Layout, *, above: int = -1, until: int | None = None
) -> WholeWeights:
    """Return the newest whole weights in a run's folder: of the state, else of a snapshot.

    Args:
        run: the run's folder of a peer, or of a publication.
        recipe: the published recipe.
        layout: of its model.
        above: only weights of later rounds are returned.
        until: only weights of rounds up to this one are returned; None for any.

    Raises:
        StateError: there are none.
    """
    for candidate in _candidates(run, recipe, layout):
        fits = candidate.round > above and (until is None or candidate.round <= until)
        weights = _read_checked(candidate, layout) if fits else None
        if weights is not None:
            return WholeWeights(candidate.round, weights)
    raise StateError(
        f"There are no whole weights in {run}.", remedy="Join the run with --peer: its state is fetched."
    )


def save_tensors(
    path: Path, weights: WholeWeights, layout: Layout, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the model's parameters by name, as safetensors.

    Args:
        path: the file, written in place.
        weights: of the model.
        layout: with a span for each parameter (`layout_of`).
        metadata: written to the file's header, beside its format.

    Raises:
        OSError: the disk refuses.
    """
    from safetensors.numpy import save_file

    # Tied parameters are written once; transformers ties them again by the configuration.
    tensors = {
        span.name: weights.values[span.offset : span.offset + span.count].reshape(span.shape)
        for span in layout.spans
    }
    save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})


def _candidates(run: Path, recipe: Recipe, layout: Layout) -> Iterator[_Candidate]:
    """Yield the files in which weights may be, the newest first."""
    state = run / "state"
    try:
        marker: Any = json.loads((state / "state.json").read_bytes())
        yield _Candidate(state / "weights.f32", marker["round"], bytes.fromhex(marker["roots"][0]))
    except (OSError, ValueError, LookupError, TypeError):
        pass  # no state yet, or a block is being applied to it at this moment
    snapshots = SnapshotStore(run, layout=layout, has_momentum=bool(recipe.outer.momentum))
    for number in reversed(snapshots.rounds()):
        manifest = snapshots.manifest(number)
        if manifest is not None:
            root = blake3_tree.root([bytes.fromhex(leaf) for leaf in manifest.weights])
            yield _Candidate(run / "snapshots" / str(number) / "weights.f32", number, root)
    yield _Candidate(run / GENESIS_WEIGHTS, 0, bytes.fromhex(published(recipe).weights_root))


def _read_checked(candidate: _Candidate, layout: Layout) -> npt.NDArray[np.float32] | None:
    """Return the padded weights, or None if the file is missing or has another root."""
    try:
        content = candidate.path.read_bytes()
    except OSError:
        return None
    pieces = (content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES))
    if (
        len(content) != 4 * layout.padded
        or blake3_tree.root([*map(blake3_tree.leaf_hash, pieces)]) != candidate.root
    ):
        return None
    return np.frombuffer(content, dtype="<f4")
