"""The values of a peer's own contributions that return to its error feedback, since no block included them.

A segment of a contribution is either included by the chain or returned to the error feedback. When the chain
leaves a branch, this may change: values that were returned are then taken back, or the other way round.
Entries older than `depth` rounds do not change any more. Pure: contribution_store.py applies this to real
values, the simulation to names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from recipes.schema.sections import HexHash


@dataclass(frozen=True)
class IncludedSegment:
    """How the chain includes a segment of a contribution.

    Attributes:
        factor: the clip factor that it was averaged with. The share clipped off is lost.
        reduced: root of the reduced segment, hex, if the values that it dropped are to return; else None.
    """

    factor: float = 1.0
    reduced: str | None = None


class ChainOutcomes(Protocol):
    """The outcomes of a peer's earlier contributions on the current chain."""

    def included(self, round_number: int, claim: str) -> Mapping[int, IncludedSegment] | None:
        """Return the included segments of a contribution by their index; None if its round has no block yet.

        Args:
            round_number: the round that the contribution was for.
            claim: hash of its claim, hex.
        """
        ...


class Stored(BaseModel):
    """Base of the models in record.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Return(Stored):
    """What was returned of a segment: `factor` times all its values, or those that `reduced` dropped."""

    factor: float = 1.0
    reduced: HexHash | None = None


class Entry(Stored):
    """A contribution that is kept.

    Attributes:
        number: names its folder.
        round: the round that it was for.
        tokens: trained on by the block below that round, from which its density follows.
        claim: hash of its claim, hex; None until it is claimed.
        feedback: root of the error feedback after it, hex.
        lost: whether none of its values return any more, since the error feedback began again from zero.
        returned: what was returned so far, by segment.
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
    """A change in what is returned of a contribution's segment.

    Attributes:
        number: of the contribution.
        tokens: as in `Entry`.
        age: rounds since the contribution, at least 1.
        before: the part that was returned so far.
        after: the part that is to be returned from now on.
    """

    number: int
    tokens: int
    age: int
    before: Return | None
    after: Return | None


def reconcile(
    entries: Iterable[Entry],
    round_number: int,
    *,
    included: Mapping[str, Mapping[int, IncludedSegment] | None],
    segments: int,
    depth: int,
) -> tuple[list[Entry], dict[int, list[Change]]]:
    """Compare what was returned with what is to be returned, for a contribution to round `round_number`.

    Args:
        entries: the contributions that are kept, oldest first.
        round_number: the round of the new contribution.
        included: what the chain includes of them, by claim, as `ChainOutcomes.included` returns it.
        segments: segments of a contribution.
        depth: the age in rounds at which an entry is dropped.

    Returns:
        The entries that are kept, as they stand after the changes; and the changes, by segment.
    """
    changes: dict[int, list[Change]] = {}
    kept: list[Entry] = []
    for entry in entries:
        counted = {} if entry.claim is None else included[entry.claim]
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
    """Whether a contribution may go on from the error feedback after the newest one before it (lineage.py).

    If the newest contribution's claim is `source`, it may if all that returns is of that contribution and for
    the first time: an auditor can then recompute it. If its claim is another, it may if `may_stray`.

    Args:
        newest: the newest contribution.
        changes: all that is to return now.
        source: the newest claim of this peer in the blocks right below, hex; None without one.
        may_stray: whether it may go on from a claim other than `source`.
    """
    if newest.claim is None or newest.claim != source:
        return newest.claim is not None and may_stray
    return all(change.number == newest.number and change.before is None for change in changes)


def discount(decay: float, *, age: int) -> float:
    """Return the factor on values that return after `age` rounds, as if they had never left the feedback.

    That is decay ** (age - 1): the error feedback applies `decay` once more, to all that it holds.
    """
    return float(decay ** (age - 1))


def _due(counted: IncludedSegment | None) -> Return | None:
    """Return the part of a segment that is to return: all, the values that were dropped, or None."""
    if counted is None:
        return Return()
    return None if counted.reduced is None else Return(factor=counted.factor, reduced=counted.reduced)
