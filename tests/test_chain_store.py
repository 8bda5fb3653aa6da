"""The chain on disk: what a crash, a bad disk or a full one leaves of it."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

import pytest
from rounds import RUN, Swarm, name

from peers.chain import Link
from peers.chain_store import ChainStore
from peers.messages import Block, Signed
from recipes.errors import StorageError


def blocks(rounds: int = 3) -> list[Signed[Block]]:
    swarm = Swarm(2)
    found: list[Signed[Block]] = []
    link: Link = swarm.genesis
    for _ in range(rounds):
        link = swarm.grow(link, swarm.keys)
        assert link.block is not None
        found.append(link.block)
    return found


def save_all(store: ChainStore, chain: list[Signed[Block]]) -> None:
    for block in chain:
        store.save(block)


def filled(path: Path, chain: list[Signed[Block]]) -> ChainStore:
    store = ChainStore(path)
    save_all(store, chain)
    return store


def test_the_chain_survives_being_closed(tmp_path: Path) -> None:
    chain = blocks()
    store = filled(tmp_path / "chain.sqlite", chain)
    store.save_cosigned_round(3)
    claim = chain[-1].body.roster.body.claims[0]
    store.save_claim(claim)
    store.close()
    again = ChainStore(tmp_path / "chain.sqlite")
    assert again.moved_aside is None
    assert list(again.blocks(run=RUN)) == chain
    assert again.cosigned_round() == 3
    assert again.claims(run=RUN) == [claim]


def test_the_chain_survives_a_crash_before_anything_was_closed(tmp_path: Path) -> None:
    chain = blocks()
    store = filled(tmp_path / "chain.sqlite", chain)
    store.save_cosigned_round(2)
    again = ChainStore(tmp_path / "chain.sqlite")
    assert list(again.blocks(run=RUN)) == chain
    assert again.cosigned_round() == 2
    store.close()


def test_a_new_chain_is_empty(tmp_path: Path) -> None:
    store = ChainStore(tmp_path / "new" / "chain.sqlite")
    assert list(store.blocks(run=RUN)) == []
    assert store.contents(after_round=0, most_bytes=10**6) == []
    assert store.cosigned_round() == 0
    assert store.claims(run=RUN) == []


def test_blocks_come_parents_first_and_only_those_asked_for(tmp_path: Path) -> None:
    chain = blocks(4)
    store = filled(tmp_path / "chain.sqlite", chain[::-1])
    assert [block.body.round for block in store.blocks(run=RUN)] == [1, 2, 3, 4]
    assert [block.body.round for block in store.blocks(run=RUN, after_round=2)] == [3, 4]
    assert store.contents(after_round=3, most_bytes=10**6) == [chain[3].canonical()]


def test_an_answer_with_blocks_has_a_bounded_size(tmp_path: Path) -> None:
    chain = blocks(4)
    store = filled(tmp_path / "chain.sqlite", chain)
    sizes = [len(block.canonical()) + 4 for block in chain]
    for most in (sizes[0] - 1, sizes[0], sizes[0] + sizes[1] - 1, sum(sizes)):
        found = store.contents(after_round=0, most_bytes=most)
        assert found == [block.canonical() for block in chain[: len(found)]]
        assert sum(len(content) + 4 for content in found) <= most
        assert sum(sizes[: len(found) + 1]) > most or len(found) == 4


def test_the_newest_own_claims_are_kept_oldest_first_without_damaged_ones(tmp_path: Path) -> None:
    claims = [block.body.roster.body.claims[0] for block in blocks(4)]
    store = ChainStore(tmp_path / "chain.sqlite")
    for claim in claims:
        store.save_claim(claim)
    store.close()
    with sqlite3.connect(tmp_path / "chain.sqlite") as database:
        database.execute("UPDATE claims SET content = x'00' WHERE hash = ?", (claims[1].hash,))
    assert ChainStore(tmp_path / "chain.sqlite").claims(run=RUN) == [claims[0], *claims[2:]]


def test_a_file_that_is_no_database_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    path.write_bytes(b"something else" * 1000)
    store = ChainStore(path)
    assert store.moved_aside is not None
    assert store.moved_aside.read_bytes().startswith(b"something else")
    assert list(store.blocks(run=RUN)) == []
    store.save(blocks(1)[0])
    assert len(list(store.blocks(run=RUN))) == 1


def test_a_damaged_page_is_noticed_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    filled(path, blocks(12)).close()
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content) - 4096, 4096):
        content[start : start + 64] = b"\xff" * 64  # each page's header
    path.write_bytes(content)
    store = ChainStore(path)
    assert store.moved_aside is not None
    assert list(store.blocks(run=RUN)) == []


def test_a_block_that_the_disk_changed_is_left_out_and_can_be_saved_again(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    chain = blocks()
    filled(path, chain).close()
    with sqlite3.connect(path) as database:
        damaged = chain[1].canonical().replace(b'"attempt":0', b'"attempt":1')
        database.execute("UPDATE blocks SET content = ? WHERE round = 2", (damaged,))
    database.close()
    store = ChainStore(path)
    assert list(store.blocks(run=RUN)) == [chain[0], chain[2]]
    store.save(chain[1])
    assert list(store.blocks(run=RUN)) == chain


def test_blocks_of_another_run_are_left_out(tmp_path: Path) -> None:
    store = filled(tmp_path / "chain.sqlite", blocks(1))
    assert list(store.blocks(run=name("another run"))) == []


def test_a_path_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Cannot keep the chain"):
        ChainStore(tmp_path / "file" / "chain.sqlite")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="Cannot keep the chain"):
        ChainStore(tmp_path / "folder")
    assert (tmp_path / "folder").is_dir()


def test_a_full_disk_is_a_storage_error_and_loses_nothing(tmp_path: Path) -> None:
    chain = blocks(6)
    store = filled(tmp_path / "chain.sqlite", chain[:2])
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="full"):
        save_all(store, chain[2:])
    assert list(store.blocks(run=RUN))[:2] == chain[:2]


def test_a_chain_that_another_process_has_locked_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peers.chain_store.sqlite3.connect", partial(sqlite3.connect, timeout=0))
    path = tmp_path / "chain.sqlite"
    chain = blocks()
    store = filled(path, chain)
    store.save_cosigned_round(3)
    store.close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="locked"):
        ChainStore(path)
    other.close()
    assert not path.with_suffix(".damaged").exists()
    assert ChainStore(path).cosigned_round() == 3
