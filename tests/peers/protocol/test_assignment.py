"""Who leads and who reduces: by hash, the same for everybody, and fair."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import Swarm, keys_of, name, rules

from peers.protocol.assignment import assign_reducers, leaders, missed_reducers, ranked
from peers.protocol.counters import Counters, PeerRecord, initial
from peers.protocol.rules import ELECTOR_MINIMUM

PEERS = [key.peer_id for key in keys_of(12)]
RULES = rules(electors=(PEERS[0],), segments=8)


def counters(number: int = 0, /, **standings: PeerRecord) -> Counters:
    """Counters with a beacon of their own."""
    peers = {PEERS[int(place[1:])]: standing for place, standing in standings.items()}
    return initial(RULES).model_copy(update={"beacon": name(f"beacon {number}"), "peers": peers})


def standing(*, included: int = 1, misses: int = 0) -> PeerRecord:
    return PeerRecord(included=included, misses=misses, best_slots=1, quota=(), nonce_commitment=None)


ELECTOR = standing(included=(1 << ELECTOR_MINIMUM) - 1)


@given(count=st.integers(1, 12), segments=st.integers(1, 40), number=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_nobody_reduces_more_than_twice_its_share(count: int, segments: int, number: int) -> None:
    game = rules(electors=(PEERS[0],), segments=segments)
    given_to = Counter(a.reducer for a in assign_reducers(PEERS[:count], counters(number), game))
    assert sum(given_to.values()) == segments
    assert max(given_to.values()) <= max(1, -(-2 * segments // count))


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_segments_are_given_as_evenly_as_can_be(count: int) -> None:
    given_to = Counter(a.reducer for a in assign_reducers(PEERS[:count], counters(), RULES))
    loads = [given_to[peer] for peer in PEERS[:count]]
    assert max(loads) - min(loads) <= 1


@pytest.mark.parametrize("count", [2, 3, 12])
def test_a_backup_is_somebody_else(count: int) -> None:
    for number in range(20):
        for assignment in assign_reducers(PEERS[:count], counters(number), RULES):
            assert assignment.backup in PEERS[:count]
            assert assignment.backup != assignment.reducer


def with_electors(count: int) -> Counters:
    return counters(**{f"p{place}": ELECTOR for place in range(count)})


@pytest.mark.parametrize("electors", [3, 6, 12])
def test_electors_alone_reduce_and_step_in_also_where_newcomers_are_the_majority(electors: int) -> None:
    assignments = assign_reducers(PEERS, with_electors(electors), RULES)
    given_to = Counter(a.reducer for a in assignments)
    assert {*given_to, *(a.backup for a in assignments)} <= set(PEERS[:electors])
    assert max(given_to.values()) == -(-RULES.segments // electors)


def test_few_electors_among_many_are_not_overburdened_and_step_in_for_the_others() -> None:
    many, game = [key.peer_id for key in keys_of(32)], rules(electors=(PEERS[0],), segments=64)
    assignments = assign_reducers(many, with_electors(2), game)
    given_to = Counter(a.reducer for a in assignments)
    assert [given_to[peer] for peer in many[:2]] == [8, 8]  # four times an even share
    assert max(given_to[peer] for peer in many[2:]) <= 4
    assert {a.backup for a in assignments} == set(many[:2])


def test_a_single_elector_reduces_like_anybody_else() -> None:
    given_to = Counter(a.reducer for a in assign_reducers(PEERS[:4], with_electors(1), RULES))
    assert set(given_to.values()) == {2}


def test_an_elector_that_lately_failed_is_asked_before_newcomers() -> None:
    after = with_electors(3)
    failing = ELECTOR.model_copy(update={"misses": 1})
    after = after.model_copy(update={"peers": {**after.peers, PEERS[2]: failing}})
    given_to = Counter(a.reducer for a in assign_reducers(PEERS, after, RULES))
    assert [given_to[peer] for peer in PEERS[:3]] == [3, 3, 2]


@given(count=st.integers(1, 12), electors=st.integers(0, 12), segments=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_whoever_are_electors_nobody_reduces_more_than_four_times_its_share(
    count: int, electors: int, segments: int
) -> None:
    game = rules(electors=(PEERS[0],), segments=segments)
    given_to = Counter(a.reducer for a in assign_reducers(PEERS[:count], with_electors(electors), game))
    assert sum(given_to.values()) == segments
    assert max(given_to.values()) <= -(-4 * segments // count)
    newcomers = [given_to[peer] for peer in PEERS[electors:count]]
    assert max(newcomers, default=0) <= -(-2 * segments // count)


def test_alone_one_reduces_everything_without_a_backup() -> None:
    assignments = assign_reducers(PEERS[:1], counters(), RULES)
    assert {(a.reducer, a.backup) for a in assignments} == {(PEERS[0], None)}


def test_who_lately_failed_is_asked_last() -> None:
    after = counters(p1=standing(misses=0b100), p2=standing())
    reducers = {a.reducer for a in assign_reducers(PEERS[:3], after, RULES)}
    assert reducers == {PEERS[0], PEERS[2]}


def test_if_everybody_failed_the_segments_are_given_out_all_the_same() -> None:
    after = counters(p0=standing(misses=1), p1=standing(misses=1), p2=standing(misses=1))
    assert {a.reducer for a in assign_reducers(PEERS[:3], after, RULES)} == set(PEERS[:3])


def test_those_who_failed_take_what_is_beyond_the_share_of_the_others() -> None:
    failed = {f"p{number}": standing(misses=1) for number in range(1, 12)}
    given_to = Counter(a.reducer for a in assign_reducers(PEERS, counters(**failed), RULES))
    assert given_to[PEERS[0]] == 2  # of 8: twice its share of 12, rounded up
    assert len(given_to) == 7


def test_everybody_computes_the_same_whatever_the_order_of_names() -> None:
    after = counters(p1=standing(misses=1))
    assert assign_reducers(PEERS, after, RULES) == assign_reducers(reversed(PEERS), after, RULES)
    assert ranked(PEERS, after) == ranked(set(PEERS), after)
    assert leaders(after, RULES, PEERS) == leaders(after, RULES, reversed(PEERS))


def test_the_assignment_differs_from_round_to_round() -> None:
    assert len({assign_reducers(PEERS, counters(number), RULES) for number in range(20)}) == 20


def test_every_peer_leads_in_turn() -> None:
    first = Counter(ranked(PEERS, counters(number))[0] for number in range(600))
    assert set(first) == set(PEERS)
    assert max(first.values()) < 2 * 600 / len(PEERS)


def test_electors_lead_before_the_last_roster_and_that_before_anybody_else() -> None:
    after = counters(p1=ELECTOR, p2=ELECTOR, p3=standing(), p4=standing(included=2))
    order = leaders(after, RULES, PEERS[:6])
    assert set(order[:2]) == {PEERS[1], PEERS[2]}
    assert order[2] == PEERS[3]
    assert set(order[3:]) == {PEERS[0], PEERS[4], PEERS[5]}


def test_others_do_not_change_the_rank_of_those_that_the_chain_knows() -> None:
    after = counters(p1=ELECTOR, p2=ELECTOR, p3=standing())
    assert leaders(after, RULES, PEERS)[:3] == leaders(after, RULES)


def test_at_genesis_the_recipes_electors_lead() -> None:
    assert leaders(counters(), RULES) == [PEERS[0]]


def test_a_reducer_whose_segment_is_empty_or_came_from_its_backup_failed() -> None:
    swarm = Swarm(4, segments=4)
    roster = swarm.roster([swarm.claim(key, swarm.genesis) for key in swarm.keys], swarm.genesis)
    own = [swarm.reduction(roster, segment, swarm.genesis) for segment in range(4)]
    backup = swarm.reduction(roster, 2, swarm.genesis, backup=True)
    block = swarm.block(swarm.genesis, (), roster=roster, reductions=(own[0], None, backup, own[3]))
    failed = missed_reducers(block.body, swarm.genesis.counters, swarm.rules)
    assert failed == {own[1].body.peer, own[2].body.peer}
