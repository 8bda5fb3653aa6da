"""The verdict on a claim, from how far its replay lies from it and from measured thresholds.

Every measure has two limits. Up to the first the two agree; beyond the second the audit fails, and that alone
punishes; between the two nobody can tell, and another auditor is asked. Where no thresholds were measured
for a numeric class, audits of it are made and told, and neither pass nor fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from peers.audit.comparing import ChunkGap, TraceGap
from peers.protocol.reasons import VerdictReason
from recipes.schema.recipe import Recipe

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Limit:
    """Up to `agrees` a measure tells nothing against a claim; beyond `fails` it does."""

    agrees: float
    fails: float

    def outcome(self, value: float) -> Outcome:
        """Return on which side of the limits `value` is. NaN fails."""
        if value <= self.agrees:
            return "pass"
        return "inconclusive" if value <= self.fails else "fail"


@dataclass(frozen=True)
class Thresholds:
    """The limits of one numeric class, for the measures of peers/audit/comparing.py."""

    loss_mean: Limit
    loss_worst: Limit
    dropped: Limit
    direction: Limit
    length: Limit


@dataclass(frozen=True)
class Judgement:
    """An outcome, and the reason for it."""

    outcome: Outcome
    reason: VerdictReason


def judge(trace: TraceGap, chunks: ChunkGap | None, thresholds: Thresholds | None) -> Judgement:
    """Judge a claim by a replay of it.

    Args:
        trace: of the steps replayed.
        chunks: of the opened chunks; None unless all steps were replayed.
        thresholds: of the claim's numeric class; None if it is not calibrated.

    Returns:
        "fail" if any measure fails, with the first that does: the loss trace, then direction and length (the
        sketch), then the chunks' places. Else "inconclusive" if any is; else "pass".
    """
    if thresholds is None:
        return Judgement("inconclusive", "thresholds not calibrated")
    found = list(_outcomes(trace, chunks, thresholds))
    for outcome, reason in found:
        if outcome == "fail":
            return Judgement("fail", reason)
    if any(outcome == "inconclusive" for outcome, _ in found):
        return Judgement("inconclusive", "between the thresholds")
    return Judgement("pass", "agrees")


def thresholds_of(recipe: Recipe, numeric_class: str) -> Thresholds | None:
    """Return the recipe's thresholds for a numeric class, or None if that is not calibrated."""
    return calibrated_classes(recipe).get(numeric_class)


def calibrated_classes(recipe: Recipe) -> Mapping[str, Thresholds]:
    """Return the recipe's thresholds by numeric class."""
    return {
        numeric_class: Thresholds(
            loss_mean=Limit(*section.loss_mean),
            loss_worst=Limit(*section.loss_worst),
            dropped=Limit(*section.dropped),
            direction=Limit(*section.direction),
            length=Limit(*section.length),
        )
        for numeric_class, section in recipe.verification.thresholds.items()
    }


def _outcomes(
    trace: TraceGap, chunks: ChunkGap | None, thresholds: Thresholds
) -> Iterator[tuple[Outcome, VerdictReason]]:
    """Give each measure's outcome, and the reason for a verdict if it fails."""
    yield thresholds.loss_mean.outcome(trace.mean), "loss trace differs"
    yield thresholds.loss_worst.outcome(trace.worst), "loss trace differs"
    if chunks is None:
        return
    if not chunks.sound:
        yield "fail", "opened chunks differ"
    yield thresholds.direction.outcome(chunks.direction), "sketch differs"
    yield thresholds.length.outcome(chunks.length), "sketch differs"
    yield thresholds.dropped.outcome(chunks.dropped), "opened chunks differ"
