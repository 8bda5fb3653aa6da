"""This peer's part in audits: the claims that it is asked to replay, its verdicts and its disputes.

All of these follow from the accounts at the head. This peer's operations are on disk before they are sent.
They go to the first leaders of each round until the chain holds them, or until they would not count any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from peers.chain.link import Link
from peers.consensus.context import RoundContext
from peers.consensus.effects import AuditDropped, AuditWanted, SaveOperation
from peers.consensus.operation_pool import Operation, OperationPool, counts, may_move
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

CHANGE_WINDOWS = 8  # a peer with a new key waits so long at most for its key change to be on the chain
_SLACK_BYTES = 64 << 10  # a block with operations stays so far below the largest size


class AuditDuties:
    """The audits that the accounts at the head ask of this peer, and what it has said about them."""

    def __init__(
        self, context: RoundContext, operations: OperationPool, own_changes: Sequence[KeyChange]
    ) -> None:
        """Begin with what this peer said before a restart.

        Args:
            context: the engine's context.
            operations: verdicts, disputes and key changes that the chain does not hold yet.
            own_changes: key changes that the chain is to hold before this peer claims.
        """
        self._context = context
        self._operations = operations
        self._own_changes = tuple(change for change in own_changes if _is_to(change, context.me))
        self._changes_until = context.now + CHANGE_WINDOWS * context.rules.window_seconds
        self._audits: dict[str, Audit] = {}  # the audits that this peer is asked for, by claim
        self._credit = _credit_of(context.round.parent.accounts, context.me)  # as last told to listeners

    @property
    def audits(self) -> frozenset[str]:
        """The claims that this peer is asked to audit."""
        return frozenset(self._audits)

    def begin_round(self) -> None:
        """Find the audits that the head's accounts ask for; send own verdicts, disputes and key changes."""
        link = self._context.round.parent
        self._operations.forget(head=link, final=self._context.chain.link(self._context.chain.final))
        self._note_audits(link.accounts)
        for operation in self._operations.to_say(link.accounts):
            self._say(operation)
        self._say_changes(link.accounts)
        for audit in link.accounts.audits:
            self._dispute(audit)

    def awaits_change(self) -> bool:
        """Whether this peer holds its claims back until the chain holds its key change.

        Once a claim in the new name is on the chain, no account can be moved to that name any more. The wait
        is bounded, since a peer that is alone gets no block without a claim of its own.
        """
        accounts = self._context.round.parent.accounts
        waiting = any(may_move(change, accounts) for change in self._own_changes)
        return waiting and self._context.now < self._changes_until

    def give_verdict(self, verdict: Verdict) -> None:
        """Sign, keep and send an audit's verdict, unless it is no longer wanted or was given already.

        A verdict after a replay may follow one of "not opened"; any other verdict stands.
        """
        audit = self._audits.get(verdict.claim)
        before = [word for word in self._own_verdicts(verdict.claim) if word.steps in (0, verdict.steps)]
        said = any(word.reason != "not opened" or not verdict.replayed for word in before)
        if audit is None or said or verdict.peer != self._context.me or not may_speak(audit, verdict):
            return
        self._keep(sign(self._context.key, verdict))
        self._context.tell(
            VerdictGiven(verdict.round, verdict.claim, audit.work.peer, verdict.outcome, verdict.reason)
        )

    def take_operation(self, operation: Operation) -> None:
        """Keep another peer's verdict or dispute for a block."""
        link = self._context.round.parent
        self._operations.keep(operation, link, frozenset(link.say.weights))

    def take_rotation(self, change: KeyChange) -> None:
        """Keep a key change for a block."""
        self._operations.keep_rotation(change, self._context.round.parent.accounts)

    def with_operations(self, block: Block) -> Block:
        """Return the block with the operations that count on its parent, as many as fit."""
        room = MAX_BLOCK_BYTES - _SLACK_BYTES - len(block.canonical())
        carried = self._operations.for_block(self._context.round.parent.accounts, room_bytes=room)
        return block.model_copy(update=vars(carried))

    def tell_adopted(self, ancestor: str, link: Link) -> None:
        """Tell what the blocks after `ancestor` decided about this peer's claims, and its credit now."""
        chain = self._context.chain
        for new in chain.path(ancestor, link.hash) or []:
            for entry in new.ledger.entries:
                if isinstance(entry, Decided) and entry.peer == self._context.me:
                    auditors = _who_spoke(chain.links.get(new.parent), new, entry.claim)
                    self._context.tell(
                        AuditDecided(entry.round, entry.claim, entry.decision, entry.disputed, auditors)
                    )
        credit = _credit_of(link.accounts, self._context.me)
        if credit != self._credit:
            self._credit = credit
            self._context.tell(CreditChanged(*credit))

    def _note_audits(self, accounts: Accounts) -> None:
        """Ask for the audits that are new, and drop those that nobody needs any more."""
        asked = {audit.work.claim: audit for audit in accounts.audits if _is_asked(audit, self._context.me)}
        for claim, wanted in list(self._audits.items()):
            audit = asked.get(claim)
            if audit is None or (audit.drawn, audit.steps) != (wanted.drawn, wanted.steps):
                del self._audits[claim]
                self._context.emit(AuditDropped(claim))
        for claim, audit in asked.items():
            new = claim not in self._audits
            self._audits[claim] = audit
            if new and not self._is_answered(audit):
                self._context.emit(AuditWanted(audit, self._context.head))
                self._context.tell(AuditAsked(audit.work.round, claim, audit.work.peer, audit.steps))

    def _is_answered(self, audit: Audit) -> bool:
        """Whether this peer gave its final verdict on an audit: it is on the chain, or will be sent again."""
        [heard] = [one.word for one in audit.hearing if one.auditor == self._context.me]
        own = self._own_verdicts(audit.work.claim)
        said = any(word.reason != "not opened" and may_speak(audit, word) for word in own)
        return said or heard not in (None, "not opened")

    def _own_verdicts(self, claim: str) -> list[Verdict]:
        bodies = (one.body for one in self._operations.own.values())
        return [body for body in bodies if isinstance(body, Verdict) and body.claim == claim]

    def _dispute(self, audit: Audit) -> None:
        """Dispute, once, a decision that took credit from this peer: honest software trusts its own work."""
        taken = [penalty for penalty in audit.penalties if penalty.peer == self._context.me]
        claim, own = audit.work.claim, self._operations.own.values()
        said = any(isinstance(one.body, Dispute) and one.body.claim == claim for one in own)
        if audit.open or not taken or said:
            return
        self._keep(
            sign(self._context.key, Dispute(run=self._context.rules.run, peer=self._context.me, claim=claim))
        )
        self._context.tell(
            Notice(
                f"An audit of round {audit.work.round} took {taken[0].amount:,} FLOPs of this peer's pending "
                f"credit. {CREDIT_SENTENCES[taken[0].reason]} This peer disputes it: other auditors decide."
            )
        )

    def _say_changes(self, accounts: Accounts) -> None:
        """Send the key changes to this peer's id to the leaders, until the chain holds them."""
        for change in self._own_changes:
            if may_move(change, accounts):
                self._operations.keep_rotation(change, accounts)
                self._context.send(self._context.leaders()[:CLAIM_LEADERS], change)

    def _keep(self, operation: Operation) -> None:
        self._context.emit(SaveOperation(operation))
        self._operations.keep_own(operation)
        self._say(operation)

    def _say(self, operation: Operation) -> None:
        if counts(operation, self._context.round.parent.accounts):
            self._context.send(self._context.leaders()[:CLAIM_LEADERS], operation)


def _is_to(change: KeyChange, peer: PeerId) -> bool:
    """Whether a key change moves another account to `peer`."""
    moved = change.moved()
    return moved is not None and moved.new == peer


def _credit_of(accounts: Accounts, peer: PeerId) -> tuple[int, int]:
    """Return a peer's pending and vested credit, in FLOPs."""
    account = accounts.peers.get(peer)
    return (account.in_escrow + account.uncalibrated, account.vested) if account is not None else (0, 0)


def _is_asked(audit: Audit, peer: PeerId) -> bool:
    return audit.open and any(one.auditor == peer for one in audit.hearing)


def _who_spoke(parent: Link | None, link: Link, claim: str) -> tuple[PeerId, ...]:
    """Return the auditors whose operations led to a decision that the block at `link` made."""
    before = parent.accounts.audits if parent is not None else ()
    spoke = [one.auditor for audit in before if audit.work.claim == claim for one in audit.asked if one.word]
    here = [e.auditor for e in link.ledger.entries if isinstance(e, VerdictCounted) and e.claim == claim]
    return tuple(dict.fromkeys([*spoke, *here]))
