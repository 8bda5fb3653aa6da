"""What a run is and where it lies, before anything is watched: recipe in plain words, ground, chain."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from monitoring.swarm.archive import Archive
from monitoring.swarm.block_times import Seen
from monitoring.swarm.loss_store import Measured
from monitoring.swarm.view import RunPicture
from monitoring.swarm.watch import SwarmWatch
from peers.chain.chain import Chain
from peers.credit.rules import credit_rules
from peers.ledger.derive import Ground
from peers.network.discovery import remembered_peers
from peers.protocol.rules import Rules
from peers.state.block_store import CHAIN_FILE, ChainStore, load_chain
from peers.state.genesis import start_digest
from recipes.layout import published_layout
from recipes.publication import RECIPE_FILE, SignedRecipe, load_signed_recipe
from recipes.schema.recipe import published
from recipes.show import describe

WATCHED_FOLDER = "watched"  # below the observer's home: its database, losses, and files to be downloaded
_LOSSES_FILE = "validation.jsonl"
_SEEN_FILE = "seen.jsonl"
_ARCHIVE_FILE = "archive.sqlite"


@dataclass(frozen=True)
class WatchedRun:
    """A run whose recipe is checked.

    Attributes:
        folder: holds the recipe, the chain and the state: a peer's, or the observer's own.
        out: the observer's folder for what it makes.
        signed: the recipe.
        ground: what the ledger follows from, besides the blocks.
    """

    folder: Path
    out: Path
    signed: SignedRecipe
    ground: Ground

    @property
    def chain_file(self) -> Path:
        """Where the blocks are."""
        return self.folder / CHAIN_FILE


def open_run(folder: Path, home: Path) -> WatchedRun:
    """Return the run in a folder, for an observer with this home.

    Raises:
        RecipeError: the recipe is missing, malformed or not signed by its owner.
    """
    signed = load_signed_recipe(folder)
    rules = Rules.of(signed.recipe, signed.run_id)
    digest = start_digest(signed.recipe, rules, published_layout(signed.recipe))
    ground = Ground(credit_rules(signed.recipe, rules), digest)
    return WatchedRun(folder, home / WATCHED_FOLDER / signed.run_id, signed, ground)


def begin_watch(run: WatchedRun, *, join: str) -> SwarmWatch:
    """Return a watch that has taken in all blocks on disk.

    Raises:
        StorageError: the disk refuses.
        ModelError: the recipe's model cannot be built.
        DataError: the manifest beside the recipe is not the one that it names.
    """
    return SwarmWatch(
        run_picture(run, join=join),
        run.ground,
        _chain(run),
        archive=Archive(run.out / _ARCHIVE_FILE),
        measured=Measured(run.out / _LOSSES_FILE),
        seen=Seen(run.out / _SEEN_FILE),
    )


def run_picture(run: WatchedRun, *, join: str) -> RunPicture:
    """Return what the recipe says."""
    recipe = run.signed.recipe
    return RunPicture(
        run=run.signed.run_id,
        name=recipe.run.name,
        description=recipe.run.description,
        parameters=published(recipe).parameters,
        goal_tokens=recipe.schedule.total_tokens,
        window_seconds=recipe.round.window_seconds,
        overlaps=recipe.round.overlap != "none",
        flops_per_token=run.ground.rules.flops_per_token,
        facts=tuple(describe(run.folder / RECIPE_FILE)),
        join=join,
    )


def join_command(run: WatchedRun, addresses: tuple[str, ...]) -> str:
    """Return the line with which volunteers join: by the first of these addresses, or of peers met here."""
    met = [address for found in remembered_peers(run.folder).values() for address in found]
    address = next(iter([*addresses, *met]), "ADDRESS")
    return f"python -m trainer.join {run.signed.run_id} --peer {address}"


def _chain(run: WatchedRun) -> Chain:
    rules = run.ground.rules
    if not run.chain_file.exists():
        return Chain(rules, genesis_digest=run.ground.genesis_digest)
    with closing(ChainStore(run.chain_file, read_only=True)) as store:
        return load_chain(store, rules, genesis_digest=run.ground.genesis_digest)
