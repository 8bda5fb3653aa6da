"""A newcomer to a long chain: which blocks it asks for, what it applies, and when it begins."""

from __future__ import annotations

import pytest
from bench import Bench, acquainted, of, told
from rounds import fork, name, trunk

from peers.chain.finality import VoteLock
from peers.chain.link import Link
from peers.consensus.block_processing import LONGEST_PUT_OFF_SECONDS
from peers.consensus.block_search import PATIENCE_SECONDS
from peers.consensus.effects import (
    Acquainted,
    Applied,
    Apply,
    ApplyFailed,
    AskHead,
    BlocksFetched,
    Effect,
    FetchBlocks,
    HeadNotTold,
    SaveClaim,
    Train,
)
from peers.consensus.engine import RoundEngine
from peers.consensus.host import Remembered
from peers.protocol.events import BlockAdopted, Notice
from peers.protocol.messages import HeadNotice
from recipes.keys.keys import SigningKey


def newcomer(bench: Bench) -> RoundEngine:
    """Put an engine on the bench that knows nothing yet of the chain that the others have."""
    chain = bench.swarm.fresh_chain()
    bench.engine = RoundEngine(
        key=bench.strangers[0],
        chain=chain,
        head=chain.root,
        state_digest=bench.swarm.digests[chain.root],
        remembered=Remembered(vote_lock=VoteLock(), state_is_here=False),
        now=0.0,
    )
    acquainted(bench)
    return bench.engine


def notice_of(link: Link) -> HeadNotice:
    return HeadNotice(round=link.round, block=link.hash, age_seconds=1.0)


def test_no_state_is_tried_before_the_chain_is_here_up_to_the_head_that_was_named() -> None:
    bench = Bench(elected=True)
    engine, source = newcomer(bench), bench.others[0]
    path = trunk(bench.swarm, bench.head)
    blocks = [link.block for link in path if link.block is not None]
    effects = bench.receive(source, notice_of(bench.head))
    while wanted := of(effects, FetchBlocks):
        assert not of(effects, Apply)
        answer = [block for block in blocks if block.body.round > wanted[0].after_round][:2]
        effects = bench.take(BlocksFetched(source.peer_id, tuple(answer)))
    assert of(effects, Apply) == [Apply(bench.head.hash)]
    assert engine.blocks.applying == bench.head.hash


def test_a_head_that_its_source_cannot_deliver_is_waited_for_ten_seconds_at_most() -> None:
    bench = Bench(elected=True)
    newcomer(bench)
    liar, source = bench.others[:2]
    bench.receive(liar, HeadNotice(round=10**6, block=name("nowhere"), age_seconds=1.0))
    blocks = [link.block for link in trunk(bench.swarm, bench.head) if link.block is not None]
    bench.take(BlocksFetched(source.peer_id, tuple(blocks)), after=1.0)
    assert bench.engine.blocks.applying is None
    effects = bench.tick(after=PATIENCE_SECONDS)
    assert of(effects, Apply) == [Apply(bench.head.hash)]


def test_nothing_on_the_way_to_a_block_that_cannot_be_applied_is_tried_and_it_is_for_ever_longer() -> None:
    bench = Bench(elected=True)
    engine = newcomer(bench)
    blocks = [link.block for link in trunk(bench.swarm, bench.head) if link.block is not None]
    effects = bench.take(BlocksFetched(bench.others[0].peer_id, tuple(blocks)), after=20.0)
    pauses = []
    for _ in range(8):
        assert of(effects, Apply) == [Apply(bench.head.hash)]
        effects = bench.take(ApplyFailed(bench.head.hash, "nobody has it", engine.chain.root))
        assert not of(effects, Apply)
        failed_at = bench.now
        while not of(effects, Apply):
            effects = bench.tick(after=0.5)
        pauses.append(bench.now - failed_at)
    assert pauses[1] == pytest.approx(2 * pauses[0], abs=0.5)
    assert max(pauses) <= LONGEST_PUT_OFF_SECONDS + 0.5


def test_who_is_no_elector_begins_nothing_beside_a_later_head_that_others_name() -> None:
    bench = Bench(elected=True)
    engine = newcomer(bench)
    engine.blocks.begin(state_is_here=True)
    far = HeadNotice(round=300, block=name("far"), age_seconds=1.0)
    effects = bench.receive(bench.others[0], far)
    for _ in range(40):
        effects += bench.tick(after=5.0)
    assert not of(effects, Train)
    waiting = [notice.text for notice in told(effects, Notice) if "name heads up to round 300" in notice.text]
    assert 2 <= len(waiting) <= 4  # once a minute
    effects = bench.take(Acquainted(()))  # whoever said so is gone
    assert of(effects + bench.tick(after=5.0), Train)


def silent_newcomer(bench: Bench, strangers: int) -> list[Effect]:
    """Put an engine on the bench that has the first state, with one of the others and strangers about."""
    newcomer(bench).blocks.begin(state_is_here=True)
    silent = tuple(SigningKey((5000 + number).to_bytes(32, "big")).peer_id for number in range(strangers))
    return bench.take(Acquainted((bench.others[0].peer_id, *silent)))


def test_the_peer_that_a_newcomer_joined_by_is_asked_each_time_however_many_are_about() -> None:
    bench = Bench(elected=True)
    effects = silent_newcomer(bench, 180)
    for _ in range(5):
        effects += bench.tick(after=bench.engine.deadlines.leader)
    asked = [ask.peers for ask in of(effects, AskHead)]
    assert len(asked) >= 5
    assert all(bench.others[0].peer_id in peers and len(peers) == 8 for peers in asked)
    assert len({peer for peers in asked for peer in peers}) >= 20  # the others in turn


def test_a_newcomer_begins_nothing_while_those_whom_it_asked_have_not_said_where_they_stand() -> None:
    bench = Bench(elected=True)
    effects = silent_newcomer(bench, 180)
    effects += bench.tick(after=max(5.0, bench.engine.deadlines.leader))
    assert not of(effects, Train)
    effects = bench.receive(bench.others[0], notice_of(bench.head))
    for _ in range(20):
        effects += bench.tick(after=5.0)
    assert not of(effects, Train)  # it heard of a chain, and asks for that


def test_a_newcomer_begins_once_all_whom_it_asked_are_finding_out_themselves() -> None:
    bench = Bench(elected=True)
    silent_newcomer(bench, 0)
    effects = bench.tick(after=bench.engine.deadlines.leader)
    assert not of(effects, Train)
    for peer in bench.engine.acquaintances:
        effects += bench.take(HeadNotTold(peer, answered=True))
    assert of(effects + bench.tick(after=bench.engine.deadlines.leader), Train)


def test_a_newcomer_whom_nobody_answers_begins_after_half_a_minute() -> None:
    bench = Bench(elected=True)
    effects = silent_newcomer(bench, 3)
    for peer in bench.engine.acquaintances:
        effects += bench.take(HeadNotTold(peer, answered=False))
    assert not of(effects + bench.tick(after=25.0), Train)
    assert of(bench.tick(after=6.0), Train)


def test_what_blocks_come_late_is_no_sign_that_a_forgetful_peer_did_not_claim() -> None:
    """They are of rounds in which it may have claimed: most others stand further on."""
    bench = Bench(elected=True, forgot=True)
    acquainted(bench)
    link = bench.head
    for _ in range(4):
        for key in bench.others:
            bench.receive(key, HeadNotice(round=link.round + 9, block=name("far"), age_seconds=1.0))
        link = bench.swarm.grow(link, bench.others, 1)
        effects = bench.take(
            Applied(link.hash, bench.swarm.digests[link.hash], checked=True),
            after=bench.swarm.rules.window_seconds,
        )
        bench.tick(after=1.0)
    assert bench.engine.cosigning.forgot
    assert not of(effects, SaveClaim)


def test_who_is_alone_is_told_how_many_are_gone_and_what_to_do_once() -> None:
    bench = Bench(elected=True)
    events, link = [], bench.head
    for _ in range(3):
        link = bench.swarm.grow(link, [bench.key], 1, cosigned=False)
        effects = bench.take(Applied(link.hash, bench.swarm.digests[link.hash], checked=True))
        events += told(effects, BlockAdopted)
        events += [notice for notice in told(effects, Notice) if "You train alone" in notice.text]
    assert [event.gone for event in events if isinstance(event, BlockAdopted)] == [3, 3, 3]
    (alone,) = [event.text for event in events if isinstance(event, Notice)]
    assert "none of the 3 others" in alone
    assert "--peer" in alone


def test_another_branch_is_tried_where_one_cannot_be_applied_even_from_what_both_share() -> None:
    """Its state may be a snapshot's, higher up, though nobody has what lies below."""
    bench = Bench(elected=True)
    engine = newcomer(bench)
    one, other = fork(bench.swarm, bench.head, bench.others[:1], bench.others[1:2])
    blocks = [link.block for link in bench.swarm.chain.after(0) if link.block is not None]
    effects = bench.take(BlocksFetched(bench.others[0].peer_id, tuple(blocks)), after=20.0)
    (first,) = of(effects, Apply)
    effects = bench.take(ApplyFailed(first.block, "nobody has it", engine.chain.root))
    assert of(effects, Apply) == [Apply(({one.hash, other.hash} - {first.block}).pop())]
