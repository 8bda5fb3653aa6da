"""Proof that a peer contradicted itself: believed when it holds, kept, and passed on once."""

from __future__ import annotations

from bench import Bench, acquainted, of, sent, told
from rounds import fork

from peers.consensus.effects import (
    SaveEvidence,
)
from peers.protocol.events import Convicted
from peers.protocol.messages import Evidence


def test_two_claims_on_one_block_are_told_saved_and_passed_on_once() -> None:
    bench = Bench()
    acquainted(bench)
    liar = bench.others[0]
    claims = [bench.swarm.claim(liar, bench.head, slots=count) for count in (1, 2, 3)]
    assert not of(bench.receive(liar, claims[0]), SaveEvidence)
    effects = bench.receive(liar, claims[1])
    proof = Evidence(one=claims[0], other=claims[1])
    assert [event.peer for event in told(effects, Convicted)] == [liar.peer_id]
    assert of(effects, SaveEvidence) == [SaveEvidence(proof)]
    assert [set(send.peers) for send in sent(effects, Evidence)] == [{key.peer_id for key in bench.others}]
    for again in (claims[1], claims[2], Evidence(one=claims[1], other=claims[2]), proof):
        effects = bench.receive(liar, again)
        assert not told(effects, Convicted)
        assert not of(effects, SaveEvidence)
        assert not sent(effects, Evidence)
    assert bench.engine.round.pool.held[liar.peer_id][0] == claims[0]  # the first stands


def test_words_for_two_blocks_of_a_round_are_told_saved_and_passed_on_once() -> None:
    bench = Bench()
    acquainted(bench)
    liar = bench.others[0]
    one, other, third = fork(bench.swarm, bench.head, bench.swarm.keys, bench.others, bench.others[:2])
    bench.receive(liar, bench.swarm.cosign(liar, one))
    effects = bench.receive(liar, bench.swarm.cosign(liar, other))
    assert (
        len(told(effects, Convicted)) == len(sent(effects, Evidence)) == len(of(effects, SaveEvidence)) == 1
    )
    effects = bench.receive(liar, bench.swarm.cosign(liar, third))
    assert not told(effects, Convicted)
    assert not sent(effects, Evidence)
    assert bench.swarm.chain.equivocators == {liar.peer_id}


def test_proof_that_another_peer_brings_convicts_and_takes_the_weight_of_the_word() -> None:
    bench = Bench()
    acquainted(bench)
    liar, bringer = bench.others[:2]
    one, other = fork(bench.swarm, bench.head, bench.swarm.keys, bench.others)
    proof = Evidence(one=bench.swarm.cosign(liar, one), other=bench.swarm.cosign(liar, other))
    effects = bench.receive(bringer, proof)
    assert [event.peer for event in told(effects, Convicted)] == [liar.peer_id]
    assert of(effects, SaveEvidence) == [SaveEvidence(proof)]
    assert bench.swarm.chain.equivocators == {liar.peer_id}


def test_what_proves_nothing_is_dropped() -> None:
    bench = Bench()
    acquainted(bench)
    one, other = bench.others[:2]
    claims = [bench.swarm.claim(key, bench.head) for key in (one, other)]
    effects = bench.receive(one, Evidence(one=claims[0], other=claims[1]))
    effects += bench.receive(one, Evidence(one=claims[0], other=claims[0]))
    assert not told(effects, Convicted)
    assert not of(effects, SaveEvidence)
    assert not sent(effects, Evidence)
    assert not bench.engine.evidence.equivocators
