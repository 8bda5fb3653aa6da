"""The accounts in a snapshot: served, fetched and healed piece by piece, and under the state digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from peers.protocol.requests import StatePiece
from peers.state.canonical_state import CanonicalState
from peers.state.chain_memory import ChainMemory
from recipes.errors import MessageError, StateError
from recipes.formats import blake3_tree
from recipes.layout import PIECE_BYTES, lay_out
from recipes.schema.sections import OuterSection

COUNTERS = b'{"round":0}'
FEW = ChainMemory(COUNTERS, b"{}")
MANY = ChainMemory(COUNTERS, bytes(range(256)) * (PIECE_BYTES // 128) + b"the rest")  # accounts in 3 pieces

LAYOUT = lay_out([("bias", (4096,))], segments=1)
WEIGHTS = bytes(4 * LAYOUT.padded)


def block(number: int) -> str:
    return blake3_tree.digest(str(number).encode()).hex()


def reopened(folder: Path) -> CanonicalState:
    return CanonicalState(folder, layout=LAYOUT, outer=OuterSection(learning_rate=0.5))


def fresh(folder: Path) -> CanonicalState:
    """A state whose weights are zeros, with its first snapshot."""
    genesis = folder / "snapshots" / "0"
    genesis.mkdir(parents=True)
    (genesis / "weights.f32").write_bytes(WEIGHTS)
    state = reopened(folder)
    root = blake3_tree.root([blake3_tree.leaf_hash(WEIGHTS)])
    state.adopt_genesis(FEW, block="00" * 32, weights_root=root)
    return state


def test_accounts_of_several_pieces_are_served_and_fetched_one_by_one(tmp_path: Path) -> None:
    donor = fresh(tmp_path / "donor")
    donor.apply({}, round_number=1, block=block(1))
    manifest = donor.save_snapshot(MANY)
    pieces = [piece for piece in manifest.pieces() if piece.kind == "accounts"]
    assert pieces == [StatePiece("accounts", index) for index in range(3)]
    assert donor.snapshots.read_piece(1, StatePiece("accounts", 3)) is None

    newcomer = reopened(tmp_path / "newcomer")
    newcomer.snapshots.begin(manifest)
    for piece in reversed(list(manifest.pieces())):
        newcomer.snapshots.write_piece(manifest, piece, donor.snapshots.serve_piece(1, piece) or b"")
        assert newcomer.snapshots.serve_piece(1, piece) == donor.snapshots.read_piece(1, piece)
    newcomer.snapshots.complete(manifest)
    assert newcomer.restore(1) == []
    assert newcomer.snapshots.memory(1) == MANY
    assert newcomer.digest(newcomer.snapshots.memory(1).leaves) == donor.digest(MANY.leaves)


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "too long", "gone"])
def test_damaged_accounts_of_a_snapshot_are_noticed_and_healed(tmp_path: Path, damage: str) -> None:
    state = fresh(tmp_path)
    state.apply({}, round_number=1, block=block(1))
    manifest = state.save_snapshot(MANY)
    path = tmp_path / "snapshots" / "1" / "accounts.json"
    content = path.read_bytes()
    wrong = {"a flipped bit": [1], "cut short": [1, 2], "too long": [2], "gone": [0, 1, 2]}[damage]
    if damage == "gone":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(content[: PIECE_BYTES + 5])
    elif damage == "too long":
        path.write_bytes(content + b"!")
    else:
        path.write_bytes(content[:PIECE_BYTES] + b"\xff" + content[PIECE_BYTES + 1 :])
    damaged = state.restore(1)
    assert damaged == [StatePiece("accounts", index) for index in wrong]
    with pytest.raises(StateError, match="damaged"):
        state.snapshots.memory(1)
    places = dict(MANY.pieces())
    for piece in damaged:
        state.snapshots.write_piece(manifest, piece, places[piece])
    assert state.restore(1) == []
    assert path.read_bytes() == content


def test_a_piece_of_other_accounts_is_refused(tmp_path: Path) -> None:
    state = fresh(tmp_path)
    manifest = state.save_snapshot(MANY)
    foreign = b"accounts of another branch"
    with pytest.raises(MessageError, match="accounts piece 2 has another hash"):
        state.snapshots.write_piece(manifest, StatePiece("accounts", 2), foreign)
    with pytest.raises(MessageError, match="no accounts piece 3"):
        state.snapshots.write_piece(manifest, StatePiece("accounts", 3), foreign)
    assert state.snapshots.missing(manifest) == []


def test_other_accounts_are_another_digest(tmp_path: Path) -> None:
    state = fresh(tmp_path)
    assert state.digest(MANY.leaves) != state.digest(FEW.leaves)
    assert state.digest(MANY.leaves) != state.digest(ChainMemory(COUNTERS, MANY.accounts[:-1]).leaves)
