"""Whom to ask for blocks: each block once, no source trusted for long, no head waited for in vain."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rounds import Swarm, name, trunk

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.consensus.block_search import (
    LONGEST_REST_SECONDS,
    MAX_SOUGHT,
    PATIENCE_SECONDS,
    SILENCE_SECONDS,
    TRIAL_SECONDS,
    BlockSearch,
    BlocksWanted,
)
from peers.protocol.messages import Block, Signed
from recipes.keys.keys import PeerId

A_FEW = 4  # blocks in an answer
SECOND = 0.1  # for an answer


class Source:
    """A peer that holds a branch, and gives a few blocks at a time."""

    def __init__(self, peer: str, branch: Sequence[Link]) -> None:
        self.peer = PeerId(peer)
        self.blocks = [link.block for link in branch if link.block is not None]
        self.head = branch[-1]
        self.given: list[str] = []

    def give(self, after_round: int) -> list[Signed[Block]]:
        answer = [block for block in self.blocks if block.body.round > after_round][:A_FEW]
        self.given += [block.hash for block in answer]
        return answer


class Seeker:
    """A chain that is filled by a search, on a clock of its own."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.search, self.now = chain, BlockSearch(), 0.0
        self.standing = chain.root
        self.sources: dict[PeerId, Source] = {}

    def names(self, source: Source) -> None:
        self.sources[source.peer] = source
        self.search.name(source.peer, source.head.hash, source.head.round, self.now)

    def due(self) -> list[BlocksWanted]:
        return self.search.due(self.chain, self.standing, self.now)

    def answer(self, wanted: BlocksWanted, blocks: Sequence[Signed[Block]]) -> None:
        self.now += SECOND
        new = 0
        for signed in blocks:
            if signed.hash not in self.chain and signed.body.parent in self.chain:
                self.chain.add(signed)
                new += 1
        self.search.answered(wanted.peer, blocks, new=new, chain=self.chain, now=self.now)

    def run(self) -> int:
        """Answer until nothing is asked any more; return how many requests that took."""
        requests = 0
        while wanted := self.due():
            for one in wanted:
                requests += 1
                assert requests < 300, "asked for ever"
                self.answer(one, self.sources[one.peer].give(one.after_round))
        return requests


@pytest.fixture(scope="module")
def long_branch() -> tuple[Swarm, list[Link]]:
    swarm = Swarm(3)
    tip = swarm.grow(swarm.genesis, swarm.keys, 40)
    return swarm, trunk(swarm, tip)


def test_a_long_chain_comes_once_however_many_have_it(long_branch: tuple[Swarm, list[Link]]) -> None:
    swarm, branch = long_branch
    seeker = Seeker(swarm.fresh_chain())
    sources = [Source(f"p{number}", branch) for number in range(5)]
    for source in sources:
        seeker.names(source)
    seeker.run()
    assert branch[-1].hash in seeker.chain
    given = [block for source in sources for block in source.given]
    assert len(given) <= 1.25 * len(branch)  # each source's first answer overlaps by two rounds
    assert sum(bool(source.given) for source in sources) >= 2  # nobody tells all of it


def test_one_request_is_open_at_a_time_and_more_only_while_answers_stay_out(
    long_branch: tuple[Swarm, list[Link]],
) -> None:
    swarm, branch = long_branch
    seeker = Seeker(swarm.fresh_chain())
    for number in range(8):
        seeker.names(Source(f"p{number}", branch))
    assert len(seeker.due()) == 1
    seeker.now += SILENCE_SECONDS - 1
    assert not seeker.due()
    seeker.now += 1
    assert len(seeker.due()) == 2


def test_seven_silent_liars_do_not_keep_an_eighth_source_from_being_asked(
    long_branch: tuple[Swarm, list[Link]],
) -> None:
    swarm, branch = long_branch
    seeker = Seeker(swarm.fresh_chain())
    for number in range(7):
        seeker.search.name(PeerId(f"liar{number}"), name(f"nowhere {number}"), 10**6, seeker.now)
    honest = Source("honest", branch)
    seeker.names(honest)
    while branch[-1].hash not in seeker.chain:
        assert seeker.now < 60
        for wanted in seeker.due():
            if wanted.peer == honest.peer:
                seeker.answer(wanted, honest.give(wanted.after_round))
        seeker.now += 0.5


def test_who_delivers_a_branch_without_end_does_not_keep_others_from_being_asked() -> None:
    """Whoever leads may make blocks for itself, on top of the beginning, as many as it likes."""
    swarm, other = Swarm(3), Swarm(3)
    honest = Source("honest", trunk(swarm, swarm.grow(swarm.genesis, swarm.keys[:2], 12)))
    endless = Source("endless", trunk(other, other.grow(other.genesis, other.keys[2:], 90, cosigned=False)))
    seeker = Seeker(swarm.fresh_chain())
    seeker.names(endless)
    seeker.names(honest)
    while honest.head.hash not in seeker.chain:
        assert endless.head.hash not in seeker.chain
        for wanted in seeker.due():
            seeker.answer(wanted, seeker.sources[wanted.peer].give(wanted.after_round))


def test_a_source_that_delivers_goes_on_while_another_one_does_not_answer(
    long_branch: tuple[Swarm, list[Link]],
) -> None:
    swarm, branch = long_branch
    seeker = Seeker(swarm.fresh_chain())
    honest = Source("honest", branch)
    seeker.names(honest)
    for number in range(7):
        seeker.search.name(PeerId(f"liar{number}"), name(f"nowhere {number}"), 10**6, seeker.now)
    while branch[-1].hash not in seeker.chain:
        for wanted in seeker.due():
            if wanted.peer == honest.peer:
                seeker.answer(wanted, honest.give(wanted.after_round))
        seeker.now += SECOND
    assert seeker.now < 7 * TRIAL_SECONDS + 2 * len(branch) * SECOND


def test_who_delivers_nothing_is_left_alone_each_time_for_longer() -> None:
    swarm = Swarm(2)
    seeker = Seeker(swarm.fresh_chain())
    liar, rests = PeerId("liar"), []
    for number in range(6):
        seeker.search.name(liar, name(f"nowhere {number}"), 100, seeker.now)
        (wanted,) = seeker.due()
        seeker.answer(wanted, ())
        began = seeker.now
        while not len(seeker.search):
            seeker.now += 1
            seeker.search.name(liar, name(f"nowhere {number}"), 100, seeker.now)
        rests.append(seeker.now - began)
    assert rests[1] == pytest.approx(2 * rests[0], abs=1)
    assert rests[-1] == pytest.approx(LONGEST_REST_SECONDS, abs=1)


def test_heads_are_waited_for_only_as_long_as_blocks_come(long_branch: tuple[Swarm, list[Link]]) -> None:
    swarm, branch = long_branch
    seeker = Seeker(swarm.fresh_chain())
    assert not seeker.search.waits(0.0)
    seeker.names(Source("p", branch))
    (wanted,) = seeker.due()
    assert seeker.search.waits(PATIENCE_SECONDS - 1)
    assert not seeker.search.waits(PATIENCE_SECONDS)
    seeker.now = PATIENCE_SECONDS - 1
    seeker.answer(wanted, seeker.sources[wanted.peer].give(wanted.after_round))
    assert seeker.search.waits(PATIENCE_SECONDS + 1)
    seeker.run()
    assert not seeker.search.waits(seeker.now)


def test_nobody_can_prolong_the_wait_by_naming_ever_new_heads() -> None:
    seeker = Seeker(Swarm(2).fresh_chain())
    for number in range(30):
        seeker.search.name(PeerId(f"liar{number}"), name(f"nowhere {number}"), 100 + number, seeker.now)
        seeker.due()
        seeker.now += 1
    assert not seeker.search.waits(seeker.now)


def test_a_branch_that_left_ours_deep_is_found_in_a_few_requests_and_followed_from_there() -> None:
    """Also where the answers from below hold only what is known here."""
    swarm = Swarm(3)
    shared = swarm.grow(swarm.genesis, swarm.keys, 10)
    ours = swarm.grow(shared, swarm.keys[:1], 20, cosigned=False)
    theirs = swarm.grow(shared, swarm.keys[1:2], 25, cosigned=False)
    seeker = Seeker(swarm.fresh_chain())
    for link in trunk(swarm, ours):
        if link.block is not None:
            seeker.chain.add(link.block)
    seeker.standing = ours.hash
    source = Source("them", trunk(swarm, theirs))
    seeker.names(source)
    requests = seeker.run()
    assert theirs.hash in seeker.chain
    assert requests <= 16  # five steps back, a few up to the fork, and seven answers of four blocks


def test_who_names_what_is_not_among_its_blocks_is_not_asked_in_circles(
    long_branch: tuple[Swarm, list[Link]],
) -> None:
    swarm, branch = long_branch
    seeker = Seeker(swarm.fresh_chain())
    boaster = Source("boaster", branch)
    seeker.sources[boaster.peer] = boaster
    seeker.search.name(boaster.peer, name("nowhere"), 10**6, seeker.now)
    seeker.run()
    assert len(boaster.given) <= len(branch) + A_FEW
    assert not seeker.search.waits(seeker.now)


def test_what_is_looked_for_is_bounded() -> None:
    search = BlockSearch()
    for number in range(10 * MAX_SOUGHT):
        search.name(PeerId(f"p{number}"), name(f"{number}"), 5, 0.0)
    assert len(search) == MAX_SOUGHT


def test_a_drop_now_and_then_neither_holds_the_state_up_nor_keeps_a_good_source_from_its_turn(
    long_branch: tuple[Swarm, list[Link]],
) -> None:
    """Seven liars deliver a true block each, after almost as long as one may take."""
    swarm, branch = long_branch
    seeker = Seeker(swarm.fresh_chain())
    honest = Source("honest", branch)
    liars = [Source(f"liar{number}", branch) for number in range(7)]
    for source in [*liars, honest]:
        seeker.names(source)
    open_until: dict[PeerId, float] = {}
    asked: dict[PeerId, BlocksWanted] = {}
    while branch[-1].hash not in seeker.chain:
        assert seeker.now < 60
        for wanted in seeker.due():
            asked[wanted.peer] = wanted
            open_until[wanted.peer] = seeker.now + (0.5 if wanted.peer == honest.peer else 4.9)
        for peer in [peer for peer, at in open_until.items() if at <= seeker.now]:
            wanted = asked.pop(peer)
            del open_until[peer]
            answer = seeker.sources[peer].give(wanted.after_round)
            seeker.answer(wanted, answer if peer == honest.peer else answer[:1])
        seeker.now += 0.1


def test_who_drips_blocks_of_its_own_for_ever_is_not_waited_for_for_ever() -> None:
    other = Swarm(3)
    endless = trunk(other, other.grow(other.genesis, other.keys[2:], 90, cosigned=False))
    seeker = Seeker(other.fresh_chain())
    liar = PeerId("liar")
    seeker.search.name(liar, name("nowhere"), 10**6, seeker.now)
    blocks = iter([link.block for link in endless if link.block is not None])
    while seeker.search.waits(seeker.now):
        assert seeker.now < 90
        for wanted in seeker.due():
            seeker.now += 4.5
            seeker.answer(wanted, [next(blocks)])
        seeker.now += 4.5
