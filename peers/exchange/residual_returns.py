"""What of a peer's own contributions is to return to its error feedback, by what the chain counted.

Every segment of a contribution is either counted by the chain or returned. The chain may change its mind
when it leaves a branch: then what was returned too much is taken back, and the other way round. Past
`depth` rounds an entry is settled as it stands. Pure: contribution_store.py applies this to real values, and
a simulated peer to names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from recipes.schema.sections import HexHash


@dataclass(frozen=True)
class IncludedSegment:
    """A contribution's segment that the chain counts.

    Attributes:
        factor: the clip factor by which it was taken. What was clipped is lost.
        reduced: root of the reduced segment, hex, if the values that it dropped are to return; else None.
    """

    factor: float = 1.0
    reduced: str | None = None


Outcome = Callable[[int, str], Mapping[int, IncludedSegment] | None]
"""Says which segments of a contribution, named by its round and its claim's hash, the current chain counts:
a mapping by segment, empty if none is counted, or None while that round has no block."""


class Stored(BaseModel):
    """Base of what record.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Return(Stored):
    """What of a segment was returned: `factor` times the values that `reduced` dropped, or times all."""

    factor: float = 1.0
    reduced: HexHash | None = None


class Entry(Stored):
    """A contribution that is kept. `claim` is None until it was claimed.

    `tokens` are those of the block below its round, by which its density is known; `feedback` is the root of
    the error feedback after it. Nothing of what is `lost` returns: the feedback began again from zero.
    """

    number: int
    round: int
    tokens: int = 0
    claim: HexHash | None = None
    feedback: HexHash | None = None
    lost: bool = False
    returned: dict[int, Return] = {}


@dataclass(frozen=True)
class Change:
    """A segment of which more, or less, or other values are to be returned now than were before."""

    number: int
    tokens: int
    age: int
    before: Return | None
    after: Return | None


def reconcile(
    entries: Iterable[Entry], round_number: int, *, outcome: Outcome, segments: int, depth: int
) -> tuple[list[Entry], dict[int, list[Change]]]:
    """Compare what was returned with what is to be, for a contribution to round `round_number`.

    Returns:
        The entries that are kept, as they stand after the changes; and the changes, by segment.
    """
    changes: dict[int, list[Change]] = {}
    kept: list[Entry] = []
    for entry in entries:
        counted = {} if entry.claim is None else outcome(entry.round, entry.claim)
        returned = dict(entry.returned)
        for segment in range(segments) if counted is not None and not entry.lost else ():
            before, after = entry.returned.get(segment), _due((counted or {}).get(segment))
            if before == after:
                continue
            age = max(round_number - entry.round, 1)
            changes.setdefault(segment, []).append(Change(entry.number, entry.tokens, age, before, after))
            if after is None:
                del returned[segment]
            else:
                returned[segment] = after
        if entry.round > round_number - depth:
            kept.append(entry.model_copy(update={"returned": returned}))
    return kept, changes


def may_go_on(newest: Entry, changes: Iterable[Change], *, source: str | None, may_stray: bool) -> bool:
    """Say whether a contribution may go on from the feedback of the newest one before it (lineage.py).

    It may if an auditor can follow: if that one's claim is `source`, hex, and nothing returns but of it, for
    the first time. From another claim, which auditors see too, it may if it `may_stray`.
    """
    if newest.claim is None or newest.claim != source:
        return newest.claim is not None and may_stray
    return all(change.number == newest.number and change.before is None for change in changes)


def discount(decay: float, *, age: int) -> float:
    """Return the factor on what returns after `age` rounds, as if it had never left the error feedback.

    Once by `decay` the feedback discounts it by itself, with all else that it holds.
    """
    return float(decay ** (age - 1))


def _due(counted: IncludedSegment | None) -> Return | None:
    """Say what of a segment is to return: all that is not counted, and what was dropped of what is."""
    if counted is None:
        return Return()
    return None if counted.reduced is None else Return(factor=counted.factor, reduced=counted.reduced)
