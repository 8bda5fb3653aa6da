"""A peer that forgot what it signed claims and co-signs nothing that it may have contradicted."""

from __future__ import annotations

from bench import Bench, acquainted, of, sent

from peers.consensus.effects import (
    Applied,
    Effect,
    SaveClaim,
    SaveVoteLock,
    Train,
)
from peers.protocol.messages import CoSignature


def test_a_co_signature_leaves_after_its_vote_lock_is_on_disk() -> None:
    bench = Bench(elected=True)
    acquainted(bench)
    tip = bench.swarm.grow(bench.head, bench.swarm.keys, cosigned=False)
    effects = bench.take(Applied(tip.hash, bench.swarm.digests[tip.hash], checked=True))
    words = sent(effects, CoSignature)
    saved = of(effects, SaveVoteLock)
    assert len(words) == len(saved) == 1
    assert effects.index(saved[0]) < effects.index(words[0])
    assert saved[0].vote_lock.round == tip.round


def test_who_forgot_neither_claims_nor_co_signs_in_the_round_that_it_finds() -> None:
    bench = Bench(elected=True, forgot=True)
    acquainted(bench)
    effects = bench.tick(after=bench.engine.deadlines.leader)
    assert all(not effect.slots for effect in of(effects, Train))
    next_one = bench.swarm.grow(bench.head, bench.others)
    effects = bench.take(Applied(next_one.hash, bench.swarm.digests[next_one.hash], checked=True))
    assert not sent(effects, CoSignature)
    assert not of(effects, SaveClaim)


def test_who_forgot_claims_again_after_it_saw_a_round_from_its_beginning_to_its_end() -> None:
    bench = Bench(elected=True, forgot=True)
    acquainted(bench)
    bench.tick(after=bench.engine.deadlines.leader)
    link, effects = bench.head, list[Effect]()
    for _ in range(3):
        link = bench.swarm.grow(link, bench.others)
        effects += bench.tick(after=bench.swarm.rules.window_seconds)
        effects += bench.take(Applied(link.hash, bench.swarm.digests[link.hash], checked=True))
    effects += bench.tick(after=0.1)
    assert not bench.engine.cosigning.forgot
    assert not sent(effects, CoSignature)  # it may have been further, on another branch
    assert any(effect.slots for effect in of(effects, Train))


def test_who_forgot_co_signs_nothing_until_well_beyond_its_state_whatever_head_it_finds() -> None:
    bench = Bench(elected=True, forgot=True, state_round=90)
    acquainted(bench)
    bench.tick(after=bench.engine.deadlines.leader)
    assert bench.engine.cosigning.vote_lock is not None
    assert bench.engine.cosigning.vote_lock.round == 90 + bench.swarm.rules.rewind_depth


def test_who_forgot_waits_again_after_it_went_over_to_another_branch() -> None:
    """It may have claimed there before it forgot: what it saw being made was on the branch that it left."""
    bench = Bench(elected=True, forgot=True)
    acquainted(bench)
    bench.tick(after=bench.engine.deadlines.leader)
    fork = link = bench.head
    for _ in range(3):
        link = bench.swarm.grow(link, bench.others[:1])
        bench.tick(after=bench.swarm.rules.window_seconds)
        bench.take(Applied(link.hash, bench.swarm.digests[link.hash], checked=True))
    bench.tick(after=0.1)
    assert not bench.engine.cosigning.forgot
    other = bench.swarm.grow(fork, bench.others[1:], 4)
    effects = bench.take(Applied(other.hash, bench.swarm.digests[other.hash], checked=True))
    effects += bench.tick(after=0.1)
    assert bench.engine.cosigning.forgot
    assert all(not effect.slots for effect in of(effects, Train))
    for _ in range(3):
        other = bench.swarm.grow(other, bench.others[1:])
        bench.tick(after=bench.swarm.rules.window_seconds)
        bench.take(Applied(other.hash, bench.swarm.digests[other.hash], checked=True))
    bench.tick(after=0.1)
    assert not bench.engine.cosigning.forgot
