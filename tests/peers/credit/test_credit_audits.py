"""Who audits decides what an audit comes to, and what that costs whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from credit_rounds import AMOUNT, PEERS, RULES, Book, verdict

from peers.credit.block_facts import DoubleClaim
from peers.credit.rules import MILLION, CreditRules

AUTHOR = PEERS[1]
REPEATED = replace(RULES, repeat_rate=MILLION)


def drawn(credit: CreditRules = RULES, *, numeric_class: str = "cpu-fp32", electors: int = 8) -> Book:
    """A round in which the author was counted, and the one after it, which drew its claim."""
    book = Book(credit, passes=3, electors=electors)
    book.play(AUTHOR, numeric_class=numeric_class)
    book.play()
    return book


def say(book: Book, claim: str, word: str) -> None:
    """Let the two who are asked about a claim speak."""
    for _ in range(2):
        audit = next(one for one in book.accounts.audits if one.work.claim == claim)
        auditor = next(one.auditor for one in audit.hearing if one.word is None)
        book.play(verdicts=[verdict(audit, auditor, word)])


def decisions(book: Book) -> list[str]:
    return [entry.decision for entry in book.entries_of("decision")]


def test_a_claim_is_drawn_by_the_block_after_its_own_and_its_first_auditor_asked() -> None:
    book = Book()
    book.play(AUTHOR)
    assert book.accounts.audits == ()
    book.play()
    [entry] = book.entries_of("audit")
    assert entry.claim == book.work(AUTHOR, 1).claim
    assert AUTHOR not in entry.auditors
    assert len(entry.auditors) == len(PEERS) - 1
    assert book.asked() == list(entry.auditors[:1])


def test_one_pass_is_enough() -> None:
    book = drawn()
    book.hear("pass")
    assert decisions(book) == ["pass"]
    assert book.accounts.audits == ()
    assert book.of(AUTHOR).passes == 4


def test_a_repeated_audit_takes_two_passes() -> None:
    book = drawn(REPEATED)
    book.hear("pass")
    assert decisions(book) == []
    assert len(book.asked()) == 2
    book.hear("pass")
    assert decisions(book) == ["pass"]


def test_one_fail_alone_costs_the_author_nothing_and_asks_another() -> None:
    book = drawn()
    book.hear("fail")
    assert decisions(book) == []
    assert book.of(AUTHOR).in_escrow == AMOUNT
    assert len(book.asked()) == 2


def test_two_fails_forfeit_what_is_pending_and_start_probation() -> None:
    book = drawn()
    book.hear("fail", "fail")
    assert decisions(book) == ["fail"]
    assert book.of(AUTHOR).pending == ()
    assert book.of(AUTHOR).lost == {"audit failed": AMOUNT}
    assert book.of(AUTHOR).passes == 0


@pytest.mark.parametrize(
    ("words", "liars", "decision"),
    [(["fail", "pass", "pass"], [0], "pass"), (["fail", "inconclusive", "fail"], [], "fail")],
)
def test_two_who_agree_decide(words: list[str], liars: list[int], decision: str) -> None:
    book = drawn()
    order = book.audit.auditors
    book.hear(*words)
    assert decisions(book) == [decision]
    punished = [e.peer for e in book.entries_of("forfeit") if e.reason == "false verdict"]
    assert punished == [order[place] for place in liars]


def test_who_passes_what_two_others_fail_loses_what_is_pending() -> None:
    book = drawn(REPEATED)
    liar = book.audit.auditors[0]
    book.hear("pass", "fail", "fail")
    assert decisions(book) == ["fail"]
    assert book.of(liar).lost == {"false verdict": AMOUNT}  # what its own replay had earned
    assert book.of(liar).passes == 0


@pytest.mark.parametrize("words", [["inconclusive"] * 3, ["fail", "inconclusive", "inconclusive"]])
def test_without_two_who_agree_nobody_is_penalised(words: list[str]) -> None:
    book = drawn()
    book.hear(*words)
    assert decisions(book) == ["undecided"]
    assert book.of(AUTHOR).in_escrow == AMOUNT
    assert book.of(AUTHOR).passes == 3


def test_a_repeated_audit_with_one_pass_among_three_replays_is_undecided() -> None:
    book = drawn(REPEATED)
    book.hear("inconclusive", "pass", "inconclusive")
    assert decisions(book) == ["undecided"]
    assert book.of(AUTHOR).passes == 3


def test_who_abstains_is_replaced_and_not_paid() -> None:
    book = drawn()
    first = book.asked()[0]
    book.hear("abstain", "pass")
    assert decisions(book) == ["pass"]
    assert book.of(first).earned == 0


def test_a_silent_auditor_is_passed_over_and_may_still_speak() -> None:
    book = drawn()
    [first] = book.asked()
    book.idle(RULES.audit_rounds - 1)
    assert book.asked() == [first]
    book.idle(1)
    assert len(book.asked()) == 2
    book.play(verdicts=[verdict(book.audit, first, "pass")])
    assert decisions(book) == ["pass"]


def test_an_auditor_is_paid_for_the_steps_it_replayed_at_the_rate_of_training() -> None:
    book = drawn(replace(RULES, full_replay_rate=0))
    audit = book.audit
    book.hear("pass")
    assert book.of(audit.auditors[0]).in_escrow == AMOUNT * audit.steps // 2


@pytest.mark.parametrize(
    "wrong", ["an outsider", "one who is not asked yet", "other steps", "another round", "twice"]
)
def test_words_that_nobody_asked_for_count_for_nothing(wrong: str) -> None:
    book = drawn(REPEATED)
    audit = book.audit
    speaker = {"an outsider": AUTHOR, "one who is not asked yet": audit.auditors[1]}.get(
        wrong, audit.auditors[0]
    )
    other = {"other steps": {"steps": 1}, "another round": {"round": 7}}.get(wrong, {})
    words = [verdict(audit, speaker, "fail", **other)]
    if wrong == "twice":
        book.hear("pass")
    book.play(verdicts=words)
    assert [entry.outcome for entry in book.entries_of("verdict")] == (["pass"] if wrong == "twice" else [])


def test_who_does_not_open_its_claim_in_time_loses_what_is_pending() -> None:
    book = drawn()
    book.hear("not opened", "not opened")
    assert decisions(book) == []
    book.idle(RULES.retention_rounds - 2)
    assert decisions(book) == ["unreachable"]
    assert book.of(AUTHOR).lost == {"not reachable for audit": AMOUNT}
    assert book.of(AUTHOR).passes == 3


def test_opening_to_one_auditor_and_not_to_the_next_is_no_way_out() -> None:
    book = drawn()
    book.hear("fail", "not opened", "not opened")
    book.idle(RULES.retention_rounds)
    assert decisions(book) == ["unreachable"]


def test_who_comes_back_in_time_is_audited_by_the_same_auditors() -> None:
    book = drawn()
    first = book.asked()[0]
    book.hear("not opened")
    book.play(verdicts=[verdict(book.audit, first, "pass")])
    assert decisions(book) == ["pass"]
    assert book.of(AUTHOR).in_escrow == AMOUNT


def test_the_word_of_one_auditor_that_nothing_was_opened_takes_nothing() -> None:
    book = drawn()
    book.hear("not opened")
    book.idle(40)
    assert decisions(book) == ["undecided"]
    assert book.of(AUTHOR).lost == {}


def test_silent_auditors_do_not_cost_the_author_its_credit() -> None:
    book = drawn()
    book.idle(40)
    assert decisions(book) == ["undecided"]
    assert book.of(AUTHOR).lost == {}


@pytest.mark.parametrize("retention_rounds", [1, 4])
def test_where_nobody_can_audit_nothing_is_decided(retention_rounds: int) -> None:
    book = drawn(replace(RULES, retention_rounds=retention_rounds), electors=0)
    book.idle(1)
    assert decisions(book) == ["undecided"]
    assert book.of(AUTHOR).lost == {}


@pytest.mark.parametrize("word", ["fail", "not opened"])
def test_the_word_of_the_only_auditor_there_is_takes_nothing(word: str) -> None:
    book = drawn(electors=2)
    book.hear(word)
    book.idle(RULES.retention_rounds)
    assert decisions(book) == ["undecided"]
    assert book.of(AUTHOR).lost == {}


def test_an_uncalibrated_class_is_audited_to_measure_and_never_penalised() -> None:
    book = drawn(numeric_class="cuda-bf16")
    book.hear("fail")
    assert decisions(book) == ["undecided"]
    assert book.of(AUTHOR).uncalibrated == AMOUNT
    assert book.of(AUTHOR).lost == {}


# ------------------------------------------------------------ expulsion


def test_who_failed_an_audit_is_expelled_for_the_recipe_s_number_of_rounds() -> None:
    book = drawn()
    claim = book.audit.work.claim
    book.hear("fail", "fail")
    [entry] = book.entries_of("expulsion")
    assert (entry.peer, entry.claim, entry.round) == (AUTHOR, claim, book.accounts.round)
    assert entry.until == book.accounts.round + RULES.expulsion_rounds
    assert book.accounts.expelled_until(AUTHOR) == entry.until
    assert all(book.accounts.expelled_until(peer) == 0 for peer in PEERS if peer != AUTHOR)


@pytest.mark.parametrize("words", [("fail", "pass", "pass"), ("not opened", "not opened")])
def test_nobody_is_expelled_for_a_false_verdict_or_for_being_away(words: tuple[str, ...]) -> None:
    book = drawn()
    book.hear(*words)
    book.idle(RULES.retention_rounds)
    assert {entry.kind for entry in book.entries} & {"forfeit", "lapse"}
    assert not book.entries_of("expulsion")


def test_a_dispute_that_is_won_ends_the_expulsion_for_that_claim_alone() -> None:
    book = Book(passes=3)
    book.play(AUTHOR)
    book.play(AUTHOR)
    book.play()
    first, second = book.accounts.audits
    for audit in (first, second):
        say(book, audit.work.claim, "fail")
    book.play(disputes=[(AUTHOR, second.work.claim)])
    say(book, second.work.claim, "pass")
    still = book.accounts.expelled_until(AUTHOR)
    assert still == next(e.until for e in book.entries_of("expulsion") if e.claim == first.work.claim)
    book.play(disputes=[(AUTHOR, first.work.claim)])
    say(book, first.work.claim, "pass")
    assert book.accounts.expelled_until(AUTHOR) == 0


def test_who_is_expelled_is_asked_for_no_audit() -> None:
    book = drawn()
    book.hear("fail", "fail")
    book.play(PEERS[2])
    book.play()
    [entry] = [entry for entry in book.entries_of("audit") if entry.peer == PEERS[2]]
    assert AUTHOR not in entry.auditors
    book.idle(RULES.expulsion_rounds)
    book.play(PEERS[2])
    book.play()
    assert AUTHOR in book.entries_of("audit")[-1].auditors


def test_a_recipe_may_expel_nobody() -> None:
    book = drawn(replace(RULES, expulsion_rounds=0))
    book.hear("fail", "fail")
    assert decisions(book) == ["fail"]
    assert not book.entries_of("expulsion")


# ------------------------------------------------------------ disputes


def test_a_dispute_is_won_when_two_fresh_auditors_pass_and_false_accusers_pay() -> None:
    book = drawn()
    audit = book.audit
    book.hear("fail", "fail")
    book.play(disputes=[(AUTHOR, audit.work.claim)])
    assert book.asked() == list(audit.auditors[:3])
    book.hear("pass", "pass")
    assert decisions(book) == ["fail", "pass"]
    assert book.of(AUTHOR).in_escrow == AMOUNT
    assert book.of(AUTHOR).pending[0].round == 1  # it vests when it would have
    assert book.of(AUTHOR).passes == 4
    assert [book.of(liar).lost for liar in audit.auditors[:2]] == [{"false verdict": AMOUNT}] * 2
    assert book.accounts.audits == ()


@pytest.mark.parametrize("first", [("fail", "fail"), ("not opened", "not opened")])
def test_a_dispute_that_is_won_ends_no_probation_that_began_since(first: tuple[str, str]) -> None:
    book = drawn()
    claim = book.audit.work.claim
    book.hear(*first)
    book.idle(RULES.retention_rounds)
    book.play(double_claims=[DoubleClaim(AUTHOR, 2)])
    book.play(disputes=[(AUTHOR, claim)])
    book.hear("pass", "pass")
    assert decisions(book)[-1] == "pass"
    assert book.of(AUTHOR).passes == 1  # that of this audit


def test_one_false_accuser_among_the_fresh_auditors_does_not_decide_a_dispute() -> None:
    book = drawn()
    claim = book.audit.work.claim
    book.hear("fail", "fail")
    book.play(disputes=[(AUTHOR, claim)])
    book.hear("fail", "pass", "pass")
    assert decisions(book) == ["fail", "pass"]
    assert book.of(AUTHOR).in_escrow == AMOUNT
    assert len([e for e in book.entries_of("forfeit") if e.reason == "false verdict"]) == 3


@pytest.mark.parametrize(
    "words", [["fail", "fail"], ["pass", "fail", "fail"], ["pass", "not opened", "fail"]]
)
def test_a_dispute_is_lost_where_fewer_than_two_of_three_contradict_the_decision(words: list[str]) -> None:
    book = drawn()
    claim = book.audit.work.claim
    book.hear("fail", "fail")
    book.play(disputes=[(AUTHOR, claim)])
    book.hear(*words)
    assert decisions(book) == ["fail", "undecided"]
    assert book.of(AUTHOR).lost == {"audit failed": AMOUNT}


def test_a_dispute_goes_on_where_two_fresh_auditors_say_that_nothing_was_opened() -> None:
    book = drawn()
    claim = book.audit.work.claim
    book.hear("fail", "fail")
    book.play(disputes=[(AUTHOR, claim)])
    book.hear("not opened", "not opened", "pass")
    assert decisions(book) == ["fail", "undecided"]
    assert book.accounts.under_audit == frozenset()  # else nothing of the author would ever vest again


def test_who_was_not_reachable_may_come_back_and_dispute() -> None:
    book = drawn()
    claim = book.audit.work.claim
    book.hear("not opened", "not opened")
    book.idle(RULES.retention_rounds)
    book.play(disputes=[(AUTHOR, claim)])
    book.hear("pass", "pass")
    assert decisions(book) == ["unreachable", "pass"]
    assert book.of(AUTHOR).lost == {}


def test_an_auditor_called_false_may_dispute_and_then_the_author_pays() -> None:
    book = drawn()
    audit = book.audit
    book.hear("fail", "pass", "pass")
    book.play(disputes=[(audit.auditors[0], audit.work.claim)])
    book.hear("fail", "fail")
    assert decisions(book) == ["pass", "fail"]
    assert book.of(audit.auditors[0]).lost == {}
    assert book.of(AUTHOR).lost == {"audit failed": AMOUNT}
    assert [book.of(liar).lost for liar in audit.auditors[1:3]] == [{"false verdict": AMOUNT}] * 2


@pytest.mark.parametrize("who", ["a stranger", "too late", "twice"])
def test_only_those_who_lost_something_may_dispute_in_time_and_once(who: str) -> None:
    book = drawn()
    claim = book.audit.work.claim
    book.hear("fail", "fail")
    if who == "too late":
        book.idle(RULES.dispute_rounds)
    if who == "twice":
        book.play(disputes=[(AUTHOR, claim)])
        book.hear("fail", "fail")
    already = len(book.entries_of("dispute"))
    book.play(disputes=[(PEERS[3] if who == "a stranger" else AUTHOR, claim)])
    assert len(book.entries_of("dispute")) == already


# ------------------------------------------------------------ double claims


def test_a_double_claim_forfeits_at_once_and_only_once() -> None:
    book = Book(passes=3)
    book.play(AUTHOR)
    proof = DoubleClaim(AUTHOR, 1)
    book.play(double_claims=[proof])
    assert book.of(AUTHOR).lost == {"double claim": AMOUNT}
    assert book.of(AUTHOR).passes == 0
    book.play(AUTHOR, double_claims=[proof])
    assert book.of(AUTHOR).in_escrow == AMOUNT


def test_a_double_claim_in_the_block_that_counts_it_pays_nothing() -> None:
    book = Book(passes=3)
    book.play(AUTHOR, double_claims=[DoubleClaim(AUTHOR, 1)])
    assert book.of(AUTHOR).in_escrow == 0


def test_a_double_claim_for_a_round_to_come_is_no_leave_to_make_others_until_then() -> None:
    book = Book(passes=3)
    book.play(AUTHOR, double_claims=[DoubleClaim(AUTHOR, 1000)])
    assert book.of(AUTHOR).in_escrow == AMOUNT
    book.play(double_claims=[DoubleClaim(AUTHOR, 1)])
    assert book.of(AUTHOR).in_escrow == 0
