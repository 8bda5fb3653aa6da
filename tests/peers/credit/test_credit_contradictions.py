"""What it costs to contradict oneself as leader, reducer or elector: once for each round."""

from __future__ import annotations

import pytest
from credit_rounds import AMOUNT, PEERS, Book
from rounds import keys_of, name

from peers.credit.block_facts import Contradiction
from peers.credit.sampling import DRAWN_AFTER
from peers.protocol.reasons import Breach

AUTHOR = PEERS[0]


@pytest.mark.parametrize("breach", ["two rosters", "two blocks", "broken receipt"])
def test_a_contradiction_forfeits_and_expels_once_for_each_round(breach: Breach) -> None:
    book = Book(passes=3)
    book.play(AUTHOR)
    proof = Contradiction(AUTHOR, 1, breach, name("proof"))
    book.play(contradictions=[proof, proof])
    until = 2 + book.rules.expulsion_rounds
    assert book.of(AUTHOR).lost == {breach: AMOUNT}
    assert book.of(AUTHOR).passes == 0
    assert book.accounts.expelled_until(AUTHOR) == until
    [entry] = book.entries_of("contradiction")
    assert (entry.reason, entry.signed, entry.proof, entry.until) == (breach, 1, name("proof"), until)
    assert len(book.entries_of("forfeit")) == 1
    assert not book.entries_of("expulsion")  # of failed audits
    book.play(contradictions=[proof])
    assert len(book.entries_of("contradiction")) == 1
    book.play(contradictions=[Contradiction(AUTHOR, 3, breach, name("another"))])
    assert book.accounts.expelled_until(AUTHOR) == 4 + book.rules.expulsion_rounds


def test_a_dispute_that_is_won_does_not_end_the_expulsion_for_a_contradiction() -> None:
    book = Book(passes=3)
    book.play(AUTHOR)
    book.idle(DRAWN_AFTER)
    claim = book.audit.work.claim
    book.hear("fail", "fail")
    book.play(contradictions=[Contradiction(AUTHOR, 1, "two blocks", name("proof"))])
    until = book.accounts.expelled_until(AUTHOR)
    book.play(disputes=[(AUTHOR, claim)])
    book.hear("pass", "pass")
    assert book.entries_of("restore")
    assert book.accounts.expelled_until(AUTHOR) == until


def test_two_co_signatures_silence_and_take_nothing() -> None:
    book = Book(passes=3)
    book.play(AUTHOR)
    book.play(contradictions=[Contradiction(AUTHOR, 1, "two co-signatures", name("proof"))])
    account = book.of(AUTHOR)
    assert (account.silenced, account.breached, account.in_escrow) == (1, 0, AMOUNT)
    assert book.accounts.expelled_until(AUTHOR) == 0
    [entry] = book.entries_of("contradiction")
    assert (entry.reason, entry.until) == ("two co-signatures", 0)
    book.play(contradictions=[Contradiction(AUTHOR, 1, "two co-signatures", name("again"))])
    assert len(book.entries_of("contradiction")) == 1


def test_contradictions_of_rounds_to_come_and_of_strangers_count_for_nothing() -> None:
    book = Book(passes=3)
    book.play(AUTHOR)
    stranger = keys_of(9)[8].peer_id
    book.play(
        contradictions=[
            Contradiction(AUTHOR, 1000, "two blocks", name("proof")),
            Contradiction(stranger, 1, "two blocks", name("proof")),
        ]
    )
    assert not book.entries_of("contradiction")
    assert stranger not in book.accounts.peers
