"""The chain's memory: who may use which slots, who elects, and what it costs to remember."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from rounds import Swarm, keys_of, name

from peers.chain.link import Link
from peers.protocol.chance.say import Say, alike
from peers.protocol.counters import (
    Counters,
    advance,
    counted_segments,
    initial,
)
from peers.protocol.messages import Pace, SlotRange
from peers.protocol.rules import (
    ELECTOR_MINIMUM,
    ELECTOR_WINDOW,
    MOST_LEFTOVERS,
    MOST_WINDOW_TOKENS,
    QUOTA_GROWTH,
    QUOTA_RANGES,
)
from peers.state.snapshots import MAX_COUNTERS_BYTES
from recipes.keys.keys import SigningKey
from recipes.schema.sections import Overlap
from recipes.slots import total

Attendance = Callable[[int], list[SigningKey]]


def slots_in(ranges: tuple[SlotRange, ...]) -> set[int]:
    return {slot for start, count in ranges for slot in range(start, start + count)}


def follow(
    swarm: Swarm,
    rounds: int,
    *,
    attendance: Attendance | None = None,
    portion: Callable[[int], float] = lambda _: 1.0,
) -> list[tuple[Link, set[int]]]:
    """Write rounds in which everybody present uses a portion of its quota; return them with the slots used.

    Newcomers that draw a lane that is taken already wait a round, as their leader would have it.
    """
    link, history = swarm.genesis, []
    for number in range(rounds):
        chosen, used = [], set[int]()
        for key in attendance(number) if attendance else swarm.keys:
            allowed = link.counters.slots_for(key.peer_id, swarm.rules)
            claim = swarm.claim(key, link, slots=max(1, int(total(allowed) * portion(number))))
            if not slots_in(claim.body.slots) & used:
                chosen.append(claim)
                used |= slots_in(claim.body.slots)
        block = swarm.block(link, (), roster=swarm.roster(chosen, link))
        counters = advance(link.counters, block.body, frozenset(), link.say, [], swarm.rules)
        say = alike(counters.electors(swarm.rules))
        link = Link(block.hash, link.hash, counters, block, link.finality, link.ledger, say)
        history.append((link, used))
    return history


def test_nobody_has_a_standing_at_genesis_and_the_recipes_electors_elect() -> None:
    swarm = Swarm(3)
    counters = initial(swarm.rules)
    assert counters.peers == {}
    assert counters.electors(swarm.rules) == set(swarm.rules.electors)
    assert counters.tokens == counters.round == 0


BOTH = pytest.mark.parametrize("overlap", ["none", "eager"])


@BOTH
def test_the_quotas_of_a_round_are_disjoint_from_each_other_and_from_the_newcomers_lanes(
    overlap: Overlap,
) -> None:
    swarm = Swarm(6, overlap=overlap)
    dice = random.Random(1)
    for link, _ in follow(
        swarm, 25, attendance=lambda _: dice.sample(swarm.keys, 4), portion=lambda _: dice.random()
    ):
        quotas = [slots_in(standing.quota) for standing in link.counters.peers.values()]
        quotas += [slots_in(link.counters.newcomers), slots_in(link.counters.leftovers)]
        quotas += [slots_in(standing.upcoming) for standing in link.counters.peers.values()]
        quotas += [slots_in(link.counters.upcoming_newcomers)]
        assert sum(map(len, quotas)) == len(set().union(*quotas))
        assert max(map(max, filter(None, quotas))) < link.counters.cursor


@BOTH
def test_no_slot_is_used_twice_over_the_rounds(overlap: Overlap) -> None:
    swarm = Swarm(6, overlap=overlap)
    dice = random.Random(2)
    seen: set[int] = set()
    for _, used in follow(
        swarm, 40, attendance=lambda _: dice.sample(swarm.keys, 5), portion=lambda _: dice.random()
    ):
        assert used
        assert not used & seen
        seen |= used


def test_what_was_not_used_is_handed_out_before_the_cursor_moves() -> None:
    swarm = Swarm(2)
    (first, _), (second, used) = follow(swarm, 2, portion=lambda _: 0.5)
    unused = slots_in(first.counters.newcomers) | slots_in(first.counters.leftovers)
    unused |= {slot for standing in first.counters.peers.values() for slot in slots_in(standing.quota)}
    handed_out = {slot for standing in second.counters.peers.values() for slot in slots_in(standing.quota)}
    assert handed_out <= unused - used
    assert min(handed_out) == min(unused - used)


def test_slots_of_a_peer_that_did_not_show_up_go_to_others() -> None:
    swarm = Swarm(3)
    gone = swarm.keys[2].peer_id
    history = follow(swarm, 8, attendance=lambda number: swarm.keys[: 3 if number < 2 else 2])
    lost = slots_in(history[1][0].counters.peers[gone].quota)
    assert lost
    assert lost <= set().union(*(used for _, used in history[2:]))


def test_the_slots_of_a_contribution_that_counts_nowhere_are_used_again() -> None:
    swarm = Swarm(2)
    keys = sorted(swarm.keys, key=lambda key: key.peer_id)  # as a roster lists them
    claims = [swarm.claim(key, swarm.genesis, slots=5) for key in keys]
    roster = swarm.roster(claims, swarm.genesis)
    only_first = tuple(swarm.reduction(roster, segment, swarm.genesis, included=(0,)) for segment in (0, 1))
    block = swarm.block(swarm.genesis, (), roster=roster, reductions=only_first)
    after = advance(swarm.genesis.counters, block.body, frozenset(), swarm.genesis.say, [], swarm.rules)
    assert after.tokens == 5 * swarm.rules.tokens_per_slot
    assert keys[1].peer_id not in after.peers
    given = [*after.newcomers, *after.leftovers, *after.peers[keys[0].peer_id].quota]
    assert slots_in(claims[1].body.slots) <= slots_in(tuple(given))
    assert not slots_in(claims[0].body.slots) & slots_in(tuple(given))


def test_slots_of_a_window_ahead_are_those_of_its_round_whatever_the_block_between_holds() -> None:
    swarm = Swarm(6, overlap="eager")
    dice = random.Random(7)
    before = swarm.genesis
    newcomers = 0
    for link, _ in follow(
        swarm, 60, attendance=lambda _: dice.sample(swarm.keys, 4), portion=lambda _: dice.random()
    ):
        for key in swarm.keys:
            ahead = before.counters.slots_ahead(key.peer_id, swarm.rules)
            assert link.counters.slots_for(key.peer_id, swarm.rules) == ahead
            newcomers += slots_in(ahead) <= slots_in(link.counters.newcomers)
        before = link
    assert 12 < newcomers < 200  # quotas and lanes were both among them


@BOTH
def test_the_corpus_is_covered_before_it_repeats(overlap: Overlap) -> None:
    """Everybody uses a part of its quota, somebody is always away: still no slot below is left behind."""
    swarm = Swarm(4, overlap=overlap)
    dice = random.Random(3)
    corpus = 2000
    seen: set[int] = set()
    for link, used in follow(
        swarm, 400, attendance=lambda _: dice.sample(swarm.keys, 3), portion=lambda _: dice.choice([0.4, 0.7])
    ):
        seen |= used
        assert link.counters.cursor < 4 * corpus
        if set(range(corpus)) <= seen:
            break
    assert set(range(corpus)) <= seen
    assert len(seen - set(range(corpus))) < corpus


def test_a_newcomer_has_a_lane_of_its_own_and_draws_another_each_round() -> None:
    swarm = Swarm(40)
    counters = initial(swarm.rules)
    later = counters.model_copy(update={"beacon": name("the next beacon")})
    lanes = [counters.slots_for(key.peer_id, swarm.rules) for key in swarm.keys]
    ((start, length),) = counters.newcomers
    for ((first, count),) in lanes:
        assert count == swarm.rules.newcomer_slots
        assert start <= first <= start + length - count
        assert (first - start) % count == 0
    assert len(set(lanes)) > 20
    again = [later.slots_for(key.peer_id, swarm.rules) for key in swarm.keys]
    assert sum(one == other for one, other in zip(lanes, again, strict=True)) < 5


def test_no_name_can_be_sought_for_a_lane_before_the_block_that_hands_the_lanes_out() -> None:
    """With overlap, that is the block before the last: its beacon draws, and the last one's does not."""
    swarm = Swarm(40, overlap="eager")
    counters = initial(swarm.rules)
    other = {"beacon": name("the next beacon")}
    for update, changed in ((other, False), ({"earlier_beacon": name("the next beacon")}, True)):
        later = counters.model_copy(update=update)
        same = sum(
            counters.slots_for(key.peer_id, swarm.rules) == later.slots_for(key.peer_id, swarm.rules)
            for key in swarm.keys
        )
        assert (same < 10) if changed else (same == 40)


def test_a_peer_counted_last_time_has_a_quota_and_one_that_was_not_is_a_newcomer() -> None:
    swarm = Swarm(2)
    history = follow(swarm, 3, attendance=lambda number: swarm.keys[: 2 if number < 2 else 1])
    stayed, left = (swarm.keys[number].peer_id for number in (0, 1))
    counters = history[-1][0].counters
    assert counters.slots_for(stayed, swarm.rules) == counters.peers[stayed].quota
    ((start, _),) = counters.slots_for(left, swarm.rules)
    assert start in slots_in(counters.newcomers)


def test_a_quota_grows_by_half_of_the_best_so_far_and_never_below_the_minimum() -> None:
    swarm = Swarm(1)
    me = swarm.keys[0].peer_id
    best = 0
    for number, (link, used) in enumerate(
        follow(swarm, 12, portion=lambda n: 0.1 if n in (0, 6, 7) else 1.0)
    ):
        best = max(best, len(used))
        quota = total(link.counters.peers[me].quota)
        assert quota <= max(swarm.rules.minimum_slots, QUOTA_GROWTH * best)
        assert quota >= swarm.rules.minimum_slots
        if number > 8:
            assert quota > len(used)
    assert best > 20


def test_a_quota_is_pieced_together_from_few_ranges() -> None:
    swarm = Swarm(6)
    dice = random.Random(4)
    for link, _ in follow(
        swarm, 40, attendance=lambda _: dice.sample(swarm.keys, 5), portion=lambda _: dice.random()
    ):
        assert max(len(standing.quota) for standing in link.counters.peers.values()) <= QUOTA_RANGES + 1


def test_electors_stand_in_enough_of_the_last_blocks() -> None:
    swarm = Swarm(2)
    steady, visitor = swarm.keys
    history = follow(
        swarm,
        ELECTOR_WINDOW + ELECTOR_MINIMUM,
        attendance=lambda number: [steady, visitor] if number < ELECTOR_MINIMUM else [steady],
        portion=lambda _: 0.5,
    )
    for number, (link, _) in enumerate(history, start=1):
        electors = link.counters.electors(swarm.rules)
        if number < ELECTOR_MINIMUM:
            assert electors == set(swarm.rules.electors)
        else:
            assert steady.peer_id in electors
            assert (visitor.peer_id in electors) == (number <= ELECTOR_WINDOW)


def test_a_peer_is_forgotten_after_a_window_of_absence() -> None:
    swarm = Swarm(2)
    visitor = swarm.keys[1].peer_id
    history = follow(
        swarm,
        ELECTOR_WINDOW + 1,
        attendance=lambda number: swarm.keys[: 1 if number else 2],
        portion=lambda _: 0.5,
    )
    assert visitor in history[ELECTOR_WINDOW - 1][0].counters.peers
    assert visitor not in history[ELECTOR_WINDOW][0].counters.peers


def test_a_reducer_that_failed_is_remembered_for_a_while() -> None:
    swarm = Swarm(2)
    failed = swarm.keys[0].peer_id
    block = swarm.block(swarm.genesis, swarm.keys)
    after = advance(
        swarm.genesis.counters, block.body, frozenset({failed}), swarm.genesis.say, [], swarm.rules
    )
    assert after.peers[failed].misses == 1
    assert after.peers[swarm.keys[1].peer_id].misses == 0


def test_everybody_computes_the_same_counters() -> None:
    swarm = Swarm(4)
    block = swarm.block(swarm.genesis, swarm.keys)
    one, other = (
        advance(swarm.genesis.counters, block.body, frozenset(), swarm.genesis.say, [], swarm.rules)
        for _ in range(2)
    )
    assert one.canonical() == other.canonical()
    assert Counters.model_validate_json(one.canonical()) == one


def test_counted_segments_name_each_claimants_place() -> None:
    swarm = Swarm(3)
    claims = [swarm.claim(key, swarm.genesis) for key in swarm.keys]
    roster = swarm.roster(claims, swarm.genesis)
    reductions = (swarm.reduction(roster, 0, swarm.genesis, included=(0, 2)), None)
    block = swarm.block(swarm.genesis, (), roster=roster, reductions=reductions)
    counted = counted_segments(block.body)
    assert [counted[peer] for peer in sorted(swarm.by_id)] == [{0}, frozenset(), {0}]


def test_only_those_whose_word_counts_have_a_say_in_how_long_a_round_waits() -> None:
    swarm = Swarm(4)
    parent = swarm.grow(swarm.genesis, swarm.keys)
    slow = Pace(claims_late_ms=86_400_000, transfer_ms=86_400_000, reply_ms=86_400_000)
    claims = [
        swarm.claim(key, parent, pace=slow if number else swarm.pace) for number, key in enumerate(swarm.keys)
    ]
    block = swarm.block(parent, (), roster=swarm.roster(claims, parent)).body
    weights = alike(swarm.by_id).weights
    quick, all_of_them, slow_ones = (
        advance(parent.counters, block, frozenset(), Say(weights, established), [], swarm.rules).deadlines
        for established in (
            frozenset({swarm.keys[0].peer_id}),
            frozenset(swarm.by_id),
            frozenset(key.peer_id for key in swarm.keys[1:]),
        )
    )
    assert quick != slow_ones == all_of_them
    assert quick.grace < slow_ones.grace


# ---------------------------------------------------------------- what remembering costs


def test_counters_stay_small_over_many_rounds_of_random_attendance() -> None:
    swarm = Swarm(12)
    dice = random.Random(5)
    history = follow(
        swarm,
        500,
        attendance=lambda _: dice.sample(swarm.keys, dice.randint(1, 4)),
        portion=lambda _: dice.random(),
    )
    last = history[-1][0].counters
    assert max(len(link.counters.leftovers) for link, _ in history) <= 200
    assert len(last.peers) <= 12
    assert len(last.canonical()) < 20_000


def test_strangers_that_come_once_cannot_make_everybody_remember_crumbs() -> None:
    """Each round fresh identities, each of which uses one slot of its lane and never returns."""
    swarm = Swarm(1)
    counters = initial(swarm.rules)
    block = swarm.block(swarm.genesis, swarm.keys, slots={swarm.keys[0].peer_id: 1}).body
    for number in range(60):
        lanes = sorted(slots_in(counters.newcomers))[:: swarm.rules.newcomer_slots]
        template = block.roster.body.claims[0]
        claims = tuple(
            template.model_copy(
                update={
                    "body": template.body.model_copy(
                        update={"peer": keys_of(1, seed=f"{number}/{lane}")[0].peer_id, "slots": ((lane, 1),)}
                    )
                }
            )
            for lane in lanes
        )
        roster = block.roster.model_copy(
            update={"body": block.roster.body.model_copy(update={"claims": claims})}
        )
        everybody = tuple(range(len(claims)))
        reductions = tuple(
            r.model_copy(update={"body": r.body.model_copy(update={"included": everybody})})
            for r in block.reductions
            if r is not None
        )
        counters = advance(
            counters,
            block.model_copy(update={"roster": roster, "reductions": reductions}),
            frozenset(),
            swarm.genesis.say,
            [],
            swarm.rules,
        )
        assert len(counters.leftovers) <= MOST_LEFTOVERS
        assert len(counters.peers) <= ELECTOR_WINDOW * len(claims)
    assert len(counters.canonical()) < MAX_COUNTERS_BYTES
    assert len(counters.leftovers) == MOST_LEFTOVERS or len(counters.leftovers) < 200


def test_whoever_claims_its_whole_quota_every_round_comes_to_a_bound() -> None:
    swarm = Swarm(1)
    link = swarm.genesis
    for _ in range(100):
        link = swarm.grow(link, swarm.keys)
    standing = link.counters.peers[swarm.keys[0].peer_id]
    assert total(standing.quota) * swarm.rules.tokens_per_slot <= MOST_WINDOW_TOKENS
