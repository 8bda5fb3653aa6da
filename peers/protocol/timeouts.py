"""The deadlines of a round's steps: they follow what peers measured, and are the same for every peer.

Each claim says what its author measured since its last claim (`Pace`): how late others' claims came, how
long its transfers took, how long an answer took. From the claims that a block includes, every peer computes
the next round's deadlines (`next_deadlines`), within the bounds that the recipe sets. They are part of the
counters, so no leader has a say in them, and no clock is compared. All times are whole milliseconds, and
all arithmetic is on whole numbers: every machine gets the same.

A minority that lies about its pace moves a deadline no further than what honest peers measured, times a
small factor: transfers and answers go by a high decile, but by at most `MOST_OF_MEDIAN` medians, and
lateness by at most as many answers' time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from peers.protocol.messages import Claim, Count, Message
from peers.protocol.rules import FANOUT, MOST_EXCHANGE, Bounds, Rules

MOST_OF_MEDIAN = 8  # transfers slower than this many medians do not make everybody wait
MARGIN = (3, 2)  # a deadline over what was measured
_DECAY = (3, 4)  # a deadline falls by no more than this in a round
_GROWTH = 4  # and rises by no more than this
_CLAIM_BYTES = 1500  # in a roster, and for each segment's norm:
_NORM_BYTES = 20


class Deadlines(Message):
    """How long a round waits, in milliseconds: for claims, for a transfer, for a leader.

    `exchange` is not a deadline: it is the part of the next window that will be over when its block comes.
    """

    grace_ms: Count
    transfer_ms: Count
    leader_ms: Count
    exchange_ms: Count = 0

    @property
    def grace(self) -> float:
        """Seconds after the window in which claims may still arrive."""
        return self.grace_ms / 1000

    @property
    def transfer(self) -> float:
        """Seconds for contributions to reach their reducers: T."""
        return self.transfer_ms / 1000

    @property
    def leader(self) -> float:
        """Seconds of a leader's silence before the next one acts."""
        return self.leader_ms / 1000

    @property
    def exchange(self) -> float:
        """Seconds of a window that lie before the block under which it counts; 0 without overlap."""
        return self.exchange_ms / 1000


def first_deadlines(rules: Rules) -> Deadlines:
    """Return the deadlines before anything was measured: the geometric middle of the recipe's bounds."""
    return Deadlines(
        grace_ms=_middle(rules.grace), transfer_ms=_middle(rules.transfer), leader_ms=_middle(rules.leader)
    )


def next_deadlines(
    before: Deadlines, claims: Sequence[Claim], rules: Rules, *, rostered: int | None = None
) -> Deadlines:
    """Return the deadlines after a block. A deadline for which nobody measured anything stays as it was.

    Args:
        before: the deadlines of the block's own round.
        claims: the claims that are heard: the electors', or all.
        rules: the rules of the run, with the recipe's bounds.
        rostered: number of claims in the block's roster, if more than are heard.
    """
    reply = _capped(_said(claim.pace.reply_ms for claim in claims), 8) or 0
    transfer = _capped(_said(claim.pace.transfer_ms for claim in claims), 9)
    late = decile(_said(claim.pace.claims_late_ms for claim in claims), 5)
    grace = spread = None
    if late is not None:  # only leaders measure it: a few, and most of them may lie
        grace = _with_margin(min(late, MOST_OF_MEDIAN * reply)) + reply
    if transfer is not None:
        spread = 3 * reply + _with_margin(
            _spreading(claims, rostered or len(claims), transfer - reply, rules)
        )
    return Deadlines(
        grace_ms=_move(before.grace_ms, grace, rules.grace),
        transfer_ms=_move(
            before.transfer_ms, None if transfer is None else _with_margin(transfer) + reply, rules.transfer
        ),
        leader_ms=_move(before.leader_ms, spread, rules.leader),
        exchange_ms=_exchange(before.exchange_ms, claims, rules),
    )


def _exchange(before: int, claims: Sequence[Claim], rules: Rules) -> int:
    """Return by how much windows begin before their block: the median of what exchanges took.

    It falls at once, and rises by half the difference: one long exchange must not cut every window short.
    """
    took = decile(_said(claim.pace.exchange_ms for claim in claims), 5)
    if took is None or not rules.trains_ahead:
        return before
    took = min(took, round(1000 * rules.window_seconds) * MOST_EXCHANGE[0] // MOST_EXCHANGE[1])
    return took if took < before else (before + took + 1) // 2


def decile(values: Iterable[int], number: int) -> int | None:
    """Return the value below which `number` tenths of the values lie, or None if there are none."""
    ordered = sorted(values)
    return ordered[max(0, -(-number * len(ordered) // 10) - 1)] if ordered else None


def _capped(values: Sequence[int], number: int) -> int | None:
    """Return a decile, but no more than `MOST_OF_MEDIAN` medians; None if there are no values."""
    high, middle = decile(values, number), decile(values, 5)
    return None if high is None or middle is None else min(high, MOST_OF_MEDIAN * middle)


def _said(values: Iterable[int | None]) -> list[int]:
    return [value for value in values if value is not None]


def _with_margin(measured: int) -> int:
    return measured * MARGIN[0] // MARGIN[1]


def _spreading(claims: Sequence[Claim], rostered: int, transfer: int, rules: Rules) -> int:
    """Return the milliseconds that a roster takes through two peers on its way to all.

    A roster's bytes are in proportion to a contribution's, whose transfer was measured.
    """
    roster_bytes = rostered * (_CLAIM_BYTES + _NORM_BYTES * rules.segments)
    copies = 2 * min(FANOUT, max(0, rostered - 1))
    contribution = decile((claim.contribution_bytes for claim in claims), 5) or 0
    return copies * roster_bytes * max(0, transfer) // max(contribution, 1)


def _move(before: int, target: int | None, bounds: Bounds) -> int:
    """Return a deadline that has moved from `before` towards `target`."""
    if target is None:
        return before
    if target < before:
        target = max(target, before * _DECAY[0] // _DECAY[1])
    return round(1000 * bounds.within(min(target, _GROWTH * before) / 1000))


def _middle(bounds: Bounds) -> int:
    return round(1000 * math.sqrt(bounds.least * bounds.most))
