"""Sums over a ledger, computed twice: from its entries, and from its accounts.

All credit is in one place: in escrow, without thresholds, vested, or lost for a reason. The two sums share no
code, so a rule that created or dropped credit would show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from peers.credit.accounts import Accounts
from peers.credit.entries import ClaimCounted, Entry, Forfeit, Lapsed, Restored, VerdictCounted, Vest


@dataclass(frozen=True)
class Totals:
    """FLOPs over all peers: `pending` has not vested, for any reason; `earned` is all three together."""

    earned: int
    vested: int
    pending: int
    lost: int

    def as_json(self) -> dict[str, str]:
        """Return them as decimal strings: they may be beyond what JSON's numbers hold."""
        return {name: str(value) for name, value in vars(self).items()}


@dataclass
class Tally:
    """Running sums over a ledger's entries."""

    entries: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    earned: int = 0
    vested: int = 0
    lost: int = 0

    def add(self, entries: Iterable[Entry]) -> None:
        """Add the amounts of some entries."""
        for entry in entries:
            self.entries += 1
            self.kinds[entry.kind] += 1
            if isinstance(entry, ClaimCounted | VerdictCounted):
                self.earned += entry.amount
            elif isinstance(entry, Vest):
                self.vested += entry.amount
            elif isinstance(entry, Forfeit | Lapsed):
                self.lost += entry.amount
            elif isinstance(entry, Restored):
                self.lost -= entry.amount

    def totals(self) -> Totals:
        """Return the sums so far."""
        pending = self.earned - self.vested - self.lost
        return Totals(earned=self.earned, vested=self.vested, pending=pending, lost=self.lost)


def totals_of(accounts: Accounts) -> Totals:
    """Return the sums over all accounts."""
    peers = accounts.peers.values()
    return Totals(
        earned=sum(account.earned for account in peers),
        vested=sum(account.vested for account in peers),
        pending=sum(account.in_escrow + account.uncalibrated for account in peers),
        lost=sum(sum(account.lost.values()) for account in peers),
    )
