"""The newest model of a run as one file, to be downloaded and measured.

watched/model.safetensors    the parameters by name; the round is in the file's head
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from peers.state.weights_file import WholeWeights, newest_weights, save_tensors
from recipes.errors import StateError, StorageError
from recipes.layout import Layout, layout_of
from recipes.publication import SignedRecipe

MODEL_FILE = "model.safetensors"


@dataclass(frozen=True)
class ModelFile:
    """The model after a round."""

    path: Path
    round: int


class NewestModel:
    """Takes the newest whole weights out of a run's folder: a peer's, or this observer's own."""

    def __init__(self, run: Path, signed: SignedRecipe, out: Path) -> None:
        """Begin with nothing.

        Args:
            run: a folder with the state of a peer, or of this observer.
            signed: its recipe.
            out: the folder for the file.
        """
        self._run = run
        self._signed = signed
        self._out = out
        self._layout: Layout | None = None  # known once the model was built, which takes seconds
        self.newest: ModelFile | None = None

    async def refresh(self, *, until: int | None = None) -> ModelFile | None:
        """Write the file anew if there are newer weights, of rounds up to `until`; return it if so.

        Raises:
            ModelError: the recipe's model cannot be built here.
            StorageError: the disk refuses.
        """
        above = self.newest.round if self.newest else -1
        found = await asyncio.to_thread(self._refresh, above, until)
        self.newest = found or self.newest
        return found

    def _refresh(self, above: int, until: int | None) -> ModelFile | None:
        self._layout = self._layout or layout_of(self._signed.recipe)
        try:
            weights = newest_weights(self._run, self._signed.recipe, self._layout, above=above, until=until)
        except StateError:
            return None
        return self._write(weights, self._layout)

    def _write(self, weights: WholeWeights, layout: Layout) -> ModelFile:
        path = self._out / MODEL_FILE
        metadata = {"run": self._signed.run_id, "round": str(weights.round)}
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._out, prefix=".model.") as folder:
                draft = Path(folder, MODEL_FILE)
                save_tensors(draft, weights, layout, metadata=metadata)
                draft.chmod(0o644)
                draft.replace(path)
        except OSError as error:
            raise StorageError(
                f"Cannot write {path}: {error.strerror or error}.",
                remedy="Free some space, or name another folder with --home.",
            ) from error
        return ModelFile(path, weights.round)
