"""Who leads and who reduces: by hash, the same for everybody, and fair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from math import prod, sqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import Swarm, keys_of, name, rules

from peers.protocol.assignment import Assignment, assign_reducers, leaders, missed_reducers
from peers.protocol.chance.hash_chain import descend
from peers.protocol.chance.say import Say, alike
from peers.protocol.counters import Counters, PeerRecord, initial
from peers.protocol.rules import ELECTOR_MINIMUM, Rules
from recipes.keys.keys import PeerId

PEERS = [key.peer_id for key in keys_of(12)]
RULES = rules(electors=(PEERS[0],), segments=8)


def counters(number: int = 0, /, **standings: PeerRecord) -> Counters:
    """Counters with a beacon of their own."""
    peers = {PEERS[int(place[1:])]: standing for place, standing in standings.items()}
    return initial(RULES).model_copy(update={"beacon": name(f"beacon {number}"), "peers": peers})


def standing(*, included: int = 1, misses: int = 0) -> PeerRecord:
    return PeerRecord(included=included, misses=misses, best_slots=1, quota=())


ELECTOR = standing(included=(1 << ELECTOR_MINIMUM) - 1)


def say(after: Counters) -> Say:
    """The say where no elector has vested credit."""
    return alike(after.electors(RULES))


def assigned(claimants: Iterable[PeerId], after: Counters, game: Rules = RULES) -> tuple[Assignment, ...]:
    return assign_reducers(claimants, after, say(after), game)


@given(count=st.integers(1, 12), segments=st.integers(1, 40), number=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_nobody_reduces_more_than_twice_its_share(count: int, segments: int, number: int) -> None:
    game = rules(electors=(PEERS[0],), segments=segments)
    given_to = Counter(a.reducer for a in assigned(PEERS[:count], counters(number), game))
    assert sum(given_to.values()) == segments
    assert max(given_to.values()) <= max(1, -(-2 * segments // count))


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_segments_are_given_as_evenly_as_can_be(count: int) -> None:
    given_to = Counter(a.reducer for a in assigned(PEERS[:count], counters()))
    loads = [given_to[peer] for peer in PEERS[:count]]
    assert max(loads) - min(loads) <= 1


@pytest.mark.parametrize("count", [2, 3, 12])
def test_a_backup_is_somebody_else(count: int) -> None:
    for number in range(20):
        for assignment in assigned(PEERS[:count], counters(number)):
            assert assignment.backup in PEERS[:count]
            assert assignment.backup != assignment.reducer


def with_electors(count: int) -> Counters:
    return counters(**{f"p{place}": ELECTOR for place in range(count)})


@pytest.mark.parametrize("electors", [3, 6, 12])
def test_electors_alone_reduce_and_step_in_also_where_newcomers_are_the_majority(electors: int) -> None:
    assignments = assigned(PEERS, with_electors(electors))
    given_to = Counter(a.reducer for a in assignments)
    assert {*given_to, *(a.backup for a in assignments)} <= set(PEERS[:electors])
    assert max(given_to.values()) == -(-RULES.segments // electors)


def test_few_electors_among_many_are_not_overburdened_and_step_in_for_the_others() -> None:
    many, game = [key.peer_id for key in keys_of(32)], rules(electors=(PEERS[0],), segments=64)
    assignments = assigned(many, with_electors(2), game)
    given_to = Counter(a.reducer for a in assignments)
    assert [given_to[peer] for peer in many[:2]] == [8, 8]  # four times an even share
    assert max(given_to[peer] for peer in many[2:]) <= 4
    assert {a.backup for a in assignments} == set(many[:2])


def test_a_single_elector_reduces_like_anybody_else() -> None:
    given_to = Counter(a.reducer for a in assigned(PEERS[:4], with_electors(1)))
    assert set(given_to.values()) == {2}


def test_an_elector_that_lately_failed_is_asked_before_newcomers() -> None:
    after = with_electors(3)
    failing = ELECTOR.model_copy(update={"misses": 1})
    after = after.model_copy(update={"peers": {**after.peers, PEERS[2]: failing}})
    given_to = Counter(a.reducer for a in assigned(PEERS, after))
    assert [given_to[peer] for peer in PEERS[:3]] == [3, 3, 2]


@given(count=st.integers(1, 12), electors=st.integers(0, 12), segments=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_whoever_are_electors_nobody_reduces_more_than_four_times_its_share(
    count: int, electors: int, segments: int
) -> None:
    game = rules(electors=(PEERS[0],), segments=segments)
    given_to = Counter(a.reducer for a in assigned(PEERS[:count], with_electors(electors), game))
    assert sum(given_to.values()) == segments
    assert max(given_to.values()) <= -(-4 * segments // count)
    newcomers = [given_to[peer] for peer in PEERS[electors:count]]
    assert max(newcomers, default=0) <= -(-2 * segments // count)


def test_alone_one_reduces_everything_without_a_backup() -> None:
    assignments = assigned(PEERS[:1], counters())
    assert {(a.reducer, a.backup) for a in assignments} == {(PEERS[0], None)}


def test_who_lately_failed_is_asked_last() -> None:
    after = counters(p1=standing(misses=0b100), p2=standing())
    reducers = {a.reducer for a in assigned(PEERS[:3], after)}
    assert reducers == {PEERS[0], PEERS[2]}


def test_if_everybody_failed_the_segments_are_given_out_all_the_same() -> None:
    after = counters(p0=standing(misses=1), p1=standing(misses=1), p2=standing(misses=1))
    assert {a.reducer for a in assigned(PEERS[:3], after)} == set(PEERS[:3])


def test_those_who_failed_take_what_is_beyond_the_share_of_the_others() -> None:
    failed = {f"p{number}": standing(misses=1) for number in range(1, 12)}
    given_to = Counter(a.reducer for a in assigned(PEERS, counters(**failed)))
    assert given_to[PEERS[0]] == 2  # of 8: twice its share of 12, rounded up
    assert len(given_to) == 7


def test_everybody_computes_the_same_whatever_the_order_of_names() -> None:
    after = counters(p1=standing(misses=1))
    assert assigned(PEERS, after) == assigned(reversed(PEERS), after)
    assert leaders(after, say(after), PEERS) == leaders(after, say(after), reversed(PEERS))


def test_the_assignment_differs_from_round_to_round() -> None:
    assert len({assigned(PEERS, counters(number)) for number in range(20)}) == 20


def test_where_few_are_established_they_alone_reduce_and_step_in() -> None:
    """Electors that never had an audit pass cost an attacker as little as newcomers."""
    after = with_electors(12)
    known = Say(say(after).weights, frozenset(PEERS[:3]))
    assignments = assign_reducers(PEERS, after, known, RULES)
    assert {a.reducer for a in assignments} | {a.backup for a in assignments} == set(PEERS[:3])


# ---------------------------------------------------------------- leaders

HISTORY = 20  # rounds of the chain below the round that is led
SALT = name("a salt")


def showing(peer: PeerId, number: int, /, *, late: int = 0, anchored: int = 1, **other: Any) -> PeerRecord:
    """An elector's record that shows, for the round before the last block, what is drawn by.

    It was shown `late` rounds after that. `number` tells chains apart.
    """
    top = name(f"{number}/{peer}")  # what is shown two rounds later
    fields = {
        "preimage": descend(top, 2 - late),
        "shown": HISTORY - 1 + late,
        "anchored": anchored,
        "salt": SALT,
    }
    return ELECTOR.model_copy(update={**fields, **other})


def history(number: int, peers: Sequence[PeerId] = PEERS, /, **other: PeerRecord) -> Counters:
    """Counters after a block with a beacon of its own, where these peers are electors with hash chains."""
    records = {peer: showing(peer, number) for peer in peers}
    records |= {PEERS[int(place[1:])]: record for place, record in other.items()}
    return counters(number).model_copy(update={"round": HISTORY, "peers": records})


def test_every_peer_leads_in_turn() -> None:
    first = Counter(leaders(after, say(after))[0] for after in map(history, range(600)))
    assert set(first) == set(PEERS)
    assert max(first.values()) < 2 * 600 / len(PEERS)


def test_electors_come_first_in_proportion_to_what_they_weigh() -> None:
    weights = {peer: 1 + place for place, peer in enumerate(PEERS[:4])}
    games = 4000
    orders = [
        leaders(history(number, PEERS[:4]), Say(weights, frozenset(weights))) for number in range(games)
    ]
    for place in (0, -1):
        found = Counter(order[place] for order in orders)
        for peer, weight in weights.items():
            share = weight / 10 if place == 0 else last_in_turn(peer, weights)
            assert abs(found[peer] - games * share) < 5 * sqrt(games * share * (1 - share))


def last_in_turn(last: PeerId, weights: Mapping[PeerId, int]) -> float:
    """The chance to be the last of some peers drawn one by one in proportion to their weights."""
    return sum(
        prod(
            weights[peer] / sum(weights[other] for other in order[place:]) for place, peer in enumerate(order)
        )
        for order in permutations(weights)
        if order[-1] == last
    )


def test_nobody_elses_hash_chain_and_no_beacon_moves_an_electors_turn() -> None:
    """What one could choose would move one's own turn at most: and a hash chain is fixed from its anchor."""
    for number in range(50):
        after = history(number)
        order = leaders(after, say(after))
        elsewhere = after.model_copy(update={"beacon": name("another"), "earlier_beacon": name("one more")})
        assert leaders(elsewhere, say(elsewhere)) == order
        one = order[number % len(order)]
        other = after.model_copy(update={"peers": {**after.peers, one: showing(one, number + 1000)}})
        assert [p for p in leaders(other, say(other)) if p != one] == [p for p in order if p != one]


def test_who_was_left_out_of_the_last_roster_but_one_has_the_same_turn_by_what_it_showed_since() -> None:
    """A leader cannot take another's turn away by leaving it out once."""
    for number in range(30):
        on_time, late = (history(number, p3=showing(PEERS[3], number, late=rounds)) for rounds in (0, 1))
        assert on_time.peers[PEERS[3]].preimage != late.peers[PEERS[3]].preimage
        assert leaders(late, say(late)) == leaders(on_time, say(on_time))


@pytest.mark.parametrize(
    "reason", ["no chain", "anchored too late", "no salt yet", "shown before", "anchored again"]
)
def test_electors_without_a_number_of_their_own_have_a_turn_by_the_beacon_like_all_others(
    reason: str,
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "no chain": {"preimage": None, "shown": 0, "anchored": 0, "salt": None},
        "anchored too late": {"anchored": HISTORY - 1},
        "no salt yet": {"salt": None},
        "shown before": {"shown": HISTORY - 2},
        "anchored again": {"anchored": HISTORY, "shown": HISTORY, "salt": None},
    }
    places = set()
    for number in range(20):
        lacking = {f"p{place}": showing(PEERS[place], number, **changes[reason]) for place in (2, 5)}
        after = history(number, PEERS[:8], **lacking, p9=standing())
        order = leaders(after, say(after))
        places |= {order.index(PEERS[2]), order.index(PEERS[5])}
        assert order[8] == PEERS[9]  # the last roster comes after all electors
        other = after.model_copy(update={"beacon": name(f"another beacon {number}")})
        moved = leaders(other, say(other))
        own = [peer for peer in order[:8] if peer not in (PEERS[2], PEERS[5])]
        assert [peer for peer in moved[:8] if peer in own] == own
    assert places == set(range(8))  # whom two leaders left out is not out of its turn


def test_a_turn_differs_by_round_and_salt() -> None:
    """So a chain that would come first in a round cannot be sought before it is anchored."""
    after = history(0)
    salted = {peer: showing(peer, 0, salt=name("another salt")) for peer in PEERS}
    other_salt = after.model_copy(update={"peers": salted})
    later = {
        peer: record.model_copy(update={"shown": record.shown + 1}) for peer, record in after.peers.items()
    }
    next_round = after.model_copy(update={"round": HISTORY + 1, "peers": later})
    assert len({tuple(leaders(one, say(one))) for one in (after, other_salt, next_round)}) == 3


def test_electors_lead_before_the_last_roster_and_that_before_anybody_else() -> None:
    after = counters(p1=ELECTOR, p2=ELECTOR, p3=standing(), p4=standing(included=2))
    order = leaders(after, say(after), PEERS[:6])
    assert set(order[:2]) == {PEERS[1], PEERS[2]}
    assert order[2] == PEERS[3]
    assert set(order[3:]) == {PEERS[0], PEERS[4], PEERS[5]}


def test_others_do_not_change_the_rank_of_those_that_the_chain_knows() -> None:
    after = counters(p1=ELECTOR, p2=ELECTOR, p3=standing())
    assert leaders(after, say(after), PEERS)[:3] == leaders(after, say(after))


def test_whose_word_counts_for_nothing_does_not_lead_whatever_it_is_counted_among() -> None:
    after = counters(p1=ELECTOR, p2=ELECTOR, p3=standing(), p4=standing())
    others = frozenset({PEERS[1], PEERS[3], PEERS[7]})
    heard = Say(alike({PEERS[2]}).weights, frozenset({PEERS[2]}), others)
    order = leaders(after, heard, PEERS)
    assert order[:2] == [PEERS[2], PEERS[4]]
    assert set(order) == set(PEERS) - others


def test_at_genesis_the_recipes_electors_lead() -> None:
    assert leaders(counters(), say(counters())) == [PEERS[0]]


def test_a_reducer_whose_segment_is_empty_or_came_from_its_backup_failed() -> None:
    swarm = Swarm(4, segments=4)
    roster = swarm.roster([swarm.claim(key, swarm.genesis) for key in swarm.keys], swarm.genesis)
    own = [swarm.reduction(roster, segment, swarm.genesis) for segment in range(4)]
    backup = swarm.reduction(roster, 2, swarm.genesis, backup=True)
    block = swarm.block(swarm.genesis, (), roster=roster, reductions=(own[0], None, backup, own[3]))
    failed = missed_reducers(block.body, swarm.genesis.counters, swarm.genesis.say, swarm.rules)
    assert failed == {own[1].body.peer, own[2].body.peer}
