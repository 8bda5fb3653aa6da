"""The round engine under messages that no honest peer sends: signed, well-formed, and absurd."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from bench import Bench, led_by_another, told
from hostile import HUGE
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import GENESIS_DIGEST, name

from peers.chain.link import Link
from peers.consensus.allreduce import MAX_CANDIDATES
from peers.consensus.effects import (
    Acquainted,
    Applied,
    Apply,
    ApplyFailed,
    BlocksFetched,
    Effect,
    FetchReduced,
    Input,
    PushSegment,
    Reduce,
    ReducedFetched,
    ReducedLost,
    SegmentReduced,
    SegmentStored,
    Train,
)
from peers.protocol.counters import quota_or_preimage_fault
from peers.protocol.events import Refused, RosterAccepted
from peers.protocol.messages import (
    MAX_PEERS,
    AnyMessage,
    Block,
    Claim,
    CoSignature,
    HeadNotice,
    Ready,
    Reduction,
    Roster,
    Signed,
    sign,
)
from recipes.keys.keys import SigningKey

# ---------------------------------------------------------------- each by name


@pytest.mark.parametrize("included", [(), (4,), (0, 0), (1, 0), (HUGE,), (0, 1, 2, 3, 70000)])
def test_word_of_a_reduction_with_absurd_parts_is_refused(included: tuple[int, ...]) -> None:
    """Kept, it would spoil the spot check of every peer and the block of every leader."""
    bench = Bench()
    roster = bench.exchange()
    for segment in range(bench.swarm.rules.segments):
        signed = bench.swarm.reduction(roster, segment, bench.head, included=included)
        effects = bench.receive(bench.swarm.by_id[signed.body.peer], signed)
        assert not [effect for effect in effects if isinstance(effect, FetchReduced)]
        if signed.body.peer != bench.key.peer_id:
            assert told(effects, Refused)
    assert all(not heard for heard in bench.engine.round.exchange.reductions.values())


def test_word_of_a_segment_that_does_not_exist_or_was_given_to_others_is_refused() -> None:
    bench = Bench()
    roster = bench.exchange()
    good = bench.swarm.reduction(roster, 0, bench.head)
    outsider = next(
        key
        for key in bench.swarm.keys
        if key.peer_id
        not in {good.body.peer, bench.swarm.reduction(roster, 0, bench.head, backup=True).body.peer}
    )
    for signed in (
        bench.swarm.reduction(roster, 0, bench.head, segment=1023),
        bench.swarm.reduction(roster, 0, bench.head, peer=outsider.peer_id),
        bench.swarm.reduction(roster, 0, bench.head, peer=bench.strangers[0].peer_id),
    ):
        bench.receive(bench.swarm.by_id[signed.body.peer], signed)
    assert all(not heard for heard in bench.engine.round.exchange.reductions.values())


def test_a_strangers_rosters_do_not_keep_the_leaders_out() -> None:
    bench = Bench()
    bench.finish_window()
    stranger = bench.strangers[0]
    ranks = len(bench.swarm.order(bench.head))
    for attempt in range(ranks, ranks + 2 * MAX_CANDIDATES):
        claim = bench.swarm.claim(stranger, bench.head)
        bench.receive(stranger, bench.swarm.roster([claim], bench.head, key=stranger, attempt=attempt))
    assert len(bench.engine.round.exchange.candidates) <= MAX_CANDIDATES
    roster = bench.roster()
    effects = bench.receive(bench.swarm.by_id[roster.body.peer], roster)
    assert [event.leader for event in told(effects, RosterAccepted)] == [roster.body.peer]


def test_strangers_claims_do_not_crowd_out_those_whom_the_chain_knows() -> None:
    bench = Bench(strangers=3 * MAX_PEERS)
    for stranger in bench.strangers:
        bench.receive(stranger, bench.swarm.claim(stranger, bench.head))
    for key in bench.others:
        bench.receive(key, bench.swarm.claim(key, bench.head))
    claims = bench.engine.round.pool.held
    assert {key.peer_id for key in bench.others} <= claims.keys()
    assert len(claims) <= 2 * MAX_PEERS + len(bench.others)


def test_a_roster_is_not_refused_for_claims_that_could_not_be_taken() -> None:
    """Of newcomers that drew the same lane, a leader can take one; that is no fault of its roster."""
    bench = Bench(strangers=60)
    for stranger in bench.strangers:
        bench.receive(stranger, bench.swarm.claim(stranger, bench.head))
    bench.finish_window()
    leader = bench.swarm.by_id[bench.swarm.order(bench.head)[0]]
    claims, used = [], set[int]()
    for key in [*bench.others, *bench.strangers]:
        claim = bench.swarm.claim(key, bench.head)
        slots = {slot for start, count in claim.body.slots for slot in range(start, start + count)}
        if not slots & used:
            claims.append(claim)
            used |= slots
    assert len(claims) < len(bench.strangers)  # some did draw the same lane
    own = bench.engine.own_claim
    assert own is not None
    roster = bench.swarm.roster([*claims, own], bench.head, key=leader)
    bench.now += bench.engine.deadlines.grace
    bench.receive(leader, roster)
    assert not bench.engine.round.exchange.roster_refused


def test_a_roster_that_leaves_out_claims_that_are_here_is_refused() -> None:
    bench = led_by_another(peers=6)
    for key in bench.others:
        bench.receive(key, bench.swarm.claim(key, bench.head))
    bench.finish_window()
    leader = bench.swarm.by_id[bench.swarm.order(bench.head)[0]]
    roster = bench.swarm.roster([bench.swarm.claim(leader, bench.head)], bench.head, key=leader)
    bench.now += bench.engine.deadlines.grace
    bench.receive(leader, roster)
    assert bench.engine.round.exchange.roster_refused


def test_a_strangers_block_before_its_turn_is_refused() -> None:
    bench = Bench()
    stranger = bench.strangers[0]
    claims = [bench.swarm.claim(stranger, bench.head)]
    roster = bench.swarm.roster(claims, bench.head, key=stranger, attempt=0)
    effects = bench.receive(stranger, bench.swarm.block(bench.head, (), roster=roster))
    assert told(effects, Refused)
    assert not [effect for effect in effects if isinstance(effect, Apply)]


def test_claims_of_no_work_are_refused() -> None:
    bench = Bench()
    claim = bench.swarm.claim(bench.others[0], bench.head, slots=0)
    assert quota_or_preimage_fault(claim.body, bench.head.counters, bench.swarm.rules)
    assert told(bench.receive(bench.others[0], claim), Refused)
    assert bench.engine.round.pool.held == {}


# ---------------------------------------------------------------- anything, in any order

ODD_NUMBERS = (0, 1, 2, 3, 7, 63, 64, 1023, 2**31, 2**32, HUGE)


class Hostility:
    """Draws messages that a peer with a good key could send, each off in some respect."""

    def __init__(self, bench: Bench, dice: random.Random) -> None:
        self.bench, self.dice, self.swarm = bench, dice, bench.swarm
        self.keys = [*bench.swarm.keys, *bench.strangers]
        self.rosters: list[Signed[Roster]] = []
        self.blocks: list[Signed[Block]] = []

    def number(self) -> int:
        return self.dice.choice(ODD_NUMBERS)

    def place(self) -> Link:
        links = [link for link in self.bench.engine.chain.links.values() if link.block is not None]
        return self.dice.choice([self.bench.head, self.bench.head, *links])

    def hash(self) -> str:
        known = [self.place().hash, *(signed.hash for signed in self.rosters)]
        known += [signed.hash for signed in self.blocks]
        return self.dice.choice([*known, name(str(self.dice.randrange(200)))])

    def key(self) -> SigningKey:
        return self.dice.choice([key for key in self.keys if key is not self.bench.key])

    def some(self, **fields: Callable[[], Any]) -> dict[str, Any]:
        """A few of `fields`, each with another value."""
        chosen = [field for field in fields if self.dice.random() < 0.25]
        return {field: fields[field]() for field in chosen}

    def claim(self) -> Signed[Claim]:
        slots = tuple((self.number(), self.number()) for _ in range(self.dice.randrange(4)))
        other = self.some(
            round=self.number,
            parent=self.hash,
            start_digest=self.hash,
            slots=lambda: slots,
            norms=lambda: self.dice.choice([(), (0.0, 0.0), (1e308, 1e308), (1.0,) * 1024]),
            preimage=lambda: self.dice.choice([None, self.hash()]),
            anchor=lambda: self.dice.choice([None, self.hash()]),
            contribution_bytes=self.number,
        )
        key = self.key()
        good = self.swarm.claim(key, self.place()).body
        return sign(key, Claim(**{**good.model_dump(), **other}))

    def roster(self) -> Signed[Roster]:
        key = self.key()
        claims = [self.claim() for _ in range(self.dice.randrange(1, 4))]
        if self.dice.random() < 0.5:
            claims = [self.swarm.claim(member, self.bench.head) for member in self.dice.sample(self.keys, 3)]
        other = self.some(round=self.number, parent=self.hash, attempt=self.number)
        self.rosters.append(self.swarm.roster(claims, self.place(), key=key, **other))
        return self.rosters[-1]

    def any_roster(self) -> Signed[Roster]:
        accepted = self.bench.engine.roster
        known = [*self.rosters, *([accepted] * 5 if accepted is not None else [])]
        return self.dice.choice(known) if known else self.roster()

    def reduction(self) -> Signed[Reduction]:
        body = Reduction(
            run=self.swarm.rules.run,
            peer=self.key().peer_id,
            roster=self.dice.choice([self.any_roster().hash, self.hash()]),
            segment=self.dice.choice([0, 1, 2, 1023]),
            root=self.hash(),
            bytes=self.number(),
            included=tuple(self.number() for _ in range(self.dice.randrange(5))),
        )
        return sign(self.swarm.by_id[body.peer], body)

    def cosignature(self) -> Signed[CoSignature]:
        link = self.place()
        other = self.some(round=self.number, block=self.hash, digest=self.hash)
        signed = self.swarm.cosign(self.key(), link)
        key = self.swarm.by_id[signed.body.peer]
        return sign(key, CoSignature(**{**signed.body.model_dump(), **other}))

    def block(self) -> Signed[Block]:
        roster = self.any_roster()
        key = self.key()
        parent = self.place()
        body = Block(
            run=self.swarm.rules.run,
            peer=key.peer_id,
            round=self.dice.choice([parent.round + 1, self.number()]),
            attempt=self.dice.choice([roster.body.attempt, self.number()]),
            parent=self.dice.choice([parent.hash, self.hash()]),
            roster=roster,
            reductions=tuple(
                self.dice.choice([None, self.reduction()]) for _ in range(self.dice.choice([2, 2, 2, 0, 5]))
            ),
            digest_before=self.dice.choice([GENESIS_DIGEST, self.hash()]),
            cosignatures=tuple(self.cosignature() for _ in range(self.dice.randrange(4))),
            ledger=parent.ledger.head,
            accounts=parent.ledger.accounts_hash,
        )
        self.blocks.append(sign(key, body))
        return self.blocks[-1]

    def good_block(self) -> Signed[Block]:
        parent = self.place()
        members = self.dice.sample(self.keys, self.dice.randrange(1, 4))
        try:
            self.blocks.append(self.swarm.block(parent, members))
        except KeyError:  # a branch on which the builder does not know everybody
            return self.block()
        return self.blocks[-1]

    def notice(self) -> HeadNotice:
        age = self.dice.choice([0.0, 1.0, 86400.0 * 365])
        return HeadNotice(round=self.number(), block=self.hash(), age_seconds=age)

    def ready(self) -> Ready:
        return Ready(round=self.number(), parent=self.hash())

    def message(self) -> AnyMessage:
        kinds: list[Callable[[], AnyMessage]] = [
            self.claim,
            self.roster,
            self.reduction,
            self.reduction,
            self.cosignature,
            self.block,
            self.good_block,
            self.notice,
            self.ready,
        ]
        return self.dice.choice(kinds)()


class World:
    """Answers what the engine wants done, now well, now badly, now not at all."""

    def __init__(self, bench: Bench, dice: random.Random) -> None:
        self.bench, self.dice = bench, dice
        self.segments = bench.swarm.rules.segments

    def answer(self, effect: Effect) -> Input | None:
        if self.dice.random() < 0.2:
            return None
        match effect:
            case Apply(block):
                good = Applied(block, name(f"state after {block}"), self.dice.random() < 0.8)
                return (
                    good
                    if self.dice.random() < 0.8
                    else ApplyFailed(block, "could not be had", self.bench.engine.chain.root)
                )
            case FetchReduced():
                here = self.dice.random() < 0.5
                return ReducedFetched(effect.root) if here else ReducedLost(effect.root, "nowhere")
            case PushSegment(roster, segment, reducer):
                return SegmentStored(roster, segment, reducer)
            case Reduce(roster, segment, included):
                return SegmentReduced(roster, segment, name(f"{roster}/{segment}"), 1000, included)
            case Train():
                link = self.bench.engine.chain.link(effect.parent)
                return self.bench.work(link) if effect.slots else None
        return None


@given(seed=st.integers(0, 10**6), phase=st.sampled_from(["training", "claimed", "exchanging"]))
@settings(max_examples=40, deadline=None)
def test_no_message_in_whatever_order_makes_the_engine_fail(seed: int, phase: str) -> None:
    bench = Bench()
    if phase == "claimed":
        bench.finish_window()
    elif phase == "exchanging":
        bench.exchange()
    dice = random.Random(seed)
    hostility, world = Hostility(bench, dice), World(bench, dice)
    for _ in range(60):
        message = hostility.message()
        if isinstance(message, Signed) and isinstance(message.body, Block) and dice.random() < 0.3:
            effects = bench.take(BlocksFetched(hostility.key().peer_id, (message,)))
        else:
            effects = bench.receive(hostility.key(), message)
        if dice.random() < 0.1:
            effects += bench.take(Acquainted(tuple(key.peer_id for key in bench.strangers)))
        if dice.random() < 0.3:
            effects += bench.tick(after=dice.choice([0.1, 3.0, 20.0]))
        while effects:
            answer = world.answer(effects.pop(0))
            effects += bench.take(answer) if answer is not None else []
    assert len(bench.engine.round.exchange.candidates) <= MAX_CANDIDATES
    assert bench.engine.wake_at > bench.now


def test_after_hostile_messages_the_round_still_ends_in_the_leaders_block() -> None:
    bench = Bench()
    hostility = Hostility(bench, random.Random(7))
    for _ in range(200):
        message = hostility.message()
        if not (isinstance(message, Signed) and isinstance(message.body, Block)):
            bench.receive(hostility.key(), message)
    roster = bench.exchange()
    block = bench.swarm.block(bench.head, (), roster=roster, cosigners=bench.swarm.keys)
    effects = bench.receive(bench.swarm.by_id[roster.body.peer], block)
    assert Apply(block.hash) in effects
