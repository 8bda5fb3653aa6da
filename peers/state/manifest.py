"""The manifest of a snapshot: the hash of each of its pieces, from which the state digest follows.

The snapshot's weights and momentum are cut into pieces of 1 MiB; its counters are one more piece. A manifest
from another peer is checked against the digest that the swarm agreed on, and each piece against the manifest,
so that nothing in a snapshot has to be trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peers.protocol.requests import StatePiece
from recipes.errors import MessageError, Offence
from recipes.formats import blake3_tree
from recipes.layout import PIECE_BYTES, Layout
from recipes.schema.sections import HexHash

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
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    round: int = Field(ge=0, lt=2**53)
    block: HexHash
    weights: tuple[HexHash, ...] = Field(
        fail_fast=True
    )  # a list of all problems would be larger than the input
    momentum: tuple[HexHash, ...] = Field(fail_fast=True)
    counters: HexHash

    def digest(self) -> bytes:
        """Return the digest of the state in the snapshot, 32 bytes."""
        return state_digest(
            weights=[bytes.fromhex(leaf) for leaf in self.weights],
            momentum=[bytes.fromhex(leaf) for leaf in self.momentum],
            counters=bytes.fromhex(self.counters),
        )

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
        """Yield all pieces: the counters, those of the weights, those of the momentum."""
        yield StatePiece("counters", 0)
        for index in range(len(self.weights)):
            yield StatePiece("weights", index)
        for index in range(len(self.momentum)):
            yield StatePiece("momentum", index)

    def to_bytes(self) -> bytes:
        """Return the manifest as canonical JSON (RFC 8785)."""
        return rfc8785.dumps(self.model_dump(mode="json"))


def state_digest(*, weights: Sequence[bytes], momentum: Sequence[bytes], counters: bytes) -> bytes:
    """Return the digest of a state from the leaf hashes of its pieces and of its counters, 32 bytes."""
    return blake3_tree.root([blake3_tree.root(weights), blake3_tree.root(momentum), counters])


def piece_count(layout: Layout) -> int:
    """Return the number of pieces of the padded fp32 weights."""
    return -(-4 * layout.padded // PIECE_BYTES)


def manifest_limit(layout: Layout) -> int:
    """Return the length that no manifest of a model exceeds, in bytes."""
    return 1024 + 2 * piece_count(layout) * _HASH_JSON_BYTES


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
