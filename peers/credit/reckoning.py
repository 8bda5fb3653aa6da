"""For each FLOP that a peer worked and that is not vested: how much, and why, in plain words."""

from __future__ import annotations

from dataclasses import dataclass

from peers.credit.accounts import Accounts
from peers.credit.escrow import Account
from peers.credit.reasons import CreditReason, sentence
from peers.credit.rules import CreditRules
from recipes.keys import PeerId


@dataclass(frozen=True)
class Unvested:
    """An amount of a peer that is not vested. `until` is the round after which it may be, where one is known."""

    amount: int
    reason: CreditReason
    until: int = 0

    @property
    def words(self) -> str:
        """The reason as a sentence."""
        return sentence(self.reason, round_number=self.until)


def unvested(peer: PeerId, accounts: Accounts, rules: CreditRules) -> list[Unvested]:
    """Return all that `peer` worked and that is not vested, each amount once, with its reason.

    What is in escrow is told as one amount, until the round in which the last of it is due.
    """
    account = accounts.peers.get(peer) or Account()
    due = accounts.round - rules.escrow_rounds
    ripe = sum(one.amount for one in account.pending if one.round <= due)
    waiting = [one for one in account.pending if one.round > due]
    held: CreditReason = "audit pending" if peer in accounts.under_audit else "no audit passed yet"
    found = [
        Unvested(
            sum(one.amount for one in waiting),
            "in escrow",
            max((one.round for one in waiting), default=0) + rules.escrow_rounds,
        ),
        Unvested(ripe, held),
        Unvested(account.uncalibrated, "thresholds not calibrated"),
        Unvested(account.missed, "missed the cut"),
        *(Unvested(amount, reason) for reason, amount in account.lost.items()),
    ]
    return [one for one in found if one.amount]
