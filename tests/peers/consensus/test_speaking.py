"""A peer's part in audits: what it is asked, what it says and says again, what it disputes, and is told."""

from __future__ import annotations

from typing import Any, TypeVar

from bench import Bench, sent, told
from credit_rounds import verdict
from rounds import keys_of

from peers.chain.chain import Link
from peers.chain.validation import roster_fault
from peers.consensus.audit_duties import CHANGE_WINDOWS
from peers.consensus.effects import AuditDropped, Audited, AuditWanted, Effect, SaveWord
from peers.credit.audit import Audit
from peers.protocol.events import (
    AuditAsked,
    AuditDecided,
    Convicted,
    CreditChanged,
    Notice,
    VerdictGiven,
    Waiting,
)
from peers.protocol.key_change import KeyChange, Rotation
from peers.protocol.messages import Block, Claim, Evidence, Signed, sign
from peers.protocol.rules import CLAIM_LEADERS
from peers.protocol.verdicts import Dispute, Verdict
from recipes.keys.keys import PeerId

Wanted = TypeVar("Wanted")


def of(effects: list[Effect], kind: type[Wanted]) -> list[Wanted]:
    return [effect for effect in effects if isinstance(effect, kind)]


def wanted_of(bench: Bench) -> Audit:
    """The newest audit that the bench's peer was asked for when it started."""
    return max((one.audit for one in of(bench.first, AuditWanted)), key=lambda audit: audit.drawn)


def said_by(bench: Bench, peer: PeerId, audit: Audit, word: str = "pass") -> Signed[Verdict]:
    return sign(bench.swarm.by_id[peer], verdict(audit, peer, word))


def grown(bench: Bench, **words: Any) -> Link:
    """One more round of everybody on top of the head, whose block carries these words."""
    return bench.swarm.grow(bench.head, bench.swarm.keys, **words)


def test_who_is_asked_is_told_once_and_again_after_a_restart() -> None:
    bench = Bench(audited=True)
    asked = of(bench.first, AuditWanted)
    assert asked
    assert {one.block for one in asked} == {bench.head.hash}
    accounts = bench.head.accounts
    mine = [a for a in accounts.audits if a.open and bench.key.peer_id in {o.auditor for o in a.hearing}]
    assert [one.audit for one in asked] == mine
    assert [event.claim for event in told(bench.first, AuditAsked)] == [a.work.claim for a in mine]
    known = {one.audit.work.claim for one in asked}
    later = of(bench.stand_on(grown(bench)), AuditWanted)
    assert not known & {one.audit.work.claim for one in later}
    bench.start()
    known &= {audit.work.claim for audit in bench.head.accounts.audits if audit.open}
    assert known
    assert known <= {one.audit.work.claim for one in of(bench.first, AuditWanted)}


def test_a_verdict_is_on_disk_before_it_goes_to_the_first_leaders() -> None:
    bench = Bench(audited=True)
    audit = wanted_of(bench)
    body = verdict(audit, bench.key.peer_id, "pass")
    effects = bench.take(Audited(body))
    leaders = set(bench.swarm.order(bench.head)[:CLAIM_LEADERS]) - {bench.key.peer_id}
    [saved], [out] = of(effects, SaveWord), sent(effects, Verdict)
    assert saved.word == out.message == sign(bench.key, body)
    assert effects.index(saved) < effects.index(out)
    assert set(out.peers) == leaders
    [event] = told(effects, VerdictGiven)
    assert (event.claim, event.peer, event.outcome) == (audit.work.claim, audit.work.peer, "pass")


def test_a_verdict_is_a_last_word_but_for_the_one_that_nothing_was_opened() -> None:
    bench = Bench(audited=True)
    audit = wanted_of(bench)

    def say(word: str) -> bool:
        return bool(of(bench.take(Audited(verdict(audit, bench.key.peer_id, word))), SaveWord))

    assert [say(word) for word in ("not opened", "not opened", "pass", "fail", "not opened")] == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_nothing_is_said_of_what_was_not_asked_or_in_another_name() -> None:
    bench = Bench(audited=True)
    audit = wanted_of(bench)
    me, other = bench.key.peer_id, bench.others[0].peer_id
    for body in (
        verdict(audit, me, "pass", claim="ab" * 32),
        verdict(audit, me, "pass", steps=audit.steps + 1),
        verdict(audit, other, "pass"),
    ):
        assert not bench.take(Audited(body))


def test_a_word_is_said_in_each_round_until_the_chain_holds_it_also_after_a_restart() -> None:
    bench = Bench(audited=True)
    audit = wanted_of(bench)
    word = said_by(bench, bench.key.peer_id, audit)
    bench.take(Audited(word.body))
    assert word in [out.message for out in sent(bench.stand_on(grown(bench)), Verdict)]
    bench.start(own_words=[word])
    assert word in [out.message for out in sent(bench.first, Verdict)]
    assert audit.work.claim not in {one.audit.work.claim for one in of(bench.first, AuditWanted)}
    effects = bench.stand_on(grown(bench, verdicts=(word,)))
    assert word not in [out.message for out in sent(effects, Verdict)]
    assert AuditDropped(audit.work.claim) in effects


def test_an_audit_is_dropped_with_its_branch() -> None:
    bench = Bench(audited=True)
    fork = bench.head
    aside = bench.swarm.grow(fork, [bench.key], cosigned=False)
    bench.stand_on(aside)
    only_there = bench.engine.duties.audits - {audit.work.claim for audit in fork.accounts.audits}
    bench.head = fork
    effects = bench.stand_on(bench.swarm.grow(fork, bench.swarm.keys))
    here = {audit.work.claim: audit for audit in bench.head.accounts.audits}
    gone = {claim for claim in only_there if claim not in here}
    assert gone <= {one.claim for one in of(effects, AuditDropped)}


def test_a_leader_puts_what_it_heard_and_what_it_says_into_its_block() -> None:
    bench = Bench(audited=True, peers=1, me=0, strangers=0)
    assert not of(bench.first, AuditWanted)  # nobody audits itself
    bench = Bench(audited=True, me=leader_of(Bench(audited=True)))
    own = of(bench.first, AuditWanted)[0].audit
    theirs, auditor = next(
        (audit, one.auditor)
        for audit in bench.head.accounts.audits
        for one in audit.hearing
        if audit.open and one.auditor != bench.key.peer_id and one.word is None
    )
    heard = said_by(bench, auditor, theirs)
    stranger = keys_of(1, seed="stranger")[0]
    bench.receive(bench.swarm.by_id[auditor], heard)
    bench.receive(stranger, sign(stranger, verdict(theirs, stranger.peer_id, "fail")))
    bench.take(Audited(verdict(own, bench.key.peer_id, "pass")))
    bench.exchange()
    effects = bench.tick(after=10 * bench.engine.deadlines.transfer)
    bodies = [out.message.body for out in sent(effects, Block) if isinstance(out.message, Signed)]
    block = bodies[0]
    assert isinstance(block, Block)
    assert set(block.verdicts) == {heard, said_by(bench, bench.key.peer_id, own)}
    assert bench.swarm.fresh_chain().credit == bench.engine.chain.credit


def leader_of(bench: Bench) -> int:
    """Which of the bench's peers leads the round on top of its head."""
    first = bench.swarm.order(bench.head)[0]
    return [key.peer_id for key in bench.swarm.keys].index(first)


def convicted_of_fraud(bench: Bench) -> tuple[Link, Audit]:
    """A block by which two auditors' FAIL took what the bench's peer had pending."""
    me, link = bench.key.peer_id, bench.head
    audit = next(a for a in link.accounts.audits if a.work.peer == me and a.open and not a.said("pass"))
    while audit.open:
        silent = [one.auditor for one in audit.hearing if one.word is None]
        words = tuple(said_by(bench, peer, audit, "fail") for peer in silent)
        link = bench.swarm.grow(link, bench.swarm.keys, verdicts=words)
        audit = next(a for a in link.accounts.audits if a.work.claim == audit.work.claim)
    assert audit.decision == "fail"
    return link, audit


def test_a_penalty_on_this_peer_is_disputed_once_and_told() -> None:
    bench = Bench(audited=True)
    link, audit = convicted_of_fraud(bench)
    effects = bench.stand_on(link)
    dispute = sign(
        bench.key, Dispute(run=bench.swarm.rules.run, peer=bench.key.peer_id, claim=audit.work.claim)
    )
    assert of(effects, SaveWord) == [SaveWord(dispute)]
    assert [out.message for out in sent(effects, Dispute)] == [dispute]
    assert any("disputes it" in event.text for event in told(effects, Notice))
    decided = next(event for event in told(effects, AuditDecided) if event.claim == audit.work.claim)
    assert (decided.decision, decided.disputed) == ("fail", False)
    assert len(decided.auditors) >= 2
    [credit] = told(effects, CreditChanged)
    assert credit.pending < bench.swarm.chain.link(link.parent).accounts.peers[bench.key.peer_id].in_escrow
    bench.start(own_words=[dispute])
    assert not of(bench.first, SaveWord)
    assert [out.message for out in sent(bench.first, Dispute)] == [dispute]
    heard = bench.stand_on(bench.swarm.grow(link, bench.others, disputes=(dispute,)))
    assert not sent(heard, Dispute)


def test_who_is_expelled_neither_trains_nor_claims_and_goes_on_when_it_is_over() -> None:
    bench = Bench(audited=True)
    link, _ = convicted_of_fraud(bench)
    until = link.accounts.expelled_until(bench.key.peer_id)
    [why] = told(bench.stand_on(link), Waiting)
    assert (why.reason, why.until) == ("expelled", until)
    assert not sent(bench.finish_window(), Claim)
    while link.round < until - 1:
        link = bench.swarm.grow(link, bench.others)
    assert told(bench.stand_on(link), Waiting)
    effects = bench.stand_on(bench.swarm.grow(link, bench.others))
    assert not told(effects, Waiting)
    assert sent(bench.finish_window(), Claim)


def test_nobody_takes_a_claim_of_who_is_expelled() -> None:
    bench = Bench(audited=True)
    link, audit = convicted_of_fraud(bench)
    liar, swarm = bench.key, bench.swarm
    roster = swarm.roster([swarm.claim(key, link) for key in swarm.keys], link)
    assert "expelled until round" in (roster_fault(swarm.chain, roster.body, link) or "")
    others = swarm.roster([swarm.claim(key, link) for key in bench.others], link)
    assert roster_fault(swarm.chain, others.body, link) is None
    assert audit.work.peer == liar.peer_id


def test_a_second_double_claim_is_passed_on_so_that_leaders_know_of_it() -> None:
    bench = Bench()
    bench.stand_on(grown(bench))
    liar = bench.others[0]

    def shown() -> list[Effect]:
        one, other = (bench.swarm.claim(liar, bench.head, slots=count) for count in (1, 2))
        return bench.receive(bench.others[1], Evidence(one=one, other=other))

    first = shown()
    assert len(told(first, Convicted)) == len(sent(first, Evidence)) == 1
    assert not sent(shown(), Evidence)
    bench.stand_on(grown(bench))
    second = shown()
    assert not told(second, Convicted)
    assert len(sent(second, Evidence)) == 1


def moved_to_a_new_key(bench: Bench) -> KeyChange:
    """Let the bench's peer be a new key, that takes over from the old one."""
    old, new = bench.key, bench.strangers[0]
    bench.key = new
    run = bench.swarm.rules.run
    word = Rotation(run=run, peer=old.peer_id, old=old.peer_id, new=new.peer_id, number=1)
    return KeyChange(given=sign(old, word), taken=sign(new, word.model_copy(update={"peer": new.peer_id})))


def test_who_has_a_new_key_says_so_and_claims_nothing_before_the_chain_holds_it() -> None:
    bench = Bench()
    change = moved_to_a_new_key(bench)
    bench.start(own_changes=[change])
    started = bench.first + bench.stand_on(grown(bench))
    asked = sent(started, KeyChange)[-1]
    assert len(asked.peers) == CLAIM_LEADERS
    ended = bench.finish_window()
    assert not sent(ended, Claim)
    assert told(ended, Waiting)
    bench.stand_on(grown(bench, rotations=(change,)))
    assert bench.key.peer_id in bench.head.accounts.peers
    ended = bench.finish_window()
    assert sent(ended, Claim)
    assert not sent(ended, KeyChange)


def test_who_has_a_new_key_claims_in_the_end_though_no_block_says_so() -> None:
    bench = Bench()
    bench.start(own_changes=[moved_to_a_new_key(bench)])
    bench.now = CHANGE_WINDOWS * bench.swarm.rules.window_seconds
    bench.stand_on(grown(bench))
    assert sent(bench.finish_window(), Claim)


def test_a_change_to_anothers_key_is_not_said() -> None:
    bench = Bench()
    other, change = bench.key, moved_to_a_new_key(bench)
    bench.key = other
    bench.start(own_changes=[change])
    assert not sent(bench.first + bench.stand_on(grown(bench)), KeyChange)
