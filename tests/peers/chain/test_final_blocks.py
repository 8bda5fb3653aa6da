"""What a chain takes for final: by two quorums, by time, by an owner's word; and what that lets it undo."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rounds import Swarm, copied, cosign, elected, fork, trunk

from peers.chain.chain import Chain
from peers.chain.fork_choice import best_head
from peers.chain.link import Link
from peers.chain.rebuild import KeptFinal, build_chain
from peers.chain.validation import RULED_OUT, block_fault
from peers.protocol.messages import Block, Evidence, Signed, Vouched
from peers.protocol.rules import ELECTOR_WINDOW
from recipes.keys.keys import SigningKey


def carrying(
    swarm: Swarm, parent: Link, members: Sequence[SigningKey], signers: Sequence[SigningKey]
) -> Link:
    """A block of `members` that carries the co-signatures of its parent by `signers`; nobody co-signs it."""
    return swarm.add(swarm.block(parent, members, cosigners=signers))


def blocks_of(links: Sequence[Link]) -> list[Signed[Block]]:
    return [link.block for link in links if link.block is not None]


def by_round(links: Sequence[Link]) -> list[Link]:
    """As a disk holds blocks."""
    return sorted(links, key=lambda link: (link.round, link.hash))


def rebuilt(
    swarm: Swarm,
    links: Sequence[Link],
    *,
    final: KeptFinal | None = None,
    settled: str | None = None,
    checkpoint: Vouched | None = None,
    evidence: Sequence[Evidence] = (),
) -> Chain:
    """The chain of a peer that was started again, of which the disk holds these things."""
    return build_chain(
        swarm.fresh_chain(),
        blocks_of(links),
        final=final,
        settled=settled,
        checkpoint=checkpoint,
        evidence=evidence,
    )


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


# ---------------------------------------------------------------- kept over a restart


def test_what_live_words_made_final_is_final_after_a_restart() -> None:
    swarm, head = elected(4)
    tip = swarm.grow(head, swarm.keys, 3)
    links = trunk(swarm, tip)
    kept = swarm.chain.link(swarm.chain.final)
    assert rebuilt(swarm, links).final != kept.hash  # the words that made it so are not on disk
    assert rebuilt(swarm, links, final=KeptFinal(kept.round, kept.hash, settled=False)).final == kept.hash


def test_a_final_block_that_the_disk_lost_is_not_waited_for() -> None:
    """Most others have it, and then it prevails; or nobody has it, and waiting would be for ever."""
    swarm, head = elected(4)
    rival = fork(swarm, head, swarm.keys[:1])[0]
    tip = swarm.grow(head, swarm.keys, 2)
    kept = swarm.chain.link(swarm.chain.final)
    assert kept.round == rival.round
    final = KeptFinal(kept.round, kept.hash, settled=False)
    chain = rebuilt(swarm, [*trunk(swarm, head), rival], final=final)
    assert best_head(chain, rival.hash) == rival.hash
    for signed in blocks_of([kept, tip]):
        chain.add(signed)
    cosign(swarm, tip, swarm.keys, chain=chain)
    assert chain.final == kept.hash
    assert best_head(chain, rival.hash) == tip.hash


def test_what_time_settled_is_settled_after_a_restart() -> None:
    swarm, head = elected(5)
    stayed = swarm.keys[:2]
    settled = swarm.grow(head, stayed, ELECTOR_WINDOW + 1)
    links = trunk(swarm, settled)
    swarm.chain.settle(settled.hash)
    kept = KeptFinal(settled.round, settled.hash, settled=True)
    chain = rebuilt(swarm, links, final=kept, settled=settled.hash)
    assert chain.final == settled.hash
    assert chain.link(settled.hash).finality == swarm.chain.link(settled.hash).finality


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("above", [0, 1, 2], ids=["older", "of the same round", "newer"])
def test_an_owners_checkpoint_goes_before_what_was_final_beside_it(above: int, settled: bool) -> None:
    swarm, head = elected(4)
    decreed = swarm.grow(head, swarm.keys[:1], 2, cosigned=False)
    tip = swarm.grow(head, swarm.keys, 4)
    final = trunk(swarm, tip)[-4:][above]
    chain = rebuilt(
        swarm,
        by_round([*trunk(swarm, tip), *trunk(swarm, decreed)[-2:]]),
        final=KeptFinal(final.round, final.hash, settled),
        settled=final.hash if settled else None,
        checkpoint=swarm.checkpoint(decreed),
    )
    assert chain.final == decreed.hash
    assert not chain.is_final(final.hash)
    assert best_head(chain, tip.hash) == decreed.hash


@pytest.mark.parametrize("settled", [False, True])
def test_what_was_final_on_top_of_a_checkpoint_stays_final_after_a_restart(settled: bool) -> None:
    swarm, head = elected(4)
    tip = swarm.grow(head, swarm.keys, 3)
    final = swarm.chain.link(swarm.chain.final)
    chain = rebuilt(
        swarm,
        trunk(swarm, tip),
        final=KeptFinal(final.round, final.hash, settled),
        settled=final.hash if settled else None,
        checkpoint=swarm.checkpoint(head),
    )
    assert chain.final == final.hash


def test_what_was_final_stays_so_until_a_later_decreed_block_comes_even_over_a_restart() -> None:
    swarm, head = elected(4)
    decreed = swarm.grow(head, swarm.keys[:1], 3, cosigned=False)
    tip = swarm.grow(head, swarm.keys, 2)
    final = swarm.chain.link(swarm.chain.final)
    kept, signed = KeptFinal(final.round, final.hash, settled=False), swarm.checkpoint(decreed)
    chain = rebuilt(swarm, trunk(swarm, tip), final=kept, checkpoint=signed)
    assert chain.final == final.hash
    for block in blocks_of(trunk(swarm, decreed)[-3:]):
        assert block_fault(chain, block.body) is None
        chain.add(block)
    assert chain.final == decreed.hash


def test_whom_evidence_convicts_weighs_nothing_after_a_restart() -> None:
    swarm, head = elected(4)
    one, other = fork(swarm, head, swarm.keys, swarm.keys[:2])
    liar = swarm.keys[1]
    proof = Evidence(one=swarm.cosign(liar, one), other=swarm.cosign(liar, other))
    harmless = Evidence(one=swarm.cosign(swarm.keys[0], one), other=swarm.cosign(swarm.keys[0], one))
    chain = rebuilt(swarm, trunk(swarm, head), evidence=[proof, harmless])
    assert chain.equivocators == {liar.peer_id}


def test_blocks_without_a_parent_or_at_fault_are_left_out_at_a_restart() -> None:
    swarm, head = elected(3)
    tip = swarm.grow(head, swarm.keys, 3)
    links = trunk(swarm, tip)
    assert best_head(rebuilt(swarm, links), head.hash) == tip.hash
    holed = rebuilt(swarm, [link for link in links if link.round != head.round + 1])
    assert best_head(holed, head.hash) == head.hash
    assert len(holed.links) == head.round + 1


def test_who_is_started_again_long_after_time_settled_a_block_finalises_on_with_the_others() -> None:
    swarm, head = elected(5)
    stayed = swarm.keys[:2]
    settled = swarm.grow(head, stayed, ELECTOR_WINDOW + 1)
    swarm.chain.settle(settled.hash)
    tip = swarm.grow(settled, stayed, 4)
    newest = swarm.chain.link(swarm.chain.final)
    kept = KeptFinal(newest.round, newest.hash, settled=False)
    chain = rebuilt(swarm, trunk(swarm, tip), final=kept, settled=settled.hash)
    assert chain.final == newest.hash
    cosign(swarm, tip, stayed, chain=chain)
    further = swarm.grow(tip, stayed, 3)
    for link in trunk(swarm, further)[-3:]:
        chain.add(blocks_of([link])[0])
        cosign(swarm, link, stayed, chain=chain)
    assert chain.final == swarm.chain.final
