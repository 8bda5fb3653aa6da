"""The genesis state, before the first block: its digest, and its weights, adopted at the first start."""

from __future__ import annotations

from pathlib import Path

from peers.chain.link import genesis_hash
from peers.protocol.rules import Rules
from peers.state.canonical_state import CanonicalState
from peers.state.chain_memory import ChainMemory, first_memory
from peers.state.manifest import piece_count, state_digest
from recipes.formats import blake3_tree
from recipes.genesis import GENESIS_WEIGHTS
from recipes.layout import PIECE_BYTES, Layout
from recipes.publication import SignedRecipe
from recipes.schema.recipe import Recipe, published


def open_state(folder: Path, signed: SignedRecipe, layout: Layout) -> CanonicalState:
    """Open the run's canonical state. At the first start it is the genesis state, if its weights are here.

    Raises:
        StorageError: the disk refuses.
        StateError: the genesis weights are not those of the recipe.
    """
    recipe = signed.recipe
    rules = Rules.of(recipe, signed.run_id)
    state = CanonicalState(folder, layout=layout, outer=recipe.outer)
    if not state.clean and not state.snapshots.rounds() and (folder / GENESIS_WEIGHTS).exists():
        root = bytes.fromhex(published(recipe).weights_root)
        state.adopt_genesis(first_memory(rules), block=genesis_hash(rules.run), weights_root=root)
    return state


def start_digest(recipe: Recipe, rules: Rules, layout: Layout) -> str:
    """Return the digest of a recipe's genesis state, hex."""
    return genesis_digest(
        weights_root=bytes.fromhex(published(recipe).weights_root),
        memory=first_memory(rules),
        layout=layout,
        has_momentum=bool(recipe.outer.momentum),
    )


def genesis_digest(*, weights_root: bytes, memory: ChainMemory, layout: Layout, has_momentum: bool) -> str:
    """Return the digest of a genesis state, hex: weights with this root, and a momentum of zeros."""
    momentum = []
    if has_momentum:
        size = 4 * layout.padded
        lengths = [min(PIECE_BYTES, size - index * PIECE_BYTES) for index in range(piece_count(layout))]
        momentum = [blake3_tree.leaf_hash(bytes(length)) for length in lengths]
    momentum_root = blake3_tree.root(momentum)
    return state_digest(weights_root=weights_root, momentum_root=momentum_root, chain=memory.leaves).hex()
