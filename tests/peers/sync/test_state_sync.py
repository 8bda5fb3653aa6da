"""Bringing the state to a block: the cheapest way there is, and never on anybody's word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from replicas import FORM, LAYOUT, PIECES, Replica, World, another_name, flipped
from rounds import name

from peers.chain.link import Link
from peers.codec.segment import SegmentFrame
from peers.credit.canonical_accounts import parse_accounts
from peers.protocol.events import Diverged, Notice, Refused
from peers.protocol.requests import StatePiece, encode_round
from peers.state.chain_memory import ChainMemory, memory_after
from recipes.errors import MessageError, StateError, UnreachableError

HUGE = 2**40  # announced for a reduced segment, it makes a snapshot the cheaper way


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def genesis(world: World) -> Link:
    return world.swarm.genesis


def digest(world: World, link: Link) -> str:
    """The state after `link`, as its writer computed it."""
    return world.swarm.digests[link.hash]


def damage(path: Path, piece: int = 0) -> None:
    """Flip a bit of a piece in a file of values."""
    with path.open("r+b") as stream:
        stream.seek((piece << 20) + 5)
        (value,) = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([value ^ 1]))


async def test_one_block_on_is_applied_with_what_is_here(world: World) -> None:
    writer = world.replica(0)
    (link,) = await world.rounds(genesis(world), writer, 1)
    assert await writer.bring_to(link) == digest(world, link) != world.swarm.genesis_digest
    assert (writer.state.round, writer.state.block) == (1, link.hash)
    assert await writer.bring_to(link) == digest(world, link)  # there already
    assert writer.events == []


async def test_who_lags_behind_catches_up_by_reduced_segments(world: World) -> None:
    writer, late = world.replica(0), world.replica(1)
    links = await world.rounds(genesis(world), writer, 5)
    late.sources = [writer]
    assert await late.bring_to(links[-1]) == digest(world, links[-1])
    np.testing.assert_array_equal(late.state.weights, writer.state.weights)
    assert set(writer.asked) == {"reduced"}
    assert len(writer.asked) == 5 * LAYOUT.segments
    assert late.snapshots.rounds() == [0, 4]


async def test_what_is_far_behind_fetches_a_snapshot_when_that_moves_fewer_bytes(world: World) -> None:
    writer, late = world.replica(0), world.replica(1)
    links: list[Link] = []
    for number in range(6):
        parent = links[-1] if links else genesis(world)
        links.append(await world.round(parent, writer, seed=number, announced=HUGE))
    late.sources = [writer]
    assert await late.bring_to(links[-1]) == digest(world, links[-1])
    assert len(writer.pieces_asked) == PIECES
    assert writer.asked.count("reduced") == 2 * LAYOUT.segments  # rounds 5 and 6
    assert 4 in late.snapshots.rounds()


async def test_a_newcomer_without_any_weights_starts_from_a_snapshot(world: World) -> None:
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 5)
    newcomer.sources = [writer]
    assert await newcomer.bring_to(links[-1]) == digest(world, links[-1])
    assert newcomer.snapshots.rounds() == [4]


async def test_a_snapshot_holds_the_accounts_of_its_chain(world: World) -> None:
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 5)
    newcomer.sources = [writer]
    await newcomer.bring_to(links[-1])
    for peer in (writer, newcomer):
        memory = peer.snapshots.memory(4)
        assert parse_accounts(memory.accounts) == links[3].accounts
        assert parse_accounts(memory.accounts).round == 4
        assert memory == memory_after(links[3])
    assert {piece.kind for _, piece in writer.pieces_asked} == {"weights"}  # the chain has the rest


async def test_a_snapshot_of_other_accounts_than_the_chains_is_passed_over(world: World) -> None:
    """Its digest is another one, so the chain does not vouch for it: all rounds are replayed instead."""
    writer, other, newcomer = world.replica(0), world.replica(1), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 5)
    other.sources, newcomer.sources = [writer], [other]
    await other.bring_to(links[3])
    other.state.save_snapshot(ChainMemory(memory_after(links[3]).counters, b'{"round":"4"}'))
    assert await newcomer.bring_to(links[3]) == digest(world, links[3])
    assert {number for number, _ in other.pieces_asked} == {0}
    assert newcomer.snapshots.memory(4) == memory_after(links[3])


async def test_a_snapshot_that_all_vouch_for_is_still_held_against_the_chains_accounts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 5)
    newcomer.sources = [writer]
    false = ChainMemory(memory_after(links[3]).counters, b'{"round":"4"}')
    monkeypatch.setattr("peers.sync.state_sync.memory_after", lambda _: false)
    with pytest.raises(MessageError, match="other counters or accounts than its chain"):
        await newcomer.sync._fetch_snapshot(4, links[-1].hash, world.chain)
    assert newcomer.snapshots.begun() == []


async def test_a_newcomer_to_a_young_run_starts_from_the_first_weights(world: World) -> None:
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 2)
    newcomer.sources = [writer]
    assert await newcomer.bring_to(links[-1]) == digest(world, links[-1])
    assert newcomer.snapshots.rounds() == [0]


async def test_the_newest_block_needs_nobodys_word_yet(world: World) -> None:
    """A block that nobody co-signed yet, at a round of snapshots: the one before leads to it."""
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 7)
    head = await world.round(links[-1], writer, seed=50, cosigned=False)
    assert head.round % world.swarm.rules.snapshot_interval == 0
    newcomer.sources = [writer]
    assert await newcomer.bring_to(head) == digest(world, head)


async def test_pieces_that_are_here_already_are_not_fetched(world: World) -> None:
    """From genesis to round 4, only the last two segments changed."""
    writer, late = world.replica(0), world.replica(1)
    links = await world.rounds(genesis(world), writer, 5)
    late.sources = [writer]
    await late.bring_to(links[-1])
    damage(late.folder / "snapshots" / "4" / "weights.f32", piece=1)
    damage(late.folder / "state" / "weights.f32")
    late.open()
    writer.pieces_asked.clear()
    assert not late.state.clean
    assert await late.bring_to(links[-1]) == digest(world, links[-1])
    assert len(writer.pieces_asked) == 1


async def test_a_state_torn_by_a_crash_is_restored_from_the_own_snapshot(world: World) -> None:
    writer = world.replica(0)
    links = await world.rounds(genesis(world), writer, 6)
    damage(writer.folder / "state" / "weights.f32", piece=2)
    writer.open()
    assert not writer.state.clean
    assert await writer.bring_to(links[-1]) == digest(world, links[-1])
    assert writer.events == []


@pytest.mark.parametrize("lie", [flipped, another_name])
async def test_a_source_that_lies_with_a_reduced_segment_is_passed_over(world: World, lie: object) -> None:
    writer, liar, late = world.replica(0), world.replica(1), world.replica(2)
    links = await world.rounds(genesis(world), writer, 2)
    liar.sources = [writer]
    await liar.bring_to(links[-1])
    liar.lies["reduced"] = lie  # type: ignore[assignment]
    late.sources = [liar, writer]
    assert await late.bring_to(links[-1]) == digest(world, links[-1])


@pytest.mark.parametrize("kind", ["snapshot", "piece"])
async def test_a_source_that_lies_with_a_snapshot_or_a_piece_is_passed_over(world: World, kind: str) -> None:
    writer, liar, newcomer = world.replica(0), world.replica(1), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 5)
    liar.sources = [writer]
    await liar.bring_to(links[-1])
    liar.lies[kind] = flipped
    newcomer.sources = [liar, writer]
    assert await newcomer.bring_to(links[-1]) == digest(world, links[-1])
    refused = newcomer.told(Refused)
    assert [event.peer for event in refused if isinstance(event, Refused)] == (
        [liar.key.peer_id] if kind == "piece" else []
    )


async def test_a_snapshot_of_another_state_is_not_taken_from_anyone(world: World) -> None:
    """Well-formed and complete, but not what the chain vouches for."""
    writer, other, newcomer = world.replica(0), world.replica(1), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 5)
    branch = await world.rounds(genesis(world), other, 5, seed=9)
    newcomer.sources = [other, writer]
    assert await newcomer.bring_to(links[-1]) == digest(world, links[-1])
    assert digest(world, branch[-1]) != digest(world, links[-1])
    assert other.asked.count("snapshot") >= 1


async def test_a_rewind_ends_in_the_state_that_going_there_directly_gives(world: World) -> None:
    one, other, third = world.replica(0), world.replica(1), world.replica(2)
    links = await world.rounds(genesis(world), one, 5)
    third.sources = [one]
    await third.bring_to(links[1])
    branch = await world.rounds(links[1], third, 4, seed=5)
    assert branch[-1].round == 6
    one.sources, other.sources = [third], [one, third]
    assert await one.bring_to(branch[-1]) == digest(world, branch[-1])
    assert await other.bring_to(branch[-1]) == digest(world, branch[-1])
    np.testing.assert_array_equal(one.state.weights, third.state.weights)
    assert await one.bring_to(links[-1]) == digest(world, links[-1])  # and back


async def test_a_rewind_below_every_own_snapshot_fetches_one(world: World) -> None:
    """Who came by a snapshot cannot go back beyond it on its own."""
    one, other, newcomer = world.replica(0), world.replica(1), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), one, 5)
    branch = await world.rounds(genesis(world), other, 5, seed=3)
    newcomer.sources = [one]
    await newcomer.bring_to(links[-1])
    assert newcomer.snapshots.rounds() == [4]
    newcomer.sources = [other]
    assert await newcomer.bring_to(branch[-1]) == digest(world, branch[-1])


async def test_a_rewind_below_every_snapshot_begins_again_from_the_first_weights(world: World) -> None:
    one, other, newcomer = world.replica(0), world.replica(1), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), one, 5)
    branch = await world.rounds(genesis(world), other, 3, seed=3)
    newcomer.sources = [one]
    await newcomer.bring_to(links[-1])
    newcomer.sources = [other]
    assert await newcomer.bring_to(branch[-1]) == digest(world, branch[-1])


async def test_what_nobody_has_can_be_had_later(world: World) -> None:
    writer, late = world.replica(0), world.replica(1)
    links = await world.rounds(genesis(world), writer, 2)
    with pytest.raises(UnreachableError, match="segment 0 of round 1"):
        await late.bring_to(links[-1])
    late.sources = [writer]
    assert await late.bring_to(links[-1]) == digest(world, links[-1])


async def test_a_newcomer_that_reaches_nobody_can_try_again(world: World) -> None:
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 5)
    with pytest.raises(UnreachableError):
        await newcomer.bring_to(links[-1])
    newcomer.sources = [writer]
    assert await newcomer.bring_to(links[-1]) == digest(world, links[-1])


async def test_a_state_older_than_the_chain_known_here_can_be_had_later(world: World) -> None:
    """Old rounds were forgotten, and nobody with a newer snapshot answers: not this machine's fault."""
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 7)
    world.chain.prune(below_round=6)
    with pytest.raises(UnreachableError):
        await newcomer.bring_to(links[-1])


# ---------------------------------------------------------------- a line slower than snapshots are replaced


async def test_what_was_fetched_of_a_snapshot_counts_although_newer_ones_appeared(world: World) -> None:
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 5)
    old = writer.snapshots.manifest(4)
    assert old is not None
    first = StatePiece("weights", 0)
    content = writer.snapshots.serve_piece(4, first)
    assert content is not None
    newcomer.snapshots.begin(old)
    newcomer.snapshots.write_piece(old, first, content)
    links += await world.rounds(links[-1], writer, 12, seed=3)
    assert writer.snapshots.rounds() == [0, 4, 12, 16]  # round 4 stays, for somebody is fetching it
    newcomer.sources = [writer]
    assert await newcomer.bring_to(links[-1]) == digest(world, links[-1])
    assert writer.pieces_asked == {(4, StatePiece("weights", 1)), (4, StatePiece("weights", 2))}


async def test_what_was_begun_and_is_gone_gives_way_to_the_newest_snapshot(world: World) -> None:
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 5)
    old = writer.snapshots.manifest(4)
    assert old is not None
    newcomer.snapshots.begin(old)
    links += await world.rounds(links[-1], writer, 12, seed=3)
    assert writer.snapshots.rounds() == [0, 12, 16]  # nobody asked for a piece of round 4
    newcomer.sources = [writer]
    assert await newcomer.bring_to(links[-1]) == digest(world, links[-1])
    assert {round_number for round_number, _ in writer.pieces_asked} == {16}
    assert newcomer.snapshots.begun() == []  # nothing of it stays on disk


async def test_a_snapshot_is_served_while_it_is_fetched_as_far_as_it_is_here(world: World) -> None:
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    await world.rounds(genesis(world), writer, 5)
    manifest = writer.snapshots.manifest(4)
    assert manifest is not None
    first = StatePiece("weights", 0)
    content = writer.snapshots.serve_piece(4, first)
    assert content is not None
    newcomer.snapshots.begin(manifest)
    newcomer.snapshots.write_piece(manifest, first, content)
    assert newcomer.snapshots.serve_piece(4, first) == content
    assert newcomer.snapshots.serve_piece(4, StatePiece("weights", 1)) is None
    assert newcomer.snapshots.serve_piece(4, StatePiece("weights", 99)) is None
    assert newcomer.snapshots.serve_piece(8, first) is None


# ---------------------------------------------------------------- a state unlike everybody else's


def corrupt(replica: Replica, links: list[Link], *, segment: int) -> None:
    """Have a replica compute something else than everybody: its state is whole, but wrong."""
    wrong = SegmentFrame.encode(
        np.full((LAYOUT.chunks_per_segment, 4096), 0.25, dtype=np.float32), codec=FORM.at(0).reduced_codec
    )
    replica.state.apply({segment: wrong}, round_number=links[-1].round, block=links[-1].hash)


async def test_a_state_that_diverged_heals_from_the_own_snapshot(world: World) -> None:
    writer, other = world.replica(0), world.replica(1)
    links = await world.rounds(genesis(world), writer, 5)
    other.sources = [writer]
    await other.bring_to(links[-1])
    corrupt(other, links, segment=1)
    links.append(await world.round(links[-1], writer, seed=60))
    assert await other.bring_to(links[-1]) == digest(world, links[-1])
    assert other.told(Diverged) == [Diverged(round=5, pieces=0)]


async def test_a_diverged_state_that_was_snapshot_heals_by_the_pieces_that_differ(world: World) -> None:
    writer, other = world.replica(0), world.replica(1)
    links = await world.rounds(genesis(world), writer, 3)
    other.sources = [writer]
    await other.bring_to(links[-1])
    links += await world.rounds(links[-1], writer, 1, seed=6)
    await other.bring_to(links[-1])
    corrupt(other, links, segment=1)
    other.state.save_snapshot(memory_after(links[-1]))
    links.append(await world.round(links[-1], writer, seed=60))
    writer.pieces_asked.clear()
    assert await other.bring_to(links[-1]) == digest(world, links[-1])
    assert other.told(Diverged) == [Diverged(round=4, pieces=1)]
    assert len(writer.pieces_asked) == 1


async def test_a_machine_that_diverges_again_and_again_is_told_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, faulty = world.replica(0), world.replica(1)
    links = await world.rounds(genesis(world), writer, 3)
    faulty.sources = [writer]
    true_apply = faulty.state.apply

    def miscompute(frames: dict[int, SegmentFrame], *, round_number: int, block: str) -> None:
        true_apply({1: frames[0], 0: frames[1]}, round_number=round_number, block=block)

    monkeypatch.setattr(faulty.state, "apply", miscompute)
    with pytest.raises(StateError, match="another state than all other peers"):
        await faulty.bring_to(links[-1])
    assert len(faulty.told(Diverged)) == 2


async def test_a_leader_that_lies_about_the_state_before_does_not_make_others_doubt_theirs(
    world: World,
) -> None:
    """Nobody co-signed what it says: its block is left alone, however often it is tried."""
    writer = world.replica(0)
    links = await world.rounds(genesis(world), writer, 2)
    false = world.chain.add(
        world.swarm.block(links[-1], world.swarm.keys, digest_before=name("a state of its own"))
    )
    for _ in range(4):
        with pytest.raises(MessageError, match="Nobody vouches"):
            await writer.bring_to(false)
    assert writer.told(Diverged) == []
    assert await writer.bring_to(links[-1]) == digest(world, links[-1])


async def test_reduced_segments_are_worth_keeping_back_to_the_older_snapshot(world: World) -> None:
    writer = world.replica(0)
    links = await world.rounds(genesis(world), writer, 3)
    assert writer.sync.oldest_needed_round() == 0
    await world.rounds(links[-1], writer, 18, seed=2)
    assert writer.snapshots.rounds() == [0, 16, 20]
    assert writer.sync.oldest_needed_round() == min(16, 21 - world.swarm.rules.rewind_depth)


async def test_a_snapshot_that_cannot_be_had_is_told(world: World) -> None:
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 5)
    writer.lies["snapshot"] = flipped
    newcomer.sources = [writer]
    with pytest.raises(UnreachableError):
        await newcomer.bring_to(links[-1])
    notices = [event.text for event in newcomer.told(Notice) if isinstance(event, Notice)]
    assert [text for text in notices if "1 peers name those of rounds 4, and none" in text]


async def test_a_newcomer_asks_which_snapshots_there_are_and_for_no_other(world: World) -> None:
    """A long chain vouches for many, and two or three are still held."""
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 21)
    newcomer.sources = [writer]
    await newcomer.bring_to(links[-1])
    assert writer.asked.count("snapshots") == 1
    assert writer.asked.count("snapshot") == 1
    assert {number for number, _ in writer.pieces_asked} == {20}


async def test_the_first_weights_are_not_fetched_where_they_lead_nowhere(world: World) -> None:
    """They have four bytes a parameter, and the segments of the first rounds are gone."""
    writer, newcomer = world.replica(0), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 9)
    writer.exchange.forget_reduced(before_round=9)
    writer.lies["snapshots"] = lambda _: b""
    newcomer.sources = [writer]
    with pytest.raises(UnreachableError, match="holds a snapshot that the chain vouches for"):
        await newcomer.bring_to(links[-1])
    assert "piece" not in writer.asked
    assert newcomer.sync.stands_below(links[-1].hash, world.chain) == world.chain.root


async def test_who_names_every_snapshot_and_gives_none_is_asked_for_one(world: World) -> None:
    writer, liar, newcomer = world.replica(0), world.replica(1), world.replica(7, genesis=False)
    links = await world.rounds(genesis(world), writer, 21)
    liar.lies["snapshots"] = lambda _: b"".join(encode_round(number) for number in range(4, 21, 4))
    newcomer.sources = [liar, writer]
    await newcomer.bring_to(links[-1])
    assert liar.asked.count("snapshot") == 1


async def test_where_the_state_stands_is_known_when_what_comes_next_cannot_be_had(world: World) -> None:
    writer, late = world.replica(0), world.replica(1)
    links = await world.rounds(genesis(world), writer, 3)
    late.sources = [writer]
    await late.bring_to(links[0])
    late.sources = []
    with pytest.raises(UnreachableError):
        await late.bring_to(links[-1])
    assert late.sync.stands_below(links[-1].hash, world.chain) == links[0].hash
