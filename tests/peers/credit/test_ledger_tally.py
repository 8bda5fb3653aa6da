"""Sums over entries and over accounts: the same, whatever happens to a peer's credit."""

from __future__ import annotations

from dataclasses import replace

from credit_rounds import AMOUNT, PEERS, RULES, UNAUDITED, Book

from peers.credit.block_facts import DoubleClaim
from peers.credit.sampling import DRAWN_AFTER
from peers.credit.tally import Tally, Totals, totals_of

AUTHOR, OTHER = PEERS[:2]


def summed(book: Book) -> Totals:
    """The sums over a book's entries, which have to be those over its accounts."""
    tally = Tally()
    tally.add(book.entries)
    assert tally.totals() == totals_of(book.accounts)
    assert tally.entries == len(book.entries)
    return tally.totals()


def test_what_vests_is_moved_and_nothing_is_made_or_lost() -> None:
    book = Book(UNAUDITED, passes=3)
    for _ in range(4):
        book.play(AUTHOR, OTHER)
    assert summed(book) == Totals(earned=8 * AMOUNT, vested=0, pending=8 * AMOUNT, lost=0)
    book.idle(RULES.escrow_rounds)
    assert summed(book) == Totals(earned=8 * AMOUNT, vested=8 * AMOUNT, pending=0, lost=0)


def test_what_an_audit_takes_and_a_dispute_gives_back_is_counted_once() -> None:
    book = Book(passes=3)
    book.play(AUTHOR)
    book.idle(DRAWN_AFTER)
    audit = book.audit
    book.hear("fail", "fail")
    taken = summed(book)
    assert taken.lost >= AMOUNT
    book.play(disputes=[(AUTHOR, audit.work.claim)])
    book.hear("pass", "pass")
    given_back = summed(book)
    assert given_back.earned > taken.earned  # the fresh auditors'
    assert book.of(AUTHOR).in_escrow == AMOUNT


def test_credit_without_thresholds_or_from_double_claims_is_in_the_sums() -> None:
    book = Book(replace(UNAUDITED, calibrated=frozenset()))
    book.play(AUTHOR, OTHER)
    book.play(double_claims=[DoubleClaim(AUTHOR, 1)])
    assert summed(book) == Totals(earned=2 * AMOUNT, vested=0, pending=AMOUNT, lost=AMOUNT)
