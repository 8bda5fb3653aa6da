"""The checkpoints of the run's owners: which one counts, and what it undoes."""

from __future__ import annotations

from collections.abc import Sequence

from bench import Bench, acquainted, of, sent, told
from rounds import fork, name, trunk

from peers.chain.chain import Chain, Link
from peers.chain.finality import Promise
from peers.chain.rebuild import build_chain
from peers.consensus.effects import (
    Acquainted,
    Applied,
    Apply,
    BlocksFetched,
    ChainReloaded,
    Effect,
    FetchBlocks,
    ReloadChain,
    SaveCheckpoint,
    SaveFinal,
    SavePromise,
    Send,
)
from peers.protocol.events import Notice
from peers.protocol.messages import Checkpoint, CoSignature, HeadNotice, Vouched
from recipes.keys.keys import PeerId


def rebuilt(bench: Bench, *, checkpoint: Vouched) -> Chain:
    """The chain as the disk has it once the checkpoint is kept, but for what words alone made final."""
    blocks = [link.block for link in bench.swarm.chain.after(0) if link.block is not None]
    return build_chain(bench.swarm.fresh_chain(), blocks, final=None, checkpoint=checkpoint, evidence=())


def test_an_owners_checkpoint_is_followed_kept_and_passed_on() -> None:
    bench = Bench(elected=True)
    acquainted(bench)
    aside = fork(bench.swarm, bench.head, bench.others)[0]
    signed = bench.swarm.checkpoint(aside)
    effects = bench.receive(bench.others[0], signed)
    assert bench.swarm.chain.final == aside.hash
    assert of(effects, SaveCheckpoint) == [SaveCheckpoint(signed)]
    assert of(effects, SaveFinal) == [SaveFinal(aside.round, aside.hash, settled=False)]
    assert [set(send.peers) for send in sent(effects, Checkpoint)] == [{key.peer_id for key in bench.others}]
    assert not of(effects, ReloadChain)
    assert not sent(bench.receive(bench.others[1], signed), Checkpoint)


def test_a_checkpoint_whose_block_is_not_here_yet_keeps_its_rivals_out() -> None:
    bench = Bench(elected=True)
    other = Bench(elected=True)
    decreed = fork(other.swarm, other.head, other.others)[0]
    signed = other.swarm.checkpoint(decreed)
    assert of(bench.receive(bench.others[0], signed), ReloadChain)
    bench.take(ChainReloaded(rebuilt(bench, checkpoint=signed)))
    rival = bench.swarm.block(bench.head, bench.swarm.keys)
    bench.receive(bench.others[0], rival)
    assert rival.hash not in bench.engine.chain
    assert decreed.block is not None
    bench.receive(bench.others[0], decreed.block)
    assert bench.engine.chain.final == decreed.hash


def test_who_stands_on_another_branch_is_given_the_electors_words_behind_ours() -> None:
    """A word that got lost on its way, and then with its author's disk, nobody else would send again."""
    bench = Bench(elected=True)
    parent = bench.swarm.chain.link(bench.head.parent)
    aside = bench.swarm.add(bench.swarm.block(parent, bench.others[:1]))
    assert aside.block is not None
    bench.engine.chain.add(aside.block)
    word = bench.swarm.cosign(bench.others[1], bench.head)
    bench.receive(bench.others[1], word)
    them = bench.others[0].peer_id

    def given(head: Link) -> list[Send]:
        notice = HeadNotice(round=head.round, block=head.hash, age_seconds=1.0)
        effects = bench.receive(bench.others[0], notice)
        return [send for send in sent(effects, CoSignature) if send.peers == (them,)]

    assert Send((them,), word) in given(aside)
    assert not given(bench.head)
    assert not given(parent)


def given_blocks(
    bench: Bench, source: PeerId, held: Sequence[Link], effects: list[Effect], *, most: int
) -> list[int]:
    """Answer what is asked of `source`, a few blocks at a time; return after which rounds it was asked."""
    blocks = {link.hash: link.block for link in held if link.block is not None}
    ordered = sorted(blocks.values(), key=lambda block: (block.body.round, block.hash))
    asked: list[int] = []
    while wanted := of(effects, FetchBlocks):
        assert [effect.peer for effect in wanted] == [source]
        asked.append(wanted[0].after_round)
        assert len(asked) < 50, f"asked again and again: {asked}"
        answer = [block for block in ordered if block.body.round > asked[-1]][:most]
        effects = bench.take(BlocksFetched(source, tuple(answer)))
    return asked


def test_a_decreed_block_is_looked_for_from_the_beginning_past_all_that_is_known() -> None:
    """Its branch may have left ours below what is final here."""
    bench = Bench(elected=True)
    tip = bench.swarm.grow(bench.head, bench.swarm.keys, 3)
    other = Bench(elected=True)
    aside = other.swarm.grow(other.head, other.others[:1], 9, cosigned=False)
    signed = other.swarm.checkpoint(aside)
    bench.receive(bench.others[0], signed)
    bench.take(ChainReloaded(rebuilt(bench, checkpoint=signed)))
    them = bench.others[0].peer_id
    notice = HeadNotice(round=aside.round, block=aside.hash, age_seconds=1.0)
    effects = bench.receive(bench.others[0], notice)
    assert of(effects, FetchBlocks) == [FetchBlocks(them, tip.round - 2)]
    asked = given_blocks(bench, them, trunk(other.swarm, aside), effects, most=4)
    assert min(asked) < bench.head.round
    assert bench.engine.chain.final == aside.hash


def test_a_branch_that_left_ours_deep_is_asked_for_even_if_the_answer_holds_blocks_of_ours_too() -> None:
    bench = Bench(elected=True)
    ours = bench.swarm.grow(bench.head, [bench.key], 5, cosigned=False)
    other = Bench(elected=True)
    theirs = other.swarm.grow(other.head, other.others, 5, cosigned=False)
    them = bench.others[0].peer_id
    effects = bench.receive(
        bench.others[0], HeadNotice(round=theirs.round, block=theirs.hash, age_seconds=1.0)
    )
    both = [*trunk(bench.swarm, ours), *trunk(other.swarm, theirs)]
    given_blocks(bench, them, both, effects, most=4)
    assert theirs.hash in bench.engine.chain


def test_of_two_checkpoints_of_one_round_all_follow_the_same_whichever_came_first() -> None:
    bench = Bench(elected=True)
    one, other = (
        bench.swarm.checkpoint(link)
        for link in fork(bench.swarm, bench.head, *[[k] for k in bench.others[:2]])
    )
    first, second = sorted((one, other), key=lambda signed: signed.body.block)
    bench.receive(bench.others[0], first)
    bench.receive(bench.others[0], second)
    bench.receive(bench.others[0], first)
    assert bench.engine.checkpoint == second


def test_who_shows_that_it_knows_no_checkpoint_or_another_is_given_ours() -> None:
    bench = Bench(elected=True)
    acquainted(bench)
    signed = bench.swarm.checkpoint(bench.head)
    bench.receive(bench.others[0], signed)
    for known, given in ((None, 1), (name("another"), 1), (signed.body.block, 0)):
        notice = HeadNotice(round=bench.head.round, block=bench.head.hash, age_seconds=1.0, checkpoint=known)
        effects = bench.receive(bench.others[1], notice)
        assert [send.peers for send in sent(effects, Checkpoint)] == given * [(bench.others[1].peer_id,)]
    mine = bench.engine.head_notice(age_seconds=1.0)
    assert mine is not None
    assert mine.checkpoint == signed.body.block


def test_what_was_promised_beside_a_checkpoint_does_not_bind_on_top_of_it() -> None:
    """Heights bind for ever; what stood justified, only where the owner's block left it standing."""
    bench = Bench(elected=True)
    swarm = bench.swarm
    decreed = swarm.grow(bench.head, [bench.key], cosigned=False)
    bench.start(promise=Promise(decreed.round, decreed.round + 50))
    signed = swarm.checkpoint(decreed)
    assert of(bench.receive(bench.others[0], signed), SaveFinal)
    above = swarm.grow(decreed, swarm.keys, cosigned=False)
    effects = bench.take(Applied(above.hash, swarm.digests[above.hash], checked=True))
    assert sent(effects, CoSignature)
    assert of(effects, SavePromise)[-1].promise == Promise(above.round, decreed.round, decreed=decreed.hash)


def test_a_checkpoint_by_anybody_but_an_owner_is_ignored() -> None:
    bench = Bench()
    final = bench.swarm.chain.final
    for key in (bench.others[0], bench.strangers[0], bench.key):
        effects = bench.receive(bench.others[0], bench.swarm.checkpoint(bench.head, key=key))
        assert not of(effects, SaveCheckpoint)
        assert not sent(effects, Checkpoint)
    assert bench.engine.checkpoint is None
    assert bench.swarm.chain.final == final


def test_only_a_newer_checkpoint_takes_the_place_of_one() -> None:
    bench = Bench(elected=True)
    links = trunk(bench.swarm, bench.head)
    newest = bench.swarm.checkpoint(links[-2])
    bench.receive(bench.others[0], newest)
    for link in (links[-3], links[-2]):
        effects = bench.receive(bench.others[0], bench.swarm.checkpoint(link))
        assert not of(effects, SaveCheckpoint)
    assert bench.engine.checkpoint == newest
    bench.receive(bench.others[0], bench.swarm.checkpoint(links[-1]))
    assert bench.engine.checkpoint == bench.swarm.checkpoint(links[-1])


def test_a_newly_met_peer_is_given_the_checkpoint_once() -> None:
    bench = Bench()
    signed = bench.swarm.checkpoint(bench.head)
    bench.receive(bench.others[0], signed)
    newcomer = bench.strangers[0].peer_id
    effects = bench.take(Acquainted((newcomer,)))
    assert [(send.peers, send.message) for send in sent(effects, Checkpoint)] == [((newcomer,), signed)]
    assert not sent(bench.take(Acquainted((newcomer,))), Checkpoint)


def test_a_checkpoint_that_contradicts_what_is_final_here_has_the_chain_built_anew_and_is_followed() -> None:
    bench = Bench(elected=True)
    swarm = bench.swarm
    aside = fork(swarm, bench.head, bench.others[:1])[0]
    tip = swarm.grow(bench.head, swarm.keys, 3)
    bench.take(Applied(tip.hash, swarm.digests[tip.hash], checked=True))
    assert bench.engine.head == tip.hash
    signed = swarm.checkpoint(aside)
    effects = bench.receive(bench.others[0], signed)
    assert any("contradicts" in event.text for event in told(effects, Notice))
    assert of(effects, ReloadChain)
    assert of(effects, SaveCheckpoint) == [SaveCheckpoint(signed)]
    effects = bench.take(ChainReloaded(rebuilt(bench, checkpoint=signed)))
    assert of(effects, SaveFinal) == [SaveFinal(aside.round, aside.hash, settled=False)]
    effects += bench.tick(after=bench.engine.deadlines.leader)
    assert bench.engine.chain.final == aside.hash
    assert Apply(aside.hash) in effects
    bench.take(Applied(aside.hash, swarm.digests[aside.hash], checked=True))
    assert bench.engine.head == aside.hash
