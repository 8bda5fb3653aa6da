"""The canonical state: the weights and the outer optimizer's state, the same bits at every honest peer.

It is in files that are mapped into memory and updated in place, segment by segment:

    state/weights.f32    the padded weights, little-endian
    state/momentum.f32   the outer optimizer's momentum, if the recipe has any
    state/state.json     the block whose state this is, and the roots over its pieces

Each float operation is a single one in float32, so that no vector width, thread count or fused multiplication
can change a bit. state.json is written when an update is complete. If a crash cuts an update short, the roots
in it do not fit the arrays: this is noticed at the next start, and a snapshot is restored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peers.codec.segment import SegmentFrame
from peers.protocol.requests import PieceKind, StatePiece
from peers.state.chain_memory import ChainLeaves, ChainMemory
from peers.state.manifest import SnapshotManifest, piece_count
from peers.state.memmap import MappedArray
from peers.state.snapshots import SnapshotStore
from recipes.errors import StateError
from recipes.formats import blake3_tree
from recipes.formats.files import write_atomic
from recipes.layout import CHUNK_VALUES, PIECE_BYTES, Layout
from recipes.schema.sections import HexHash, OuterSection

WEIGHTS_FILE = "state/weights.f32"
_FLOAT32 = np.dtype("<f4")
_MARKER_LIMIT = 4096

# Momentum without updates decays for ever. Below this it becomes zero, before it can become subnormal: some
# processors and settings treat subnormal numbers as zero, others do not.
_SMALLEST_MOMENTUM = np.float32(2.0**-64)


class _Marker(BaseModel):
    """The content of state.json. `roots` are the Merkle roots over the pieces of each array."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: int = Field(ge=1, le=1)
    round: int
    block: HexHash
    roots: tuple[HexHash, ...]


class CanonicalState:
    """One run's canonical state on this machine.

    Attributes:
        snapshots: the run's snapshots.
        round: the round whose block led to this state.
        block: hash of that block, hex.
        weights_file: the file that `weights` is mapped from.
        clean: whether the state is whole. It is not before the first `restore` or `adopt_genesis`, after an
            update was cut short, or if another program changed the files; those two methods make it clean.
    """

    def __init__(
        self,
        folder: Path,
        *,
        layout: Layout,
        outer: OuterSection,
        snapshots: SnapshotStore | None = None,
    ) -> None:
        """Open the state in a folder, or allocate the files for one, and check it against state.json.

        Args:
            folder: the run's folder, or another one for a second state.
            layout: of the model.
            outer: the recipe's outer optimizer.
            snapshots: the run's snapshots; None for those in `folder`.

        Raises:
            StorageError: the disk is full, or refuses.
        """
        self._folder = folder / "state"
        self.weights_file = folder / WEIGHTS_FILE
        self._layout = layout
        self._outer = outer
        self._arrays: dict[PieceKind, MappedArray[np.float32]] = {}
        kinds: tuple[PieceKind, ...] = ("weights", "momentum") if outer.momentum else ("weights",)
        for kind in kinds:
            path = self._folder / f"{kind}.f32"
            self._arrays[kind] = MappedArray(path, dtype=_FLOAT32, count=layout.padded)
        self._leaves: dict[PieceKind, list[bytes | None]] = {}
        self._forget_leaves()
        self.snapshots = snapshots or SnapshotStore(folder, layout=layout, has_momentum=bool(outer.momentum))
        marker = self._read_marker()
        self.round = marker.round if marker else 0
        self.block = marker.block if marker else ""
        self.clean = marker is not None and marker.roots == self._roots()
        self._release()

    @property
    def weights(self) -> NDArray[np.float32]:
        """The padded weights, read-only. Later calls of `apply` and `restore` change this array."""
        view = self._arrays["weights"].array.view()
        view.flags.writeable = False
        return view

    def apply(self, reduced: Mapping[int, SegmentFrame], *, round_number: int, block: str) -> None:
        """Apply a block: take the outer optimizer's step with its reduced segments.

        The weights and momentum of a segment that is not in `reduced` stay as they are.

        Args:
            reduced: the reduced segments, by index.
            round_number: the block's round.
            block: the block's hash, hex.

        Raises:
            ValueError: a segment does not fit the layout. Nothing was changed.
            StateError: the state is not clean.
        """
        self._must_be_clean()
        for segment, frame in reduced.items():
            if (
                not 0 <= segment < self._layout.segments
                or len(frame.encoded) != self._layout.chunks_per_segment
            ):
                raise ValueError(f"segment {segment} of {len(frame.encoded)} chunks does not fit the layout")
        self._begin_change(round_number, block)
        for segment, frame in sorted(reduced.items()):
            place = self._layout.segment_slice(segment)
            if self._outer.momentum:
                self._step_with_momentum(place, frame)
            else:
                self._step(place, frame)
            self._forget_leaves(place)
            self._release()
        self._end_change()

    def digest(self, chain: ChainLeaves) -> bytes:
        """Return the digest of this state with what the chain holds there, 32 bytes.

        Raises:
            StateError: the state is not clean.
        """
        return self.manifest(chain).digest()

    def manifest(self, chain: ChainLeaves) -> SnapshotManifest:
        """Return the manifest that a snapshot of this state, with what the chain holds there, would have.

        Raises:
            StateError: the state is not clean.
        """
        self._must_be_clean()
        return self._manifest(chain)

    def save_snapshot(self, memory: ChainMemory) -> SnapshotManifest:
        """Write a snapshot of this state with what the chain holds there, and return its manifest.

        Raises:
            StateError: the state is not clean.
            StorageError: the disk refuses. The snapshots are unchanged.
        """
        manifest = self.manifest(memory.leaves)
        pieces = {kind: self._pieces(kind) for kind in self._arrays}
        self.snapshots.save(manifest, memory=memory, arrays=pieces)
        self._release()
        return manifest

    def adopt_genesis(self, memory: ChainMemory, *, block: str, weights_root: bytes) -> None:
        """Set the genesis state: the genesis weights, which are in snapshots/0, and a momentum of zeros.

        Args:
            memory: what the chain holds at genesis.
            block: the genesis hash, hex, which stands for the block before the first.
            weights_root: the root over the weights' pieces, from the recipe.

        Raises:
            StateError: the weights are missing, or not those of the recipe.
            StorageError: the disk refuses.
        """
        self._begin_change(0, block)
        self._copy(self.snapshots.pieces_of(0, "weights"), kind="weights")
        if blake3_tree.root(self._hashes("weights")) != weights_root:
            raise StateError(
                "The genesis weights in snapshots/0 are not those that the recipe names.",
                remedy="Delete the run's folder and join again: they are fetched.",
            )
        if "momentum" in self._arrays:
            self._arrays["momentum"].array[:] = 0.0
        self.snapshots.adopt_genesis(self._manifest(memory.leaves), memory=memory)
        self._end_change()

    def restore(self, round_number: int) -> list[StatePiece]:
        """Set the state to that of a snapshot.

        Returns:
            The snapshot's damaged pieces. If there are any, the state was not changed: fetch them, write them
            with `snapshots.write_piece`, and restore again.

        Raises:
            StateError: there is no such snapshot.
        """
        manifest = self.snapshots.manifest(round_number)
        if manifest is None:
            raise StateError(f"There is no snapshot of round {round_number} here.")
        if damaged := self.snapshots.missing(manifest):
            return damaged
        self._begin_change(manifest.round, manifest.block)
        for kind in self._arrays:
            self._copy(self.snapshots.pieces_of(round_number, kind), kind=kind)
        if self._manifest_leaves() != (manifest.weights, manifest.momentum):
            raise StateError(f"The snapshot of round {round_number} changed while it was read.")
        self._end_change()
        return []

    def _step(self, place: slice, frame: SegmentFrame) -> None:
        """Take a step of plain SGD. Only values with an update change."""
        weights = self._arrays["weights"].array[place]
        learning_rate = np.float32(self._outer.learning_rate)
        first = 0
        for part in frame.codec.decode_batches(frame.encoded):
            weights[first + part.positions] -= part.values * learning_rate  # no position occurs twice
            first += part.chunks * CHUNK_VALUES

    def _step_with_momentum(self, place: slice, frame: SegmentFrame) -> None:
        """Take a step of SGD with momentum, as in torch.optim.SGD; Nesterov's if the recipe says so."""
        weights, momentum = (self._arrays[kind].array[place] for kind in ("weights", "momentum"))
        learning_rate, decay = np.float32(self._outer.learning_rate), np.float32(self._outer.momentum)
        first = 0
        for part in frame.codec.decode_batches(frame.encoded):
            here = slice(first, first + part.chunks * CHUNK_VALUES)
            update = part.dense().reshape(-1)
            velocity = momentum[here] * decay
            velocity += update
            velocity[np.abs(velocity) < _SMALLEST_MOMENTUM] = 0.0
            momentum[here] = velocity
            step = velocity
            if self._outer.nesterov:
                step = velocity * decay
                step += update
            weights[here] -= step * learning_rate
            first = here.stop

    def _copy(self, pieces: Iterator[bytes], *, kind: PieceKind) -> None:
        """Overwrite an array with `pieces`. Missing ones become zeros, and surplus ones are ignored."""
        target = self._arrays[kind].array
        target[:] = 0.0
        position = 0
        for piece in pieces:
            values = np.frombuffer(piece[: len(piece) // 4 * 4], dtype=_FLOAT32)[: target.size - position]
            target[position : position + values.size] = values
            position += values.size
        self._forget_leaves()
        self._release()

    def _manifest(self, chain: ChainLeaves) -> SnapshotManifest:
        weights, momentum = self._manifest_leaves()
        return SnapshotManifest(
            round=self.round,
            block=self.block,
            weights=weights,
            momentum=momentum,
            counters=chain.counters.hex(),
            accounts=tuple(map(bytes.hex, chain.accounts)),
        )

    def _manifest_leaves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        weights, momentum = (tuple(map(bytes.hex, self._hashes(kind))) for kind in ("weights", "momentum"))
        return weights, momentum

    def _pieces(self, kind: PieceKind) -> Iterator[bytes]:
        mapped = self._arrays[kind]
        for index in range(piece_count(self._layout)):
            yield bytes(mapped.bytes_between(index * PIECE_BYTES, (index + 1) * PIECE_BYTES))

    def _hashes(self, kind: PieceKind) -> list[bytes]:
        """Return the leaf hashes of an array's pieces. Only pieces that changed since are hashed again."""
        if kind not in self._arrays:
            return []
        mapped, leaves = self._arrays[kind], self._leaves[kind]
        hashes = []
        for index, known in enumerate(leaves):
            start = index * PIECE_BYTES
            leaf = known or blake3_tree.leaf_hash(mapped.bytes_between(start, start + PIECE_BYTES))
            leaves[index] = leaf
            hashes.append(leaf)
        return hashes

    def _forget_leaves(self, place: slice | None = None) -> None:
        count = piece_count(self._layout)
        if place is None:
            self._leaves = {kind: [None] * count for kind in self._arrays}
            return
        first, last = 4 * place.start // PIECE_BYTES, (4 * place.stop - 1) // PIECE_BYTES
        for leaves in self._leaves.values():
            leaves[first : last + 1] = [None] * (last + 1 - first)

    def _roots(self) -> tuple[str, ...]:
        return tuple(blake3_tree.root(self._hashes(kind)).hex() for kind in self._arrays)

    def _begin_change(self, round_number: int, block: str) -> None:
        self.clean = False
        self.round, self.block = round_number, block

    def _end_change(self) -> None:
        marker = _Marker(version=1, round=self.round, block=self.block, roots=self._roots())
        write_atomic(self._folder / "state.json", marker.model_dump_json().encode())
        self._release()
        self.clean = True

    def _read_marker(self) -> _Marker | None:
        try:
            with (self._folder / "state.json").open("rb") as stream:
                return _Marker.model_validate_json(stream.read(_MARKER_LIMIT))
        except (OSError, ValidationError):
            return None

    def _must_be_clean(self) -> None:
        if not self.clean:
            raise StateError(
                "The state on disk is not whole.", remedy="Join again: it is restored from a snapshot."
            )

    def _release(self) -> None:
        for mapped in self._arrays.values():
            mapped.release()
