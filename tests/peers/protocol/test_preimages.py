"""What claims show of their authors' hash chains, what the chain remembers of it, and the beacon it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rounds import Swarm, name, trunk

from peers.chain.link import Link
from peers.protocol.chance.hash_chain import descend, own_chain
from peers.protocol.counters import Counters, PeerRecord, advance, quota_or_preimage_fault, show_next
from peers.protocol.rules import ELECTOR_MINIMUM
from recipes.keys.keys import PeerId, SigningKey

# ---------------------------------------------------------------- the beacon


def after_a_round(
    swarm: Swarm,
    parent: Link,
    members: Sequence[SigningKey],
    /,
    *,
    shown: Mapping[PeerId, str] | None = None,
    first: Sequence[SigningKey] = (),
    **other: Any,
) -> Counters:
    """The counters after a round of some members; some claims show something else, as `shown` says."""
    no_change: dict[str, Any] = {}
    instead: Mapping[PeerId, dict[str, Any]] = {
        peer: {"preimage": preimage} for peer, preimage in (shown or {}).items()
    }
    claims = [swarm.claim(key, parent, **instead.get(key.peer_id, no_change)) for key in members]
    block = swarm.block(parent, (), roster=swarm.roster(claims, parent), **other).body
    leaders = [key.peer_id for key in first]
    return advance(parent.counters, block, frozenset(), parent.say, leaders, swarm.rules)


def test_the_beacon_takes_up_what_each_of_the_first_leaders_shows() -> None:
    swarm = Swarm(4)
    link = swarm.grow(swarm.genesis, swarm.keys)
    beacons = {after_a_round(swarm, link, swarm.keys, first=swarm.keys).beacon}
    for key in swarm.keys:
        shown = {key.peer_id: name("another preimage")}
        beacons.add(after_a_round(swarm, link, swarm.keys, shown=shown, first=swarm.keys).beacon)
        others = [other for other in swarm.keys if other is not key]
        beacons.add(after_a_round(swarm, link, others, first=swarm.keys).beacon)
    assert len(beacons) == 9
    assert link.counters.beacon not in beacons


def test_others_than_the_first_leaders_have_no_part_in_the_beacon() -> None:
    """Whoever may leave some of many out of a roster would choose between beacons."""
    swarm = Swarm(4)
    link = swarm.grow(swarm.genesis, swarm.keys)
    first, others = swarm.keys[:2], swarm.keys[2:]
    shown = {key.peer_id: name("another preimage") for key in others}
    beacons = {
        after_a_round(swarm, link, members, first=first, shown=what).beacon
        for members in (swarm.keys, first, [*first, others[0]])
        for what in (None, shown)
    }
    assert len(beacons) == 1


def test_neither_empty_segments_nor_parts_left_out_change_the_beacon() -> None:
    swarm = Swarm(3)
    link = swarm.grow(swarm.genesis, swarm.keys, ELECTOR_MINIMUM)
    claims = [swarm.claim(key, link) for key in swarm.keys]
    roster = swarm.roster(claims, link)
    reductions = [
        (swarm.reduction(roster, 0, link), swarm.reduction(roster, 1, link)),
        (swarm.reduction(roster, 0, link, included=(0, 1)), None),
        (None, None),
    ]
    after = [
        advance(
            link.counters,
            swarm.block(link, (), roster=roster, reductions=some).body,
            frozenset(),
            link.say,
            list(swarm.by_id),
            swarm.rules,
        )
        for some in reductions
    ]
    assert len({one.beacon for one in after}) == 1
    assert {one.earlier_beacon for one in after} == {link.counters.beacon}
    assert len({len(one.peers) for one in after}) == 1
    assert after[0].tokens > after[1].tokens > after[2].tokens == link.counters.tokens


def fault(swarm: Swarm, parent: Link, number: int = 0, **other: Any) -> str | None:
    """What is wrong with a claim of the peer of this number."""
    claim = swarm.claim(swarm.keys[number], parent, **other).body
    return quota_or_preimage_fault(claim, parent.counters, swarm.rules)


DOES_NOT_SHOW = "does not show the preimage that its hash chain has for this round"


def test_a_claim_shows_what_its_authors_hash_chain_has_for_the_round_and_nothing_else() -> None:
    swarm = Swarm(2)
    first = swarm.grow(swarm.genesis, swarm.keys)
    parent = swarm.grow(first, swarm.keys)
    good, last = (show_next(swarm.keys[0], link.counters, swarm.rules).preimage for link in (parent, first))
    assert good is not None
    assert last == parent.counters.peers[swarm.keys[0].peer_id].preimage == descend(good, 1)
    for preimage in (None, name("something else"), last, descend(good, 2)):
        assert fault(swarm, parent, preimage=preimage) == DOES_NOT_SHOW
    assert fault(swarm, parent, preimage=good) is None


def test_after_rounds_away_a_claim_shows_what_its_chain_has_for_the_round_at_hand() -> None:
    swarm = Swarm(3)
    there = swarm.grow(swarm.genesis, swarm.keys, 2)
    parent = swarm.grow(there, swarm.keys[:2], 5)
    for number in range(3):
        assert fault(swarm, parent, number) is None
    next_one = show_next(swarm.keys[2], there.counters, swarm.rules).preimage
    assert fault(swarm, parent, 2, preimage=next_one) == DOES_NOT_SHOW
    back = swarm.grow(parent, swarm.keys)
    assert back.counters.peers[swarm.keys[2].peer_id].shown == back.round


def test_a_newcomer_anchors_a_chain_and_has_nothing_to_show_so_that_it_cannot_steer_the_beacon() -> None:
    swarm = Swarm(1)
    assert fault(swarm, swarm.genesis) is None
    assert fault(swarm, swarm.genesis, anchor=None) == "anchors no hash chain"
    for anchor in (None, name("an anchor")):
        assert fault(swarm, swarm.genesis, preimage=name("ground until it suits"), anchor=anchor) == (
            "shows a preimage of a chain that it never anchored, or that is used up"
        )


def test_a_chain_is_replaced_only_once_half_of_it_is_used_up() -> None:
    """Who might replace it at will would choose what it shows after some rounds."""
    swarm = Swarm(1)
    swarm.rules = replace(swarm.rules, hash_chain=40)
    parent = swarm.grow(swarm.genesis, swarm.keys)
    record = parent.counters.peers[swarm.keys[0].peer_id]
    for age, allowed in ((1, False), (19, False), (20, True), (40, True)):
        top = name("what is shown")
        shown = {swarm.keys[0].peer_id: record.model_copy(update={"preimage": descend(top, age)})}
        later = {"round": parent.round + age - 1, "peers": shown}
        counters = parent.counters.model_copy(update=later)
        for anchor in (None, name("another anchor")):
            body = swarm.claim(swarm.keys[0], parent).body
            claim = body.model_copy(update={"round": counters.round + 1, "preimage": top, "anchor": anchor})
            found = quota_or_preimage_fault(claim, counters, swarm.rules)
            late = None if allowed or anchor is None else "anchors another hash chain before its time"
            assert found == late


# ---------------------------------------------------------------- hash chains over the rounds


def test_the_chain_remembers_of_each_peer_what_it_showed_last_and_draws_a_salt_after_its_anchor() -> None:
    swarm = Swarm(2)
    me, depth = swarm.keys[0], swarm.rules.rewind_depth
    tip = swarm.grow(swarm.genesis, swarm.keys, depth + 4, slots=dict.fromkeys(swarm.by_id, 1))
    history = trunk(swarm, tip)
    chain = own_chain(me, run=swarm.rules.run, anchored=1, length=swarm.rules.hash_chain)
    for link in history:
        record = link.counters.peers[me.peer_id]
        assert (record.anchored, record.shown) == (1, link.round)
        assert record.preimage == chain.shown_after(link.round - 1)
        assert record.salt == (history[depth].counters.beacon if link.round > depth else None)


def test_a_claim_that_is_rostered_shows_its_preimage_whether_or_not_it_is_averaged() -> None:
    swarm = Swarm(2)
    parent = swarm.grow(swarm.genesis, swarm.keys, 2)
    left_out = parent.counters.peers[swarm.keys[0].peer_id]
    after = after_a_round(swarm, parent, swarm.keys, reductions=(None, None))
    record = after.peers[swarm.keys[0].peer_id]
    assert (record.shown, record.included & 1) == (parent.round + 1, 0)
    assert record.preimage is not None
    assert descend(record.preimage, 1) == left_out.preimage


def test_what_was_shown_for_a_round_is_known_from_the_next_ones_roster_too_and_no_later() -> None:
    top = name("shown in round 9")
    record = PeerRecord(included=1, misses=0, best_slots=1, quota=(), preimage=top, shown=9, anchored=3)
    assert record.shown_for(9) == top
    assert record.shown_for(8) == descend(top, 1)
    assert record.shown_for(7) is None  # shown too late to draw by
    assert record.shown_for(10) is None  # not shown yet
    fresh = record.model_copy(update={"anchored": 8})
    assert fresh.shown_for(9) == top
    assert fresh.shown_for(8) is None  # the anchor itself: nothing that was fixed before
    assert record.model_copy(update={"preimage": None}).shown_for(9) is None


def test_chains_are_replaced_in_time_and_every_round_shows_one() -> None:
    swarm = Swarm(4)
    swarm.rules = replace(swarm.rules, hash_chain=40)
    ones = dict.fromkeys(swarm.by_id, 1)
    link, anchored = swarm.genesis, dict.fromkeys(swarm.by_id, 0)
    salted = 0
    for _ in range(130):
        claims = [swarm.claim(key, link, slots=ones[key.peer_id]) for key in swarm.keys]
        for claim in claims:
            assert quota_or_preimage_fault(claim.body, link.counters, swarm.rules) is None
            anchored[claim.body.peer] += claim.body.anchor is not None
        block = swarm.block(link, (), roster=swarm.roster(claims, link))
        counters = advance(link.counters, block.body, frozenset(), link.say, [], swarm.rules)
        link = Link(block.hash, link.hash, counters, block, link.finality, link.ledger, link.say)
        for record in counters.peers.values():
            assert record.preimage is not None
            assert link.round - record.anchored <= swarm.rules.hash_chain
            salted += record.salt is not None
    assert min(anchored.values()) >= 6  # half of a chain, and at most an eighth, apart
    assert salted == 4 * (130 - swarm.rules.rewind_depth)  # the old one goes on until the next is old enough


# ---------------------------------------------------------------- what claims may be
