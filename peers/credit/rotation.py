"""Rotation: an account moves to another key, with its pending and vested credit, its passes and its audits.

It happens at the end of a block: that block's claims and verdicts still count for the old id. From then on
the old id is retired for good: what it signs earns nothing, and it audits no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from peers.credit.audit import Audit, Work
from peers.credit.entries import Rotated
from peers.credit.escrow import Account
from peers.protocol.key_change import Moved
from recipes.keys.keys import PeerId


@dataclass(frozen=True)
class Retired:
    """A retired id's successor, and the round of the block that retired it."""

    successor: PeerId
    round: int


@dataclass(frozen=True)
class Holdings:
    """All parts of the accounts that name peers and may still change."""

    peers: Mapping[PeerId, Account]
    retired: Mapping[PeerId, Retired]
    counted: tuple[Work, ...]
    audits: tuple[Audit, ...]

    def knows(self, peer: PeerId) -> bool:
        """Whether `peer` has, or had, an account, or is an auditor."""
        auditor = any(peer in audit.auditors for audit in self.audits)
        return auditor or peer in self.peers or peer in self.retired


def rotate(
    before: Holdings, wanted: Sequence[Moved], electors: frozenset[PeerId], *, round_number: int
) -> tuple[Holdings, list[Rotated]]:
    """Return the holdings after a block's rotations, in the block's order, and an entry for each rotation.

    A rotation from an id without an account, or to an id that takes part already, counts for nothing. Of
    several by one peer, the one with the highest number counts, and of those with equal numbers the first.
    """
    after, entries = before, []
    newest: dict[PeerId, int] = {}
    for one in wanted:
        newest[one.old] = max(one.number, newest.get(one.old, 0))
    for one in wanted:
        account = after.peers.get(one.old)
        if one.number < newest[one.old] or account is None or after.knows(one.new) or one.new in electors:
            continue
        after = _moved(after, one, account, round_number)
        entries.append(
            Rotated(
                round=round_number,
                peer=one.old,
                successor=one.new,
                change=one.name,
                recovered=one.recovered,
                vested=account.vested,
                pending=account.in_escrow + account.uncalibrated,
            )
        )
    return after, entries


def answers_for(
    retired: Mapping[PeerId, Retired], peer: PeerId, *, signed_in: int, heard_in: int, within: int
) -> PeerId | None:
    """Return the peer whose account answers for what `peer` signed in a round, or None if no account does.

    An old key that leaked must not harm its successor for ever. No account answers for what the key signs
    after it retired; what it signed before counts only if it is shown `within` rounds of the retirement.
    """
    gone = retired.get(peer)
    if gone is None:
        return peer
    in_time = signed_in <= gone.round and heard_in <= gone.round + within
    return gone.successor if in_time else None


def _moved(before: Holdings, one: Moved, account: Account, round_number: int) -> Holdings:
    peers = {peer: held for peer, held in before.peers.items() if peer != one.old}
    retired = {
        peer: replace(gone, successor=one.new) if gone.successor == one.old else gone
        for peer, gone in before.retired.items()
    }
    return Holdings(
        peers={**peers, one.new: account},
        retired={**retired, one.old: Retired(one.new, round_number)},
        counted=tuple(_renamed_work(work, one) for work in before.counted),
        audits=tuple(_renamed_audit(audit, one) for audit in before.audits),
    )


def _renamed_work(work: Work, one: Moved) -> Work:
    return replace(work, peer=one.new) if work.peer == one.old else work


def _renamed_audit(audit: Audit, one: Moved) -> Audit:
    return replace(
        audit,
        work=_renamed_work(audit.work, one),
        auditors=tuple(_renamed(audit.auditors, one)),
        asked=tuple(
            replace(asked, auditor=one.new) if asked.auditor == one.old else asked for asked in audit.asked
        ),
        penalties=tuple(
            replace(penalty, peer=one.new) if penalty.peer == one.old else penalty
            for penalty in audit.penalties
        ),
    )


def _renamed(peers: Iterable[PeerId], one: Moved) -> Iterable[PeerId]:
    return (one.new if peer == one.old else peer for peer in peers)
