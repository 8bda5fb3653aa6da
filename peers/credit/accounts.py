"""The accounts of a run: a deterministic function of its chain, and the only source of the ledger's entries.

`entries_after` takes the accounts after a block's parent and returns those after the block, with the entries
that the block adds to the ledger. It uses no clock, no randomness and no disk, so every peer that holds the
chain derives the same ledger, and a branch that is given up takes its entries with it.

In each round, in this order: the block's claims are credited into escrow; its verdicts and disputes go to
their audits; double claims and other contradictions are punished; audits are decided, or the next auditor is
asked; this block draws claims of the last block but one; credit that is due vests; and accounts move to new
keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from peers.credit.accounts_draft import Page
from peers.credit.audit import Audit, Drawing, Work
from peers.credit.audit_transitions import (
    decide,
    draw_audits,
    hear,
    punish_contradictions,
    punish_double_claims,
)
from peers.credit.block_facts import RosteredClaim, RoundFacts, facts_of
from peers.credit.entries import ClaimCounted, Entry, Join, Vest
from peers.credit.escrow import Account, vest
from peers.credit.rotation import Holdings, Retired, rotate
from peers.credit.rules import CreditRules
from peers.credit.sampling import DRAWN_AFTER
from peers.protocol.counters import Counters
from peers.protocol.messages import Block
from peers.protocol.reasons import CreditReason
from recipes.formats.values import changed
from recipes.keys.keys import PeerId

RULES_VERSION = 3
"""Counts up whenever the same blocks come to give other entries: ledgers on disk are then derived again."""


@dataclass(frozen=True)
class Accounts:
    """All accounts and audits after one block. Never changed in place.

    Attributes:
        round: the block's round; 0 at genesis.
        peers: an account for each peer that was ever included, or paid for an audit.
        counted: the claims that the last two blocks included: audits are drawn from them two blocks later.
        drawings: what those draws go by, one for each of the last two blocks.
        audits: open audits, and decided ones that may still be disputed.
        claims: number of claims credited so far.
        claimed: FLOPs credited for them in all; the mean claim is the unit of an auditor's weight.
        retired: ids whose accounts moved to another key.
    """

    round: int = 0
    peers: Mapping[PeerId, Account] = field(default_factory=dict)
    counted: tuple[Work, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    audits: tuple[Audit, ...] = ()
    claims: int = 0
    claimed: int = 0
    retired: Mapping[PeerId, Retired] = field(default_factory=dict)

    def expelled_until(self, peer: PeerId) -> int:
        """Return the last round of a peer's expulsion, in which none of its claims is taken; 0 without one.

        An expulsion moves with the account to another key, and also binds the key that the account left.
        """
        gone = self.retired.get(peer)
        account = self.peers.get(gone.successor if gone is not None else peer)
        return account.expelled_until if account is not None else 0

    def is_out(self, peer: PeerId) -> bool:
        """Whether a peer leads nothing after this block: it is expelled, or its key is retired."""
        return peer in self.retired or self.expelled_until(peer) > self.round

    def is_excluded(self, peer: PeerId) -> bool:
        """Whether a peer's word weighs nothing after this block.

        It is expelled, its key is retired, or it was shown to have co-signed two blocks of one round.
        """
        account = self.peers.get(peer)
        silenced = account is not None and account.silenced > 0
        return silenced or self.is_out(peer)

    @property
    def mean_claim(self) -> int:
        """FLOPs of a mean claim so far; 0 before there is one."""
        return self.claimed // max(1, self.claims)

    @property
    def under_audit(self) -> frozenset[PeerId]:
        """The peers with a claim under audit."""
        return frozenset(audit.work.peer for audit in self.audits if audit.open)


def entries_after(
    accounts: Accounts, block: Block, counters: Counters, rules: CreditRules
) -> tuple[Accounts, list[Entry]]:
    """Return the accounts after `block`, and the entries that it adds to the ledger, in order.

    Args:
        accounts: the accounts after the block's parent.
        block: a block that is valid on its chain.
        counters: the counters after the block.
        rules: the credit rules of the run.
    """
    return close_round(accounts, facts_of(block, counters, rules), rules)


def close_round(accounts: Accounts, facts: RoundFacts, rules: CreditRules) -> tuple[Accounts, list[Entry]]:
    """Do what `entries_after` does, from a block's facts alone.

    Raises:
        ValueError: the facts are not those of the next round.
    """
    if facts.round != accounts.round + 1:
        raise ValueError(f"round {facts.round} cannot be settled after round {accounts.round}")
    page = Page(facts.round, rules, dict(accounts.peers), retired=accounts.retired)
    amounts = [_credit(page, one) for one in facts.claims]
    audits = hear(page, accounts.audits, facts)
    punish_double_claims(page, facts)
    punish_contradictions(page, facts)
    audits = decide(page, audits)
    due = facts.round - DRAWN_AFTER
    for drawing in (one for one in accounts.drawings if one.round == due):
        works = [work for work in accounts.counted if work.round == due]
        mean = accounts.mean_claim
        audits += draw_audits(page, works, drawing, facts.shown, accounts.peers, mean_claim=mean)
    newest = (one.work for one in facts.claims if one.segments and one.work.peer not in page.retired)
    after = Accounts(
        round=facts.round,
        peers=page.peers,
        counted=(*(work for work in accounts.counted if work.round > due), *newest),
        drawings=(
            *(one for one in accounts.drawings if one.round > due),
            Drawing(facts.round, facts.beacon, tuple(sorted(facts.drawing))),
        ),
        audits=tuple(audits),
        claims=accounts.claims + sum(amount > 0 for amount in amounts),
        claimed=accounts.claimed + sum(amounts),
        retired=accounts.retired,
    )
    _vest(page, after.under_audit)
    return _rotate(after, page, facts), page.entries


def _credit(page: Page, counted: RosteredClaim) -> int:
    """Put the included part of a claim into escrow, and return the amount in FLOPs."""
    work, rules = counted.work, page.rules
    whole = work.tokens * rules.flops_per_token
    amount = whole * counted.segments // rules.protocol.segments
    reason: CreditReason = "in escrow" if work.calibrated else "thresholds not calibrated"
    if work.peer in page.retired:
        amount, reason = 0, "key retired"
    else:
        account = page.account(work.peer)
        if counted.segments and account.joined is None:
            account = changed(account, joined=page.round)
            page.entries.append(Join(round=page.round, peer=work.peer))
        if amount < whole:
            account = changed(account, missed=account.missed + whole - amount)
        page.peers[work.peer] = account
        page.earn(work.peer, amount, calibrated=work.calibrated)
        reason = reason if amount else "missed the cut"
    page.entries.append(
        ClaimCounted(
            round=page.round,
            peer=work.peer,
            claim=work.claim,
            predecessor=counted.predecessor,
            tokens=work.tokens,
            steps=work.steps,
            numeric_class=work.numeric_class,
            segments=counted.segments,
            amount=amount,
            missed=whole - amount,
            reason=reason,
        )
    )
    return amount


def _vest(page: Page, under_audit: frozenset[PeerId]) -> None:
    """Vest the credit that is due, for each peer that passed an audit and has none open."""
    due = page.round - page.rules.escrow_rounds
    for peer in sorted(page.peers):
        account = page.peers[peer]
        after, amount = vest(account, due=due, allowed=account.passes > 0 and peer not in under_audit)
        if after is not account:
            page.peers[peer] = after
        if amount:
            page.entries.append(Vest(round=page.round, peer=peer, amount=amount, total=after.vested))


def _rotate(accounts: Accounts, page: Page, facts: RoundFacts) -> Accounts:
    """Move accounts to new keys."""
    if not facts.rotations:
        return accounts
    before = Holdings(accounts.peers, accounts.retired, accounts.counted, accounts.audits)
    after, entries = rotate(before, facts.rotations, facts.electors, round_number=page.round)
    page.entries += entries
    return changed(
        accounts, peers=after.peers, retired=after.retired, counted=after.counted, audits=after.audits
    )
