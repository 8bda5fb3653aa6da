"""A segment is empty only with two electors' word that its bytes cannot be had, or after all turns."""

from __future__ import annotations

from bench import Bench, bench_ranked, bodies, draw_up, sent, told

from peers.chain.validation import block_fault
from peers.consensus.effects import (
    Effect,
    ReducedFetched,
    SegmentReduced,
    Send,
)
from peers.protocol.events import Refused
from peers.protocol.messages import (
    Block,
    Missing,
    Roster,
    Signed,
)
from peers.protocol.rules import BLOCK_AFTER


def at_three_transfers(bench: Bench) -> list[Effect]:
    return bench.tick(after=BLOCK_AFTER * bench.engine.deadlines.transfer)


def obtain(bench: Bench, roster: Signed[Roster], *segments: int) -> None:
    """Let others' averages of some segments come, with their bytes."""
    for number in segments:
        reduction = bench.swarm.reduction(roster, number, bench.head)
        if reduction.body.peer == bench.engine.me:
            bench.take(
                SegmentReduced(roster.hash, number, reduction.body.root, 1000, reduction.body.included)
            )
        else:
            bench.receive(bench.swarm.by_id[reduction.body.peer], reduction)
        bench.take(ReducedFetched(reduction.body.root))


def test_an_elector_says_at_three_transfers_what_it_could_not_get_and_to_whom() -> None:
    bench = bench_ranked(3, peers=5)
    roster = bench.exchange()
    obtain(bench, roster, 1)
    [send] = sent(at_three_transfers(bench), Missing)
    assert send.message == bench.swarm.missing(bench.key, roster, (0,))
    assert set(send.peers) == set(bench.swarm.order(bench.head)[:3])
    assert not sent(bench.tick(after=0.01), Missing)


def test_who_holds_the_bytes_says_nothing() -> None:
    bench = bench_ranked(3)
    roster = bench.exchange()
    obtain(bench, roster, 0, 1)
    effects = at_three_transfers(bench)
    for _ in range(8):
        effects += bench.tick(after=bench.engine.deadlines.leader)
    assert not sent(effects, Missing)


def test_a_leader_waits_for_the_words_of_two_electors_and_carries_them() -> None:
    bench = bench_ranked(0)
    draw_up(bench)
    roster = bench.engine.roster
    assert roster is not None
    obtain(bench, roster, 1)
    assert not sent(at_three_transfers(bench), Block)
    other = bench.others[0]
    effects = bench.receive(other, bench.swarm.missing(other, roster, (0, 1)))
    [block] = bodies(effects, Block)
    assert {word.body.peer for word in block.missing} == {bench.key.peer_id, other.peer_id}
    assert [reduction is None for reduction in block.reductions] == [True, False]


def test_a_leader_that_gets_the_bytes_meanwhile_fills_the_segment() -> None:
    bench = bench_ranked(0)
    draw_up(bench)
    roster = bench.engine.roster
    assert roster is not None
    obtain(bench, roster, 1)
    assert not sent(at_three_transfers(bench), Block)
    reduction = bench.swarm.reduction(roster, 0, bench.head)
    bench.receive(bench.swarm.by_id[reduction.body.peer], reduction)
    effects = bench.take(ReducedFetched(reduction.body.root))
    [block] = bodies(effects, Block)
    assert None not in block.reductions
    assert block.missing == ()


def test_a_lone_survivor_makes_the_block_after_all_others_turns() -> None:
    bench = bench_ranked(2)
    bench.exchange()
    deadlines = bench.engine.deadlines
    effects = at_three_transfers(bench)
    for _ in range(4 + 1):
        assert not sent(effects, Block)
        effects = bench.tick(after=deadlines.leader)
    effects += bench.tick(after=deadlines.leader)
    [block] = bodies(effects, Block)
    assert block.attempt == 2 + 4
    assert block.missing == ()
    assert block_fault(bench.swarm.chain, block) is None


def test_words_by_outsiders_or_on_other_segments_are_refused() -> None:
    bench = bench_ranked(2)
    roster = bench.exchange()
    stranger = bench.strangers[0]
    for key, segments in ((stranger, (0,)), (bench.others[0], (0, 7))):
        effects = bench.receive(key, bench.swarm.missing(key, roster, segments))
        assert [event.kind for event in told(effects, Refused)] == ["missing"]
    assert not bench.engine.round.exchange.words


def test_only_words_of_two_electors_in_the_roster_let_a_segment_be_empty() -> None:
    bench = Bench()
    swarm, head = bench.swarm, bench.head
    roster = swarm.roster([swarm.claim(key, head) for key in swarm.keys], head)
    full = swarm.reduction(roster, 1, head)
    one, two = swarm.keys[:2]
    other = swarm.roster([swarm.claim(key, head) for key in swarm.keys[:3]], head)
    cases: list[tuple[tuple[Signed[Missing], ...], str | None]] = [
        ((), "segment 0: empty without the electors' words"),
        ((swarm.missing(one, roster, (0,)),), "segment 0: empty without the electors' words"),
        (
            (swarm.missing(one, roster, (0,)), swarm.missing(two, roster, (1,))),
            "segment 0: empty without the electors' words",
        ),
        ((swarm.missing(one, roster, (0,)),) * 2, "words on missing segments twice or from outsiders"),
        (
            (swarm.missing(one, roster, (0,)), swarm.missing(bench.strangers[0], roster, (0,))),
            "words on missing segments twice or from outsiders",
        ),
        (
            (swarm.missing(one, roster, (0,)), swarm.missing(two, other, (0,))),
            "a word on missing segments of something else",
        ),
        (
            (swarm.missing(one, roster, (0,)), swarm.missing(two, roster, (0, 9))),
            "a word on missing segments of something else",
        ),
        ((swarm.missing(one, roster, (0,)), swarm.missing(two, roster, (0, 1))), None),
    ]
    for words, fault in cases:
        block = swarm.block(head, (), roster=roster, reductions=(None, full), missing=words)
        assert block_fault(swarm.chain, block.body) == fault
    lone = swarm.roster([swarm.claim(one, head)], head)
    word = (swarm.missing(one, lone, (0, 1)),)
    block = swarm.block(head, (), roster=lone, reductions=(None, None), missing=word)
    assert block_fault(swarm.chain, block.body) is None


def test_a_block_without_words_waits_for_the_turns_of_all_others_also_where_it_is_followed() -> None:
    bench = bench_ranked(2, elected=True)
    roster = bench.exchange()
    key = bench.swarm.by_id[roster.body.peer]
    late = bench.swarm.block(bench.head, (), roster=roster, key=key, attempt=4, reductions=(None, None))
    deadlines = bench.engine.deadlines
    bench.receive(key, late)
    bench.receive(key, bench.swarm.cosign(key, bench.swarm.chain.link(late.hash)))  # for itself
    before = bench.tick(after=BLOCK_AFTER * deadlines.transfer + 3.5 * deadlines.leader)
    assert not [e for e in before if isinstance(e, Send) and isinstance(e.message, Block)]
    assert bench.engine.blocks.applying is None
    bench.tick(after=deadlines.leader)
    assert bench.engine.blocks.applying == late.hash
