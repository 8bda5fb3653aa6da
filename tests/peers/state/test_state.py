"""The canonical state: exact updates, digests, snapshots, and what is left after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from places import IMPORTING

from peers.codec.segment import SegmentFrame
from peers.codec.sparse_codec import SparseCodec
from peers.credit.canonical_accounts import MOST_ACCOUNTS_PIECES
from peers.protocol.requests import StatePiece
from peers.state.canonical_state import CanonicalState
from peers.state.chain_memory import ChainLeaves, ChainMemory
from peers.state.manifest import SnapshotManifest, manifest_limit, parse_manifest, piece_count, state_digest
from recipes.errors import MessageError, StateError, StorageError
from recipes.formats import blake3_tree
from recipes.layout import PIECE_BYTES, Layout, lay_out
from recipes.schema.sections import OuterSection

CODEC = SparseCodec(keep=256, level_bits=3)
COUNTERS = b'{"round":0}'
ACCOUNTS = b'{"round":"7"}'
MEMORY = ChainMemory(COUNTERS, ACCOUNTS)
LEAVES = MEMORY.leaves
GENESIS = "00" * 32
SEGMENTS = 3

# 1.2 million parameters: 297 chunks, 99 a segment, not quite 5 pieces; a piece holds parts of 2 segments.
LAYOUT = lay_out([("weight", (1000, 1200))], segments=SEGMENTS)

PLAIN = OuterSection(learning_rate=0.8)
HEAVY = OuterSection(learning_rate=0.8, momentum=0.5)
NESTEROV = OuterSection(learning_rate=0.8, momentum=0.9, nesterov=True)
OUTERS = pytest.mark.parametrize("outer", [PLAIN, HEAVY, NESTEROV], ids=["plain", "momentum", "nesterov"])


def block(number: int) -> str:
    return blake3_tree.digest(str(number).encode()).hex()


def first_weights() -> NDArray[np.float32]:
    weights = np.zeros(LAYOUT.padded, dtype=np.float32)
    weights[: LAYOUT.size] = np.random.default_rng(0).standard_normal(LAYOUT.size) * 0.02
    return weights


def weights_root() -> bytes:
    content = first_weights().tobytes()
    pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]
    return blake3_tree.root([blake3_tree.leaf_hash(piece) for piece in pieces])


def reduced(seed: int, segments: tuple[int, ...] = (0, 1, 2)) -> dict[int, SegmentFrame]:
    rng = np.random.default_rng(seed)
    shape = (LAYOUT.chunks_per_segment, 4096)
    values = {segment: (rng.standard_normal(shape) * 1e-3).astype(np.float32) for segment in range(SEGMENTS)}
    return {segment: SegmentFrame.encode(values[segment], codec=CODEC) for segment in segments}


def fresh(folder: Path, outer: OuterSection = PLAIN) -> CanonicalState:
    genesis = folder / "snapshots" / "0"
    genesis.mkdir(parents=True)
    (genesis / "weights.f32").write_bytes(first_weights().tobytes())
    state = CanonicalState(folder, layout=LAYOUT, outer=outer)
    assert not state.clean
    state.adopt_genesis(MEMORY, block=GENESIS, weights_root=weights_root())
    return state


def reopened(folder: Path, outer: OuterSection = PLAIN) -> CanonicalState:
    return CanonicalState(folder, layout=LAYOUT, outer=outer)


def stepped_densely(outer: OuterSection, rounds: list[dict[int, SegmentFrame]]) -> NDArray[np.float32]:
    """The outer optimizer over the whole vector, one float32 operation at a time."""
    weights = first_weights()
    momentum = np.zeros_like(weights)
    rate, decay = np.float32(outer.learning_rate), np.float32(outer.momentum)
    for frames in rounds:
        for segment, frame in frames.items():
            place = LAYOUT.segment_slice(segment)
            update = frame.decode().dense().reshape(-1)
            momentum[place] = np.add(np.multiply(momentum[place], decay), update)
            step = momentum[place]
            if outer.nesterov:
                step = np.add(np.multiply(momentum[place], decay), update)
            weights[place] = np.subtract(weights[place], np.multiply(step, rate))
    return weights


@OUTERS
def test_the_state_takes_exactly_the_outer_optimizers_steps(tmp_path: Path, outer: OuterSection) -> None:
    state = fresh(tmp_path, outer)
    rounds = [reduced(1), reduced(2, (0, 2)), reduced(3)]
    for number, frames in enumerate(rounds, start=1):
        state.apply(frames, round_number=number, block=block(number))
    np.testing.assert_array_equal(state.weights, stepped_densely(outer, rounds))
    assert (state.round, state.block, state.clean) == (3, block(3), True)


@OUTERS
def test_the_digest_is_that_of_the_files_pieces_the_counters_and_the_accounts(
    tmp_path: Path, outer: OuterSection
) -> None:
    state = fresh(tmp_path, outer)
    for number in (1, 2):
        state.apply(reduced(number, (1,)), round_number=number, block=block(number))
        roots = []
        for name in ("weights.f32", "momentum.f32"):
            path = tmp_path / "state" / name
            content = path.read_bytes() if path.exists() else b""
            pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]
            roots.append(blake3_tree.root([blake3_tree.leaf_hash(piece) for piece in pieces]))
        accounts = blake3_tree.root([blake3_tree.leaf_hash(ACCOUNTS)])
        assert state.digest(LEAVES) == blake3_tree.root([*roots, blake3_tree.leaf_hash(COUNTERS), accounts])
        assert state.digest(LEAVES) == state.manifest(LEAVES).digest()


def test_a_round_without_reduced_segments_changes_nothing_but_its_place(tmp_path: Path) -> None:
    state = fresh(tmp_path, HEAVY)
    state.apply(reduced(1), round_number=1, block=block(1))
    before = state.digest(LEAVES)
    state.apply({}, round_number=2, block=block(2))
    assert state.digest(LEAVES) == before
    assert state.round == 2


def test_segments_may_be_given_in_any_order(tmp_path: Path) -> None:
    forwards, backwards = fresh(tmp_path / "a"), fresh(tmp_path / "b")
    forwards.apply(reduced(1), round_number=1, block=block(1))
    backwards.apply(dict(reversed(reduced(1).items())), round_number=1, block=block(1))
    assert forwards.digest(LEAVES) == backwards.digest(LEAVES)


def test_momentum_that_nothing_feeds_ends_at_zero_before_it_is_subnormal(tmp_path: Path) -> None:
    layout = lay_out([("bias", (4096,))], segments=1)
    state = CanonicalState(tmp_path, layout=layout, outer=HEAVY)
    (tmp_path / "snapshots" / "0").mkdir(parents=True)
    (tmp_path / "snapshots" / "0" / "weights.f32").write_bytes(bytes(4 * 4096))
    state.adopt_genesis(
        MEMORY, block=GENESIS, weights_root=blake3_tree.root([blake3_tree.leaf_hash(bytes(4 * 4096))])
    )
    pulse = SegmentFrame.encode(np.eye(1, 4096, dtype=np.float32), codec=CODEC)
    silence = SegmentFrame.encode(np.zeros((1, 4096), dtype=np.float32), codec=CODEC)
    momenta = []
    for number in range(1, 100):
        state.apply({0: pulse if number == 1 else silence}, round_number=number, block=block(number))
        momenta.append(np.fromfile(tmp_path / "state" / "momentum.f32", dtype="<f4")[0])
    assert momenta[:65] == [0.5**age for age in range(65)]
    assert not any(momenta[65:])


def test_the_weights_cannot_be_changed_from_outside(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        fresh(tmp_path).weights[0] = 1.0


@pytest.mark.parametrize("segment", [-1, SEGMENTS])
def test_a_segment_that_does_not_exist_is_refused_and_nothing_is_changed(
    tmp_path: Path, segment: int
) -> None:
    state = fresh(tmp_path)
    before = state.digest(LEAVES)
    with pytest.raises(ValueError, match="does not fit"):
        state.apply({0: reduced(1)[0], segment: reduced(1)[1]}, round_number=1, block=block(1))
    assert state.digest(LEAVES) == before


@OUTERS
def test_a_state_survives_the_end_of_its_process(tmp_path: Path, outer: OuterSection) -> None:
    state = fresh(tmp_path, outer)
    state.apply(reduced(1), round_number=1, block=block(1))
    again = reopened(tmp_path, outer)
    assert (again.clean, again.round, again.block) == (True, 1, block(1))
    assert again.digest(LEAVES) == state.digest(LEAVES)


def test_an_update_cut_short_by_a_kill_is_noticed_and_undone(tmp_path: Path) -> None:
    fresh(tmp_path).save_snapshot(MEMORY)
    script = f"""
import dataclasses, os, pathlib, signal
from peers.codec.sparse_codec import SparseCodec
import test_state

class DeadlyCodec(SparseCodec):
    def decode_batches(self, encoded):
        os.kill(os.getpid(), signal.SIGKILL)

frames = test_state.reduced(1)
frames[2] = dataclasses.replace(frames[2], codec=DeadlyCodec(256, 3))
state = test_state.reopened(pathlib.Path({str(tmp_path)!r}))
state.apply(frames, round_number=1, block=test_state.block(1))
"""
    killed = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": IMPORTING},
        check=False,
    )
    assert killed.returncode == -9
    state = reopened(tmp_path)
    assert (state.weights != first_weights()).any()
    assert not state.clean
    with pytest.raises(StateError, match="not whole"):
        state.digest(LEAVES)
    with pytest.raises(StateError, match="not whole"):
        state.apply({}, round_number=1, block=block(1))
    assert state.restore(0) == []
    assert state.clean
    np.testing.assert_array_equal(state.weights, first_weights())


@pytest.mark.parametrize("damage", ["a flipped bit", "a missing file", "a torn marker", "no marker"])
def test_damage_to_the_working_files_is_noticed_at_the_next_start(tmp_path: Path, damage: str) -> None:
    fresh(tmp_path)
    weights, marker = tmp_path / "state" / "weights.f32", tmp_path / "state" / "state.json"
    if damage == "a flipped bit":
        content = bytearray(weights.read_bytes())
        content[PIECE_BYTES + 5] ^= 1
        weights.write_bytes(content)
    elif damage == "a missing file":
        weights.unlink()
    elif damage == "a torn marker":
        marker.write_bytes(marker.read_bytes()[:30])
    else:
        marker.unlink()
    state = reopened(tmp_path)
    assert not state.clean
    assert state.restore(0) == []
    np.testing.assert_array_equal(state.weights, first_weights())


def test_first_weights_other_than_the_recipes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "snapshots" / "0" / "weights.f32"
    path.parent.mkdir(parents=True)
    path.write_bytes(first_weights().tobytes()[:-4] + b"\x01\x00\x00\x00")
    state = reopened(tmp_path)
    with pytest.raises(StateError, match="not those that the recipe names"):
        state.adopt_genesis(MEMORY, block=GENESIS, weights_root=weights_root())
    path.unlink()
    with pytest.raises(StateError, match="no weights"):
        state.adopt_genesis(MEMORY, block=GENESIS, weights_root=weights_root())
    assert not state.clean


@OUTERS
def test_restoring_a_snapshot_brings_back_its_digest(tmp_path: Path, outer: OuterSection) -> None:
    state = fresh(tmp_path, outer)
    state.apply(reduced(1), round_number=1, block=block(1))
    one = ChainMemory(b"one", b"accounts of one")
    saved = state.save_snapshot(one)
    state.apply(reduced(2), round_number=2, block=block(2))
    assert state.restore(1) == []
    assert (state.round, state.block) == (1, block(1))
    assert state.digest(one.leaves) == saved.digest()
    assert state.snapshots.memory(1) == one
    assert state.restore(0) == []
    assert state.block == GENESIS
    np.testing.assert_array_equal(state.weights, first_weights())


def test_the_newest_two_snapshots_and_genesis_are_kept(tmp_path: Path) -> None:
    state = fresh(tmp_path)
    for number in range(1, 5):
        state.apply({}, round_number=number, block=block(number))
        state.save_snapshot(MEMORY)
    assert state.snapshots.rounds() == [0, 3, 4]
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == {"0", "3", "4"}


def test_a_snapshot_of_another_branch_takes_the_place_of_the_first(tmp_path: Path) -> None:
    state = fresh(tmp_path)
    state.apply(reduced(1), round_number=1, block=block(1))
    state.save_snapshot(MEMORY)
    state.restore(0)
    state.apply(reduced(2), round_number=1, block=block(101))
    other = state.save_snapshot(MEMORY)
    assert state.snapshots.manifest(1) == other
    assert state.snapshots.missing(other) == []


def test_damaged_pieces_of_a_snapshot_are_named_healed_and_then_restored(tmp_path: Path) -> None:
    state = fresh(tmp_path / "own", HEAVY)
    state.apply(reduced(1), round_number=1, block=block(1))
    manifest = state.save_snapshot(MEMORY)
    donor = {piece: state.snapshots.read_piece(1, piece) or b"" for piece in manifest.pieces()}
    folder = tmp_path / "own" / "snapshots" / "1"
    content = bytearray((folder / "weights.f32").read_bytes())
    content[PIECE_BYTES * 2] ^= 0x80
    (folder / "weights.f32").write_bytes(content)
    (folder / "momentum.f32").write_bytes((folder / "momentum.f32").read_bytes()[: 3 * PIECE_BYTES + 1])
    (folder / "counters.json").unlink()

    damaged = state.restore(1)
    last = piece_count(LAYOUT) - 1
    assert damaged == [
        StatePiece("counters", 0),
        StatePiece("weights", 2),
        *(StatePiece("momentum", i) for i in range(3, last + 1)),
    ]
    for piece in damaged:
        state.snapshots.write_piece(manifest, piece, donor[piece])
    assert state.restore(1) == []
    assert state.digest(LEAVES) == manifest.digest()


def test_a_newcomer_fetches_a_snapshot_piece_by_piece_and_resumes(tmp_path: Path) -> None:
    donor = fresh(tmp_path / "donor", NESTEROV)
    donor.apply(reduced(1), round_number=1, block=block(1))
    sent = donor.save_snapshot(MEMORY).to_bytes()

    newcomer = reopened(tmp_path / "newcomer", NESTEROV)
    manifest = parse_manifest(sent, layout=LAYOUT, has_momentum=True)
    newcomer.snapshots.begin(manifest)
    wanted = newcomer.snapshots.missing(manifest)
    assert wanted == list(manifest.pieces())
    for piece in wanted[:4]:
        newcomer.snapshots.write_piece(manifest, piece, donor.snapshots.read_piece(1, piece) or b"")
    with pytest.raises(StateError, match="pieces of the snapshot of round 1 are missing"):
        newcomer.snapshots.complete(manifest)
    assert newcomer.snapshots.rounds() == []

    newcomer = reopened(tmp_path / "newcomer", NESTEROV)
    newcomer.snapshots.begin(manifest)
    assert newcomer.snapshots.missing(manifest) == wanted[4:]
    for piece in wanted[4:]:
        newcomer.snapshots.write_piece(manifest, piece, donor.snapshots.read_piece(1, piece) or b"")
    newcomer.snapshots.complete(manifest)
    assert newcomer.restore(1) == []
    assert newcomer.digest(newcomer.snapshots.memory(1).leaves) == donor.digest(LEAVES)


def test_a_piece_that_is_not_what_the_manifest_names_is_refused(tmp_path: Path) -> None:
    state = fresh(tmp_path)
    manifest = state.save_snapshot(MEMORY)
    good = state.snapshots.read_piece(0, StatePiece("weights", 0)) or b""
    with pytest.raises(MessageError, match="weights piece 1 has another hash"):
        state.snapshots.write_piece(manifest, StatePiece("weights", 1), good)
    with pytest.raises(MessageError, match="no weights piece 99"):
        state.snapshots.write_piece(manifest, StatePiece("weights", 99), good)
    with pytest.raises(MessageError, match="no momentum piece 0"):
        state.snapshots.write_piece(manifest, StatePiece("momentum", 0), good)
    assert state.snapshots.missing(manifest) == []


def test_only_pieces_that_exist_are_served(tmp_path: Path) -> None:
    snapshots = fresh(tmp_path).snapshots
    assert snapshots.read_piece(0, StatePiece("counters", 0)) == COUNTERS
    assert len(snapshots.read_piece(0, StatePiece("weights", 0)) or b"") == PIECE_BYTES
    assert snapshots.read_piece(0, StatePiece("weights", -1)) is None
    assert snapshots.read_piece(0, StatePiece("weights", piece_count(LAYOUT))) is None
    assert snapshots.read_piece(0, StatePiece("momentum", 0)) is None
    assert snapshots.read_piece(7, StatePiece("weights", 0)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"version":1}',
        SnapshotManifest(
            round=1, block=GENESIS, weights=(), momentum=(), counters=GENESIS, accounts=(GENESIS,)
        ).to_bytes(),
        b" " * (manifest_limit(LAYOUT) + 1),
    ],
    ids=["nothing", "no object", "too little", "another shape", "too long"],
)
def test_a_malformed_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(MessageError):
        parse_manifest(content, layout=LAYOUT, has_momentum=False)


def test_the_longest_manifest_is_within_its_limit() -> None:
    leaves = ("ff" * 32,) * piece_count(LAYOUT)
    manifest = SnapshotManifest(
        round=2**53 - 1,
        block="ff" * 32,
        weights=leaves,
        momentum=leaves,
        counters="ff" * 32,
        accounts=("ff" * 32,) * MOST_ACCOUNTS_PIECES,
    )
    assert len(manifest.to_bytes()) <= manifest_limit(LAYOUT)
    assert parse_manifest(manifest.to_bytes(), layout=LAYOUT, has_momentum=True) == manifest


def test_a_state_without_momentum_has_the_empty_tree_in_its_digest() -> None:
    leaf = blake3_tree.leaf_hash(b"x")
    expected = blake3_tree.root([leaf, blake3_tree.EMPTY_ROOT, leaf, leaf])
    digest = state_digest(
        weights_root=leaf, momentum_root=blake3_tree.root([]), chain=ChainLeaves(leaf, (leaf,))
    )
    assert digest == expected


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"in the way")
    with pytest.raises(StorageError, match=r"Cannot keep \d+ bytes"):
        reopened(tmp_path)


def digest_after_two_rounds(folder: Path) -> str:
    state = fresh(folder, NESTEROV)
    for number in (1, 2):
        state.apply(reduced(number), round_number=number, block=block(number))
    return state.digest(LEAVES).hex()


@pytest.mark.parametrize(
    "environment",
    [
        {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_ICL AVX2 FMA3"},
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"},
    ],
    ids=["without vector instructions", "one thread", "four threads"],
)
def test_every_machine_reaches_the_same_digest(tmp_path: Path, environment: dict[str, str]) -> None:
    script = "import sys, test_state as t; print(t.digest_after_two_rounds(t.Path(sys.argv[1])))"
    there = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "there")],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment, "PYTHONPATH": IMPORTING},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == digest_after_two_rounds(tmp_path / "here")


def test_a_layout_of_one_short_piece_works(tmp_path: Path) -> None:
    layout: Layout = lay_out([("bias", (7,))], segments=2)
    assert piece_count(layout) == 1
    state = CanonicalState(tmp_path, layout=layout, outer=PLAIN)
    assert state.weights.size == layout.padded == 2 * 4096
