"""Snapshots on disk: the canonical state after some rounds, in pieces that are served, fetched and checked.

    snapshots/ROUND/manifest.json   the hash of each piece
    snapshots/ROUND/weights.f32     the padded weights, little-endian
    snapshots/ROUND/momentum.f32    the outer optimizer's momentum, if the recipe has any
    snapshots/ROUND/counters.json   the chain's counters
    snapshots/ROUND/accounts.json   every peer's credit, and the audits
    snapshots/ROUND.partial/        a snapshot that is being fetched or written

A whole snapshot appears by one rename. Its pieces are still checked whenever they are used: disks fail.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from peers.protocol.requests import PieceKind, StatePiece
from peers.state.chain_memory import ChainMemory
from peers.state.manifest import SnapshotManifest, parse_manifest
from peers.state.snapshot_pin import SnapshotPin
from recipes.errors import MessageError, StateError, StorageError
from recipes.formats import blake3_tree
from recipes.formats.files import write_atomic
from recipes.layout import PIECE_BYTES, Layout

MAX_COUNTERS_BYTES = PIECE_BYTES
SNAPSHOTS_KEPT = 2

_MANIFEST = "manifest.json"
_FILES: dict[PieceKind, str] = {
    "weights": "weights.f32",
    "momentum": "momentum.f32",
    "counters": "counters.json",
    "accounts": "accounts.json",
}


class SnapshotStore:
    """The snapshots in one run's folder: whole ones, and partial ones that are being fetched."""

    def __init__(
        self,
        folder: Path,
        *,
        layout: Layout,
        has_momentum: bool,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder / "snapshots"
        self._layout = layout
        self._has_momentum = has_momentum
        self._pin = SnapshotPin()
        self._needed_from: int | None = None
        self._now = now

    def need_from(self, round_number: int) -> None:
        """Keep the newest snapshot at or below a round, for audits. Replaces the round of the last call.

        Where none is that old, as at a newcomer, the oldest one is kept: later states are made from it.
        """
        self._needed_from = round_number

    def rounds(self) -> list[int]:
        """Return the rounds of all whole snapshots, ascending."""
        names = [path.parent.name for path in self._folder.glob(f"*/{_MANIFEST}")]
        return sorted(int(name) for name in names if name.isdecimal())

    def newest_below(self, round_number: int) -> int | None:
        """Return the round of the newest whole snapshot at or below a round, or None."""
        return max((number for number in self.rounds() if number <= round_number), default=None)

    def _needed(self) -> int | None:
        """Return the round of the snapshot that audits need, or None."""
        if self._needed_from is None:
            return None
        below = self.newest_below(self._needed_from)
        return below if below is not None else min(self.rounds(), default=None)

    def begun(self) -> list[int]:
        """Return the rounds of all partial snapshots, ascending."""
        names = [path.parent.stem for path in self._folder.glob(f"*.partial/{_MANIFEST}")]
        return sorted(int(name) for name in names if name.isdecimal())

    def manifest(self, round_number: int) -> SnapshotManifest | None:
        """Return the manifest of a whole snapshot, or None if it is missing or malformed."""
        return self._read_manifest(self._whole(round_number))

    def memory(self, round_number: int) -> ChainMemory:
        """Return what a whole snapshot holds of the chain.

        Raises:
            StateError: there is no such snapshot, or this part of it is damaged.
        """
        manifest = self.manifest(round_number)
        if manifest is None:
            raise StateError(f"There is no snapshot of round {round_number} here.")
        folder = self._whole(round_number)
        accounts = (
            self._read(folder, StatePiece("accounts", index)) for index in range(len(manifest.accounts))
        )
        memory = ChainMemory(self._read(folder, StatePiece("counters", 0)), b"".join(accounts))
        if memory.leaves != manifest.chain_leaves():
            raise StateError(f"Counters or accounts in the snapshot of round {round_number} are damaged.")
        return memory

    def begin(self, manifest: SnapshotManifest) -> None:
        """Make a partial snapshot, to be fetched. Pieces of the same snapshot that are here already are kept.

        Raises:
            StorageError: the disk refuses.
        """
        if self._home_of(manifest) is not None:
            return
        folder = self._partial(manifest.round)
        with _storage_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for kind in self._array_kinds():
                self._make_array_file(folder, kind)
        write_atomic(folder / _MANIFEST, manifest.to_bytes())

    def missing(self, manifest: SnapshotManifest) -> list[StatePiece]:
        """Return the pieces of a partial or whole snapshot that are missing on disk, or have another hash.

        This hashes the whole snapshot: call it at the beginning or at the end, not for each piece.
        """
        folder = self._home_of(manifest)
        pieces = list(manifest.pieces())
        if folder is None:
            return pieces
        return [
            piece
            for piece in pieces
            if blake3_tree.leaf_hash(self._read(folder, piece)) != manifest.leaf(piece)
        ]

    def write_piece(self, manifest: SnapshotManifest, piece: StatePiece, data: bytes) -> None:
        """Write a fetched piece to a partial snapshot, or replace a damaged one of a whole snapshot.

        Raises:
            MessageError: the piece has another hash, or the manifest has no such piece.
            StateError: the snapshot was not begun.
            StorageError: the disk refuses.
        """
        try:
            expected = manifest.leaf(piece)
        except IndexError as error:
            raise MessageError(f"The snapshot has no {error}.") from error
        if blake3_tree.leaf_hash(data) != expected:
            raise MessageError(f"The {piece.kind} piece {piece.index} has another hash than in the manifest.")
        folder = self._home_of(manifest)
        if folder is None:
            raise StateError(f"The snapshot of round {manifest.round} was not begun.")
        if piece.kind == "counters":
            write_atomic(folder / _FILES["counters"], data)
            return
        path = folder / _FILES[piece.kind]
        with _storage_errors(path):
            if piece.kind == "accounts":
                path.touch()
            elif not path.exists():
                self._make_array_file(folder, piece.kind)
            with path.open("r+b") as stream:
                stream.seek(piece.index * PIECE_BYTES)
                stream.write(data)
                if piece == StatePiece("accounts", len(manifest.accounts) - 1):
                    stream.truncate()  # a damaged file may have been longer

    def complete(self, manifest: SnapshotManifest) -> None:
        """Make a partial snapshot a whole one, once no piece is missing.

        Raises:
            StateError: a piece is missing or damaged.
            StorageError: the disk refuses.
        """
        folder = self._home_of(manifest)
        if missing := self.missing(manifest):
            raise StateError(f"{len(missing)} pieces of the snapshot of round {manifest.round} are missing.")
        if folder == self._partial(manifest.round):
            self._publish(manifest.round)

    def read_piece(self, round_number: int, piece: StatePiece) -> bytes | None:
        """Return a piece of a whole snapshot, unchecked, or None if it is not here."""
        manifest = self.manifest(round_number)
        if manifest is None or not _names(manifest, piece):
            return None
        return self._read(self._whole(round_number), piece) or None

    def serve_piece(self, round_number: int, piece: StatePiece) -> bytes | None:
        """Return a piece for a peer that fetches it, and keep its snapshot for a while (snapshot_pin.py).

        Pieces of partial snapshots are served too, if they are here.
        """
        if (content := self.read_piece(round_number, piece)) is not None:
            self._pin.requested(round_number, self._now())
            return content
        folder = self._partial(round_number)
        manifest = self._read_manifest(folder)
        if manifest is None or not _names(manifest, piece):
            return None
        content = self._read(folder, piece)
        return content if blake3_tree.leaf_hash(content) == manifest.leaf(piece) else None

    def save(
        self, manifest: SnapshotManifest, *, memory: ChainMemory, arrays: Mapping[PieceKind, Iterable[bytes]]
    ) -> None:
        """Write a whole snapshot, and delete older ones.

        Kept are the newest `SNAPSHOTS_KEPT`, genesis, the pinned one, and the one that audits need.

        Args:
            manifest: of the snapshot.
            memory: what the chain holds there.
            arrays: the pieces of the weights, and of the momentum if there is any.

        Raises:
            StorageError: the disk refuses. The snapshots are unchanged.
        """
        folder = self._partial(manifest.round)
        with _storage_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for kind, pieces in arrays.items():
                with (folder / _FILES[kind]).open("wb") as stream:
                    stream.writelines(pieces)
                    stream.flush()
                    os.fsync(stream.fileno())
                    # It is read again only if a peer fetches it: leave the memory to the training.
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._write_memory(folder, memory)
        write_atomic(folder / _MANIFEST, manifest.to_bytes())
        self._publish(manifest.round)
        superseded = [number for number in self.rounds() if number > 0][:-SNAPSHOTS_KEPT]
        pinned = self._pin.choose(superseded, newest=manifest.round, now=self._now())
        needed = self._needed()
        for old in superseded:
            if old not in (pinned, needed):
                shutil.rmtree(self._whole(old), ignore_errors=True)

    def adopt_genesis(self, manifest: SnapshotManifest, *, memory: ChainMemory) -> None:
        """Complete snapshots/0, which has only the genesis weights so far, to a whole snapshot.

        Raises:
            StorageError: the disk refuses.
        """
        folder = self._whole(0)
        self._write_memory(folder, memory)
        if self._has_momentum:
            with _storage_errors(folder):
                self._make_array_file(folder, "momentum")
        write_atomic(folder / _MANIFEST, manifest.to_bytes())

    def pieces_of(self, round_number: int, kind: PieceKind) -> Iterator[bytes]:
        """Yield the 1 MiB pieces of one array of a whole snapshot, unchecked.

        Raises:
            StateError: the file is not there.
        """
        try:
            with (self._whole(round_number) / _FILES[kind]).open("rb") as stream:
                while piece := stream.read(PIECE_BYTES):
                    yield piece
        except OSError as error:
            raise StateError(
                f"The snapshot of round {round_number} has no {kind}: {error.strerror}.",
                remedy="Join again: the missing file is fetched.",
            ) from error

    def _write_memory(self, folder: Path, memory: ChainMemory) -> None:
        write_atomic(folder / _FILES["counters"], memory.counters)
        write_atomic(folder / _FILES["accounts"], memory.accounts)

    def _whole(self, round_number: int) -> Path:
        return self._folder / str(round_number)

    def _partial(self, round_number: int) -> Path:
        return self._folder / f"{round_number}.partial"

    def _array_kinds(self) -> tuple[PieceKind, ...]:
        return ("weights", "momentum") if self._has_momentum else ("weights",)

    def _make_array_file(self, folder: Path, kind: PieceKind) -> None:
        """Make a sparse file of zeros, which takes no disk space yet."""
        with (folder / _FILES[kind]).open("wb") as stream:
            stream.truncate(4 * self._layout.padded)

    def _read_manifest(self, folder: Path) -> SnapshotManifest | None:
        try:
            content = (folder / _MANIFEST).read_bytes()
            return parse_manifest(content, layout=self._layout, has_momentum=self._has_momentum)
        except (OSError, MessageError):
            return None

    def _home_of(self, manifest: SnapshotManifest) -> Path | None:
        """Return the folder of the snapshot with this manifest, whole or partial; None without one."""
        folders = (self._whole(manifest.round), self._partial(manifest.round))
        return next((folder for folder in folders if self._read_manifest(folder) == manifest), None)

    def _read(self, folder: Path, piece: StatePiece) -> bytes:
        """Return a piece as it is on disk: short or empty if the file is cut short or missing."""
        limit = MAX_COUNTERS_BYTES if piece.kind == "counters" else PIECE_BYTES
        try:
            with (folder / _FILES[piece.kind]).open("rb") as stream:
                stream.seek(piece.index * PIECE_BYTES)
                return stream.read(limit)
        except OSError:
            return b""

    def _publish(self, round_number: int) -> None:
        """Rename a partial snapshot to a whole one, in place of any other of that round."""
        partial, whole = self._partial(round_number), self._whole(round_number)
        with _storage_errors(whole):
            shutil.rmtree(whole, ignore_errors=True)
            partial.replace(whole)
        for older in self.begun():
            if older < round_number:  # fetching it was given up
                shutil.rmtree(self._partial(older), ignore_errors=True)


def _names(manifest: SnapshotManifest, piece: StatePiece) -> bool:
    """Whether a snapshot has such a piece."""
    try:
        manifest.leaf(piece)
    except IndexError:
        return False
    return True


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Cannot write the snapshot {path}: {error.strerror or error}.",
            remedy="Free some space or make the folder writable, then run the same command again: it goes on "
            "from what is on disk.",
        ) from error
