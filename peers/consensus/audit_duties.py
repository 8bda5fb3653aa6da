"""This peer's part in audits: what it is asked to replay, what it says of it, and what it disputes.

All of it follows from the accounts at the head. Own words are on disk before they are sent, and go to the
first leaders of each round until the chain holds them, or until they would count for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.chain.chain import Link
from peers.consensus.effects import AuditDropped, AuditWanted, SaveWord
from peers.consensus.operation_pool import Word, counts, may_move
from peers.credit.accounts import Accounts
from peers.credit.audit import Audit, may_speak
from peers.credit.entries import Decided, VerdictCounted
from peers.protocol.events import AuditAsked, AuditDecided, CreditChanged, Notice, VerdictGiven
from peers.protocol.key_change import KeyChange
from peers.protocol.messages import MAX_BLOCK_BYTES, Block, sign
from peers.protocol.reasons import CREDIT_SENTENCES
from peers.protocol.rules import CLAIM_LEADERS
from peers.protocol.verdicts import Dispute, Verdict
from recipes.keys.keys import PeerId

if TYPE_CHECKING:
    from peers.consensus.engine import RoundEngine

CHANGE_WINDOWS = 8  # for which a peer with a new key waits at most until the chain holds that
_SLACK_BYTES = 64 << 10  # by which a block stays below what one may have


def begin_round(engine: RoundEngine) -> None:
    """Find out what the accounts at the head ask of this peer, and say what it has to say."""
    link = engine.round.parent
    engine.words.forget(head=link, final=engine.chain.link(engine.chain.final))
    _note_audits(engine, link.accounts)
    for word in engine.words.to_say(link.accounts):
        _say(engine, word)
    _say_changes(engine, link.accounts)
    for audit in link.accounts.audits:
        _dispute(engine, audit)


def is_to(change: KeyChange, peer: PeerId) -> bool:
    """Say whether a change of keys makes `peer` the heir of another name."""
    moved = change.moved()
    return moved is not None and moved.new == peer


def awaits_change(engine: RoundEngine) -> bool:
    """Say whether this peer holds its claims back: once it had one, nothing could be moved to its name.

    It does so for a while only: where it is alone, no block comes but from its own claim.
    """
    accounts = engine.round.parent.accounts
    waiting = any(may_move(change, accounts) for change in engine.own_changes)
    return waiting and engine.now < engine.changes_until


def give_verdict(engine: RoundEngine, verdict: Verdict) -> None:
    """Sign, keep and send what an audit came to, unless it is not wanted any more or was said already.

    "Not opened" may be followed by a replay; anything else is this peer's last word.
    """
    audit = engine.audits.get(verdict.claim)
    before = [word for word in _own_verdicts(engine, verdict.claim) if word.steps in (0, verdict.steps)]
    said = any(word.reason != "not opened" or not verdict.replayed for word in before)
    if audit is None or said or verdict.peer != engine.me or not may_speak(audit, verdict):
        return
    _keep(engine, sign(engine.key, verdict))
    engine.tell(VerdictGiven(verdict.round, verdict.claim, audit.work.peer, verdict.outcome, verdict.reason))


def take_word(engine: RoundEngine, word: Word) -> None:
    """Keep another's verdict or dispute for a block."""
    link = engine.round.parent
    engine.words.keep(word, link, link.counters.electors(engine.rules))


def take_rotation(engine: RoundEngine, change: KeyChange) -> None:
    """Keep a change of keys for a block."""
    engine.words.keep_rotation(change, engine.round.parent.accounts)


def with_words(engine: RoundEngine, block: Block) -> Block:
    """Return a block that carries the words that count on top of its parent, as far as there is room."""
    room = MAX_BLOCK_BYTES - _SLACK_BYTES - len(block.canonical())
    carried = engine.words.for_block(engine.round.parent.accounts, room_bytes=room)
    return block.model_copy(update=vars(carried))


def tell_adopted(engine: RoundEngine, ancestor: str, link: Link) -> None:
    """Tell what the blocks after `ancestor` decided about own claims, and what became of the own credit."""
    chain = engine.chain
    for new in chain.path(ancestor, link.hash) or []:
        for entry in new.ledger.entries:
            if isinstance(entry, Decided) and entry.peer == engine.me:
                auditors = _who_spoke(chain.links.get(new.parent), new, entry.claim)
                engine.tell(AuditDecided(entry.round, entry.claim, entry.decision, entry.disputed, auditors))
    credit = credit_of(link.accounts, engine.me)
    if credit != engine.credit:
        engine.credit = credit
        engine.tell(CreditChanged(*credit))


def credit_of(accounts: Accounts, peer: PeerId) -> tuple[int, int]:
    """Return what a peer has pending and what it has vested, in FLOPs."""
    account = accounts.peers.get(peer)
    return (account.in_escrow + account.uncalibrated, account.vested) if account is not None else (0, 0)


def _note_audits(engine: RoundEngine, accounts: Accounts) -> None:
    """Want what this peer is newly asked for, and drop what nobody needs from it any more."""
    asked = {audit.work.claim: audit for audit in accounts.audits if _is_asked(audit, engine.me)}
    for claim, wanted in list(engine.audits.items()):
        audit = asked.get(claim)
        if audit is None or (audit.drawn, audit.steps) != (wanted.drawn, wanted.steps):
            del engine.audits[claim]
            engine.emit(AuditDropped(claim))
    for claim, audit in asked.items():
        new = claim not in engine.audits
        engine.audits[claim] = audit
        if new and not _is_answered(engine, audit):
            engine.emit(AuditWanted(audit, engine.head))
            engine.tell(AuditAsked(audit.work.round, claim, audit.work.peer, audit.steps))


def _is_asked(audit: Audit, peer: PeerId) -> bool:
    return audit.open and any(one.auditor == peer for one in audit.hearing)


def _is_answered(engine: RoundEngine, audit: Audit) -> bool:
    """Say whether this peer's last word on an audit is said: on the chain, or to be said again."""
    [heard] = [one.word for one in audit.hearing if one.auditor == engine.me]
    own = _own_verdicts(engine, audit.work.claim)
    said = any(word.reason != "not opened" and may_speak(audit, word) for word in own)
    return said or heard not in (None, "not opened")


def _own_verdicts(engine: RoundEngine, claim: str) -> list[Verdict]:
    bodies = (word.body for word in engine.words.own.values())
    return [body for body in bodies if isinstance(body, Verdict) and body.claim == claim]


def _dispute(engine: RoundEngine, audit: Audit) -> None:
    """Dispute a decision that took something from this peer, once: honest software believes in its work."""
    taken = [penalty for penalty in audit.penalties if penalty.peer == engine.me]
    claim, own = audit.work.claim, engine.words.own.values()
    said = any(isinstance(word.body, Dispute) and word.body.claim == claim for word in own)
    if audit.open or not taken or said:
        return
    _keep(engine, sign(engine.key, Dispute(run=engine.rules.run, peer=engine.me, claim=claim)))
    engine.tell(
        Notice(
            f"An audit of round {audit.work.round} took {taken[0].amount:,} FLOPs of this peer's pending "
            f"credit. {CREDIT_SENTENCES[taken[0].reason]} This peer disputes it: other auditors decide."
        )
    )


def _say_changes(engine: RoundEngine, accounts: Accounts) -> None:
    """Bring changes of keys to this peer's name to the leaders, until the chain holds them."""
    for change in engine.own_changes:
        if may_move(change, accounts):
            engine.words.keep_rotation(change, accounts)
            engine.send(engine.leaders()[:CLAIM_LEADERS], change)


def _keep(engine: RoundEngine, word: Word) -> None:
    engine.emit(SaveWord(word))
    engine.words.keep_own(word)
    _say(engine, word)


def _say(engine: RoundEngine, word: Word) -> None:
    if counts(word, engine.round.parent.accounts):
        engine.send(engine.leaders()[:CLAIM_LEADERS], word)


def _who_spoke(parent: Link | None, link: Link, claim: str) -> tuple[PeerId, ...]:
    """Return the auditors whose words led to a decision that the block at `link` made."""
    before = parent.accounts.audits if parent is not None else ()
    spoke = [one.auditor for audit in before if audit.work.claim == claim for one in audit.asked if one.word]
    here = [e.auditor for e in link.ledger.entries if isinstance(e, VerdictCounted) and e.claim == claim]
    return tuple(dict.fromkeys([*spoke, *here]))
