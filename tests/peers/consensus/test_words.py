"""What is kept of what peers say about audits, and what of it a block carries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from credit_rounds import PEERS, RULES, Book, verdict
from rounds import RUN, Swarm, keys_of

from peers.chain.link import Link
from peers.consensus.operation_pool import (
    MAX_OPERATIONS_OF_ONE,
    MAX_OWN_OPERATIONS,
    OPERATION_ROUNDS,
    Carried,
    OperationPool,
)
from peers.credit.accounts import Accounts
from peers.credit.sampling import DRAWN_AFTER
from peers.protocol.messages import Evidence, Signed, header_of, sign
from peers.protocol.verdicts import Dispute, Verdict
from recipes.keys.keys import PeerId, SigningKey

BY_ID: dict[PeerId, SigningKey] = {key.peer_id: key for key in keys_of(8)}
PLENTY = 1 << 20
NOBODY: frozenset[PeerId] = frozenset()


def audited() -> Book:
    """Accounts in which one claim of the first peer is being audited."""
    book = Book()
    book.play(PEERS[0])
    book.idle(DRAWN_AFTER)
    return book


def at(accounts: Accounts, *, round_number: int = 1) -> Link:
    """A place in the chain with these accounts."""
    genesis = Swarm(1).genesis
    counters = genesis.counters.model_copy(update={"round": round_number})
    return replace(genesis, counters=counters, ledger=replace(genesis.ledger, accounts=accounts))


def said(book: Book, auditor: PeerId, word: str = "pass", **other: Any) -> Signed[Verdict]:
    return sign(BY_ID[auditor], verdict(book.audit, auditor, word, **other))


def carried(words: OperationPool, book: Book, *, room_bytes: int = PLENTY) -> Carried:
    return words.for_block(book.accounts, room_bytes=room_bytes)


def test_a_block_carries_the_verdict_of_an_auditor_who_is_asked_and_of_nobody_else() -> None:
    book, words = audited(), OperationPool(RULES)
    [asked] = book.asked()
    other = next(peer for peer in PEERS[1:] if peer != asked)
    for auditor in (other, asked):
        words.keep(said(book, auditor), at(book.accounts), frozenset(PEERS))
    assert carried(words, book).verdicts == (said(book, asked),)


def test_words_of_strangers_are_not_kept_and_those_of_electors_are_until_their_block_comes() -> None:
    book, words = audited(), OperationPool(RULES)
    [asked] = book.asked()
    early = said(book, asked)
    words.keep(early, at(Accounts()), NOBODY)
    assert not words.heard
    words.keep(early, at(Accounts()), frozenset({asked}))
    assert carried(words, book).verdicts == (early,)


def test_of_one_author_no_more_words_are_kept_than_are_said_at_once() -> None:
    book, words = audited(), OperationPool(RULES)
    [asked] = book.asked()
    for number in range(2 * MAX_OPERATIONS_OF_ONE):
        words.keep(said(book, asked, loss_error=float(number)), at(book.accounts), NOBODY)
    assert len(words.heard) == MAX_OPERATIONS_OF_ONE
    assert len(carried(words, book).verdicts) == 1  # two by one auditor on one claim: one counts


def test_a_replay_goes_before_the_word_that_nothing_was_opened() -> None:
    book, words = audited(), OperationPool(RULES)
    [asked] = book.asked()
    for word in ("not opened", "pass", "not opened"):
        words.keep_own(said(book, asked, word))
    assert carried(words, book).verdicts == (said(book, asked, "pass"),)


def test_what_the_chain_holds_is_neither_said_nor_carried_again() -> None:
    book, words = audited(), OperationPool(RULES)
    [asked] = book.asked()
    words.keep_own(said(book, asked))
    assert words.to_say(book.accounts) == [said(book, asked)]
    book.play(verdicts=[said(book, asked).body])
    assert words.to_say(book.accounts) == []
    assert carried(words, book) == Carried()


def test_a_branch_that_does_not_hold_an_own_word_hears_it_again() -> None:
    book, words = audited(), OperationPool(RULES)
    [asked] = book.asked()
    before = book.accounts
    words.keep_own(said(book, asked))
    book.play(verdicts=[said(book, asked).body])
    words.forget(head=at(book.accounts, round_number=9), final=at(book.accounts))
    assert words.to_say(before)


def test_others_words_are_forgotten_after_a_few_rounds_unless_they_are_said_again() -> None:
    book, words = audited(), OperationPool(RULES)
    [asked] = book.asked()
    for number in (1, 2):
        words.keep(said(book, asked), at(book.accounts, round_number=number), NOBODY)
    for number, kept in ((1 + OPERATION_ROUNDS, 1), (2 + OPERATION_ROUNDS, 0)):
        place = at(book.accounts, round_number=number)
        words.forget(head=place, final=place)
        assert len(words.heard) == kept


def test_own_words_are_bounded_and_the_newest_stay() -> None:
    book, words = audited(), OperationPool(RULES)
    [asked] = book.asked()
    for number in range(MAX_OWN_OPERATIONS + 3):
        words.keep_own(said(book, asked, loss_error=float(number)))
    assert len(words.own) == MAX_OWN_OPERATIONS
    assert next(iter(words.own.values())).body == said(book, asked, loss_error=3.0).body


def test_a_block_carries_no_more_than_there_is_room_for() -> None:
    book, words = audited(), OperationPool(RULES)
    [asked] = book.asked()
    words.keep_own(said(book, asked))
    size = len(said(book, asked).canonical())
    assert carried(words, book, room_bytes=size) == Carried()
    assert len(carried(words, book, room_bytes=size + 1).verdicts) == 1


def test_a_dispute_is_carried_by_whom_a_decision_took_something_from() -> None:
    book, words = audited(), OperationPool(RULES)
    book.hear("fail", "fail")
    assert book.audit.decision == "fail"
    for peer in PEERS[:2]:
        dispute = sign(BY_ID[peer], Dispute(run=RUN, peer=peer, claim=book.audit.work.claim))
        words.keep(dispute, at(book.accounts), frozenset(PEERS))
    assert [word.body.peer for word in carried(words, book).disputes] == [PEERS[0]]
    book.play(disputes=[(PEERS[0], book.audit.work.claim)])
    assert carried(words, book).disputes == ()


def double_claim_of(swarm: Swarm, key: SigningKey, parent: Link) -> Evidence:
    one, other = (swarm.claim(key, parent, slots=count) for count in (1, 2))
    return Evidence(one=one, other=other)


def test_a_double_claim_is_carried_until_it_is_punished_and_a_later_one_again() -> None:
    swarm = Swarm(2)
    link, words = swarm.grow(swarm.genesis, swarm.keys, 2), OperationPool(swarm.credit)
    liar = swarm.keys[1]
    first = double_claim_of(swarm, liar, link)
    assert words.keep_evidence(first, link.accounts)
    assert not words.keep_evidence(first, link.accounts)
    assert words.for_block(link.accounts, room_bytes=PLENTY).evidence == (first,)
    punished = swarm.grow(link, swarm.keys, evidence=(first,))
    assert list(punished.accounts.peers[liar.peer_id].lost) == ["double claim"]
    assert words.for_block(punished.accounts, room_bytes=PLENTY).evidence == ()
    second = double_claim_of(swarm, liar, punished)
    assert words.keep_evidence(second, punished.accounts)
    assert words.for_block(punished.accounts, room_bytes=PLENTY).evidence == (second,)


def test_proofs_of_each_offence_are_carried_until_the_chain_has_counted_them() -> None:
    swarm = Swarm(3)
    link, words = swarm.grow(swarm.genesis, swarm.keys, 2), OperationPool(swarm.credit)
    key = swarm.keys[1]
    others = swarm.grow(link, [swarm.keys[0]], cosigned=False), swarm.grow(link, swarm.keys, cosigned=False)
    headers = [
        header_of(swarm.roster([swarm.claim(some, link)], link, key=key, attempt=9)) for some in swarm.keys
    ]
    proofs = (
        double_claim_of(swarm, key, link),
        Evidence(one=headers[0], other=headers[1]),
        Evidence(one=swarm.cosign(key, others[0]), other=swarm.cosign(key, others[1])),
    )
    for proof in proofs:
        assert words.keep_evidence(proof, link.accounts)
        assert not words.keep_evidence(proof, link.accounts)
    assert words.for_block(link.accounts, room_bytes=PLENTY).evidence == proofs
    counted = swarm.grow(link, swarm.keys, evidence=proofs)
    account = counted.accounts.peers[key.peer_id]
    assert (account.double_claims, account.breached, account.silenced) == (3, 3, 3)
    assert words.for_block(counted.accounts, room_bytes=PLENTY).evidence == ()
    words.forget(head=counted, final=counted)
    assert not words.evidence


def test_proofs_about_rounds_to_come_and_about_strangers_are_not_kept() -> None:
    swarm = Swarm(2)
    link, words = swarm.grow(swarm.genesis, swarm.keys), OperationPool(swarm.credit)
    key = swarm.keys[1]
    far = [swarm.claim(key, link, slots=count, round=99) for count in (1, 2)]
    assert not words.keep_evidence(Evidence(one=far[0], other=far[1]), link.accounts)
    stranger = keys_of(1, seed="stranger")[0]
    assert not words.keep_evidence(double_claim_of(swarm, stranger, link), link.accounts)


def test_of_several_changes_of_keys_by_one_peer_the_highest_number_is_carried() -> None:
    swarm = Swarm(2)
    link, words = swarm.grow(swarm.genesis, swarm.keys), OperationPool(swarm.credit)
    old, (new, newer) = swarm.keys[1], keys_of(2, seed="new")
    for key, number in ((new, 1), (newer, 2), (new, 0)):
        words.keep_rotation(swarm.rotation(old, key, number=number), link.accounts)
    words.keep_rotation(swarm.rotation(new, newer), link.accounts)  # who has no account moves none
    [change] = words.for_block(link.accounts, room_bytes=PLENTY).rotations
    assert change == swarm.rotation(old, newer, number=2)
    moved = swarm.grow(link, swarm.keys, rotations=(change,))
    assert words.for_block(moved.accounts, room_bytes=PLENTY).rotations == ()
