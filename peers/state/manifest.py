"""The manifest of a snapshot: the hash of each of its pieces, from which the state digest follows.

The snapshot's weights, momentum and accounts are cut into pieces of 1 MiB; its counters are one more piece.
A manifest from another peer is checked against the digest that the swarm agreed on, and each piece against
the manifest, so that nothing in a snapshot has to be trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peers.credit.canonical_accounts import MOST_ACCOUNTS_PIECES
from peers.protocol.requests import PieceKind, StatePiece
from peers.state.chain_memory import ChainLeaves
from recipes.errors import MessageError, Offence
from recipes.formats import blake3_tree
from recipes.layout import PIECE_BYTES, Layout
from recipes.schema.sections import HexHash

_IN_PIECES: tuple[PieceKind, ...] = ("accounts", "weights", "momentum")
_HASH_JSON_BYTES = 67  # a hash in a manifest: 64 digits, two quotes, a comma


class SnapshotManifest(BaseModel):
    """The manifest of one snapshot. Hashes of pieces are those of Merkle leaves; all hashes are hex.

    Attributes:
        version: of the format.
        round: the round whose block led to the state.
        block: hash of that block.
        weights: hash of each piece of the weights.
        momentum: hash of each piece of the momentum; empty if the recipe has none.
        counters: hash of the counters.
        accounts: hash of each piece of the accounts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[2] = 2
    round: int = Field(ge=0, lt=2**53)
    block: HexHash
    weights: tuple[HexHash, ...] = Field(
        fail_fast=True
    )  # a list of all problems would be larger than the input
    momentum: tuple[HexHash, ...] = Field(fail_fast=True)
    counters: HexHash
    accounts: tuple[HexHash, ...] = Field(min_length=1, max_length=MOST_ACCOUNTS_PIECES, fail_fast=True)

    def digest(self) -> bytes:
        """Return the digest of the state in the snapshot, 32 bytes."""
        return state_digest(
            weights_root=blake3_tree.root([bytes.fromhex(leaf) for leaf in self.weights]),
            momentum_root=blake3_tree.root([bytes.fromhex(leaf) for leaf in self.momentum]),
            chain=self.chain_leaves(),
        )

    def chain_leaves(self) -> ChainLeaves:
        """Return the hashes of what the snapshot holds of the chain."""
        accounts = tuple(bytes.fromhex(leaf) for leaf in self.accounts)
        return ChainLeaves(bytes.fromhex(self.counters), accounts)

    def leaf(self, piece: StatePiece) -> bytes:
        """Return the leaf hash of a piece, 32 bytes.

        Raises:
            IndexError: the snapshot has no such piece.
        """
        leaves = (self.counters,) if piece.kind == "counters" else getattr(self, piece.kind)
        if not 0 <= piece.index < len(leaves):
            raise IndexError(f"{piece.kind} piece {piece.index} of {len(leaves)}")
        return bytes.fromhex(leaves[piece.index])

    def pieces(self) -> Iterator[StatePiece]:
        """Yield all pieces: the counters, those of the accounts, of the weights, and of the momentum."""
        yield StatePiece("counters", 0)
        for kind in _IN_PIECES:
            for index in range(len(getattr(self, kind))):
                yield StatePiece(kind, index)

    def to_bytes(self) -> bytes:
        """Return the manifest as canonical JSON (RFC 8785)."""
        return rfc8785.dumps(self.model_dump(mode="json"))


def state_digest(*, weights_root: bytes, momentum_root: bytes, chain: ChainLeaves) -> bytes:
    """Return the digest of a state, 32 bytes. The roots are those over each array's pieces."""
    accounts_root = blake3_tree.root(chain.accounts)
    return blake3_tree.root([weights_root, momentum_root, chain.counters, accounts_root])


def piece_count(layout: Layout) -> int:
    """Return the number of pieces of the padded fp32 weights."""
    return -(-4 * layout.padded // PIECE_BYTES)


def manifest_limit(layout: Layout) -> int:
    """Return the length that no manifest of a model exceeds, in bytes."""
    return 1024 + (2 * piece_count(layout) + MOST_ACCOUNTS_PIECES) * _HASH_JSON_BYTES


def parse_manifest(content: bytes, *, layout: Layout, has_momentum: bool) -> SnapshotManifest:
    """Parse a manifest from a peer or from disk. The caller checks its digest.

    Args:
        content: the manifest's bytes, of any content.
        layout: of the model.
        has_momentum: whether the recipe has momentum.

    Raises:
        MessageError: it is malformed, too long, or of a state of another shape.
    """
    if len(content) > manifest_limit(layout):
        raise MessageError(
            f"A snapshot manifest of {len(content)} bytes is longer than any can be.",
            offence=Offence.OVERSIZED,
        )
    try:
        # In strict mode, a tuple is accepted only from JSON: there it is an array.
        manifest = SnapshotManifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MessageError(
            f"A snapshot manifest is malformed at {place or 'its start'}: {first['msg']}",
            offence=Offence.MALFORMED,
        ) from error
    pieces = piece_count(layout)
    if len(manifest.weights) != pieces or len(manifest.momentum) != (pieces if has_momentum else 0):
        raise MessageError(
            "A snapshot manifest is for a state of another shape than the recipe's.",
            offence=Offence.MALFORMED,
        )
    return manifest
