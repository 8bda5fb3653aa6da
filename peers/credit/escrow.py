"""One peer's account: its credit in escrow, its vested credit, and its lost credit by reason.

All amounts are whole FLOPs. Credit is always in exactly one of these places, and vested credit is never taken
back. An account stays small however long a peer takes part: it holds one amount for each of the last W
rounds, and one for all before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from peers.protocol.reasons import CreditReason, Forfeiture, Lapse
from recipes.formats.values import changed
from recipes.keys.keys import PeerId


@dataclass(frozen=True)
class Pending:
    """The credit that was earned in one round and has not vested, in FLOPs."""

    round: int
    amount: int


@dataclass(frozen=True)
class Account:
    """One peer's account. Amounts are FLOPs.

    Attributes:
        joined: round in which the peer was first included; None for an auditor that never was.
        passes: number of audits passed since the peer joined or was last penalised.
        probations: number of penalties that put it on probation, without those that were overturned.
        pending: credit in escrow, oldest round first.
        uncalibrated: credit earned in numeric classes without calibrated thresholds; it does not vest.
        vested: vested credit.
        missed: work never credited, because its segments missed the cut.
        lost: forfeited and lapsed credit, by reason.
        double_claims: newest round for which two claims of this peer were shown.
        expelled: last round of each expulsion, by the claim whose audit failed, or by the evidence.
        breached: newest round of a roster, block or receipt of this peer that another one contradicts.
        silenced: newest round for which two co-signatures of this peer were shown; 0 if there were none.
    """

    joined: int | None = None
    passes: int = 0
    probations: int = 0
    pending: tuple[Pending, ...] = ()
    uncalibrated: int = 0
    vested: int = 0
    missed: int = 0
    lost: Mapping[CreditReason, int] = field(default_factory=dict)
    double_claims: int = 0
    expelled: Mapping[str, int] = field(default_factory=dict)
    breached: int = 0
    silenced: int = 0

    @property
    def expelled_until(self) -> int:
        """Last round in which no claim of this peer is taken; 0 if it was never expelled."""
        return max(self.expelled.values(), default=0)

    @property
    def contradicted(self) -> bool:
        """Whether the chain ever showed that this peer contradicted itself."""
        return bool(self.double_claims or self.breached or self.silenced)

    @property
    def in_escrow(self) -> int:
        """Pending credit in all, in FLOPs, without `uncalibrated`."""
        return sum(one.amount for one in self.pending)

    @property
    def earned(self) -> int:
        """All credit that this peer ever earned, in FLOPs, wherever it is now."""
        return self.in_escrow + self.uncalibrated + self.vested + sum(self.lost.values())


@dataclass(frozen=True)
class Penalty:
    """The credit that a decision took from a peer, kept for as long as the decision may be disputed.

    `probation` is the penalty's number among the peer's probations, or None if it takes no passes.
    """

    peer: PeerId
    reason: Forfeiture | Lapse
    pending: tuple[Pending, ...]
    uncalibrated: int
    passes: int
    probation: int | None

    @property
    def amount(self) -> int:
        """The FLOPs that it took."""
        return sum(one.amount for one in self.pending) + self.uncalibrated


def earn(account: Account, amount: int, *, round_number: int, calibrated: bool) -> Account:
    """Put credit of a round into escrow, or into `uncalibrated`.

    Rounds before the newest one in escrow cannot earn any more.
    """
    if not amount:
        return account
    if not calibrated:
        return changed(account, uncalibrated=account.uncalibrated + amount)
    older = account.pending
    if older and older[-1].round == round_number:
        older, amount = older[:-1], amount + older[-1].amount
    return changed(account, pending=(*older, Pending(round_number, amount)))


def penalise(
    account: Account, peer: PeerId, reason: Forfeiture | Lapse, *, probation: bool = True
) -> tuple[Account, Penalty]:
    """Take all credit that has not vested; with `probation`, audit the peer as often as a newcomer again."""
    probations = account.probations + probation
    penalty = Penalty(
        peer,
        reason,
        account.pending,
        account.uncalibrated,
        passes=account.passes if probation else 0,
        probation=probations if probation else None,
    )
    after = changed(
        account,
        pending=(),
        uncalibrated=0,
        passes=account.passes - penalty.passes,
        probations=probations,
        lost=_moved(account.lost, reason, penalty.amount),
    )
    return after, penalty


def expel(account: Account, cause: str, *, now: int, until: int) -> Account:
    """Take no claim of a peer up to a round. Past expulsions are dropped.

    `cause` is the hash of the claim whose audit failed, or of the evidence that it contradicted itself.
    """
    standing = {one: last for one, last in account.expelled.items() if last > now}
    return changed(account, expelled={**standing, cause: until})


def readmit(account: Account, claim: str) -> Account:
    """End the expulsion for one claim; expulsions for others stand."""
    return changed(account, expelled={one: last for one, last in account.expelled.items() if one != claim})


def give_back(account: Account, penalty: Penalty) -> Account:
    """Undo a penalty: amounts go back to the rounds in which they were earned, and passes count again.

    Passes stay lost if the peer was put on probation again since: that penalty stands.
    """
    if penalty.probation == account.probations:
        passes = max(account.passes, penalty.passes)
        account = changed(account, passes=passes, probations=account.probations - 1)
    return changed(
        account,
        pending=_by_round([*penalty.pending, *account.pending]),
        uncalibrated=account.uncalibrated + penalty.uncalibrated,
        lost=_moved(account.lost, penalty.reason, -penalty.amount),
    )


def vest(account: Account, *, due: int, allowed: bool) -> tuple[Account, int]:
    """Vest the credit earned up to round `due`, if that is allowed; return the account and the amount.

    If it is not, credit that is due becomes one amount, so that an account stays small. Where nothing
    more is due, the account stays the very same: it need not be written out again in each block.
    """
    if not account.pending or account.pending[0].round > due:
        return account, 0
    ripening = list(takewhile(lambda one: one.round <= due, account.pending))
    ripe = sum(one.amount for one in ripening)
    rest = account.pending[len(ripening) :]
    if allowed:
        return changed(account, pending=rest, vested=account.vested + ripe), ripe
    if len(ripening) == 1:
        return account, 0
    return changed(account, pending=(Pending(due, ripe), *rest)), 0


def _by_round(amounts: Iterable[Pending]) -> tuple[Pending, ...]:
    sums = Counter[int]()
    for one in amounts:
        sums[one.round] += one.amount
    return tuple(Pending(number, sums[number]) for number in sorted(sums))


def _moved(lost: Mapping[CreditReason, int], reason: CreditReason, amount: int) -> dict[CreditReason, int]:
    after = {**lost, reason: lost.get(reason, 0) + amount}
    return {why: after[why] for why in sorted(after) if after[why]}
