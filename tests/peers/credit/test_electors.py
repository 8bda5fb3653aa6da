"""Who has a say after a block: electors, by vested credit, without those whose word counts no more."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from credit_rounds import PEERS, RULES
from hypothesis import given
from hypothesis import strategies as st

from peers.credit.accounts import Accounts
from peers.credit.electors import say_after
from peers.credit.escrow import Account
from peers.credit.rotation import Retired
from peers.protocol.chance.say import UNIT, Say, alike
from peers.protocol.counters import Counters, PeerRecord, initial
from peers.protocol.rules import ELECTOR_MINIMUM
from recipes.keys.keys import PeerId

ROUND = 40
MEAN = 1000  # FLOPs of a mean claim
GAME = RULES.protocol


def record(*, included: int) -> PeerRecord:
    return PeerRecord(included=(1 << included) - 1, misses=0, best_slots=1, quota=())


def counters(electors: int = len(PEERS), *, visitors: int = 0) -> Counters:
    """Counters that know so many electors, and after them peers that were included too seldom to be one."""
    records = {peer: record(included=ELECTOR_MINIMUM) for peer in PEERS[:electors]}
    records |= {peer: record(included=1) for peer in PEERS[electors : electors + visitors]}
    return initial(GAME).model_copy(update={"round": ROUND, "peers": records})


def accounts(
    vested: Mapping[PeerId, int] | None = None,
    *,
    expelled: Mapping[PeerId, int] | None = None,
    retired: PeerId | None = None,
) -> Accounts:
    """Accounts after the round: vested credit in mean claims, and until when peers are expelled."""
    peers = {peer: Account(vested=claims * MEAN) for peer, claims in (vested or {}).items()}
    for peer, until in (expelled or {}).items():
        peers[peer] = Account(vested=peers.get(peer, Account()).vested, expelled={"a claim": until})
    gone = {retired: Retired(PEERS[7], ROUND - 1)} if retired is not None else {}
    return Accounts(round=ROUND, peers=peers, claims=10, claimed=10 * MEAN, retired=gone)


def say(after: Counters, credit: Accounts) -> Say:
    return say_after(after, credit, GAME)


def test_at_genesis_the_recipes_electors_have_the_say() -> None:
    assert say(initial(GAME), Accounts()) == alike([PEERS[0]])


def test_until_an_elector_has_vested_credit_all_weigh_the_same() -> None:
    without_work = say(counters(5), accounts())
    assert without_work == alike(PEERS[:5])
    assert say(counters(5, visitors=2), accounts({PEERS[5]: 70})) == without_work  # who is no elector


def test_electors_weigh_by_vested_credit_and_those_with_any_are_established() -> None:
    found = say(counters(5), accounts({PEERS[0]: 2, PEERS[3]: 5}))
    assert {peer: found.weights[peer] for peer in (PEERS[0], PEERS[3])} == {
        PEERS[0]: 3 * UNIT,
        PEERS[3]: 6 * UNIT,
    }
    assert {found.weights[peer] for peer in (PEERS[1], PEERS[2], PEERS[4])} == {UNIT // 3}
    assert found.established == {PEERS[0], PEERS[3]}
    assert list(found.weights) == sorted(PEERS[:5])


def test_credit_in_escrow_does_not_weigh() -> None:
    credit = accounts({PEERS[0]: 2})
    pending = Account(uncalibrated=99 * MEAN, lost={"audit failed": 99 * MEAN})
    other = Accounts(**{**vars(credit), "peers": {**credit.peers, PEERS[1]: pending}})
    assert say(counters(3), other) == say(counters(3), credit)


@pytest.mark.parametrize(("until", "excluded"), [(ROUND, False), (ROUND + 1, True)])
def test_who_is_expelled_from_the_next_round_has_no_say_whatever_it_vested(
    until: int, excluded: bool
) -> None:
    found = say(counters(4), accounts({PEERS[0]: 9, PEERS[1]: 1}, expelled={PEERS[0]: until}))
    assert (PEERS[0] in found.out) is excluded
    assert (PEERS[0] not in found.weights) is excluded
    assert (PEERS[0] not in found.established) is excluded
    assert found.weights[PEERS[1]] == 2 * UNIT


def test_whose_credit_alone_made_others_newcomers_leaves_them_alike_when_it_is_expelled() -> None:
    found = say(counters(4), accounts({PEERS[0]: 9}, expelled={PEERS[0]: ROUND + 5}))
    assert dict(found.weights) == dict.fromkeys(sorted(PEERS[1:4]), UNIT)
    assert found.established == set(PEERS[1:4])


def test_a_retired_key_has_no_say() -> None:
    found = say(counters(4), accounts({PEERS[1]: 1}, retired=PEERS[0]))
    assert found.out == {PEERS[0]}
    assert PEERS[0] not in found.weights


def test_visitors_that_are_expelled_are_known_to_be_so_too() -> None:
    found = say(counters(3, visitors=2), accounts(expelled={PEERS[3]: ROUND + 5, PEERS[7]: ROUND + 5}))
    assert found.out == {PEERS[3]}  # the other is not known to the counters


@given(
    vested=st.lists(st.integers(0, 50), min_size=8, max_size=8),
    expelled=st.sets(st.integers(0, 7)),
    electors=st.integers(1, 8),
)
def test_weights_are_of_electors_that_are_not_excluded_and_of_all_of_them(
    vested: list[int], expelled: set[int], electors: int
) -> None:
    until = dict.fromkeys((PEERS[number] for number in expelled), ROUND + 1)
    found = say(counters(electors), accounts(dict(zip(PEERS, vested, strict=True)), expelled=until))
    heard = set(PEERS[:electors]) - until.keys()
    assert set(found.weights) == heard
    assert found.established <= heard
    assert bool(found.established) == bool(heard)
    assert min(found.weights.values(), default=1) > 0
