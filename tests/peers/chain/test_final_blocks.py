"""What a chain takes for final: by two quorums, by time, by an owner's word; and what that lets it undo."""

from __future__ import annotations

from collections.abc import Sequence

from rounds import Swarm, copied, cosign, credited, elected, fork, trunk

from peers.chain.chain import Chain
from peers.chain.fork_choice import best_head
from peers.chain.link import Link
from peers.chain.validation import EXCLUDED, RULED_OUT, block_fault
from peers.protocol.messages import Block, Signed
from peers.protocol.rules import ELECTOR_WINDOW
from recipes.keys.keys import SigningKey


def carrying(
    swarm: Swarm, parent: Link, members: Sequence[SigningKey], signers: Sequence[SigningKey]
) -> Link:
    """A block of `members` that carries the co-signatures of its parent by `signers`; nobody co-signs it."""
    return swarm.add(swarm.block(parent, members, cosigners=signers))


def blocks_of(links: Sequence[Link]) -> list[Signed[Block]]:
    return [link.block for link in links if link.block is not None]


# ---------------------------------------------------------------- two quorums in a row


def test_a_quorum_of_the_child_that_shows_a_quorum_makes_a_block_final_and_all_before_it() -> None:
    swarm, head = elected(4)
    middle = carrying(swarm, head, swarm.keys, swarm.keys)
    tip = carrying(swarm, middle, swarm.keys, swarm.keys[:3])
    assert swarm.chain.final == head.hash
    cosign(swarm, tip, swarm.keys[:2])
    assert swarm.chain.final == head.hash
    cosign(swarm, tip, swarm.keys[2:3])
    assert swarm.chain.final == middle.hash
    assert swarm.chain.justified == tip.hash
    assert swarm.chain.is_final(head.hash)


def test_a_block_that_shows_no_quorum_for_its_parent_makes_it_not_final_whoever_co_signs() -> None:
    swarm, head = elected(4)
    middle = carrying(swarm, head, swarm.keys, swarm.keys)
    tip = carrying(swarm, middle, swarm.keys, swarm.keys[:2])
    cosign(swarm, tip, swarm.keys)
    assert swarm.chain.final == head.parent
    assert swarm.chain.justified == tip.hash


def test_what_blocks_carry_makes_the_same_final_for_who_heard_no_word() -> None:
    swarm, head = elected(3)
    tip = swarm.grow(head, swarm.keys, 3)
    chain = copied(swarm, trunk(swarm, tip))
    assert chain.link(tip.hash).finality == tip.finality
    assert chain.justified == tip.parent
    assert chain.final == chain.link(tip.parent).parent
    cosign(swarm, tip, swarm.keys, chain=chain)
    assert chain.final == swarm.chain.final == tip.parent


def test_equivocators_finalise_nothing() -> None:
    swarm, head = elected(4)
    one, other = (carrying(swarm, head, members, swarm.keys) for members in (swarm.keys, swarm.keys[:2]))
    before = swarm.chain.final
    cosign(swarm, other, swarm.keys[:1])
    cosign(swarm, one, swarm.keys[:3])
    assert swarm.chain.equivocators == {swarm.keys[0].peer_id}
    assert swarm.chain.final == before == head.parent
    cosign(swarm, one, swarm.keys[3:])
    assert swarm.chain.final == head.hash
    assert swarm.chain.justified == one.hash


def test_of_a_pair_both_must_agree() -> None:
    swarm, head = elected(2)
    one = carrying(swarm, head, swarm.keys, swarm.keys)
    cosign(swarm, one, swarm.keys[:1])
    assert swarm.chain.final == head.parent
    cosign(swarm, one, swarm.keys[1:])
    assert swarm.chain.final == head.hash


def test_weight_makes_a_block_final_not_heads() -> None:
    swarm, link = elected(5)
    heavy, *others = swarm.keys
    vested = {heavy.peer_id: 1000, **dict.fromkeys((key.peer_id for key in others), 1)}
    for _ in range(8):  # both terms' electors have the weights by then
        link = swarm.grow(credited(swarm.chain, link, vested=vested), swarm.keys)
    middle = carrying(swarm, link, swarm.keys, swarm.keys)
    without_it = carrying(swarm, middle, swarm.keys, others)
    assert without_it.finality.justified == link.hash
    cosign(swarm, without_it, others)
    assert swarm.chain.final == link.parent
    alone = carrying(swarm, middle, swarm.keys, [heavy, *others[:2]])
    assert alone.finality.justified == link.hash  # its state may be on few disks
    tip = carrying(swarm, middle, swarm.keys, [heavy, *others[:3]])
    assert tip.finality.justified == middle.hash
    assert swarm.chain.final == link.hash
    carrying(swarm, tip, swarm.keys, [heavy, *others[:3]])
    assert swarm.chain.final == middle.hash


def test_an_expelled_elector_counts_neither_for_nor_against_a_block() -> None:
    swarm, head = elected(5)
    expelled, one, two, three, four = swarm.keys
    link = credited(swarm.chain, head, expelled={expelled.peer_id: head.round + 20})
    there = [one, two, three, four]
    middle = carrying(swarm, link, there, swarm.keys)
    tip = carrying(swarm, middle, there, [expelled, one, two])  # three of five, and two of four
    assert tip.finality.justified == link.hash
    shown = carrying(swarm, middle, there, [one, two, three])  # three of five, and of four
    assert shown.finality.justified == middle.hash
    cosign(swarm, shown, [one, two])
    assert swarm.chain.final == link.hash
    cosign(swarm, shown, [three])
    assert swarm.chain.final == middle.hash


def test_whoever_is_expelled_stays_so_where_nothing_becomes_final_until_it_is_forgotten() -> None:
    """The counters forget a peer after a window of absence; its term goes on, and so does its expulsion."""
    swarm, head = elected(8)
    there, expelled = swarm.keys[:6], swarm.keys[6:]
    until = dict.fromkeys((key.peer_id for key in expelled), head.round + 10 * ELECTOR_WINDOW)
    link = credited(swarm.chain, head, expelled=until)
    for _ in range(ELECTOR_WINDOW + 1):  # no quorum: four of six
        ones = dict.fromkeys(swarm.by_id, 1)
        link = swarm.add(swarm.block(link, there, cosigners=there[:4], slots=ones))
    assert not {key.peer_id for key in expelled} & link.counters.peers.keys()
    assert link.finality.electorate == head.finality.electorate
    outvoted = carrying(swarm, link, there, [*there[:4], *expelled])  # six of eight
    assert outvoted.finality.justified_round < link.round
    agreed = carrying(swarm, link, there, there[:5])  # five of six
    assert agreed.finality.justified == link.hash
    claims = [swarm.claim(key, link) for key in there]
    led = swarm.block(link, (), roster=swarm.roster(claims, link, key=expelled[0]))
    assert block_fault(swarm.chain, led.body) == EXCLUDED


def test_a_first_elector_alone_finalises_nothing_once_others_are_electors() -> None:
    """However often it is counted alone afterwards, the term in which the others elect goes on."""
    swarm, head = elected(4)
    alone = swarm.grow(head, swarm.keys[:1], ELECTOR_WINDOW + 2)
    assert swarm.chain.electors_at(alone.hash) == {swarm.keys[0].peer_id}
    assert alone.finality.electorate == head.finality.electorate
    assert swarm.chain.final == head.parent


def test_a_cut_off_minority_that_elected_itself_cannot_finalise() -> None:
    """On its own branch it is all the electors there are, once the others' presence lies too far back."""
    swarm, head = elected(5)
    minority = swarm.keys[:2]
    link = swarm.grow(head, minority, ELECTOR_WINDOW + swarm.rules.rewind_depth)
    assert swarm.chain.electors_at(link.hash) == {key.peer_id for key in minority}
    assert swarm.chain.final == head.parent


def test_a_branch_on_which_others_became_final_is_out_of_reach() -> None:
    """However long a branch grows and whomever it elects: what became final here stays."""
    swarm, head = elected(5)
    honest, lone = swarm.keys[:4], swarm.keys[4:]
    minority = swarm.grow(head, lone, cosigned=False)
    tip = swarm.grow(head, honest, 2)
    assert swarm.chain.final == tip.parent
    late = swarm.block(minority, lone)
    assert block_fault(swarm.chain, late.body) == RULED_OUT
    assert best_head(swarm.chain, minority.hash) == tip.hash


# ---------------------------------------------------------------- going back


def lonely_tip(swarm: Swarm, head: Link) -> tuple[Chain, Link]:
    """A chain on which one peer went on alone from `head`, deeper than it may go back; nobody's word came."""
    tip = swarm.grow(head, swarm.keys[:1], swarm.rules.rewind_depth + 1, cosigned=False)
    return copied(swarm, trunk(swarm, tip)), tip


def test_nothing_deeper_than_the_rewind_depth_is_undone() -> None:
    swarm, head = elected(5)
    depth = swarm.rules.rewind_depth
    chain = copied(swarm, trunk(swarm, head))
    assert chain.final != head.hash  # nobody's word came with it
    tips = {}
    for length in (depth, depth + 1):
        link = head
        for _ in range(length):
            link = swarm.grow(link, swarm.keys[:1], cosigned=False)
        tips[length] = link
        for block in trunk(swarm, link):
            if block.hash not in chain:
                assert block.block is not None
                chain.add(block.block)
    favoured = swarm.grow(head, swarm.keys[1:], cosigned=False)
    assert favoured.block is not None
    chain.add(favoured.block)
    cosign(swarm, favoured, swarm.keys[1:3], chain=chain)
    assert best_head(chain, tips[depth].hash) == favoured.hash
    assert best_head(chain, tips[depth + 1].hash) != favoured.hash


def test_a_branch_with_most_electors_of_the_last_final_block_is_followed_from_any_depth() -> None:
    swarm, head = elected(5)
    chain, tip = lonely_tip(swarm, head)
    favoured = swarm.grow(head, swarm.keys[1:], cosigned=False)
    chain.add(blocks_of([favoured])[0])
    cosign(swarm, favoured, swarm.keys[1:3], chain=chain)
    assert best_head(chain, tip.hash) == tip.hash
    cosign(swarm, favoured, swarm.keys[3:4], chain=chain)
    assert best_head(chain, tip.hash) == favoured.hash


def test_most_electors_of_the_last_final_block_are_most_by_weight() -> None:
    swarm, head = elected(5)
    lone, heavy, *others = swarm.keys
    chain, tip = lonely_tip(swarm, head)
    vested = {heavy.peer_id: 9, **dict.fromkeys((key.peer_id for key in (lone, *others)), 1)}
    credited(chain, chain.link(chain.final), vested=vested)
    favoured = swarm.grow(head, swarm.keys[1:], cosigned=False)
    chain.add(blocks_of([favoured])[0])
    cosign(swarm, favoured, others, chain=chain)  # three heads of five, and a third of the weight
    assert best_head(chain, tip.hash) == tip.hash
    cosign(swarm, favoured, [heavy], chain=chain)
    assert best_head(chain, tip.hash) == favoured.hash


def test_the_word_of_who_contradicted_itself_takes_nobody_back_so_deep() -> None:
    swarm, head = elected(5)
    chain, tip = lonely_tip(swarm, head)
    favoured, other = fork(swarm, head, swarm.keys[1:], swarm.keys[1:3])
    for link in (favoured, other):
        chain.add(blocks_of([link])[0])
    cosign(swarm, other, swarm.keys[1:3], chain=chain)
    cosign(swarm, favoured, swarm.keys[1:4], chain=chain)
    assert best_head(chain, tip.hash) == tip.hash


def test_a_justified_branch_is_followed_from_any_depth() -> None:
    swarm, head = elected(5)
    chain, tip = lonely_tip(swarm, head)
    favoured = swarm.grow(head, swarm.keys[1:], cosigned=False)
    shown = carrying(swarm, favoured, swarm.keys[1:], swarm.keys[1:])
    for link in (favoured, shown):
        chain.add(blocks_of([link])[0])
    assert chain.justified == favoured.hash
    assert chain.final != favoured.hash
    assert best_head(chain, tip.hash) == shown.hash


# ---------------------------------------------------------------- settled by time


def test_where_the_majority_left_for_good_those_who_stayed_finalise_again_once_time_settled_it() -> None:
    swarm, head = elected(5)
    stayed = swarm.keys[:2]
    link = swarm.grow(head, stayed, ELECTOR_WINDOW + 1)
    assert swarm.chain.final == head.parent
    swarm.chain.settle(link.hash)
    assert swarm.chain.final == swarm.chain.justified == link.hash
    tip = swarm.grow(link, stayed, 3)
    assert swarm.chain.final == tip.parent
    assert tip.finality.electorate.members == {key.peer_id for key in stayed}


def test_blocks_that_are_here_already_become_final_by_the_electors_of_the_settled_one() -> None:
    swarm, head = elected(5)
    stayed = swarm.keys[:2]
    settled = swarm.grow(head, stayed, ELECTOR_WINDOW + 1)
    tip = swarm.grow(settled, stayed, 4)
    swarm.chain.settle(settled.hash)
    assert swarm.chain.final == tip.parent
    assert swarm.chain.justified == tip.hash


def test_what_time_settled_binds_like_any_final_block() -> None:
    swarm, head = elected(5)
    aside = swarm.grow(head, swarm.keys[2:], cosigned=False)
    link = swarm.grow(head, swarm.keys[:2], 2)
    swarm.chain.settle(link.hash)
    assert block_fault(swarm.chain, swarm.block(aside, swarm.keys[2:]).body) == RULED_OUT
    assert best_head(swarm.chain, aside.hash) == link.hash


# ---------------------------------------------------------------- by decree


def test_a_decreed_block_is_final_without_a_word_from_anybody() -> None:
    swarm, head = elected(4)
    tip = swarm.grow(head, swarm.keys[:1], 2, cosigned=False)
    swarm.chain.decree(tip.round, tip.hash)
    assert swarm.chain.final == tip.hash


def test_a_block_decreed_before_it_came_is_final_when_it_comes_and_keeps_its_rivals_out() -> None:
    swarm, head = elected(4)
    decreed, rival = fork(swarm, head, swarm.keys[:2], swarm.keys)
    chain = copied(swarm, trunk(swarm, head))
    chain.decree(decreed.round, decreed.hash)
    assert chain.final != decreed.hash
    assert chain.rules_out(blocks_of([rival])[0])
    assert not chain.rules_out(blocks_of([decreed])[0])
    chain.add(blocks_of([decreed])[0])
    assert chain.final == decreed.hash
    assert block_fault(chain, blocks_of([rival])[0].body) == RULED_OUT


def test_a_decree_undoes_what_was_final_beside_it() -> None:
    swarm, head = elected(4)
    rival = fork(swarm, head, swarm.keys[:1])[0]
    tip = swarm.grow(head, swarm.keys, 2)
    assert swarm.chain.final == tip.parent
    swarm.chain.decree(rival.round, rival.hash)
    assert swarm.chain.final == swarm.chain.justified == rival.hash
    assert not swarm.chain.is_final(tip.parent)
    assert swarm.chain.is_final(head.hash)
    assert best_head(swarm.chain, tip.hash) == rival.hash
    assert block_fault(swarm.chain, swarm.block(tip, swarm.keys).body) == RULED_OUT


def test_a_decree_undoes_nothing_that_is_final_on_top_of_it() -> None:
    swarm, head = elected(4)
    tip = swarm.grow(head, swarm.keys, 3)
    final = swarm.chain.final
    swarm.chain.decree(head.round, head.hash)
    assert swarm.chain.final == final == tip.parent
    assert swarm.chain.justified == tip.hash


def test_the_electors_of_a_decreed_block_make_the_next_ones_final() -> None:
    swarm, head = elected(5)
    stayed = swarm.keys[:2]
    decreed = swarm.grow(head, stayed, ELECTOR_WINDOW + 1)
    tip = swarm.grow(decreed, stayed, 3)
    assert swarm.chain.final == head.parent
    swarm.chain.decree(decreed.round, decreed.hash)
    assert swarm.chain.final == tip.parent
    assert swarm.chain.link(tip.hash).finality.electorate.members == {key.peer_id for key in stayed}


def test_until_a_decreed_block_comes_its_branch_is_let_in_beside_the_final_one() -> None:
    swarm, head = elected(4)
    aside = swarm.grow(head, swarm.keys[:1], 4, cosigned=False)
    tip = swarm.grow(head, swarm.keys, 3)
    chain = copied(swarm, trunk(swarm, tip))
    beside = trunk(swarm, aside)[-4:]
    assert chain.final == trunk(swarm, tip)[-3].hash
    assert block_fault(chain, blocks_of(beside)[0].body) == RULED_OUT
    chain.decree(aside.round, aside.hash)
    assert best_head(chain, tip.hash) == tip.hash
    for signed in blocks_of(beside):
        assert block_fault(chain, signed.body) is None
        chain.add(signed)
    assert chain.final == aside.hash
    assert best_head(chain, tip.hash) == aside.hash


def test_time_settles_nothing_beside_a_decreed_block() -> None:
    swarm, head = elected(4)
    decreed, rival = fork(swarm, head, swarm.keys[:2], swarm.keys)
    swarm.chain.decree(decreed.round, decreed.hash)
    before = swarm.chain.link(rival.hash)
    swarm.chain.settle(rival.hash)
    assert swarm.chain.final == swarm.chain.justified == decreed.hash
    assert swarm.chain.link(rival.hash) == before
