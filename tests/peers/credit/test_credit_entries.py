"""Ledger entries are canonical and bounded; verdicts are signed and say what fits together."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from credit_rounds import PEERS, Book, verdict
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rounds import keys_of, name

from peers.credit.block_facts import Contradiction
from peers.credit.entries import MAX_ENTRY_BYTES, AuditDrawn, Entry, Vest, parse_entry
from peers.credit.sampling import DRAWN_AFTER
from peers.protocol.key_change import Moved
from peers.protocol.messages import Signed, sign
from peers.protocol.reasons import CREDIT_SENTENCES, VERDICT_SENTENCES, CreditReason, VerdictReason, sentence
from peers.protocol.verdicts import Dispute, Outcome, Verdict
from recipes.errors import DataError
from recipes.keys.keys import PeerId


def some_verdict(word: str = "pass", **other: Any) -> Verdict:
    book = Book()
    book.play(PEERS[0])
    book.idle(DRAWN_AFTER)
    return verdict(book.audit, PEERS[1], word, **other)


def newcomer() -> PeerId:
    return keys_of(9)[8].peer_id


def one_of_each() -> list[Entry]:
    """Entries of every kind, from rounds in which everything happens."""
    book = Book(passes=1)
    book.play(PEERS[1])
    book.idle(DRAWN_AFTER)
    claim = book.audit.work.claim
    book.hear("fail", "fail")
    book.play(disputes=[(PEERS[1], claim)])
    book.hear("pass", "pass")
    book.idle(10)
    book.play(PEERS[2])
    book.idle(DRAWN_AFTER)
    book.hear("not opened", "not opened")
    book.idle(4)
    book.play(rotations=[Moved(name("change"), PEERS[1], newcomer(), 0, recovered=False)])
    fresh = Book()
    fresh.play(PEERS[1])
    fresh.play(contradictions=[Contradiction(PEERS[1], 1, "two rosters", name("proof"))])
    return [*book.entries, *fresh.entries]


@pytest.mark.parametrize(
    "kind", sorted(get_args(k.model_fields["kind"].annotation)[0] for k in get_args(Entry))
)
def test_every_kind_of_entry_comes_back_from_its_bytes(kind: str) -> None:
    found = [entry for entry in one_of_each() if entry.kind == kind]
    assert found
    for entry in found:
        assert parse_entry(entry.canonical()) == entry


@given(amount=st.integers(0, 10**38))
def test_amounts_beyond_what_json_numbers_hold_are_exact(amount: int) -> None:
    entry = Vest(round=1, peer=PEERS[0], amount=amount, total=amount)
    assert f'"amount":"{amount}"'.encode() in entry.canonical()
    assert parse_entry(entry.canonical()) == entry


@pytest.mark.parametrize(
    "amount", [b'"01"', b'"-1"', b'"1e3"', b'"\xd9\xa1"', b'""', b"1", b"1.0", b'"' + b"9" * 40 + b'"']
)
def test_an_amount_is_written_in_one_way_only(amount: bytes) -> None:
    good = Vest(round=1, peer=PEERS[0], amount=7, total=7).canonical()
    with pytest.raises(DataError):
        parse_entry(good.replace(b'"amount":"7"', b'"amount":' + amount))


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b'{"kind":"gift","round":1}', b" " * (MAX_ENTRY_BYTES + 1), b"\xff", b"[" * 3000],
)
def test_what_is_no_entry_is_refused(content: bytes) -> None:
    with pytest.raises(DataError):
        parse_entry(content)


def test_another_text_for_the_same_entry_is_refused() -> None:
    good = Vest(round=1, peer=PEERS[0], amount=7, total=7).canonical()
    with pytest.raises(DataError, match="canonical"):
        parse_entry(good.replace(b":", b": "))


def test_the_longest_entry_fits_its_bound() -> None:
    entry = AuditDrawn(
        round=2**53 - 1,
        claim=name("claim"),
        peer=PEERS[0],
        auditors=tuple(key.peer_id for key in keys_of(10)),
        steps=2**53 - 1,
        seed=name("seed"),
        repeated=False,
    )
    assert len(entry.canonical()) < MAX_ENTRY_BYTES / 2


def test_every_reason_has_a_sentence() -> None:
    assert set(CREDIT_SENTENCES) == set(get_args(CreditReason))
    assert set(VERDICT_SENTENCES) == set(get_args(VerdictReason))
    assert "round 81" in sentence("in escrow", round_number=81)


def test_every_reason_of_a_verdict_belongs_to_one_outcome() -> None:
    for reason in get_args(VerdictReason):
        fitting = []
        for outcome in get_args(Outcome):
            try:
                some_verdict(reason=reason, outcome=outcome)
            except ValidationError:
                continue
            fitting.append(outcome)
        assert len(fitting) == 1, reason


def test_a_replay_without_a_commitment_to_its_own_losses_is_no_verdict() -> None:
    with pytest.raises(ValidationError, match="commitment"):
        some_verdict(trace=None)


@pytest.mark.parametrize(
    "other", [{"loss_error": float("nan")}, {"loss_error": -1.0}, {"kept": 1.5}, {"steps": 2**53}]
)
def test_a_verdict_with_numbers_out_of_bounds_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        some_verdict(**other)


def test_a_verdict_is_its_auditors_word_and_cannot_be_changed_afterwards() -> None:
    keys = keys_of(8)
    signed = sign(keys[1], some_verdict())
    assert signed.holds()
    turned = signed.body.model_copy(update={"outcome": "fail", "reason": "loss trace differs"})
    assert not Signed[Verdict](body=turned, signature=signed.signature).holds()
    dispute = Dispute(run=signed.body.run, peer=PEERS[1], claim=signed.body.claim)
    assert sign(keys[1], dispute).holds()
