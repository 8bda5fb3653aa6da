"""A run's public data in its folder, read to replay a claim and never changed.

    recipe.toml, recipe.sig     named by the run's id
    manifest.json, data/        the text, named by the recipe
    snapshots/                  whole states of some rounds
    reduced/                    what the blocks since then did to them

That folder is a peer's, at work or not, or the one that publishing made, from which the first round can be
replayed. Nothing in it is believed: the recipe has the run's id, the text the hashes in the recipe, reduced
segments their roots in blocks, and the state that is made of it all the digest in the chain.
"""

from __future__ import annotations

from pathlib import Path

from peers.chain.link import genesis_hash
from peers.codec.round_codec import exchange_format
from peers.codec.segment import SegmentFrame
from peers.protocol.rules import Rules
from peers.state.canonical_state import CanonicalState
from peers.state.chain_memory import first_memory
from peers.state.past_state import AUDIT_FOLDER, PastState
from peers.state.snapshots import SnapshotStore
from recipes.corpus import PartName, TokenArray
from recipes.errors import DataError, MessageError, ReplayError
from recipes.genesis import GENESIS_WEIGHTS
from recipes.layout import layout_of
from recipes.publication import (
    DATA_FOLDER,
    RECIPE_FILE,
    damaged_pieces,
    load_manifest,
    load_signed_recipe,
)
from recipes.schema.recipe import published

_TRAINED_ON: tuple[PartName, ...] = ("train",)
_JOIN = "Join the run until it is here, or name with --run a folder of the run that has it."


class RunData:
    """The public data of one run in one folder."""

    def __init__(self, folder: Path, *, run: str) -> None:
        """Open the folder of the run with this id.

        Raises:
            ReplayError: there is no such folder, or it is of another run.
            RecipeError: its recipe is not signed by its owner.
            ModelError: the model cannot be built here.
        """
        if not (folder / RECIPE_FILE).is_file():
            raise ReplayError(
                f"The run {run} is not in {folder}: its text and states are missing.", remedy=_JOIN
            )
        self.signed = load_signed_recipe(folder)
        if self.signed.run_id != run:
            raise ReplayError(
                f"{folder} is of the run {self.signed.run_id}, and the export of {run}.",
                remedy="Name a folder of that run with --run.",
            )
        self.folder = folder
        self.recipe = self.signed.recipe
        self.layout = layout_of(self.recipe)
        self.form = exchange_format(self.recipe, self.layout)
        self._reduced = {file.name: file for file in (folder / "reduced").glob("*/*")}

    def text(self) -> TokenArray:
        """Return the training part of the corpus, every piece of it checked.

        Raises:
            ReplayError: not all of it is here.
        """
        try:
            manifest = load_manifest(self.folder, self.recipe)
            damaged = damaged_pieces(self.folder, manifest, _TRAINED_ON)
            if not damaged:
                return TokenArray(self.folder / DATA_FOLDER, manifest, "train")
        except DataError as error:
            raise ReplayError(f"The run's text is not here: {error.args[0]}", remedy=_JOIN) from error
        where, some = self.folder / DATA_FOLDER, "1 piece" if len(damaged) == 1 else f"{len(damaged)} pieces"
        raise ReplayError(f"Missing or damaged in {where}: {some} of the run's text.", remedy=_JOIN)

    def has_reduced(self, root: str) -> bool:
        """Whether a file of that name is here."""
        return root in self._reduced

    def read_reduced(self, root: str, *, tokens: int) -> SegmentFrame:
        """Return a reduced segment of the round on top of a block by which `tokens` were trained on.

        Raises:
            MessageError: it is not here, or not whole.
        """
        try:
            data = self._reduced[root].read_bytes()
        except (KeyError, OSError) as error:
            raise MessageError("a reduced segment is not here any more") from error
        frame = self.form.parse_reduced(data, tokens=tokens)
        if frame.root().hex() != root:
            raise MessageError("a reduced segment is damaged")
        return frame

    def past_state(self, scratch: Path) -> PastState:
        """Return what makes earlier states again, with all that it writes in the empty folder `scratch`.

        Raises:
            StateError: the first weights are not those of the recipe.
            StorageError: the disk refuses.
        """
        outer = self.recipe.outer
        has_first = self._borrow_snapshots(scratch)
        snapshots = SnapshotStore(scratch, layout=self.layout, has_momentum=bool(outer.momentum))
        if has_first:
            rules = Rules.of(self.recipe, self.signed.run_id)
            state = CanonicalState(
                scratch / AUDIT_FOLDER, layout=self.layout, outer=outer, snapshots=snapshots
            )
            root = bytes.fromhex(published(self.recipe).weights_root)
            state.adopt_genesis(first_memory(rules), block=genesis_hash(rules.run), weights_root=root)
        return PastState(scratch, snapshots, self, layout=self.layout, outer=outer)

    def _borrow_snapshots(self, scratch: Path) -> bool:
        """Let the snapshots here seem to lie in `scratch`; say if of the first, there are but the weights.

        A peer at work may delete some meanwhile; then they are no longer there.
        """
        borrowed = scratch / "snapshots"
        borrowed.mkdir()
        for manifest in (self.folder / "snapshots").glob("*/manifest.json"):
            if manifest.parent.name.isdecimal():
                (borrowed / manifest.parent.name).symlink_to(manifest.parent.resolve())
        weights = self.folder / GENESIS_WEIGHTS
        if (borrowed / "0").exists() or not weights.exists():
            return False
        (borrowed / "0").mkdir()
        (borrowed / "0" / weights.name).symlink_to(weights.resolve())
        return True
