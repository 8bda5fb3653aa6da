"""What a peer passes on and asks for: proof of fraud, checkpoints, rosters and blocks, what it missed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from bench import Bench, acquainted, of, sent, told
from rounds import Swarm, fork, name, trunk

from peers.chain.chain import Chain, Link
from peers.chain.finality import Promise
from peers.chain.rebuild import build_chain
from peers.chain.validation import RULED_OUT
from peers.consensus.block_processing import APART, LONGEST_PUT_OFF_SECONDS
from peers.consensus.block_search import PATIENCE_SECONDS
from peers.consensus.effects import (
    Acquainted,
    Applied,
    Apply,
    ApplyFailed,
    AskHead,
    BlocksFetched,
    ChainReloaded,
    Effect,
    FetchBlocks,
    FetchRoster,
    ReloadChain,
    SaveCheckpoint,
    SaveClaim,
    SaveEvidence,
    SaveFinal,
    SavePromise,
    Send,
    Train,
)
from peers.consensus.engine import RoundEngine
from peers.protocol.events import BlockAdopted, Convicted, Notice, Refused
from peers.protocol.messages import Checkpoint, Claim, CoSignature, Evidence, HeadNotice, Signed, Vouched
from peers.protocol.rules import FANOUT
from recipes.keys.keys import PeerId


def rebuilt(bench: Bench, *, checkpoint: Vouched) -> Chain:
    """The chain as the disk has it once the checkpoint is kept, but for what words alone made final."""
    blocks = [link.block for link in bench.swarm.chain.after(0) if link.block is not None]
    return build_chain(bench.swarm.fresh_chain(), blocks, final=None, checkpoint=checkpoint, evidence=())


# ---------------------------------------------------------------- having just come


def test_a_newcomer_asks_how_old_a_head_is_as_soon_as_it_stands_there() -> None:
    """Asked for only every now and then, the head has changed again before anybody has named it."""
    bench = Bench()
    swarm, head = bench.swarm, bench.head
    bench.engine = RoundEngine(
        key=bench.key,
        chain=swarm.chain,
        head=head.hash,
        state_digest=swarm.digests[head.hash],
        promise=Promise(),
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


# ---------------------------------------------------------------- proof of fraud


def test_two_claims_on_one_block_are_told_saved_and_passed_on_once() -> None:
    bench = Bench()
    acquainted(bench)
    liar = bench.others[0]
    claims = [bench.swarm.claim(liar, bench.head, slots=count) for count in (1, 2, 3)]
    assert not of(bench.receive(liar, claims[0]), SaveEvidence)
    effects = bench.receive(liar, claims[1])
    proof = Evidence(one=claims[0], other=claims[1])
    assert [event.peer for event in told(effects, Convicted)] == [liar.peer_id]
    assert of(effects, SaveEvidence) == [SaveEvidence(liar.peer_id, proof)]
    assert [set(send.peers) for send in sent(effects, Evidence)] == [{key.peer_id for key in bench.others}]
    for again in (claims[1], claims[2], Evidence(one=claims[1], other=claims[2]), proof):
        effects = bench.receive(liar, again)
        assert not told(effects, Convicted)
        assert not of(effects, SaveEvidence)
        assert not sent(effects, Evidence)
    assert bench.engine.round.claims[liar.peer_id][0] == claims[0]  # the first stands


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
    assert of(effects, SaveEvidence) == [SaveEvidence(liar.peer_id, proof)]
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
    assert not bench.engine.convicts


# ---------------------------------------------------------------- on the wrong branch


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
    assert [event.reason for event in told(bench.receive(bench.others[0], stale), Refused)] == [RULED_OUT]
    say_heads(bench, name("elsewhere"), tip.hash, tip.hash)
    assert not told(bench.receive(bench.others[0], stale), Notice)
    say_heads(bench, name("elsewhere"), name("also elsewhere"), tip.hash)
    assert [event.text for event in told(bench.receive(bench.others[0], stale), Notice)] == [APART]
    assert not told(bench.receive(bench.others[0], stale), Notice)  # once is enough for a while
    bench.tick(after=swarm.rules.rewind_depth * swarm.rules.window_seconds)
    assert [event.text for event in told(bench.receive(bench.others[0], stale), Notice)] == [APART]


# ---------------------------------------------------------------- checkpoints


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
    bench.engine.promise = Promise(decreed.round, decreed.round + 50)
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


# ---------------------------------------------------------------- handed on in a tree


@pytest.fixture(scope="module")
def many() -> list[RoundEngine]:
    swarm = Swarm(65)
    return [
        RoundEngine(
            key=key,
            chain=swarm.chain,
            head=swarm.genesis.hash,
            state_digest=swarm.genesis_digest,
            promise=Promise(),
            now=0.0,
        )
        for key in swarm.keys
    ]


@pytest.mark.parametrize("outside", [False, True])
def test_everybody_but_the_root_is_reached_exactly_once(many: list[RoundEngine], outside: bool) -> None:
    swarm = Swarm(1)
    message: Signed[Claim] = swarm.claim(swarm.keys[0], swarm.genesis)
    root = many[-1] if outside else many[0]
    for size in range(1, 65):
        audience = [engine.me for engine in many[:size]]
        links: list[tuple[str, str]] = []
        for engine in many:
            engine._effects = []
            engine.spread(message, audience, root=root.me)
            sends = sent(engine._effects, Claim)
            assert sum(len(send.peers) for send in sends) <= FANOUT
            links += [(engine.me, peer) for send in sends for peer in send.peers]
        assert sorted(to for _, to in links) == sorted(set(audience) - {root.me})
        reached: set[str] = {root.me}
        hops = 0
        while newly := {to for by, to in links if by in reached} - reached:
            reached |= newly
            hops += 1
        assert reached == {root.me, *audience}
        assert hops <= 2


def test_who_is_not_addressed_hands_nothing_on(many: list[RoundEngine]) -> None:
    swarm = Swarm(1)
    message = swarm.claim(swarm.keys[0], swarm.genesis)
    stranger = many[20]
    stranger._effects = []
    stranger.spread(message, [engine.me for engine in many[:10]], root=many[0].me)
    assert not stranger._effects


def test_different_messages_take_different_ways(many: list[RoundEngine]) -> None:
    """So that nobody bears the load of every round."""
    swarm = Swarm(1)
    first: set[tuple[str, ...]] = set()
    for steps in range(5):
        many[0]._effects = []
        message = swarm.claim(swarm.keys[0], swarm.genesis, steps=steps)
        many[0].spread(message, [engine.me for engine in many], root=many[0].me)
        first |= {send.peers for send in sent(many[0]._effects, Claim)}
    assert len(first) == 5


# ---------------------------------------------------------------- what was skipped


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
    assert bench.engine.round.roster == roster
    assert not of(bench.tick(after=pause(bench)), FetchRoster)


def test_of_several_rosters_those_are_asked_for_that_most_peers_speak_of() -> None:
    bench = Bench(peers=5)
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
    assert name("no such roster") not in bench.engine.early.waiting
    assert not of(bench.tick(after=pause(bench)), FetchRoster)


# ---------------------------------------------------------------- lost memory


def test_a_co_signature_leaves_after_its_promise_is_on_disk() -> None:
    bench = Bench(elected=True)
    acquainted(bench)
    tip = bench.swarm.grow(bench.head, bench.swarm.keys, cosigned=False)
    effects = bench.take(Applied(tip.hash, bench.swarm.digests[tip.hash], checked=True))
    words = sent(effects, CoSignature)
    saved = of(effects, SavePromise)
    assert len(words) == len(saved) == 1
    assert effects.index(saved[0]) < effects.index(words[0])
    assert saved[0].promise.round == tip.round


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
    assert not bench.engine.forgot
    assert not sent(effects, CoSignature)  # it may have been further, on another branch
    assert any(effect.slots for effect in of(effects, Train))


def test_who_forgot_co_signs_nothing_until_well_beyond_its_state_whatever_head_it_finds() -> None:
    bench = Bench(elected=True, forgot=True, state_round=90)
    acquainted(bench)
    bench.tick(after=bench.engine.deadlines.leader)
    assert bench.engine.promise is not None
    assert bench.engine.promise.round == 90 + bench.swarm.rules.rewind_depth


# ---------------------------------------------------------------- a long chain


def newcomer(bench: Bench) -> RoundEngine:
    """Put an engine on the bench that knows nothing yet of the chain that the others have."""
    chain = bench.swarm.fresh_chain()
    bench.engine = RoundEngine(
        key=bench.strangers[0],
        chain=chain,
        head=chain.root,
        state_digest=bench.swarm.digests[chain.root],
        state_is_here=False,
        promise=Promise(),
        now=0.0,
    )
    acquainted(bench)
    return bench.engine


def notice_of(link: Link) -> HeadNotice:
    return HeadNotice(round=link.round, block=link.hash, age_seconds=1.0)


def test_no_state_is_tried_before_the_chain_is_here_up_to_the_head_that_was_named() -> None:
    bench = Bench(elected=True)
    engine, source = newcomer(bench), bench.others[0]
    path = trunk(bench.swarm, bench.head)
    blocks = [link.block for link in path if link.block is not None]
    effects = bench.receive(source, notice_of(bench.head))
    while wanted := of(effects, FetchBlocks):
        assert not of(effects, Apply)
        answer = [block for block in blocks if block.body.round > wanted[0].after_round][:2]
        effects = bench.take(BlocksFetched(source.peer_id, tuple(answer)))
    assert of(effects, Apply) == [Apply(bench.head.hash)]
    assert engine.applying == bench.head.hash


def test_a_head_that_its_source_cannot_deliver_is_waited_for_ten_seconds_at_most() -> None:
    bench = Bench(elected=True)
    newcomer(bench)
    liar, source = bench.others[:2]
    bench.receive(liar, HeadNotice(round=10**6, block=name("nowhere"), age_seconds=1.0))
    blocks = [link.block for link in trunk(bench.swarm, bench.head) if link.block is not None]
    bench.take(BlocksFetched(source.peer_id, tuple(blocks)), after=1.0)
    assert bench.engine.applying is None
    effects = bench.tick(after=PATIENCE_SECONDS)
    assert of(effects, Apply) == [Apply(bench.head.hash)]


def test_nothing_on_the_way_to_a_block_that_cannot_be_applied_is_tried_and_it_is_for_ever_longer() -> None:
    bench = Bench(elected=True)
    engine = newcomer(bench)
    blocks = [link.block for link in trunk(bench.swarm, bench.head) if link.block is not None]
    effects = bench.take(BlocksFetched(bench.others[0].peer_id, tuple(blocks)), after=20.0)
    pauses = []
    for _ in range(8):
        assert of(effects, Apply) == [Apply(bench.head.hash)]
        effects = bench.take(ApplyFailed(bench.head.hash, "nobody has it", engine.chain.root))
        assert not of(effects, Apply)
        failed_at = bench.now
        while not of(effects, Apply):
            effects = bench.tick(after=0.5)
        pauses.append(bench.now - failed_at)
    assert pauses[1] == pytest.approx(2 * pauses[0], abs=0.5)
    assert max(pauses) <= LONGEST_PUT_OFF_SECONDS + 0.5


def test_who_is_no_elector_begins_nothing_beside_a_later_head_that_others_name() -> None:
    bench = Bench(elected=True)
    engine = newcomer(bench)
    engine.state_is_here = True
    far = HeadNotice(round=300, block=name("far"), age_seconds=1.0)
    effects = bench.receive(bench.others[0], far)
    for _ in range(40):
        effects += bench.tick(after=5.0)
    assert not of(effects, Train)
    waiting = [notice.text for notice in told(effects, Notice) if "name heads up to round 300" in notice.text]
    assert 2 <= len(waiting) <= 4  # once a minute
    effects = bench.take(Acquainted(()))  # whoever said so is gone
    assert of(effects + bench.tick(after=5.0), Train)


def test_what_blocks_come_late_is_no_sign_that_a_forgetful_peer_did_not_claim() -> None:
    """They are of rounds in which it may have claimed: most others stand further on."""
    bench = Bench(elected=True, forgot=True)
    acquainted(bench)
    link = bench.head
    for _ in range(4):
        for key in bench.others:
            bench.receive(key, HeadNotice(round=link.round + 9, block=name("far"), age_seconds=1.0))
        link = bench.swarm.grow(link, bench.others, 1)
        effects = bench.take(
            Applied(link.hash, bench.swarm.digests[link.hash], checked=True),
            after=bench.swarm.rules.window_seconds,
        )
        bench.tick(after=1.0)
    assert bench.engine.forgot
    assert not of(effects, SaveClaim)


def test_who_is_alone_is_told_how_many_are_gone_and_what_to_do_once() -> None:
    bench = Bench(elected=True)
    events, link = [], bench.head
    for _ in range(3):
        link = bench.swarm.grow(link, [bench.key], 1, cosigned=False)
        effects = bench.take(Applied(link.hash, bench.swarm.digests[link.hash], checked=True))
        events += told(effects, BlockAdopted)
        events += [notice for notice in told(effects, Notice) if "You train alone" in notice.text]
    assert [event.gone for event in events if isinstance(event, BlockAdopted)] == [3, 3, 3]
    (alone,) = [event.text for event in events if isinstance(event, Notice)]
    assert "none of the 3 others" in alone
    assert "--peer" in alone


def test_another_branch_is_tried_where_one_cannot_be_applied_even_from_what_both_share() -> None:
    """Its state may be a snapshot's, higher up, though nobody has what lies below."""
    bench = Bench(elected=True)
    engine = newcomer(bench)
    one, other = fork(bench.swarm, bench.head, bench.others[:1], bench.others[1:2])
    blocks = [link.block for link in bench.swarm.chain.after(0) if link.block is not None]
    effects = bench.take(BlocksFetched(bench.others[0].peer_id, tuple(blocks)), after=20.0)
    (first,) = of(effects, Apply)
    effects = bench.take(ApplyFailed(first.block, "nobody has it", engine.chain.root))
    assert of(effects, Apply) == [Apply(({one.hash, other.hash} - {first.block}).pop())]
