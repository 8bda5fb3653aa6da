"""An account goes on under another key as it was, and the old id is retired for good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from adventures import SEEDS, adventure
from credit_rounds import AMOUNT, PEERS, RULES, UNAUDITED, Book, verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import RUN, Swarm, keys_of, name

from peers.credit.accounts import Accounts, close_round
from peers.credit.block_facts import DoubleClaim, facts_of
from peers.credit.rotation import Retired
from peers.credit.sampling import DRAWN_AFTER
from peers.credit.tally import Tally, totals_of
from peers.protocol.key_change import KeyChange, Moved, Recovery, Rotation
from peers.protocol.messages import Signed, sign
from recipes.keys.keys import PeerId, SigningKey

KEYS = keys_of(12)
FRESH: list[PeerId] = [key.peer_id for key in KEYS[8:]]
OLD, NEW = PEERS[1], FRESH[0]


def move(old: PeerId = OLD, new: PeerId = NEW, *, number: int = 0, recovered: bool = False) -> Moved:
    return Moved(name(f"{old}/{new}/{number}"), old, new, number, recovered)


def rotated(*moves: Moved, credit: Any = UNAUDITED, passes: int = 1) -> Book:
    """A swarm in which the old id earned something, and these rotations stand in the next block."""
    book = Book(credit, passes=passes)
    book.play(OLD, PEERS[2])
    book.play(rotations=moves or [move()])
    return book


def test_all_that_an_account_holds_is_the_new_keys_after_a_rotation() -> None:
    book = Book(UNAUDITED, passes=3)
    book.play(OLD)
    held = book.of(OLD)
    book.play(rotations=[move()])
    [entry] = book.entries_of("rotation")
    assert book.of(NEW) == held
    assert OLD not in book.accounts.peers
    assert book.accounts.retired == {OLD: Retired(NEW, 2)}
    assert (entry.kind, entry.peer, entry.successor, entry.pending) == ("rotation", OLD, NEW, AMOUNT)


def test_what_was_in_escrow_vests_for_the_new_key_when_it_was_due() -> None:
    book = rotated()
    book.idle(UNAUDITED.escrow_rounds - 2)
    assert book.of(NEW).vested == 0
    book.idle(1)
    assert book.of(NEW).vested == AMOUNT
    assert [entry.peer for entry in book.entries_of("vest")] == sorted([NEW, PEERS[2]])


def test_a_claim_in_the_block_of_the_rotation_still_counts() -> None:
    book = Book(UNAUDITED, passes=1)
    book.play(OLD, rotations=[move()])
    assert book.of(NEW).in_escrow == AMOUNT


def test_a_retired_id_earns_nothing_and_gets_no_account() -> None:
    book = rotated()
    before = book.accounts.peers
    book.play(OLD)
    entry = book.entries_of("claim")[-1]
    assert (entry.amount, entry.missed, entry.reason) == (0, AMOUNT, "key retired")
    assert book.accounts.peers == before
    assert OLD not in {work.peer for work in book.accounts.counted}  # so it is not audited, either


def test_a_retired_elector_is_drawn_for_no_audit() -> None:
    book = rotated(credit=RULES)
    book.play(PEERS[3])
    book.idle(DRAWN_AFTER)
    newest = book.entries_of("audit")[-1]
    assert len(newest.auditors) == len(PEERS) - 2
    assert OLD not in newest.auditors


@pytest.mark.parametrize("target", [PEERS[2], OLD, PEERS[5]], ids=["an account", "itself", "an elector"])
def test_a_rotation_to_an_id_that_takes_part_already_is_refused(target: PeerId) -> None:
    book = rotated(move(new=target), passes=0)
    assert not book.entries_of("rotation")
    assert book.of(OLD).in_escrow == AMOUNT


def test_a_rotation_to_a_retired_id_is_refused() -> None:
    book = rotated()
    assert book.play(rotations=[move(PEERS[2], OLD)]) == []


def test_a_rotation_to_an_auditor_without_an_account_is_refused() -> None:
    book = Book(RULES)
    book.play(OLD)
    book.idle(DRAWN_AFTER)
    assert book.play(rotations=[move(OLD, PEERS[4])], electors=frozenset({PEERS[0]})) == []


def test_a_rotation_of_an_id_without_an_account_is_refused() -> None:
    book = Book(UNAUDITED)
    assert book.play(rotations=[move()]) == []


def test_the_second_rotation_of_one_id_is_refused() -> None:
    book = rotated()
    assert book.play(rotations=[move(new=FRESH[1], number=5)]) == []


def test_of_several_rotations_in_one_block_the_one_with_the_highest_number_counts() -> None:
    book = rotated(move(number=1), move(new=FRESH[1], number=2), move(new=FRESH[2], number=2))
    assert [entry.successor for entry in book.entries_of("rotation")] == [FRESH[1]]


@pytest.mark.parametrize("apart", [True, False], ids=["in two blocks", "in one block"])
def test_a_chain_of_rotations_is_followed_to_its_end(apart: bool) -> None:
    book = rotated(move(), *([] if apart else [move(NEW, FRESH[1])]))
    if apart:
        book.play(rotations=[move(NEW, FRESH[1])])
    assert {gone.successor for gone in book.accounts.retired.values()} == {FRESH[1]}
    assert book.of(FRESH[1]).in_escrow == AMOUNT


@pytest.mark.parametrize("after", range(1, DRAWN_AFTER + 1), ids=["before the draw", "as it is drawn"])
def test_an_audit_of_the_old_ids_claim_takes_from_the_new_one(after: int) -> None:
    book = Book(RULES, passes=1)
    book.play(OLD)
    for number in range(1, DRAWN_AFTER + 1):
        book.play(rotations=[move()] if number == after else [])
    book.hear("fail", "fail")
    [entry] = book.entries_of("forfeit")
    assert (entry.peer, entry.reason, entry.amount) == (NEW, "audit failed", AMOUNT)
    assert book.of(NEW).in_escrow == 0


@pytest.mark.parametrize("chained", [False, True])
def test_who_audits_a_claim_is_not_chosen_by_a_rotation_after_it(chained: bool) -> None:
    """Who sees what the electors show in the round after could else try names until none draws the claim."""
    drawn = []
    for moves in ([], [move()], [move(new=FRESH[1])]):
        book = Book(RULES, passes=1)
        book.play(OLD)
        further = [move(one.new, FRESH[2]) for one in moves] if chained else []
        book.play(rotations=[*moves, *further])
        book.play()
        drawn.append((book.audit.auditors, book.audit.seed))
    assert drawn[1:] == drawn[:1] * 2


def test_what_a_decision_took_may_be_disputed_by_the_new_key_and_comes_back_to_it() -> None:
    book = Book(RULES, passes=1)
    book.play(OLD)
    book.idle(DRAWN_AFTER)
    book.hear("fail", "fail")
    book.play(rotations=[move()])
    book.play(disputes=[(NEW, book.audit.work.claim)])
    book.hear("pass", "pass")
    [entry] = book.entries_of("restore")
    assert (entry.peer, entry.amount) == (NEW, AMOUNT)
    assert book.of(NEW).in_escrow >= AMOUNT


def test_an_auditor_that_was_asked_speaks_with_its_new_key() -> None:
    book = Book(RULES, passes=1)
    book.play(PEERS[3])
    book.idle(DRAWN_AFTER)
    auditor = book.asked()[0]
    book.play(rotations=[move(auditor)])
    audit = book.audit
    assert book.asked()[0] == NEW
    book.play(verdicts=[verdict(audit, auditor, "pass")])
    assert not book.entries_of("verdict")
    book.play(verdicts=[verdict(audit, NEW, "pass")])
    assert [entry.auditor for entry in book.entries_of("verdict")] == [NEW]


def test_two_claims_signed_before_a_rotation_are_punished_after_it() -> None:
    book = rotated()
    book.play(double_claims=[DoubleClaim(OLD, 1)])
    [entry] = book.entries_of("forfeit")
    assert (entry.peer, entry.amount) == (NEW, AMOUNT)


def test_a_leaked_old_key_harms_its_successor_no_more_once_some_rounds_have_passed() -> None:
    book = rotated()
    book.play(OLD)
    book.play(double_claims=[DoubleClaim(OLD, 3)])  # signed after it retired
    book.idle(RULES.retention_rounds)
    book.play(double_claims=[DoubleClaim(OLD, 1)])  # signed, or so it says, long before
    assert not book.entries_of("forfeit")


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, at=st.sets(st.integers(0, 39), min_size=1, max_size=4))
def test_nothing_is_made_or_lost_by_rotations_whatever_else_happens(seed: int, at: set[int]) -> None:
    whole = adventure(seed)
    accounts, tally = Accounts(), Tally()
    for place, facts in enumerate(whole.facts):
        moves = [move(PEERS[one % 8], FRESH[one % 4]) for one in sorted(at) if one == place]
        accounts, entries = close_round(accounts, replace(facts, rotations=tuple(moves)), whole.rules)
        tally.add(entries)
    assert totals_of(accounts) == tally.totals()
    assert not accounts.peers.keys() & accounts.retired.keys()
    assert all(gone.successor in accounts.peers for gone in accounts.retired.values())


def signed_rotation(by: SigningKey, **other: Any) -> Signed[Rotation]:
    fields: dict[str, Any] = {"old": KEYS[1].peer_id, "new": KEYS[8].peer_id, "number": 3, **other}
    return sign(by, Rotation(run=RUN, peer=by.peer_id, **fields))


def test_a_rotation_that_both_keys_signed_moves_the_account() -> None:
    change = KeyChange(given=signed_rotation(KEYS[1]), taken=signed_rotation(KEYS[8]))
    assert change.moved() == Moved(change.given.hash, OLD, NEW, 3, recovered=False)
    assert all(part.holds() for part in change.parts())


def test_a_recovery_key_that_the_peer_named_signs_in_its_place() -> None:
    named = sign(KEYS[1], Recovery(run=RUN, peer=OLD, recovery=KEYS[9].peer_id))
    change = KeyChange(given=signed_rotation(KEYS[9]), taken=signed_rotation(KEYS[8]), recovery=named)
    moved = change.moved()
    assert moved is not None
    assert moved.recovered
    assert len(change.parts()) == 3


def test_a_block_moves_accounts_by_the_changes_in_it_that_hold_together() -> None:
    swarm = Swarm(2)
    link = swarm.grow(swarm.genesis, swarm.keys)
    assert link.block is not None
    given, taken = signed_rotation(KEYS[1]), signed_rotation(KEYS[8])
    changes = (KeyChange(given=given, taken=given), KeyChange(given=given, taken=taken))
    block = link.block.body.model_copy(update={"rotations": changes})
    found = facts_of(block, link.counters, replace(RULES, protocol=swarm.rules)).rotations
    assert found == (Moved(given.hash, OLD, NEW, 3, recovered=False),)


def test_parts_that_do_not_belong_together_move_nothing() -> None:
    given, taken = signed_rotation(KEYS[1]), signed_rotation(KEYS[8])
    stranger = sign(KEYS[2], Recovery(run=RUN, peer=PEERS[2], recovery=KEYS[9].peer_id))
    elsewhere = sign(KEYS[1], Recovery(run="0" * 64, peer=OLD, recovery=KEYS[9].peer_id))
    for change in (
        KeyChange(given=signed_rotation(KEYS[2]), taken=taken),  # by neither
        KeyChange(given=given, taken=given),  # by one alone
        KeyChange(given=given, taken=signed_rotation(KEYS[8], number=4)),
        KeyChange(given=signed_rotation(KEYS[9]), taken=taken),  # a recovery key that nobody named
        KeyChange(given=signed_rotation(KEYS[9]), taken=taken, recovery=stranger),
        KeyChange(given=signed_rotation(KEYS[9]), taken=taken, recovery=elsewhere),
        KeyChange(given=signed_rotation(KEYS[1], new=OLD), taken=signed_rotation(KEYS[1], new=OLD)),
    ):
        assert change.moved() is None


def test_an_expulsion_binds_the_new_key_and_the_one_that_it_left() -> None:
    book = Book(RULES, passes=3)
    book.play(OLD)
    book.idle(DRAWN_AFTER)
    book.hear("fail", "fail")
    until = book.accounts.expelled_until(OLD)
    book.play(rotations=[move()])
    assert until > book.accounts.round
    assert book.accounts.expelled_until(NEW) == book.accounts.expelled_until(OLD) == until
