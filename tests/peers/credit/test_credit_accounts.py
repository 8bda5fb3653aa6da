"""Credit is conserved, vests late and only for those who were audited, and follows from the chain alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from adventures import MIXED, SEEDS, adventure
from credit_rounds import AMOUNT, PEERS, RULES, SEGMENTS, UNAUDITED, Book, verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import Swarm

from peers.chain.link import Link
from peers.credit.accounts import Accounts, close_round, entries_after
from peers.credit.block_facts import DoubleClaim, facts_of
from peers.credit.rules import MILLION
from peers.credit.sampling import DRAWN_AFTER
from peers.credit.statement import unvested
from peers.protocol.messages import Evidence
from peers.protocol.reasons import CreditReason
from recipes.keys.keys import PeerId

W = RULES.escrow_rounds


def earned_by_entries(book: Book) -> Counter[PeerId]:
    """What the ledger's entries say that each peer earned, by claims and by audits."""
    earned = Counter[PeerId]()
    for entry in book.entries_of("claim"):
        earned[entry.peer] += entry.amount
    for entry in book.entries_of("verdict"):
        earned[entry.auditor] += entry.amount
    return earned


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_whatever_happens_all_that_was_earned_is_in_one_place(seed: int) -> None:
    book = adventure(seed)
    earned, whole, vested = earned_by_entries(book), Counter[PeerId](), Counter[PeerId]()
    for entry in book.entries_of("claim"):
        whole[entry.peer] += entry.amount + entry.missed
    for entry in book.entries_of("vest"):
        vested[entry.peer] += entry.amount
        assert entry.total == vested[entry.peer]
    lost = Counter[PeerId]()
    for entry in [*book.entries_of("forfeit"), *book.entries_of("lapse")]:
        lost[entry.peer] += entry.amount
    for entry in book.entries_of("restore"):
        lost[entry.peer] -= entry.amount
    for peer, account in book.accounts.peers.items():
        assert account.earned == earned[peer]
        assert account.vested == vested[peer]
        assert sum(account.lost.values()) == lost[peer]
        assert account.earned + account.missed == whole[peer] + sum(
            entry.amount for entry in book.entries_of("verdict") if entry.auditor == peer
        )
        assert min([account.uncalibrated, account.missed, *(one.amount for one in account.pending)]) >= 0


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_every_unit_that_is_not_vested_has_a_reason(seed: int) -> None:
    book = adventure(seed)
    for peer, account in book.accounts.peers.items():
        statement = unvested(book.accounts, peer, book.rules)
        assert sum(one.amount for one in statement) + account.vested == account.earned + account.missed
        assert all(one.explanation.endswith(".") for one in statement)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, cut=st.integers(0, 40))
def test_the_same_accounts_and_entries_follow_however_the_chain_is_cut(seed: int, cut: int) -> None:
    book = adventure(seed)
    accounts, entries = Accounts(), []
    for facts in book.facts[:cut]:
        accounts, more = close_round(accounts, facts, MIXED)
        entries += more
    middle = accounts
    for facts in book.facts[cut:]:
        accounts, more = close_round(accounts, facts, MIXED)
        entries += more
    assert accounts == book.accounts
    assert entries == book.entries
    again, _ = close_round(middle, book.facts[cut], MIXED) if cut < len(book.facts) else (middle, [])
    assert again.round == min(cut + 1, len(book.facts))  # what came after has changed nothing before


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_audits_that_rest_come_to_what_they_would_if_looked_at_in_each_round(seed: int) -> None:
    whole = adventure(seed)
    accounts, entries = Accounts(), []
    for facts in whole.facts:
        awake = tuple(replace(audit, rests_until=0) for audit in accounts.audits)
        accounts, more = close_round(replace(accounts, audits=awake), facts, MIXED)
        entries += more
    assert entries == whole.entries


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_nobody_vests_while_an_audit_of_it_is_open_or_before_it_passed_one(seed: int) -> None:
    book = adventure(seed, rounds=0)
    whole = adventure(seed)
    for facts in whole.facts:
        book.accounts, entries = close_round(book.accounts, facts, MIXED)
        for entry in entries:
            if entry.kind == "vest":
                assert entry.peer not in book.accounts.under_audit
                assert book.of(entry.peer).passes > 0


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_an_account_stays_small_however_long_a_peer_takes_part(seed: int) -> None:
    book = adventure(seed, rounds=60)
    assert all(len(account.pending) <= W + 1 for account in book.accounts.peers.values())


def test_credit_vests_after_the_escrow_and_not_a_round_earlier() -> None:
    book = Book(UNAUDITED, passes=1)
    book.play(PEERS[1])
    book.idle(W - 1)
    assert book.of(PEERS[1]).vested == 0
    book.idle(1)
    assert book.of(PEERS[1]).vested == AMOUNT
    [entry] = book.entries_of("vest")
    assert (entry.round, entry.amount) == (1 + W, AMOUNT)


def test_what_has_vested_is_never_taken_back() -> None:
    book = Book(UNAUDITED, passes=1)
    book.play(PEERS[1])
    book.idle(W)
    book.play(double_claims=[DoubleClaim(PEERS[1], W + 1)])
    assert book.of(PEERS[1]).vested == AMOUNT


def test_vesting_stands_still_while_an_audit_is_open_and_catches_up_after_it() -> None:
    book = Book(replace(RULES, escrow_rounds=2), passes=1)
    book.play(PEERS[1])
    book.idle(1 + 3)
    assert book.of(PEERS[1]).vested == 0
    assert reasons(book, PEERS[1]) == ["audit pending"]
    book.play(verdicts=[verdict(book.audit, book.asked()[0], "pass")])
    assert book.of(PEERS[1]).vested == AMOUNT


def test_nothing_vests_of_a_peer_that_passed_no_audit() -> None:
    book = Book(UNAUDITED)
    book.play(PEERS[1])
    book.idle(3 * W)
    assert book.of(PEERS[1]).vested == 0
    assert reasons(book, PEERS[1]) == ["no audit passed yet"]


def test_nothing_of_an_uncalibrated_class_vests() -> None:
    book = Book(UNAUDITED, passes=1)
    book.play(PEERS[1], numeric_class="cuda-bf16")
    book.idle(3 * W)
    assert book.of(PEERS[1]).uncalibrated == AMOUNT
    assert reasons(book, PEERS[1]) == ["thresholds not calibrated"]


@pytest.mark.parametrize("segments", range(SEGMENTS + 1))
def test_credit_is_in_proportion_to_the_segments_that_were_counted(segments: int) -> None:
    book = Book()
    [entry] = [e for e in book.play(PEERS[1], segments=segments) if e.kind == "claim"]
    assert entry.amount == AMOUNT * segments // SEGMENTS
    assert entry.missed == AMOUNT - entry.amount
    assert (entry.reason == "missed the cut") == (segments == 0)


def test_a_peer_joins_once_when_it_is_first_counted() -> None:
    book = Book()
    book.play(PEERS[1], segments=0)
    book.play(PEERS[1])
    book.play(PEERS[1])
    assert [(entry.round, entry.peer) for entry in book.entries_of("join")] == [(2, PEERS[1])]


def test_a_claim_that_was_not_counted_is_not_drawn() -> None:
    book = Book()
    book.play(PEERS[1], segments=0)
    book.idle(DRAWN_AFTER)
    assert book.entries_of("audit") == []


def test_facts_of_another_round_are_refused() -> None:
    book = adventure(1, rounds=3)
    with pytest.raises(ValueError, match="cannot be settled"):
        close_round(book.accounts, book.facts[0], MIXED)


def test_accounts_before_a_block_are_not_changed_by_it() -> None:
    book = adventure(5)
    before = book.accounts
    copy = repr(before)
    book.play(*PEERS)
    assert repr(before) == copy


# ------------------------------------------------------------ real blocks


def test_entries_follow_from_the_blocks_of_a_real_chain() -> None:
    swarm = Swarm(3)
    credit = replace(RULES, protocol=swarm.rules, newcomer_rate=MILLION)
    accounts, kinds = Accounts(), Counter[str]()
    drawn: set[tuple[int, PeerId]] = set()
    link: Link = swarm.genesis
    for _ in range(6):
        link = swarm.grow(link, swarm.keys)
        assert link.block is not None
        accounts, entries = entries_after(accounts, link.block.body, link.counters, credit)
        kinds.update(entry.kind for entry in entries)
        drawn |= {(e.round, e.peer) for e in entries if e.kind == "audit"}
        claims: dict[str, Any] = {e.claim: e for e in entries if e.kind == "claim"}
        for signed in link.block.body.roster.body.claims:
            slots = sum(count for _, count in signed.body.slots)
            entry = claims[signed.hash]
            assert entry.tokens == slots * swarm.rules.tokens_per_slot
            assert entry.amount == entry.tokens * credit.flops_per_token
            assert entry.steps == -(-slots // credit.batch_slots)  # whatever its author says
    assert kinds["claim"] == 18
    assert kinds["join"] == 3
    # Genesis' elector draws from the second round on, since its hash chain was anchored in the first one; and
    # all draw from the fourth on, which makes them electors.
    first, *others = (key.peer_id for key in swarm.keys)
    assert drawn == {*((n, peer) for n in (4, 5, 6) for peer in others), (6, first)}
    assert accounts.claimed == sum(account.earned for account in accounts.peers.values())


@pytest.mark.parametrize(("other", "shown"), [({"steps": 1}, True), ({"steps": 1, "round": 7}, False)])
def test_evidence_shows_a_double_claim_where_both_are_for_one_round(
    other: dict[str, Any], shown: bool
) -> None:
    swarm = Swarm(2)
    link = swarm.grow(swarm.genesis, swarm.keys)
    assert link.block is not None
    one, two = (swarm.claim(swarm.keys[1], link, **changes) for changes in ({}, other))
    block = link.block.body.model_copy(update={"evidence": (Evidence(one=one, other=two),)})
    found = facts_of(block, link.counters, replace(RULES, protocol=swarm.rules)).double_claims
    assert found == ((DoubleClaim(swarm.keys[1].peer_id, 2),) if shown else ())


def reasons(book: Book, peer: PeerId) -> list[CreditReason]:
    return [one.reason for one in unvested(book.accounts, peer, book.rules)]
