"""The pieces of one snapshot of the state: which are missing, how each is asked for, and where it goes."""

from __future__ import annotations

import random

from peers.network.transport import Request
from peers.protocol.requests import Span, encode_piece
from peers.protocol.round_reasons import RefusedKind
from peers.state.manifest import SnapshotManifest
from peers.state.snapshots import SnapshotStore
from peers.sync.piece_download import Wanted
from recipes.formats import blake3_tree
from recipes.layout import PIECE_BYTES, Layout


class SnapshotPieces:
    """The pieces of a snapshot that was begun: a `PieceStore` on this peer's disk."""

    refused_as: RefusedKind = "state"

    def __init__(self, snapshots: SnapshotStore, manifest: SnapshotManifest, layout: Layout) -> None:
        self.what = f"the state after round {manifest.round}"
        self._snapshots = snapshots
        self._manifest = manifest
        self._padded_bytes = 4 * layout.padded
        self._pieces = {f"{piece.kind} {piece.index}": piece for piece in manifest.pieces()}

    def missing(self) -> list[Wanted]:
        """Return the pieces that are not here yet, in an order of this peer's own.

        Newcomers that came together then have other pieces to give each other.
        """
        manifest = self._manifest
        wanted = [
            Wanted(
                name=f"{piece.kind} {piece.index}",
                hash=manifest.leaf(piece),
                size=min(PIECE_BYTES, self._padded_bytes - piece.index * PIECE_BYTES),
                is_leaf=True,
            )
            for piece in self._snapshots.missing(manifest)
        ]
        random.shuffle(wanted)
        return wanted

    def has(self, _: Wanted) -> bool:
        """Return False: only the missing pieces are wanted."""
        return False

    def request(self, piece: Wanted, part: Span, *, timeout: float) -> Request:
        """Return the request for a part of a piece."""
        body = encode_piece(self._manifest.round, self._pieces[piece.name], part)
        return Request("piece", body, limit=part.length, timeout=timeout, purpose="snapshot")

    def keep(self, piece: Wanted, content: bytes) -> None:
        """Write a piece to its place."""
        self._snapshots.write_piece(self._manifest, self._pieces[piece.name], content)

    def reuse_own(self) -> None:
        """Copy the pieces that an own snapshot of another round already has."""
        snapshots, manifest = self._snapshots, self._manifest
        wanted = {manifest.leaf(piece): piece for piece in snapshots.missing(manifest)}
        for round_number in snapshots.rounds():
            own = snapshots.manifest(round_number)
            for piece in own.pieces() if own is not None else ():
                target = wanted.get(own.leaf(piece)) if own is not None else None
                data = snapshots.read_piece(round_number, piece) if target is not None else None
                if (
                    target is not None
                    and data is not None
                    and blake3_tree.leaf_hash(data) == manifest.leaf(target)
                ):
                    snapshots.write_piece(manifest, target, data)
