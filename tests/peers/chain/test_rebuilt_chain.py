"""What was final before a restart is final after it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rounds import Swarm, cosign, elected, fork, trunk

from peers.chain.chain import Chain
from peers.chain.fork_choice import best_head
from peers.chain.link import Link
from peers.chain.rebuild import KeptFinal, build_chain
from peers.chain.validation import block_fault
from peers.protocol.messages import Block, Evidence, Signed, Vouched
from peers.protocol.rules import ELECTOR_WINDOW


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
