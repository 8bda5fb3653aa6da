"""What a peer asks for: where others stand, the best branch, and what it missed."""

from __future__ import annotations

from bench import Bench, acquainted, of, told
from rounds import name

from peers.chain.finality import VoteLock
from peers.chain.validation import RULED_OUT
from peers.consensus.block_processing import APART
from peers.consensus.effects import (
    Acquainted,
    Applied,
    AskHead,
    FetchBlocks,
    FetchRoster,
    Train,
)
from peers.consensus.engine import RoundEngine
from peers.consensus.host import Remembered
from peers.protocol.events import Notice, Refused
from peers.protocol.messages import HeadNotice


def test_a_newcomer_asks_how_old_a_head_is_as_soon_as_it_stands_there() -> None:
    """Asked for only every now and then, the head has changed again before anybody has named it."""
    bench = Bench()
    swarm, head = bench.swarm, bench.head
    bench.engine = RoundEngine(
        key=bench.key,
        chain=swarm.chain,
        head=head.hash,
        state_digest=swarm.digests[head.hash],
        remembered=Remembered(vote_lock=VoteLock()),
        now=bench.now,
    )
    everybody = {key.peer_id for key in bench.others}
    first = bench.take(Acquainted(tuple(everybody)))
    assert [set(ask.peers) for ask in of(first, AskHead)] == [everybody]
    block = swarm.add(swarm.block(head, bench.others))
    assert not of(bench.tick(after=0.1), AskHead)
    adopted = bench.take(Applied(block.hash, swarm.digests[block.hash], checked=True))
    assert [set(ask.peers) for ask in of(adopted, AskHead)] == [everybody]
    assert not of(adopted, Train)
    notice = HeadNotice(round=block.round, block=block.hash, age_seconds=0.2)
    answered = bench.receive(bench.others[0], notice)
    assert [train.parent for train in of(answered, Train)] == [block.hash]


def test_a_leaders_block_with_other_accounts_is_refused_and_not_followed() -> None:
    bench = Bench(elected=True)
    acquainted(bench)
    false = bench.swarm.block(bench.head, bench.others, accounts="00" * 32)
    effects = bench.receive(bench.swarm.by_id[false.body.peer], false)
    [refused] = told(effects, Refused)
    assert refused.fault == "other accounts than follow from the chain"
    assert false.hash not in bench.engine.chain
    true = bench.swarm.block(bench.head, bench.others)
    bench.receive(bench.swarm.by_id[true.body.peer], true)
    assert true.hash in bench.engine.chain


def say_heads(bench: Bench, *heads: str) -> None:
    for key, head in zip(bench.others, heads, strict=False):
        bench.receive(key, HeadNotice(round=bench.head.round + 4, block=head, age_seconds=1.0))


def test_what_to_do_when_apart_is_told_if_most_others_are_elsewhere_and_not_for_one_stale_block() -> None:
    bench = Bench(elected=True)
    acquainted(bench)
    swarm = bench.swarm
    stale = swarm.block(bench.head, bench.others)
    tip = swarm.grow(bench.head, swarm.keys, 3)
    bench.take(Applied(tip.hash, swarm.digests[tip.hash], checked=True))
    assert [event.fault for event in told(bench.receive(bench.others[0], stale), Refused)] == [RULED_OUT]
    say_heads(bench, name("elsewhere"), tip.hash, tip.hash)
    assert not told(bench.receive(bench.others[0], stale), Notice)
    say_heads(bench, name("elsewhere"), name("also elsewhere"), tip.hash)
    assert [event.text for event in told(bench.receive(bench.others[0], stale), Notice)] == [APART]
    assert not told(bench.receive(bench.others[0], stale), Notice)  # once is enough for a while
    bench.tick(after=swarm.rules.rewind_depth * swarm.rules.window_seconds)
    assert [event.text for event in told(bench.receive(bench.others[0], stale), Notice)] == [APART]


def word_of(bench: Bench, number: int, roster: str) -> None:
    key = bench.others[number]
    signed = bench.swarm.reduction(bench.roster(), 0, bench.head, peer=key.peer_id, roster=roster)
    bench.receive(key, signed)


def pause(bench: Bench) -> float:
    return bench.engine.deadlines.leader / 2 + 0.01


def test_a_roster_that_others_exchange_by_is_asked_for_after_a_pause() -> None:
    bench = Bench()
    bench.finish_window()
    roster = bench.roster()
    word_of(bench, 0, roster.hash)
    assert not of(bench.tick(after=0.1), FetchRoster)
    effects = bench.tick(after=pause(bench))
    assert of(effects, FetchRoster) == [FetchRoster(bench.others[0].peer_id, roster.hash)]
    assert not of(bench.tick(after=0.1), FetchRoster)
    assert of(bench.tick(after=pause(bench)), FetchRoster)
    bench.receive(bench.swarm.by_id[roster.body.peer], roster)
    assert bench.engine.roster == roster
    assert not of(bench.tick(after=pause(bench)), FetchRoster)


def test_of_several_rosters_those_are_asked_for_that_most_peers_speak_of() -> None:
    bench = Bench(peers=6)
    bench.finish_window()
    for number, rosters in enumerate(["abc", "ab", "ab", "b"]):
        for roster in rosters:
            word_of(bench, number, name(roster))
    asked = of(bench.tick(after=pause(bench)), FetchRoster)
    assert {effect.roster for effect in asked} == {name("a"), name("b")}


def test_blocks_are_asked_for_when_others_co_sign_one_that_did_not_come() -> None:
    bench, other = Bench(), Bench()
    missed = other.swarm.grow(other.head, other.swarm.keys, cosigned=False)
    bench.receive(bench.others[2], other.swarm.cosign(bench.others[2], missed))
    asked = of(bench.tick(after=pause(bench)), FetchBlocks)
    assert [effect.peer for effect in asked] == [bench.others[2].peer_id]
    assert all(effect.after_round < missed.round for effect in asked)


def test_what_nobody_could_give_for_long_is_forgotten() -> None:
    bench = Bench()
    bench.finish_window()
    word_of(bench, 0, name("no such roster"))
    bench.tick(after=3 * bench.swarm.rules.window_seconds + 1)
    assert name("no such roster") not in bench.engine.context.inbox.waiting
    assert not of(bench.tick(after=pause(bench)), FetchRoster)
