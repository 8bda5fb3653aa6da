"""Finality as a rule on its own: quorums, terms, vote locks, and an adversary that tries to break it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.chain.finality import MANY_ELECTORS, Electorate, Finality, VoteLock, begin, show
from peers.protocol.chance.say import Say, alike
from recipes.keys.keys import PeerId


def peers(count: int, *, first: int = 0) -> frozenset[PeerId]:
    return frozenset(PeerId(f"peer {number}") for number in range(first, first + count))


def term(before: Iterable[PeerId], now: Iterable[PeerId] | None = None, since: int = 0) -> Electorate:
    """An electorate in which all weigh the same; its last term's electors are its own, if not said."""
    last = alike(before).weights
    return Electorate(last, last if now is None else alike(now).weights, since)


# ---------------------------------------------------------------- quorums


@pytest.mark.parametrize(
    ("electors", "quorum"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 6), (8, 6)]
)
def test_a_quorum_is_three_quarters_of_the_electors(electors: int, quorum: int) -> None:
    everybody = peers(electors)
    electorate = term(everybody)
    others = peers(20, first=50)
    assert electorate.agrees([*sorted(everybody)[:quorum], *others], known=70)
    assert not electorate.agrees([*sorted(everybody)[: quorum - 1], *others], known=70)
    if electors > 1:
        assert electorate.agrees(sorted(everybody)[:quorum], known=electors)


@pytest.mark.parametrize("electors", range(1, 65))
def test_two_quorums_share_at_least_half_of_the_electors(electors: int) -> None:
    everybody = peers(electors)
    electorate = term(everybody)
    quorum = next(
        n
        for n in range(electors + 1)
        if electorate.agrees(set(sorted(everybody)[:n]) | peers(4, first=90), known=electors)
    )
    assert 2 * (2 * quorum - electors) >= electors


def test_nobody_is_no_quorum_of_nobody() -> None:
    assert not term(()).agrees(peers(9), known=9)


@pytest.mark.parametrize(
    ("electors", "known", "holders"),
    [(1, 1, 2), (1, 2, 2), (1, 3, 3), (1, 30, 4), (2, 2, 2), (3, 30, 4), (4, 30, 3)],
)
def test_few_electors_need_others_who_hold_the_state(electors: int, known: int, holders: int) -> None:
    electorate = term(peers(electors))
    everybody = sorted(peers(9))
    assert electorate.agrees(everybody[:holders], known=known)
    assert not electorate.agrees(everybody[: holders - 1], known=known)


def test_a_quorum_goes_by_weight_not_by_heads() -> None:
    heavy = [PeerId("heavy"), *peers(3)]  # where two alone are a quorum, four have to hold the state
    weights = dict.fromkeys(peers(9), 1) | {PeerId("heavy"): 27}
    electorate = Electorate(weights, weights, 0)
    assert electorate.agrees(heavy, known=10)
    assert not electorate.agrees(heavy[:3], known=10)
    assert electorate.agrees(heavy[:3], known=3)
    assert not electorate.agrees(peers(9), known=10)
    weights = dict.fromkeys(peers(9), 2) | dict.fromkeys([PeerId("one"), PeerId("two")], 20)
    electorate = Electorate(weights, weights, 0)
    assert electorate.agrees([PeerId("one"), PeerId("two"), *peers(2)], known=10)
    assert not electorate.agrees([PeerId("one"), PeerId("two"), *peers(1)], known=10)
    assert not electorate.agrees([PeerId("one")] * 2 + [*peers(2)], known=10)  # each counts once


@given(
    weights=st.lists(st.integers(1, 50), min_size=MANY_ELECTORS, max_size=10),
    data=st.data(),
)
def test_two_quorums_share_at_least_half_of_the_weight(weights: list[int], data: st.DataObject) -> None:
    say = {PeerId(f"peer {number}"): weight for number, weight in enumerate(weights)}
    electorate = Electorate(say, say, 0)
    one, other = (data.draw(st.sets(st.sampled_from(sorted(say)))) for _ in range(2))
    if all(electorate.agrees(quorum, known=len(say)) for quorum in (one, other)):
        assert 2 * sum(say[peer] for peer in one & other) >= sum(weights)


def test_whom_the_chain_excludes_counts_neither_in_the_part_nor_in_the_whole() -> None:
    everybody, gone = peers(8), peers(2, first=6)
    electorate = term(everybody)
    rest = sorted(everybody - gone)
    assert not electorate.agrees(rest[:5], known=8)
    assert electorate.agrees(rest[:5], known=8, excluded=gone)  # of six, not of eight
    assert not electorate.agrees(rest[:4], known=8, excluded=gone)
    assert electorate.agrees([*rest[:4], *gone], known=8)
    assert not electorate.agrees([*rest[:4], *gone], known=8, excluded=gone)
    assert not electorate.agrees(everybody, known=8, excluded=everybody)
    assert electorate.agrees(rest[:6], known=8, excluded=peers(5, first=90))


def test_whom_the_chain_excludes_counts_in_neither_of_two_terms() -> None:
    gone = peers(1, first=3)
    electorate = term(peers(4), peers(4, first=3))
    signers = peers(3) | peers(3, first=4)
    assert electorate.agrees(signers, known=7, excluded=gone)
    for one in sorted(signers):
        assert not electorate.agrees(signers - {one}, known=7, excluded=gone)


def test_a_term_needs_three_quarters_of_its_own_electors_and_of_the_last_terms() -> None:
    before, now = peers(4), peers(4, first=2)
    electorate = term(before, now)
    assert electorate.members == peers(6)
    assert not electorate.agrees(before, known=6)
    assert not electorate.agrees(now, known=6)
    assert electorate.agrees(peers(4, first=1), known=6)
    assert electorate.agrees(peers(6), known=6)


# ---------------------------------------------------------------- a chain of blocks


@dataclass
class Line:
    """A chain in a line: block `n` has the name "n"; each next one carries some peers' words on the last."""

    at: list[Finality]
    say: dict[str, Say] = field(default_factory=dict)
    excluded: frozenset[PeerId] = frozenset()  # after each block that is grown from now on

    def grow(self, signers: frozenset[PeerId] | set[PeerId] = frozenset()) -> Finality:
        number = len(self.at)
        self.at.append(
            show(
                self.at[-1],
                parent=str(number - 1),
                grandparent=str(number - 2) if number > 1 else "",
                round_number=number,
                signers=signers,
                known=4,
                excluded=self.excluded,
                say_at=lambda block: self.say.get(block, alike(peers(4))),
            )
        )
        return self.at[-1]


def line(electors: frozenset[PeerId] | None = None) -> Line:
    return Line([begin("0", 0, alike(electors or peers(4)))])


def test_one_quorum_justifies_a_block_and_a_second_in_a_row_makes_it_final() -> None:
    chain = line()
    chain.grow()
    first = chain.grow(peers(3))
    assert (first.justified, first.justified_round, first.final) == ("1", 1, "0")
    second = chain.grow(peers(3))
    assert (second.justified, second.final, second.final_round) == ("2", "1", 1)


def test_a_gap_between_two_quorums_makes_nothing_final() -> None:
    chain = line()
    chain.grow()
    chain.grow(peers(4))
    assert chain.grow(peers(2)).justified == "1"
    after_the_gap = chain.grow(peers(4))
    assert (after_the_gap.justified, after_the_gap.final) == ("3", "0")
    assert chain.grow(peers(4)).final == "3"


def test_a_block_without_a_quorum_changes_nothing() -> None:
    chain = line()
    before = chain.grow()
    assert chain.grow(peers(2)) == before


def test_a_new_term_begins_once_something_of_the_last_one_is_final() -> None:
    chain = line()
    newer, newest = peers(4, first=1), peers(4, first=2)
    chain.say = {str(number): alike(newer if number < 3 else newest) for number in range(1, 20)}
    everybody = peers(8)
    chain.grow()
    chain.grow(everybody)
    began = chain.grow(everybody)  # shows 1 to be final: the first term ends
    assert began.electorate == term(peers(4), newer, 3)
    same = chain.grow(everybody)  # shows 2 to be final, which is older than the term
    assert (same.final, same.electorate) == ("2", began.electorate)
    renewed = chain.grow(everybody)  # shows 3 to be final
    assert (renewed.final, renewed.electorate) == ("3", term(newer, newest, 5))


def test_those_who_just_joined_decide_nothing_without_those_before_them() -> None:
    chain = line(peers(4))
    chain.say = dict.fromkeys(map(str, range(1, 20)), alike(peers(40)))
    for _ in range(3):
        chain.grow(peers(4))
    assert chain.at[-1].electorate.current.keys() == peers(40)
    crowd = peers(36, first=4)
    for _ in range(4):
        assert chain.grow(crowd) == chain.at[3]
    assert chain.grow(peers(40)).justified == "7"


def test_the_weights_of_a_term_are_those_at_the_final_block_that_began_it() -> None:
    chain = line()
    heavy = dict.fromkeys(peers(4), 1) | {PeerId("peer 0"): 10}
    chain.say = {"1": Say(heavy, peers(1)), "2": Say(dict.fromkeys(peers(4), 5), peers(4))}
    for _ in range(3):
        chain.grow(peers(4))
    began = chain.at[-1]
    assert (began.final, began.electorate.current) == ("1", heavy)
    assert chain.grow(peers(3, first=1)) == began  # three heads of four, and less than a quarter
    assert chain.grow(peers(4)).justified == "4"


def test_words_of_those_whom_the_chain_excludes_by_then_justify_nothing() -> None:
    chain = line(peers(8))
    chain.grow()
    assert chain.grow(peers(6)).justified == "1"
    chain.excluded = peers(2)
    before = chain.at[-1]
    assert chain.grow(peers(6)) == before  # four are left, of six
    chain.excluded = peers(2, first=6)
    assert chain.grow(peers(5)).justified == "3"


# ---------------------------------------------------------------- vote locks


def test_a_vote_lock_lets_one_block_a_height_be_signed_and_only_upwards() -> None:
    finality = begin("0", 0, alike(peers(4)))
    vote_lock = VoteLock().after(5, finality)
    assert not vote_lock.allows(4, finality)
    assert not vote_lock.allows(5, finality)
    assert vote_lock.allows(6, finality)


def test_a_vote_lock_lets_no_branch_be_signed_whose_justified_block_is_older() -> None:
    older, newer = (begin(str(n), n, alike(peers(4))) for n in (3, 4))
    vote_lock = VoteLock().after(5, newer)
    assert not vote_lock.allows(6, older)
    assert vote_lock.allows(6, newer)
    assert vote_lock.allows(7, begin("5", 5, alike(peers(4))))
    assert vote_lock.after(6, older).justified_round == 4  # it never falls


# ---------------------------------------------------------------- an adversary


@dataclass(frozen=True)
class Node:
    """A block of the adversary's tree."""

    name: str
    parent: str
    round: int
    finality: Finality
    say: Say


class Game:
    """A tree that an adversary grows as it likes, deciding who votes when; honest peers keep to their locks.

    It makes every block, chooses which of the votes it carries, who shall elect after it with which weight,
    and which liars are excluded by then, as long as liars have less than `share` of the weight of each
    electorate. They vote for everything.
    """

    def __init__(self, seed: int, *, honest: int, liars: int, share: float = 0.5) -> None:
        self.dice = random.Random(seed)
        self.share = share
        self.honest = sorted(peers(honest))
        self.liars = sorted(peers(liars, first=100))
        self.locks = {peer: VoteLock() for peer in self.honest}
        first = self.some_say()
        self.nodes = {"0": Node("0", "", 0, begin("0", 0, first), first)}
        self.votes: dict[str, set[PeerId]] = defaultdict(set)

    def some_say(self) -> Say:
        good = self.dice.sample(self.honest, self.dice.randint(1, len(self.honest)))
        gone = self.dice.sample(self.liars, self.dice.choice([0, 0, len(self.liars) // 2]))
        others = [peer for peer in self.liars if peer not in gone]
        bad = self.dice.sample(others, self.dice.randint(len(others) // 2, len(others)))
        heaviest = self.dice.choice([1, 1, 20])
        weights = {peer: 2 * self.dice.randint(1, heaviest) for peer in good}
        # As heavy as they may be: just less than `share` of all, and not more of them than have a weight.
        most = ceil(self.share / (1 - self.share) * sum(weights.values())) - 1
        bad = bad[:most]
        for number, peer in enumerate(bad):
            weights[peer] = most // len(bad) + (number < most % len(bad))
        return Say(dict(sorted(weights.items())), frozenset(weights), frozenset(gone))

    def grow(self, parent: Node) -> Node:
        carried = self.votes[parent.name] | set(self.liars)
        if self.dice.random() < 0.3:
            carried = set(self.dice.sample(sorted(carried), self.dice.randint(0, len(carried))))
        finality = show(
            parent.finality,
            parent=parent.name,
            grandparent=parent.parent,
            round_number=parent.round + 1,
            signers=carried,
            known=len(parent.say.weights),
            excluded=parent.say.out,
            say_at=lambda block: self.nodes[block].say,
        )
        name = str(len(self.nodes))
        say = parent.say if self.dice.random() < 0.5 else self.some_say()
        self.nodes[name] = Node(name, parent.name, parent.round + 1, finality, say)
        return self.nodes[name]

    def vote(self, node: Node, peer: PeerId) -> None:
        if self.locks[peer].allows(node.round, node.finality):
            self.locks[peer] = self.locks[peer].after(node.round, node.finality)
            self.votes[node.name].add(peer)

    def has_quorum(self, node: Node) -> bool:
        """Whether the votes for a block are a quorum, all liars' among them."""
        return node.finality.electorate.agrees(
            self.votes[node.name] | set(self.liars),
            known=len(node.say.weights),
            excluded=node.say.out,
        )

    def push(self, node: Node) -> None:
        """Have as few vote for a block as make its quorum, those first who may vote for little else."""
        order = sorted(self.honest, key=lambda peer: (-self.locks[peer].round, self.dice.random()))
        for peer in order:
            if self.has_quorum(node):
                return
            self.vote(node, peer)

    def play(self, moves: int) -> None:
        tip = self.nodes["0"]
        for _ in range(moves):
            if self.dice.random() < 0.35:
                tip = self.dice.choice(list(self.nodes.values())[-8:])
            tip = self.grow(tip)
            if self.dice.random() < 0.75:
                self.push(tip)
            else:
                for peer in self.dice.sample(self.honest, self.dice.randint(0, len(self.honest))):
                    self.vote(tip, peer)

    def finals(self) -> set[str]:
        """What anybody may hold final: by what a block carries, or by votes that it heard."""
        found = {node.finality.final for node in self.nodes.values()}
        for node in self.nodes.values():
            if node.finality.justified == node.parent and self.has_quorum(node):
                found.add(node.parent)
        return found - {""}

    def above(self, name: str) -> list[str]:
        path = []
        while name:
            path.append(name)
            name = self.nodes[name].parent
        return path

    def contradictions(self) -> list[tuple[str, str]]:
        deepest_first = sorted(self.finals(), key=lambda name: -self.nodes[name].round)
        return [
            (one, other)
            for place, one in enumerate(deepest_first)
            for other in deepest_first[place + 1 :]
            if other not in self.above(one)
        ]


@given(
    seed=st.integers(0, 2**32),
    honest=st.integers(1, 8),
    liars=st.integers(0, 7),
    moves=st.integers(5, 60),
)
@settings(max_examples=3000, deadline=None)
def test_no_minority_of_liars_makes_two_blocks_final_that_contradict_each_other(
    seed: int, honest: int, liars: int, moves: int
) -> None:
    game = Game(seed, honest=honest, liars=liars)
    game.play(moves)
    assert not game.contradictions()


def test_the_adversary_is_not_idle() -> None:
    """Otherwise the test before this one would show nothing: with honest peers too few, it does succeed."""
    outcomes = []
    for seed in range(300):
        game = Game(seed, honest=4, liars=5, share=0.75)
        game.play(40)
        outcomes.append(bool(game.contradictions()))
    assert sum(outcomes) > 10
    games = [Game(seed, honest=6, liars=5) for seed in range(50)]
    for game in games:
        game.play(40)
    assert sum(len(game.finals()) > 3 for game in games) > 10


def test_half_of_the_electors_can_make_two_blocks_final() -> None:
    """The bound is met: so a minority is the most that finality withstands."""
    everybody = peers(4)
    left, right = peers(3), peers(3, first=1)  # 1 and 2 sign on both sides
    for signers in (left, right):
        chain = line(everybody)
        chain.grow()
        chain.grow(signers)
        assert chain.grow(signers).final == "1"
    assert len(left & right) == len(everybody) / 2
