"""Which branch wins."""

from __future__ import annotations

import pytest
from rounds import copied, cosign, credited, elected, fork, keys_of, name, trunk

from peers.chain.fork_choice import best_head
from peers.chain.link import Link
from peers.protocol.rules import ELECTOR_MINIMUM


def test_without_a_word_from_anyone_the_earlier_attempt_wins() -> None:
    swarm, head = elected()
    order = [swarm.by_id[peer] for peer in swarm.order(head)]
    late, early = fork(swarm, head, order[1:], order)
    assert best_head(swarm.chain, head.hash) == early.hash
    assert best_head(swarm.chain, late.hash) == early.hash


def test_ties_are_decided_the_same_way_by_everybody() -> None:
    swarm, head = elected()
    one, other = fork(swarm, head, swarm.keys, swarm.keys[:4])
    same_attempt = [link.block.body.attempt for link in (one, other) if link.block]
    for order in ([one, other], [other, one]):
        chain = copied(swarm, [*trunk(swarm, head), *order])
        expected = min((one, other), key=lambda link: (same_attempt[link is other], link.hash))
        assert best_head(chain, head.hash) == expected.hash


def test_the_branch_with_more_electors_behind_it_wins() -> None:
    swarm, head = elected()
    order = [swarm.by_id[peer] for peer in swarm.order(head)]
    early, late = fork(swarm, head, order, order[1:])
    cosign(swarm, early, order[:1])
    cosign(swarm, late, order[1:3])
    assert best_head(swarm.chain, early.hash) == late.hash


@pytest.mark.parametrize(("claims", "wins"), [(0, False), (4, False), (6, True)])
def test_weight_decides_between_branches_not_heads(claims: int, wins: bool) -> None:
    """One elector with 1 + `claims` against three with 1 + 1 each."""
    swarm, head = elected()
    heavy, *others = (swarm.by_id[peer] for peer in swarm.order(head))
    vested = {heavy.peer_id: claims, **dict.fromkeys((key.peer_id for key in others), 1)}
    head = credited(swarm.chain, head, vested=vested)
    first = swarm.by_id[swarm.order(head)[0]]
    behind_it, against = fork(swarm, head, swarm.keys, [key for key in swarm.keys if key is not first])
    if wins:  # whoever wins has the later attempt
        behind_it, against = against, behind_it
    cosign(swarm, behind_it, [heavy])
    cosign(swarm, against, others[:3])
    assert best_head(swarm.chain, head.hash) == (behind_it if wins else against).hash


def test_whom_the_chain_expelled_decides_between_no_branches() -> None:
    swarm, head = elected()
    expelled, one, other = swarm.keys[:3]
    head = credited(swarm.chain, head, expelled={expelled.peer_id: head.round + 20})
    first = swarm.by_id[swarm.order(head)[0]]
    there = [key for key in swarm.keys if key is not expelled]
    early, late = fork(swarm, head, there, [key for key in there if key is not first])
    cosign(swarm, late, [expelled])
    assert best_head(swarm.chain, head.hash) == early.hash
    cosign(swarm, early, [one])
    cosign(swarm, late, [other])
    assert best_head(swarm.chain, head.hash) == early.hash  # nor where as many stand on both
    cosign(swarm, late, there[2:])
    assert best_head(swarm.chain, head.hash) == late.hash


def test_a_longer_branch_is_no_better_for_its_length() -> None:
    swarm, head = elected()
    order = [swarm.by_id[peer] for peer in swarm.order(head)]
    favoured, lonely = fork(swarm, head, order, order[4:])
    cosign(swarm, favoured, order[1:3])
    longer = swarm.grow(lonely, order[4:], 5, cosigned=True)
    assert best_head(swarm.chain, longer.hash) == favoured.hash


def test_each_electors_latest_co_signature_counts() -> None:
    swarm, head = elected()
    order = [swarm.by_id[peer] for peer in swarm.order(head)]
    one, other = fork(swarm, head, order, order[1:])
    cosign(swarm, one, order[1:3])
    cosign(swarm, other, order[3:4])
    assert best_head(swarm.chain, head.hash) == one.hash
    further = swarm.grow(other, order[1:], cosigned=False)
    cosign(swarm, further, order[1:2])  # came over
    assert best_head(swarm.chain, head.hash) == further.hash


def test_peers_that_became_electors_after_the_fork_weigh_nothing_at_it() -> None:
    swarm, head = elected(3)
    newcomers = keys_of(6, seed="newcomer")
    swarm.by_id.update({key.peer_id: key for key in newcomers})
    honest, taken = fork(swarm, head, swarm.keys, [swarm.keys[0], *newcomers])
    cosign(swarm, honest, swarm.keys[1:2])
    crowd = swarm.grow(taken, [swarm.keys[0], *newcomers], ELECTOR_MINIMUM, cosigned=False)
    assert swarm.chain.electors_at(crowd.hash) >= {key.peer_id for key in newcomers}
    cosign(swarm, crowd, newcomers)
    assert best_head(swarm.chain, crowd.hash) == honest.hash


def test_who_co_signs_two_blocks_of_one_round_weighs_nothing() -> None:
    swarm, head = elected(5)
    order = [swarm.by_id[peer] for peer in swarm.order(head)]
    one, other = fork(swarm, head, order, order[1:])
    cosign(swarm, other, order[1:3])
    cosign(swarm, one, order[3:4])
    assert best_head(swarm.chain, head.hash) == other.hash
    cosign(swarm, one, order[1:3])
    assert swarm.chain.equivocators == {key.peer_id for key in order[1:3]}
    assert best_head(swarm.chain, head.hash) == one.hash


def test_two_faced_words_are_noticed_even_if_a_later_word_lies_between() -> None:
    swarm, head = elected(5)
    one, other = fork(swarm, head, swarm.keys, swarm.keys[:4])
    liar = swarm.keys[0]
    cosign(swarm, one, [liar])
    cosign(swarm, swarm.grow(one, swarm.keys, cosigned=False), [liar])
    cosign(swarm, other, [liar])
    assert swarm.chain.equivocators == {liar.peer_id}


def test_a_block_that_cannot_be_applied_here_is_passed_over() -> None:
    swarm, head = elected()
    best, next_best = sorted(
        fork(swarm, head, swarm.keys, swarm.keys[:4]),
        key=lambda link: best_head(swarm.chain, head.hash) != link.hash,
    )
    assert best_head(swarm.chain, head.hash, {best.hash}) == next_best.hash
    assert best_head(swarm.chain, head.hash, {best.hash, next_best.hash}) == head.hash


def test_a_co_signature_of_somebody_without_a_say_is_not_kept() -> None:
    """Otherwise strangers could fill the memory with words that weigh nothing."""
    swarm, head = elected(3)
    for key in keys_of(5, seed="stranger"):
        assert not swarm.chain.add_cosignature(swarm.cosign(key, head))
    assert len(swarm.chain.cosignatures(head.hash)) == 3


def test_a_co_signature_counts_once_and_only_for_the_round_of_its_block() -> None:
    swarm, head = elected(3)
    link = swarm.grow(head, swarm.keys, cosigned=False)
    signed = swarm.cosign(swarm.keys[0], link)
    assert swarm.chain.add_cosignature(signed)
    assert not swarm.chain.add_cosignature(signed)
    unknown = Link(name("unknown"), head.hash, link.counters, None, link.finality, link.ledger, link.say)
    assert not swarm.chain.add_cosignature(swarm.cosign(swarm.keys[1], unknown))
    wrong = Link(link.hash, head.hash, head.counters, None, head.finality, head.ledger, head.say)
    assert not swarm.chain.add_cosignature(swarm.cosign(swarm.keys[1], wrong))
