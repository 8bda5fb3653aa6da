"""Acts that a crash must not repeat, receipts for segments, and words on segments that cannot be had."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bench import Bench, acquainted, bench_ranked, bodies, draw_up, of, sent, told
from rounds import name

from peers.chain.acts import Acts
from peers.chain.finality import VoteLock
from peers.consensus.effects import (
    Effect,
    Reduce,
    ReducedFetched,
    SaveActs,
    SaveEvidence,
    SegmentReduced,
    SegmentStored,
)
from peers.protocol.events import Convicted, Refused
from peers.protocol.messages import (
    AnyMessage,
    Block,
    Evidence,
    Ready,
    Receipt,
    Reduction,
    Roster,
    Signed,
    header_of,
    sign,
)
from peers.protocol.rules import BLOCK_AFTER
from recipes.keys.keys import PeerId


def index_of(effects: list[Effect], wanted: Effect) -> int:
    return next(place for place, effect in enumerate(effects) if effect is wanted)


def remember(bench: Bench, effects: list[Effect], **other: Any) -> None:
    """Start the engine again with what these effects saved."""
    kept = {effect.parent: effect.acts for effect in of(effects, SaveActs)}
    claim = bench.engine.own_claim
    bench.start(acts=kept, own_claims=[claim] if claim is not None else [], **other)
    acquainted(bench)


def segments_of(bench: Bench) -> tuple[list[int], list[int]]:
    """The segments that the engine reduces under the accepted roster, and those of which it is the backup."""
    me = bench.engine.me
    pairs = list(enumerate(bench.engine.assignments))
    return [s for s, a in pairs if a.reducer == me], [s for s, a in pairs if a.backup == me]


def exchanging_as_reducer() -> tuple[Bench, Signed[Roster], int]:
    """A bench in the exchange of a roster that gives its engine a segment to reduce, and that segment."""
    for me in range(4):
        bench = Bench(me=me)
        acquainted(bench)
        draw = bench.exchange if bench.swarm.order(bench.head)[0] != bench.key.peer_id else None
        if draw is None:
            continue
        roster = draw()
        own, _ = segments_of(bench)
        if own:
            return bench, roster, own[0]
    raise LookupError("nobody reduces")


def store(bench: Bench, roster: Signed[Roster], segment: int, peer: PeerId) -> list[Effect]:
    return bench.take(SegmentStored(roster.hash, segment, peer))


# ---------------------------------------------------------------- leaders


def test_what_a_leader_does_is_on_disk_before_it_leaves() -> None:
    bench = bench_ranked(0)
    effects = draw_up(bench)
    [kept] = [save for save in of(effects, SaveActs) if save.acts.rosters]
    assert kept == SaveActs(bench.head.hash, Acts(bench.head.round, rosters=(0,)))
    assert index_of(effects, kept) < min(index_of(effects, send) for send in sent(effects, Roster))


def test_a_leader_started_again_draws_up_no_second_roster_of_an_attempt() -> None:
    """It has another turn after all others', so that it goes on also where nobody else is left."""
    bench = bench_ranked(0)
    remember(bench, draw_up(bench))
    for key in bench.others:
        bench.receive(key, bench.swarm.claim(key, bench.head))
    deadlines = bench.engine.deadlines
    early = bench.tick(after=bench.swarm.rules.window_seconds + 2 * deadlines.grace)
    assert not sent(early, Roster)
    late = bench.tick(after=len(bench.swarm.keys) * deadlines.leader)
    assert [body.attempt for body in bodies(late, Roster)] == [4]


def test_a_leader_that_made_a_block_makes_no_second_one_of_its_attempt() -> None:
    bench = bench_ranked(0)
    drawn = draw_up(bench)
    roster = bench.engine.roster
    assert roster is not None
    acts = Acts(bench.head.round, rosters=(0,), blocks=(0,))
    claim = bench.engine.own_claim
    assert claim is not None
    bench.start(acts={bench.head.hash: acts}, own_claims=[claim])
    acquainted(bench)
    effects = bench.receive(bench.others[0], roster)
    for number in range(bench.swarm.rules.segments):  # nothing is missing, so that its turn has come
        reduction = bench.swarm.reduction(roster, number, bench.head)
        if reduction.body.peer == bench.engine.me:
            reduction = bench.swarm.reduction(roster, number, bench.head, backup=True)
        effects += bench.receive(bench.swarm.by_id[reduction.body.peer], reduction)
        effects += bench.take(ReducedFetched(reduction.body.root))
    assert bench.engine.allreduce.all_here()
    deadlines = bench.engine.deadlines
    effects += bench.tick(after=BLOCK_AFTER * deadlines.transfer + deadlines.leader)
    assert not sent(effects, Block)
    late = bench.tick(after=4 * deadlines.leader)
    assert [body.attempt for body in bodies(late, Block)] == [4]
    assert drawn


def test_two_rosters_of_one_attempt_are_shown_by_headers_of_a_few_hundred_bytes() -> None:
    bench = bench_ranked(1)
    leader = bench.swarm.by_id[bench.swarm.order(bench.head)[0]]
    claims = [bench.swarm.claim(key, bench.head) for key in bench.others]
    one, other = (bench.swarm.roster(some, bench.head, key=leader) for some in (claims, claims[:2]))
    bench.receive(leader, one)
    effects = bench.receive(leader, other)
    [proof] = of(effects, SaveEvidence)
    assert [(event.peer, event.kind) for event in told(effects, Convicted)] == [
        (leader.peer_id, "two_rosters")
    ]
    assert proof.evidence == Evidence(one=header_of(one), other=header_of(other))
    assert len(proof.evidence.canonical()) < 1500 < len(one.canonical())
    assert not of(bench.receive(leader, other), SaveEvidence)


def test_two_blocks_of_one_attempt_are_evidence_even_if_one_is_not_valid() -> None:
    bench = bench_ranked(1)
    leader = bench.swarm.by_id[bench.swarm.order(bench.head)[0]]
    roster = bench.swarm.roster(
        [bench.swarm.claim(key, bench.head) for key in bench.others], bench.head, key=leader
    )
    good = bench.swarm.block(bench.head, (), roster=roster)
    empty = bench.swarm.block(bench.head, (), roster=roster, reductions=(None, good.body.reductions[1]))
    bench.receive(leader, good)
    effects = bench.receive(leader, empty)
    assert [event.kind for event in told(effects, Convicted)] == ["two_blocks"]
    assert told(effects, Refused)


# ---------------------------------------------------------------- receipts


def test_a_receipt_goes_out_when_all_parts_are_here_and_is_on_disk_before() -> None:
    bench, roster, segment = exchanging_as_reducer()
    own, _ = segments_of(bench)
    peer = next(key.peer_id for key in bench.others)
    effects: list[Effect] = []
    for number in own:
        assert not sent(effects, Receipt)
        effects = store(bench, roster, number, peer)
    [send] = sent(effects, Receipt)
    assert send.peers == (peer,)
    [receipt] = bodies(effects, Receipt)
    claimants = [claim.body.peer for claim in roster.body.claims]
    assert (receipt.claimant, receipt.segments) == (claimants.index(peer), tuple(own))
    [kept] = of(effects, SaveActs)
    assert kept.acts.begun == (roster.hash,)
    assert index_of(effects, kept) < index_of(effects, send)
    assert not sent(store(bench, roster, segment, peer), Receipt)  # it has it already


def test_a_part_that_comes_after_the_reduction_began_gets_no_receipt() -> None:
    bench, roster, segment = exchanging_as_reducer()
    first, late = (key.peer_id for key in bench.others[:2])
    for number in segments_of(bench)[0]:
        store(bench, roster, number, first)
    effects = bench.tick(after=bench.engine.deadlines.transfer)
    assert segment in {reduce.segment for reduce in of(effects, Reduce)}
    for number in segments_of(bench)[0]:
        assert not sent(store(bench, roster, number, late), Receipt)


def test_a_reducer_started_again_reduces_nothing_that_it_may_have_given_receipts_for() -> None:
    bench, roster, segment = exchanging_as_reducer()
    effects: list[Effect] = []
    for number in segments_of(bench)[0]:
        effects += store(bench, roster, number, bench.others[0].peer_id)
    remember(bench, effects)
    bench.receive(bench.others[0], roster)
    assert bench.engine.roster == roster
    effects = []
    for key in bench.swarm.keys:
        effects += store(bench, roster, segment, key.peer_id)
    effects += bench.tick(after=3 * bench.engine.deadlines.transfer)
    assert not of(effects, Reduce)
    assert not sent(effects, Receipt)


def test_a_reducer_that_averaged_alone_gives_no_receipts_after_a_crash() -> None:
    """It may have announced the average already, and a receipt would contradict that."""
    bench, roster, segment = exchanging_as_reducer()
    store(bench, roster, segment, bench.engine.me)
    effects = bench.tick(after=bench.engine.deadlines.transfer)
    assert [reduce.segment for reduce in of(effects, Reduce)] == [segment]
    assert [save.acts.begun for save in of(effects, SaveActs)] == [(roster.hash,)]


def test_no_average_is_announced_without_a_part_that_has_a_receipt() -> None:
    bench, roster, segment = exchanging_as_reducer()
    peer = bench.others[0].peer_id
    for number in segments_of(bench)[0]:
        store(bench, roster, number, peer)
    place = [claim.body.peer for claim in roster.body.claims].index(peer)
    others = tuple(number for number in range(len(roster.body.claims)) if number != place)
    done = SegmentReduced(roster.hash, segment, name("root"), 1000, others)
    assert not sent(bench.take(done), Reduction)
    assert sent(bench.take(replace(done, included=tuple(sorted((*others, place))))), Reduction)


def given_receipt(bench: Bench) -> tuple[Signed[Roster], Signed[Reduction], Signed[Receipt]]:
    """A roster, the average of another's segment that lacks the engine's part, and the receipt for it."""
    roster = bench.exchange()
    segment = next(s for s, a in enumerate(bench.engine.assignments) if a.reducer != bench.engine.me)
    place = [claim.body.peer for claim in roster.body.claims].index(bench.engine.me)
    others = tuple(number for number in range(len(roster.body.claims)) if number != place)
    reduction = bench.swarm.reduction(roster, segment, bench.head, included=others)
    return roster, reduction, bench.swarm.receipt(reduction, place, bench.head)


def claimant_bench() -> Bench:
    return bench_ranked(2)


@pytest.mark.parametrize("first", ["receipt", "reduction"])
def test_a_reduction_against_its_receipt_is_evidence_whichever_comes_first(first: str) -> None:
    bench = claimant_bench()
    _, reduction, receipt = given_receipt(bench)
    reducer = bench.swarm.by_id[reduction.body.peer]
    both: list[AnyMessage] = [receipt, reduction] if first == "receipt" else [reduction, receipt]
    assert not told(bench.receive(reducer, both[0]), Convicted)
    effects = bench.receive(reducer, both[1])
    assert [(e.peer, e.kind) for e in told(effects, Convicted)] == [(reducer.peer_id, "broken_receipt")]
    assert of(effects, SaveEvidence) == [SaveEvidence(Evidence(one=receipt, other=reduction))]
    assert sent(effects, Evidence)


def test_a_reduction_in_a_block_is_held_against_the_receipt_too() -> None:
    bench = claimant_bench()
    roster, reduction, receipt = given_receipt(bench)
    bench.receive(bench.swarm.by_id[reduction.body.peer], receipt)
    reductions = [bench.swarm.reduction(roster, number, bench.head) for number in (0, 1)]
    reductions[reduction.body.segment] = reduction
    block = bench.swarm.block(bench.head, (), roster=roster, reductions=tuple(reductions))
    effects = bench.receive(bench.swarm.by_id[block.body.peer], block)
    assert [event.kind for event in told(effects, Convicted)] == ["broken_receipt"]


def test_receipts_that_are_not_ones_own_or_not_their_authors_to_give_are_refused() -> None:
    bench = claimant_bench()
    roster, reduction, receipt = given_receipt(bench)
    place, segment = receipt.body.claimant, reduction.body.segment
    assigned = bench.engine.assignments[segment]
    strange = next(
        key
        for key in bench.swarm.keys
        if key.peer_id not in (assigned.reducer, assigned.backup, bench.engine.me)
    )
    wrong = [
        bench.swarm.receipt(reduction, (place + 1) % len(roster.body.claims), bench.head),
        bench.swarm.receipt(reduction, 63, bench.head),
        bench.swarm.receipt(reduction, place, bench.head, round=bench.head.round + 2),
        bench.swarm.receipt(reduction, place, bench.head, segments=(segment, 1000)),
        sign(strange, receipt.body.model_copy(update={"peer": strange.peer_id})),
    ]
    for one in wrong:
        effects = bench.receive(bench.swarm.by_id[one.body.peer], one)
        assert [event.kind for event in told(effects, Refused)] == ["receipt"]
    assert not bench.engine.round.exchange.receipts
    elsewhere = bench.swarm.receipt(reduction, place, bench.head, roster=name("another roster"))
    assert not told(bench.receive(bench.swarm.by_id[elsewhere.body.peer], elsewhere), Refused)
    assert bench.engine.context.inbox.waiting  # its roster may come yet


# ---------------------------------------------------------------- a lost disk


def test_a_peer_that_lost_its_disk_neither_leads_nor_reduces_nor_gives_receipts() -> None:
    bench = bench_ranked(0, forgot=True)
    effects = draw_up(bench)
    assert not sent(effects, Roster)
    claims = [bench.swarm.claim(key, bench.head) for key in bench.swarm.keys]
    leader = bench.swarm.by_id[bench.swarm.order(bench.head)[1]]
    roster = bench.swarm.roster(claims, bench.head, key=leader)
    bench.receive(leader, Ready(round=bench.head.round + 1, parent=bench.head.hash))  # it is not alone
    bench.tick(after=bench.swarm.rules.window_seconds + 3 * bench.engine.deadlines.leader)
    effects = bench.receive(leader, roster)
    assert bench.engine.roster == roster
    for number in range(bench.swarm.rules.segments):
        for key in bench.swarm.keys:
            effects += store(bench, roster, number, key.peer_id)
    deadlines = bench.engine.deadlines
    for _ in range(12):
        effects += bench.tick(after=max(deadlines.transfer, deadlines.leader))
    assert not of(effects, Reduce)
    assert not sent(effects, Receipt)
    assert not sent(effects, Block)
    assert not of(effects, SaveActs)


def test_after_a_loss_it_acts_only_above_a_block_with_a_claim_of_its_own_since() -> None:
    bench = bench_ranked(0)
    swarm, old = bench.swarm, bench.head
    lock = VoteLock(old.round, old.finality.justified_round, claims_after=old.round)
    claim = swarm.claim(bench.key, old, slots=1)
    bench.start(vote_lock=lock, own_claims=[claim])
    acquainted(bench)
    assert not bench.engine.acts.may_act()
    claims = [swarm.claim(key, old) for key in bench.others]
    young = swarm.add(swarm.block(old, (), roster=swarm.roster([*claims, claim], old)))
    bench.stand_on(young)
    assert bench.engine.acts.may_act()
    bench.stand_on(swarm.grow(young, bench.others))
    assert bench.engine.acts.may_act()
    bench.stand_on(swarm.grow(old, bench.others))  # beside it, and perhaps older than the loss
    assert not bench.engine.acts.may_act()
