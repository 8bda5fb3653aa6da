"""The chain on disk: what a crash, a bad disk or a full one leaves of it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from rounds import RUN, Swarm, name, trunk

from peers.chain.acts import Acts
from peers.chain.finality import VoteLock
from peers.chain.link import Link
from peers.chain.rebuild import KeptFinal
from peers.consensus.operation_pool import MAX_OWN_OPERATIONS, Operation
from peers.protocol.messages import Block, Checkpoint, Evidence, Signed, Vouched, parse, sign, vouch
from peers.protocol.verdicts import Dispute
from peers.state.block_store import ChainStore
from recipes.errors import OutdatedError, StorageError


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
        store.save_block(block)


def filled(path: Path, chain: list[Signed[Block]]) -> ChainStore:
    store = ChainStore(path)
    save_all(store, chain)
    return store


def test_the_chain_survives_being_closed(tmp_path: Path) -> None:
    chain = blocks()
    store = filled(tmp_path / "chain.sqlite", chain)
    store.save_vote_lock(VoteLock(3, 2))
    claim = chain[-1].body.roster.body.claims[0]
    store.save_claim(claim)
    store.close()
    again = ChainStore(tmp_path / "chain.sqlite")
    assert again.moved_aside is None
    assert list(again.blocks(run=RUN)) == chain
    assert again.vote_lock() == VoteLock(3, 2)
    assert again.claims(run=RUN) == [claim]


def test_own_words_survive_the_newest_last_and_no_more_than_are_needed(tmp_path: Path) -> None:
    swarm = Swarm(2)
    [claim, *_] = blocks(1)[0].body.roster.body.claims
    key = swarm.keys[1]
    store = ChainStore(tmp_path / "chain.sqlite")
    dispute = sign(key, Dispute(run=RUN, peer=key.peer_id, claim=claim.hash))
    said = [swarm.verdict(key, claim, loss_error=float(number)) for number in range(MAX_OWN_OPERATIONS)]
    words: list[Operation] = [*said, dispute, dispute]
    for word in words:
        store.save_operation(word)
    store.close()
    again = ChainStore(tmp_path / "chain.sqlite")
    assert again.words(run=RUN) == [*said[1:], dispute]
    assert again.words(run=name("another run")) == []


def test_the_chain_survives_a_crash_before_anything_was_closed(tmp_path: Path) -> None:
    chain = blocks()
    store = filled(tmp_path / "chain.sqlite", chain)
    store.save_vote_lock(VoteLock(2, 1))
    again = ChainStore(tmp_path / "chain.sqlite")
    assert list(again.blocks(run=RUN)) == chain
    assert again.vote_lock() == VoteLock(2, 1)
    store.close()


def test_a_new_chain_is_empty(tmp_path: Path) -> None:
    store = ChainStore(tmp_path / "new" / "chain.sqlite")
    assert list(store.blocks(run=RUN)) == []
    assert store.contents(after_round=0, most_bytes=10**6) == []
    assert store.vote_lock() == VoteLock()
    assert store.final() is None
    assert store.checkpoint(run=RUN) is None
    assert store.evidence(run=RUN) == []
    assert store.claims(run=RUN) == []


def test_blocks_come_parents_first_and_only_those_asked_for(tmp_path: Path) -> None:
    chain = blocks(4)
    store = filled(tmp_path / "chain.sqlite", chain[::-1])
    assert [block.body.round for block in store.blocks(run=RUN)] == [1, 2, 3, 4]
    assert [block.body.round for block in store.blocks(run=RUN, after_round=2)] == [3, 4]
    assert store.contents(after_round=3, most_bytes=10**6) == [chain[3].canonical()]


def test_an_answer_with_blocks_has_a_bounded_size_but_one_block_at_least(tmp_path: Path) -> None:
    chain = blocks(4)
    store = filled(tmp_path / "chain.sqlite", chain)
    sizes = [len(block.canonical()) + 4 for block in chain]
    for most in (sizes[0] - 1, sizes[0], sizes[0] + sizes[1] - 1, sum(sizes)):
        found = store.contents(after_round=0, most_bytes=most)
        assert found == [block.canonical() for block in chain[: len(found)]]
        assert sum(sizes[: len(found)]) <= most or len(found) == 1
        assert sum(sizes[: len(found) + 1]) > most or len(found) == 4
    assert store.contents(after_round=4, most_bytes=100) == []


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
    store.save_block(blocks(1)[0])
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
    store.save_block(chain[1])
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
    monkeypatch.setattr("peers.state.block_store.sqlite3.connect", partial(sqlite3.connect, timeout=0))
    path = tmp_path / "chain.sqlite"
    chain = blocks()
    store = filled(path, chain)
    store.save_vote_lock(VoteLock(3, 2))
    store.close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="locked"):
        ChainStore(path)
    other.close()
    assert not path.with_suffix(".damaged").exists()
    assert ChainStore(path).vote_lock() == VoteLock(3, 2)


# ---------------------------------------------------------------- what must not be forgotten


def checkpoint(round_number: int) -> Vouched:
    owner = Swarm(1).keys[0]
    body = Checkpoint(
        run=RUN, peer=owner.peer_id, round=round_number, block=name("block"), digest=name("state")
    )
    return vouch(owner, body)


def contradictions(count: int) -> list[Evidence]:
    """Proofs that one peer co-signed two blocks of a round, each another."""
    swarm = Swarm(1)
    first, *others = [
        swarm.grow(swarm.genesis, swarm.keys, slots={swarm.keys[0].peer_id: n + 1}) for n in range(count + 1)
    ]
    one = swarm.cosign(swarm.keys[0], first)
    return [Evidence(one=one, other=swarm.cosign(swarm.keys[0], other)) for other in others]


def test_what_was_final_and_an_owners_word_are_kept_the_newest_alone(tmp_path: Path) -> None:
    store = ChainStore(tmp_path / "chain.sqlite")
    for number, settled in ((3, False), (7, True)):
        store.save_final(KeptFinal(number, name(str(number)), settled))
        store.save_checkpoint(checkpoint(number))
    again = ChainStore(tmp_path / "chain.sqlite")
    assert again.final() == KeptFinal(7, name("7"), settled=True)
    assert again.checkpoint(run=RUN) == checkpoint(7)
    assert again.checkpoint(run=name("another run")) is None


def test_of_a_culprit_the_first_proof_is_kept(tmp_path: Path) -> None:
    store = ChainStore(tmp_path / "chain.sqlite")
    first, second = contradictions(2)
    culprit = first.culprit()
    assert culprit is not None
    for evidence in (first, second):
        assert evidence.culprit() == culprit
        store.save_evidence(evidence)
    assert ChainStore(tmp_path / "chain.sqlite").evidence(run=RUN) == [first]


def test_evidence_and_checkpoints_that_the_disk_changed_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    store = ChainStore(path)
    evidence = contradictions(1)[0]
    store.save_evidence(evidence)
    store.save_checkpoint(checkpoint(4))
    store.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE proofs SET content = x'7b7d'")
        database.execute("UPDATE memory SET content = replace(content, '4', '5')")
    database.close()
    again = ChainStore(path)
    assert again.evidence(run=RUN) == []
    assert again.checkpoint(run=RUN) is None


def test_who_lost_the_chain_knows_by_the_marker_elsewhere_that_it_may_have_claimed(tmp_path: Path) -> None:
    """The vote lock is lost with the file, so nothing may be promised until it is known to be safe."""
    path, marker = tmp_path / "run" / "chain.sqlite", tmp_path / "elsewhere" / "claimed"
    store = ChainStore(path, marker=marker)
    assert not store.forgot
    store.save_vote_lock(VoteLock(1, 0))
    assert not marker.exists()
    store.save_claim(blocks(1)[0].body.roster.body.claims[0])
    store.close()
    assert marker.exists()
    assert not ChainStore(path, marker=marker).forgot
    shutil.rmtree(path.parent)
    lost = ChainStore(path, marker=marker)
    assert lost.forgot
    assert lost.vote_lock() is None


def test_who_never_claimed_forgot_nothing(tmp_path: Path) -> None:
    store = ChainStore(tmp_path / "run" / "chain.sqlite", marker=tmp_path / "elsewhere" / "claimed")
    store.close()
    shutil.rmtree(tmp_path / "run")
    again = ChainStore(tmp_path / "run" / "chain.sqlite", marker=tmp_path / "elsewhere" / "claimed")
    assert not again.forgot
    assert again.vote_lock() == VoteLock()


def test_who_found_its_chain_damaged_forgot_what_it_promised(tmp_path: Path) -> None:
    (tmp_path / "chain.sqlite").write_bytes(b"something else" * 1000)
    store = ChainStore(tmp_path / "chain.sqlite")
    assert store.forgot
    assert store.vote_lock() is None


def test_who_holds_the_state_of_a_later_round_without_any_block_forgot_what_it_promised(
    tmp_path: Path,
) -> None:
    assert ChainStore(tmp_path / "new.sqlite", state_round=0).vote_lock() == VoteLock()
    assert ChainStore(tmp_path / "lost.sqlite", state_round=7).vote_lock() is None


def test_an_older_copy_of_the_chain_promises_no_less_than_the_state_demands(tmp_path: Path) -> None:
    store = filled(tmp_path / "chain.sqlite", blocks())
    store.save_vote_lock(VoteLock(3, 2, 1))
    store.close()
    assert ChainStore(tmp_path / "chain.sqlite", state_round=2).vote_lock() == VoteLock(3, 2, 1)
    assert ChainStore(tmp_path / "chain.sqlite", state_round=9).vote_lock() == VoteLock(9, 2, 1)


def test_others_are_given_the_branch_that_is_followed_and_what_may_come_after_its_head(
    tmp_path: Path,
) -> None:
    swarm = Swarm(3)
    shared = swarm.grow(swarm.genesis, swarm.keys, 3)
    left = swarm.grow(shared, swarm.keys[:1], 2, cosigned=False)
    head = swarm.grow(shared, swarm.keys[1:], 2, cosigned=False)
    above = swarm.grow(head, swarm.keys[1:], 1, cosigned=False)
    everything = [link.block for link in swarm.chain.after(0) if link.block is not None]
    store = filled(tmp_path / "chain.sqlite", everything)

    def given(after_round: int = 0) -> list[str]:
        contents = store.contents(after_round=after_round, most_bytes=10**7)
        return [parse("block", content, run=RUN).hash for content in contents]  # type: ignore[union-attr]

    def branch(tip: Link) -> list[str]:
        return [link.hash for link in trunk(swarm, tip) if link.block is not None]

    assert len(given()) == len(everything)  # nothing is followed yet
    store.follow(swarm.chain, head.hash)
    assert given() == branch(above)
    assert given(4) == branch(above)[4:]
    store.follow(swarm.chain, left.hash)
    assert given() == [*branch(left), above.hash]
    store.close()
    assert given_again(tmp_path) == len(branch(left)) + 1


def given_again(folder: Path) -> int:
    """How many blocks are given after a restart."""
    store = ChainStore(folder / "chain.sqlite")
    found = len(store.contents(after_round=0, most_bytes=10**7))
    store.close()
    return found


def test_acts_as_leader_and_reducer_come_back_the_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    store = ChainStore(path)
    store.save_acts(name("a"), Acts(3, rosters=(0,)))
    store.save_acts(name("b"), Acts(4, blocks=(2,)))
    store.save_acts(name("a"), Acts(3, rosters=(0, 4), begun=(name("roster"),)))
    store.close()
    again = ChainStore(path)
    assert list(again.acts().items()) == [
        (name("b"), Acts(4, blocks=(2,))),
        (name("a"), Acts(3, rosters=(0, 4), begun=(name("roster"),))),
    ]
    assert again.vote_lock() is not None


def test_a_damaged_act_is_a_lost_memory(tmp_path: Path) -> None:
    """What it said, this peer might do once more, and otherwise."""
    path = tmp_path / "chain.sqlite"
    store = ChainStore(path)
    store.save_acts(name("a"), Acts(3, rosters=(0,)))
    store.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE acts SET content = 'x'")
    database.close()
    again = ChainStore(path)
    assert again.acts() == {}
    assert again.vote_lock() is None


# ------------------------------------------------------------ another version of the protocol


def of_version(path: Path, version: int) -> Path:
    """Let a database say that its content is of this version of the protocol."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    return path


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("version", "told"),
    [
        (0, "version 3, or an earlier one, .* this build speaks version 4.*\n.*use the build that wrote it"),
        (5, "version 5 .* this build speaks version 4.*\nInstall a newer build"),
    ],
)
def test_a_chain_of_another_version_is_left_alone_and_its_owner_told(
    tmp_path: Path, version: int, told: str, read_only: bool
) -> None:
    filled(tmp_path / "chain.sqlite", blocks()).close()
    path = of_version(tmp_path / "chain.sqlite", version)
    before = path.read_bytes()
    with pytest.raises(OutdatedError, match=told):
        ChainStore(path, read_only=read_only)
    assert path.read_bytes() == before


def test_own_claims_without_blocks_are_of_a_version_too(tmp_path: Path) -> None:
    store = ChainStore(tmp_path / "chain.sqlite")
    store.save_claim(blocks(1)[0].body.roster.body.claims[0])
    store.close()
    with pytest.raises(OutdatedError):
        ChainStore(of_version(tmp_path / "chain.sqlite", 0))


def test_an_empty_chain_is_of_no_version(tmp_path: Path) -> None:
    ChainStore(tmp_path / "chain.sqlite").close()
    again = filled(of_version(tmp_path / "chain.sqlite", 0), blocks())
    again.close()
    assert len(list(ChainStore(tmp_path / "chain.sqlite").blocks(run=RUN))) == 3
