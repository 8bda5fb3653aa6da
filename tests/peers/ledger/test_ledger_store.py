"""The ledger on disk: what a crash leaves, what a lost branch takes, what can be proven after pruning."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from peers.credit.rfc9162_tree import EMPTY_ROOT, Frontier, consistent, includes, leaf_hash
from peers.ledger.store import Head, LedgerStore
from recipes.errors import StateError, StorageError


def entries_of(round_number: int) -> list[bytes]:
    """What a round adds: between none and four entries."""
    return [f"entry {place} of round {round_number}".encode() for place in range(round_number % 5)]


def append(store: LedgerStore, round_number: int) -> Head:
    return store.append(
        round_number=round_number, block=f"block {round_number}", entries=entries_of(round_number)
    )


def filled(path: Path, rounds: int) -> LedgerStore:
    store = LedgerStore(path)
    for number in range(1, rounds + 1):
        append(store, number)
    return store


def heads_of(rounds: int) -> list[Head]:
    """The heads that a ledger of these rounds must have."""
    tree = Frontier()
    heads = []
    for number in range(1, rounds + 1):
        for entry in entries_of(number):
            tree.append(leaf_hash(entry))
        heads.append(Head(number, f"block {number}", tree.size, tree.root()))
    return heads


def expect_first_rounds(store: LedgerStore, rounds: int) -> None:
    """Expect exactly what the first rounds added, each entry proven."""
    assert list(store.heads()) == heads_of(rounds)
    entries = [entry for number in range(1, rounds + 1) for entry in entries_of(number)]
    assert list(store.entries(0, store.size)) == entries
    head = store.head()
    root = head.root if head is not None else EMPTY_ROOT
    for number, entry in enumerate(entries):
        proof = store.inclusion_proof(number, store.size)
        assert includes(root, leaf_hash(entry), number, store.size, proof)


def test_a_ledger_survives_being_closed_and_goes_on(tmp_path: Path) -> None:
    filled(tmp_path / "ledger.sqlite", 7).close()
    store = LedgerStore(tmp_path / "ledger.sqlite")
    assert store.moved_aside is None
    append(store, 8)
    expect_first_rounds(store, 8)
    store.close()


def test_a_new_ledger_is_empty(tmp_path: Path) -> None:
    store = LedgerStore(tmp_path / "new" / "ledger.sqlite")
    assert store.head() is None
    expect_first_rounds(store, 0)
    assert store.first_kept() == 0
    store.close()


def test_rounds_cannot_be_left_out(tmp_path: Path) -> None:
    store = filled(tmp_path / "ledger.sqlite", 3)
    for wrong in (3, 5):
        with pytest.raises(StateError, match="cannot follow"):
            append(store, wrong)
    expect_first_rounds(store, 3)
    store.close()


def test_every_head_is_the_beginning_of_every_later_one(tmp_path: Path) -> None:
    store = filled(tmp_path / "ledger.sqlite", 20)
    heads = list(store.heads())
    for old in heads:
        for new in heads[old.round - 1 :]:
            proof = store.consistency_proof(old.size, new.size)
            assert consistent(old.size, old.root, new.size, new.root, proof)
    with pytest.raises(IndexError):
        store.consistency_proof(1, store.size + 1)
    store.close()


# ---------------------------------------------------------------- crashes


def test_a_write_ahead_log_cut_at_any_place_leaves_whole_rounds(tmp_path: Path) -> None:
    store = filled(tmp_path / "ledger.sqlite", 9)
    wal = (tmp_path / "ledger.sqlite-wal").read_bytes()
    rounds_found = set()
    for place in [*range(0, len(wal), 6007), len(wal)]:
        again = crashed(tmp_path, wal[:place])
        rounds_found.add(rounds_in(again))
        again.close()
    assert {0, 9} < rounds_found
    store.close()


def test_a_write_ahead_log_damaged_at_any_place_leaves_whole_rounds(tmp_path: Path) -> None:
    store = filled(tmp_path / "ledger.sqlite", 9)
    wal = bytearray((tmp_path / "ledger.sqlite-wal").read_bytes())
    for place in range(0, len(wal), 9001):
        wal[place] ^= 0x55
        again = crashed(tmp_path, bytes(wal))
        wal[place] ^= 0x55
        rounds_in(again)
        again.close()
    store.close()


def crashed(tmp_path: Path, wal: bytes) -> LedgerStore:
    """The store after a crash that left this of its log."""
    folder = tmp_path / "crashed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(tmp_path / "ledger.sqlite", folder)
    (folder / "ledger.sqlite-wal").write_bytes(wal)
    return LedgerStore(folder / "ledger.sqlite")


def rounds_in(store: LedgerStore) -> int:
    head = store.head()
    rounds = head.round if head is not None else 0
    expect_first_rounds(store, rounds)
    return rounds


APPENDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_ledger_store import append
from peers.ledger.store import LedgerStore
store = LedgerStore(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    append(store, number)
    print(number, flush=True)
"""


def test_a_kill_in_the_middle_of_appending_leaves_whole_rounds(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    command = [sys.executable, "-c", APPENDER, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = 0
        while told < 12:
            told = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        last = [int(line) for line in process.stdout.read().split("\n")[:-1]]
    store = LedgerStore(path)
    assert rounds_in(store) >= max([told, *last])
    store.close()


def test_a_damaged_ledger_is_moved_aside_and_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    filled(path, 9).close()
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)
    store = LedgerStore(path)
    assert store.moved_aside == tmp_path / "ledger.damaged"
    expect_first_rounds(store, 0)
    store.close()


def test_a_changed_hash_is_found_when_the_ledger_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    store = filled(path, 9)
    root = store.consistency_proof(16, store.size)
    store.close()
    content = path.read_bytes()
    peak = heads_of(9)[-1].root
    assert root
    assert peak in content
    path.write_bytes(content.replace(peak, bytes(32)))
    again = LedgerStore(path)
    assert again.moved_aside is not None
    again.close()


def test_a_disk_that_refuses_is_told_and_nothing_is_half_there(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    store = filled(path, 4)
    blocker = LedgerStore(path)
    blocker._database.execute("BEGIN IMMEDIATE")
    store._database.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(StorageError, match="Cannot keep the ledger"):
        append(store, 5)
    blocker._database.rollback()
    append(store, 5)
    expect_first_rounds(store, 5)
    blocker.close()
    store.close()


# ---------------------------------------------------------------- rewinding and pruning


def test_a_rewound_ledger_holds_what_the_new_branch_adds(tmp_path: Path) -> None:
    store = filled(tmp_path / "ledger.sqlite", 12)
    store.rewind(6)
    expect_first_rounds(store, 6)
    store.append(round_number=7, block="another block", entries=[b"another entry"])
    assert list(store.entries(heads_of(6)[-1].size, store.size)) == [b"another entry"]
    store.rewind(0)
    expect_first_rounds(store, 0)
    store.close()
    again = LedgerStore(tmp_path / "ledger.sqlite")
    assert again.moved_aside is None
    again.close()


def test_a_pruned_ledger_still_proves_that_no_head_was_rewritten(tmp_path: Path) -> None:
    store = filled(tmp_path / "ledger.sqlite", 30)
    nodes_before = store._database.execute("SELECT count(*) FROM nodes").fetchone()[0]
    first = heads_of(20)[-1].size
    assert store.prune(21) == first
    assert store._database.execute("SELECT count(*) FROM nodes").fetchone()[0] < nodes_before
    for number in range(31, 45):
        append(store, number)
    store.prune(25)
    heads = list(store.heads())
    assert heads == heads_of(44)
    for old in heads:
        for new in heads[old.round - 1 :]:
            proof = store.consistency_proof(old.size, new.size)
            assert consistent(old.size, old.root, new.size, new.root, proof)
    store.close()


def test_a_pruned_ledger_proves_what_it_keeps_and_says_what_it_cannot(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    store = filled(path, 30)
    store.prune(21)
    first = heads_of(20)[-1].size
    assert store.first_kept() == first
    root = heads_of(30)[-1].root
    for number, entry in enumerate(store.entries(0, store.size), start=first):
        assert includes(root, leaf_hash(entry), number, store.size, store.inclusion_proof(number, store.size))
    unproven = [number for number in range(first) if not is_proven(store, number)]
    assert unproven
    with pytest.raises(StateError, match=f"that entry {unproven[0]} is among"):
        store.inclusion_proof(unproven[0], store.size)
    with pytest.raises(StateError, match="were dropped"):
        store.rewind(7)
    store.close()
    again = LedgerStore(path)
    assert again.moved_aside is None
    again.rewind(25)
    assert [head.round for head in again.heads()][-1] == 25
    again.close()


def is_proven(store: LedgerStore, number: int) -> bool:
    try:
        return bool(store.inclusion_proof(number, store.size))
    except StateError:
        return False


def test_the_heads_of_rounds_without_entries_have_the_same_root() -> None:
    assert any(one.root == other.root for one, other in pairwise(heads_of(10)))
