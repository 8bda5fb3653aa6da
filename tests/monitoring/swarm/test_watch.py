"""Following a chain from outside: branches, restarts, and a peer's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledgers import ground
from rounds import Swarm, elected, trunk
from watching import START, blocks, run_picture, watched

from monitoring.sources.folder_source import PeersFolder
from monitoring.swarm.archive import Archive
from monitoring.swarm.block_times import Seen
from monitoring.swarm.loss_store import Measured
from monitoring.swarm.watch import SwarmWatch
from peers.chain.chain import Chain
from peers.state.block_store import ChainStore
from recipes.errors import DataError


def watch_of(
    swarm: Swarm,
    measured: Measured | None = None,
    *,
    seen: Seen | None = None,
    chain: Chain | None = None,
) -> SwarmWatch:
    return SwarmWatch(
        run_picture(swarm),
        ground(swarm),
        chain or swarm.fresh_chain(),
        archive=Archive(),
        measured=measured or Measured(None),
        seen=seen or Seen(None),
    )


def test_a_watch_that_begins_late_knows_what_one_from_the_beginning_knows() -> None:
    run = watched()
    run.grow(run.swarm.keys, 6)
    chain = run.swarm.fresh_chain()
    for block in blocks(run.links):
        chain.add(block)
    late = SwarmWatch(
        run_picture(run.swarm),
        ground(run.swarm),
        chain,
        archive=Archive(),
        measured=Measured(None),
        seen=Seen(None),
    )
    early, other = run.picture(), late.picture(now=START, heard_at=None)
    assert other.totals == early.totals
    assert other.peers == early.peers
    assert [one.block for one in other.rounds] == [one.block for one in early.rounds]


def test_when_another_branch_wins_its_rounds_take_the_place_of_the_lost_ones() -> None:
    swarm, head = elected(5)
    watch = watch_of(swarm)
    watch.take(blocks(trunk(swarm, head)))
    lost = swarm.grow(head, swarm.keys[:2], 2, cosigned=False)
    watch.take(blocks(trunk(swarm, lost))[-2:])
    assert watch.head == lost.hash
    won = swarm.grow(head, swarm.keys[1:], cosigned=False)
    watch.take(blocks([won]))
    for key in swarm.keys:
        watch.hear(swarm.cosign(key, won))
    picture = watch.picture(now=START, heard_at=None)
    assert picture.round == won.round
    assert picture.rounds[0].block == won.hash
    assert picture.totals.tokens == won.counters.tokens
    assert watch.archive.round(lost.round) is None
    assert watch.archive.contributions_of(swarm.keys[0].peer_id, limit=1)[0].round == head.round


def test_a_block_that_is_not_valid_in_its_place_is_refused_and_those_before_it_are_taken() -> None:
    run = watched()
    link = run.swarm.grow(run.swarm.genesis, run.swarm.keys)
    wrong = run.swarm.block(link, run.swarm.keys, round=7)
    watch = watch_of(run.swarm)
    with pytest.raises(DataError, match="wrong round"):
        watch.take([*blocks([link]), wrong])
    assert watch.round == 1


def test_a_block_without_its_parent_is_left_out() -> None:
    run = watched()
    run.grow(run.swarm.keys, 3)
    watch = watch_of(run.swarm)
    assert watch.take(blocks(run.links)[1:]) == []
    assert watch.round == 0


def test_what_lies_deep_below_the_final_block_is_forgotten_and_stays_in_the_archive() -> None:
    run = watched()
    run.grow(run.swarm.keys, 120)
    assert len(run.watch.chain.links) < 100
    assert run.picture().totals.results == {"complete": 120}
    assert run.watch.archive.round(1) is not None
    assert run.watch.ledger_head() == run.watch.chain.final


def test_beside_a_peer_each_block_is_seen_when_it_is_written(tmp_path: Path) -> None:
    run = watched()
    run.grow(run.swarm.keys, 4)
    watch = watch_of(run.swarm)
    folder = PeersFolder(watch, tmp_path / "chain.sqlite", run=run.swarm.rules.run)
    assert not folder.look(now=START)  # joined, and no block yet
    store = ChainStore(tmp_path / "chain.sqlite")
    for place, block in enumerate(blocks(run.links)):
        store.save_block(block)
        assert folder.look(now=START + place)
        assert not folder.look(now=START + place + 0.5)
    picture = watch.picture(now=START + 4, heard_at=folder.heard_at)
    assert [one.seen_at for one in picture.rounds] == [START + 3, START + 2, START + 1, START]
    assert picture.rounds[0].timing is not None
    assert picture.rounds[0].timing.seconds == 1
    assert folder.trouble == ""
    store.close()


def test_beside_a_peer_blocks_from_before_have_no_time(tmp_path: Path) -> None:
    run = watched()
    run.grow(run.swarm.keys, 4)
    store = ChainStore(tmp_path / "chain.sqlite")
    for block in blocks(run.links):
        store.save_block(block)
    watch = watch_of(run.swarm)
    PeersFolder(watch, tmp_path / "chain.sqlite", run=run.swarm.rules.run).look(now=START)
    assert watch.round == 4
    assert {one.seen_at for one in watch.picture(now=START, heard_at=None).rounds} == {None}
    store.close()


def test_a_forged_block_beside_is_trouble_and_not_taken(tmp_path: Path) -> None:
    run = watched()
    link = run.swarm.grow(run.swarm.genesis, run.swarm.keys)
    store = ChainStore(tmp_path / "chain.sqlite")
    store.save_block(blocks([link])[0])
    store.save_block(run.swarm.block(link, run.swarm.keys, round=9))
    watch = watch_of(run.swarm)
    folder = PeersFolder(watch, tmp_path / "chain.sqlite", run=run.swarm.rules.run)
    folder.look(now=START)
    assert watch.round == 1
    assert "wrong round" in folder.trouble
    store.close()


def test_losses_measured_in_an_earlier_life_are_known_again(tmp_path: Path) -> None:
    run = watched()
    run.grow(run.swarm.keys, 2)
    path = tmp_path / "losses.jsonl"
    first = watch_of(run.swarm, Measured(path))
    first.take(blocks(run.links))
    first.validated(2, 3.5, at=START)
    path.write_bytes(path.read_bytes() + b'{"round": 3, "tok')  # torn by a crash
    again = watch_of(run.swarm, Measured(path))
    again.take(blocks(run.links))
    (known,) = again.picture(now=START, heard_at=None).validations
    assert (known.round, known.loss, known.tokens) == (2, 3.5, run.head.counters.tokens)


def test_when_blocks_came_is_known_again_after_a_restart(tmp_path: Path) -> None:
    run = watched()
    run.grow(run.swarm.keys, 3)
    path = tmp_path / "seen.jsonl"
    first = watch_of(run.swarm, seen=Seen(path))
    for place, block in enumerate(blocks(run.links)):
        first.take([block], seen_at=START + 20 * place)
    path.write_bytes(path.read_bytes() + b'{"block": "ab')  # torn by a crash
    chain = run.swarm.fresh_chain()
    for block in blocks(run.links):
        chain.add(block)
    again = watch_of(run.swarm, seen=Seen(path), chain=chain)
    before, after = (watch.picture(now=START, heard_at=None) for watch in (first, again))
    assert after.rounds == before.rounds
    assert after.watched.seconds == before.watched.seconds == 40
