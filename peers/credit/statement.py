"""A statement of a peer's credit: what has vested, and a reason for every amount that has not."""

from __future__ import annotations

from dataclasses import dataclass

from peers.credit.accounts import Accounts
from peers.credit.escrow import Account
from peers.credit.rules import CreditRules
from peers.protocol.reasons import CreditReason, sentence
from recipes.keys.keys import PeerId


@dataclass(frozen=True)
class Unvested:
    """An amount in FLOPs that has not vested, the reason, and the round after which it may, if known."""

    amount: int
    reason: CreditReason
    vests_after: int | None = None

    @property
    def explanation(self) -> str:
        """The reason as a sentence."""
        return sentence(self.reason, round_number=self.vests_after or 0)


def unvested(accounts: Accounts, peer: PeerId, rules: CreditRules) -> list[Unvested]:
    """Return a peer's work that is not vested credit, by reason: amounts that may still vest come first.

    These amounts and the vested credit add up to all work in the peer's claims and audits.
    """
    account = accounts.peers.get(peer, Account())
    found: list[Unvested] = []
    for one in account.pending:
        vests_after = one.round + rules.escrow_rounds
        reason: CreditReason = "in escrow"
        if vests_after <= accounts.round:
            reason = "audit pending" if peer in accounts.under_audit else "no audit passed yet"
        found.append(Unvested(one.amount, reason, vests_after))
    found.append(Unvested(account.uncalibrated, "thresholds not calibrated"))
    found += [Unvested(amount, reason) for reason, amount in account.lost.items()]
    found.append(Unvested(account.missed, "missed the cut"))
    return [one for one in found if one.amount]
