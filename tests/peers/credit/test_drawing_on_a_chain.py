"""What real blocks draw: nobody's choice of a block, a roster or a moment moves an audit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from rounds import Swarm, name, trunk

from peers.chain.link import Link
from peers.credit.block_facts import facts_of
from peers.credit.rules import MILLION
from peers.credit.sampling import DRAWN_AFTER
from peers.protocol.counters import advance
from peers.protocol.messages import Block, Signed
from recipes.keys.keys import PeerId, SigningKey

Drawn = dict[PeerId, tuple[tuple[PeerId, ...], str, int]]


def swarm_of(peers: int, *, rate: int = MILLION, hash_chain: int = 64) -> Swarm:
    """A swarm whose claims are drawn at this rate, and whose hash chains are so long."""
    swarm = Swarm(peers)
    rules = replace(swarm.rules, hash_chain=hash_chain)
    swarm.play_by(replace(swarm.credit, protocol=rules, newcomer_rate=rate, least_rate=rate))
    return swarm


def drawn_by(link: Link, *, claimed: int) -> Drawn:
    """The audits that the block draws of claims of a round: auditors, seed and steps, by author."""
    return {
        one.work.peer: (one.auditors, one.seed, one.steps)
        for one in link.accounts.audits
        if one.drawn == link.round and one.work.round == claimed
    }


# ------------------------------------------------------------ who draws


@pytest.mark.parametrize("seed", range(3))
def test_those_draw_whose_chain_was_anchored_before_the_claims_and_who_show_it_right_after(seed: int) -> None:
    chance, swarm = random.Random(seed), swarm_of(6, hash_chain=40)
    link = swarm.elect()
    for _ in range(60):
        present = [key for key in swarm.keys if chance.random() < 0.8]
        link = swarm.grow(link, _apart(swarm, link, present if len(present) > 2 else swarm.keys))
    path = trunk(swarm, link)
    drawing = 0
    for claimed, following, drawn in zip(path, path[1:], path[2:], strict=False):
        now, then = claimed.counters.peers, drawn.counters.peers
        electors = claimed.counters.electors(swarm.rules) & now.keys()
        anchored_before = {peer for peer in electors if now[peer].anchored < claimed.round}
        kept = {peer for peer in anchored_before if peer in then and then[peer].anchored < claimed.round}
        shown = {peer for peer in kept if peer in following.claimants | drawn.claimants}
        shown &= drawn.counters.electors(swarm.rules)
        for author, (auditors, _, _) in drawn_by(drawn, claimed=claimed.round).items():
            assert set(auditors) == shown - {author}
            drawing += 1
    assert drawing > 50
    assert min(record.anchored for record in link.counters.peers.values()) > 1  # all were replaced


def _apart(swarm: Swarm, link: Link, members: Sequence[SigningKey]) -> list[SigningKey]:
    """Those members whose slots are their own: who was away may draw another's lane."""
    found = {link.counters.slots_for(key.peer_id, swarm.rules): key for key in members}
    return list(found.values())


def test_a_chain_that_is_anchored_in_the_round_of_the_claims_draws_none_of_them() -> None:
    swarm = swarm_of(3)
    first = swarm.grow(swarm.genesis, swarm.keys)
    assert first.counters.electors(swarm.rules) == {swarm.keys[0].peer_id}  # it anchored its chain just now
    assert first.accounts.drawings[-1].auditors == ()
    second = swarm.grow(first, swarm.keys)
    assert second.accounts.drawings[-1].auditors == (swarm.keys[0].peer_id,)
    third, fourth = (swarm.grow(second, swarm.keys, rounds) for rounds in (1, 2))
    assert drawn_by(third, claimed=1) == {}
    assert drawn_by(fourth, claimed=2).keys() == {key.peer_id for key in swarm.keys[1:]}


def test_who_shows_nothing_after_the_claims_draws_none_and_all_are_drawn_by_the_others() -> None:
    swarm = swarm_of(4)
    head = swarm.grow(swarm.elect(), swarm.keys)
    silent = swarm.keys[1]
    others = [key for key in swarm.keys if key is not silent]
    found = drawn_by(swarm.grow(head, others, DRAWN_AFTER), claimed=head.round)
    assert found.keys() == {key.peer_id for key in swarm.keys}
    assert all(silent.peer_id not in auditors for auditors, _, _ in found.values())


# ------------------------------------------------------------ what nobody can choose


def onward(swarm: Swarm, link: Link, members: Sequence[SigningKey], rounds: int = 1) -> Link:
    """Write some rounds on one of several branches, of which none becomes final."""
    return swarm.grow(link, members, rounds, cosigned=False)


@pytest.mark.parametrize("rate", [400_000, MILLION])
def test_who_is_left_out_of_one_roster_and_shows_in_the_next_draws_the_same_audits(rate: int) -> None:
    swarm = swarm_of(5, rate=rate)
    head = swarm.elect()
    somebody = 0
    for _ in range(6):
        head = onward(swarm, head, swarm.keys)
        whole = drawn_by(onward(swarm, head, swarm.keys, DRAWN_AFTER), claimed=head.round)
        for left_out in range(5):
            without = onward(swarm, head, [key for n, key in enumerate(swarm.keys) if n != left_out])
            assert drawn_by(onward(swarm, without, swarm.keys), claimed=head.round) == whole
        somebody += len(whole)
    assert somebody == 30 if rate == MILLION else 5 < somebody < 25


def plain(swarm: Swarm, parent: Link) -> Signed[Block]:
    return swarm.block(parent, swarm.keys[:5])


def a_segment_empty(swarm: Swarm, parent: Link) -> Signed[Block]:
    """A segment of which two say that it could not be had."""
    block = plain(swarm, parent)
    roster = block.body.roster
    words = tuple(swarm.missing(key, roster, (0,)) for key in swarm.keys[:2])
    return swarm.block(
        parent, (), roster=roster, reductions=(None, *block.body.reductions[1:]), missing=words
    )


def a_claim_in_no_segment(swarm: Swarm, parent: Link) -> Signed[Block]:
    roster = plain(swarm, parent).body.roster
    reductions = (
        swarm.reduction(roster, segment, parent, included=(0, 1, 3, 4))
        for segment in range(swarm.rules.segments)
    )
    return swarm.block(parent, (), roster=roster, reductions=tuple(reductions))


def led_by_another(swarm: Swarm, parent: Link) -> Signed[Block]:
    claims = [swarm.claim(key, parent) for key in swarm.keys[:5]]
    second = swarm.by_id[parent.leaders[1]]
    return swarm.block(parent, (), roster=swarm.roster(claims, parent, key=second))


def with_newcomers(swarm: Swarm, parent: Link) -> Signed[Block]:
    return swarm.block(parent, swarm.keys)


def with_newcomers_claims_of_another_content(swarm: Swarm, parent: Link) -> Signed[Block]:
    claims = [swarm.claim(key, parent) for key in swarm.keys[:5]]
    claims += [swarm.claim(key, parent, contribution=name("another")) for key in swarm.keys[5:]]
    return swarm.block(parent, (), roster=swarm.roster(claims, parent))


CHOICES: list[Callable[[Swarm, Link], Signed[Block]]] = [
    a_segment_empty,
    a_claim_in_no_segment,
    led_by_another,
    with_newcomers,
    with_newcomers_claims_of_another_content,
]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("later", [0, 1], ids=["in the claims' block", "in the block after"])
def test_what_a_leader_or_a_crowd_of_newcomers_chooses_moves_no_audit(
    choice: Callable[[Swarm, Link], Signed[Block]], later: int
) -> None:
    swarm = swarm_of(7)
    known, head = swarm.keys[:5], swarm.genesis
    head = onward(swarm, head, known, 6)
    found = []
    for made in (plain, choice):
        link = head
        for number in range(2):
            link = swarm.add((made if number == later else plain)(swarm, link))
        link = onward(swarm, link, known)
        found.append(drawn_by(link, claimed=head.round + 1))
    both = {key.peer_id for key in known} & found[0].keys() & found[1].keys()
    assert len(both) >= 4  # what is averaged in no segment is not drawn, for there is nothing to credit
    assert {peer: found[0][peer] for peer in both} == {peer: found[1][peer] for peer in both}


def test_what_an_author_claims_changes_what_is_replayed_of_it_and_not_by_whom() -> None:
    swarm = swarm_of(5)
    head, author = swarm.elect(), swarm.keys[2]
    found = []
    for slots in ({}, {author.peer_id: 1}):
        link = swarm.add(swarm.block(head, swarm.keys, slots=slots))
        found.append(drawn_by(onward(swarm, link, swarm.keys, DRAWN_AFTER), claimed=head.round + 1))
    auditors = [{peer: one[0] for peer, one in drawn.items()} for drawn in found]
    assert auditors[0] == auditors[1]
    assert {peer for peer in found[0] if found[0][peer] != found[1][peer]} == {author.peer_id}


def test_the_order_of_a_roster_changes_neither_beacon_nor_who_draws() -> None:
    swarm = swarm_of(5)
    head = swarm.elect()
    block = plain(swarm, head).body
    roster = block.roster.body
    turned = roster.model_copy(update={"claims": roster.claims[::-1]})
    other = block.model_copy(update={"roster": Signed(body=turned, signature=block.roster.signature)})
    first = head.leaders[:2]
    after = [advance(head.counters, one, frozenset(), head.say, first, swarm.rules) for one in (block, other)]
    assert after[0].beacon == after[1].beacon != head.counters.beacon
    facts = [
        facts_of(one, counters, swarm.credit) for one, counters in zip((block, other), after, strict=True)
    ]
    assert (facts[0].drawing, facts[0].shown) == (facts[1].drawing, facts[1].shown)
    assert facts[0].drawing == {key.peer_id for key in swarm.keys}
