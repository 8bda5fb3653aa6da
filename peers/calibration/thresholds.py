"""Choosing thresholds from measured margins, and what audits by them would catch.

An auditor replays in the precision of the claim, on any device, so only such pairs count: two kinds of bf16
lie several times as far apart as fp32 on a GPU and on a processor.
For each measure, of everything compared in which a class was the claimant's, let h be the most that honest
work differed by, in any pair of numerics and any window. Then

    agrees = 1.5 h
    fails  = the geometric mean of h and c

where c is the least of the cheats that the measure can tell: those that never came below 4 h, each taken for
no farther than a claim of nothing at all, since a trace that is not finite is infinitely far. So no honest
work that was measured came nearer than half way to failing, and a cheat between the two is asked about
again rather than believed. Where a measure tells no cheat at all, the class stays uncalibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peers.audit.comparing import ChunkGap, TraceGap
from peers.audit.judging import Limit, Outcome, Thresholds, judge
from peers.calibration.margins import HONEST, Comparison
from peers.training.interface import precision_of

MEASURES = ("loss_mean", "loss_worst", "dropped", "direction", "length")

FACTOR_OF_HONEST = 1.5
SEPARATION = 4.0

# Where machines alike were compared, they may agree to the bit; others of their class will not.
_LEAST_HONEST: Mapping[str, float] = {
    "loss_mean": 1e-4,
    "loss_worst": 3e-4,
    "dropped": 5e-3,
    "direction": 1e-3,
    "length": 1e-3,
}


@dataclass(frozen=True)
class Choice:
    """The thresholds that were chosen for one numeric class.

    Attributes:
        numeric_class: of the claims.
        thresholds: None if a measure tells no cheat.
        reason: why there are none; empty if there are.
    """

    numeric_class: str
    thresholds: Thresholds | None
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One kind of work of one class, as audits see it.

    Attributes:
        numeric_class: the claimant's.
        cheat: empty for honest work.
        gaps: for each of `MEASURES`, the most of honest work, or the least of a cheat, over full length.
        prefix: shares of outcomes of audits that see a uniform number of steps and no chunks.
        full: shares of outcomes of audits that see all steps, and opened chunks.
    """

    numeric_class: str
    cheat: str
    gaps: Mapping[str, float]
    prefix: Mapping[Outcome, float]
    full: Mapping[Outcome, float]


def is_audit(comparison: Comparison) -> bool:
    """Whether a claim was compared with a replay in its own precision, as an auditor makes it."""
    return precision_of(comparison.claimant_class) == precision_of(comparison.auditor_class)


def choose(comparisons: Sequence[Comparison]) -> list[Choice]:
    """Return what the thresholds of each class are by these comparisons, by the rule above."""
    comparisons = [one for one in comparisons if is_audit(one)]
    classes = dict.fromkeys(one.claimant_class for one in comparisons)
    return [_choose_for(name, [one for one in comparisons if one.claimant_class == name]) for name in classes]


def outcomes(comparisons: Sequence[Comparison], choices: Sequence[Choice]) -> list[Row]:
    """Return how far each kind of work lies from its audits, and what these come to by the choices."""
    comparisons = [one for one in comparisons if is_audit(one)]
    thresholds = {choice.numeric_class: choice.thresholds for choice in choices}
    kinds = dict.fromkeys((one.claimant_class, one.cheat) for one in comparisons)
    return [
        _row(
            numeric_class,
            cheat,
            [one for one in comparisons if (one.claimant_class, one.cheat) == (numeric_class, cheat)],
            thresholds[numeric_class],
        )
        for numeric_class, cheat in kinds
    ]


def _choose_for(numeric_class: str, comparisons: Sequence[Comparison]) -> Choice:
    limits: dict[str, Limit] = {}
    if not any(one.cheat == HONEST for one in comparisons):
        return Choice(numeric_class, None, reason="no other honest work in its precision was compared")
    for measure in MEASURES:
        honest = max(
            (_largest(one, measure) for one in comparisons if one.cheat == HONEST),
            default=0.0,
        )
        honest = max(honest, _LEAST_HONEST[measure])
        least = [
            min(_at_most(measure), *(whole_gap(one, measure) for one in comparisons if one.cheat == cheat))
            for cheat in {one.cheat for one in comparisons} - {HONEST}
        ]
        told = [gap for gap in least if gap >= SEPARATION * honest]
        if not told:
            return Choice(numeric_class, None, reason=f"{measure} tells no cheat from honest work")
        fails = math.sqrt(honest * min(told))
        limits[measure] = Limit(_rounded(FACTOR_OF_HONEST * honest), _rounded(fails))
    return Choice(numeric_class, Thresholds(**limits))


def _row(
    numeric_class: str, cheat: str, comparisons: Sequence[Comparison], thresholds: Thresholds | None
) -> Row:
    prefix = [
        judge(TraceGap(mean, worst), None, thresholds).outcome
        for one in comparisons
        for mean, worst in zip(one.loss_mean, one.loss_worst, strict=True)
    ]
    full = [
        judge(
            TraceGap(one.loss_mean[-1], one.loss_worst[-1]),
            ChunkGap(sound=one.sound, dropped=one.dropped, direction=one.direction, length=one.length),
            thresholds,
        ).outcome
        for one in comparisons
    ]
    farthest = max if cheat == HONEST else min
    return Row(
        numeric_class=numeric_class,
        cheat=cheat,
        gaps={measure: farthest(whole_gap(one, measure) for one in comparisons) for measure in MEASURES},
        prefix=_shares(prefix),
        full=_shares(full),
    )


def _shares(found: Sequence[Outcome]) -> dict[Outcome, float]:
    every: tuple[Outcome, ...] = ("pass", "fail", "inconclusive")
    return {outcome: found.count(outcome) / len(found) for outcome in every}


def whole_gap(comparison: Comparison, measure: str) -> float:
    """Return one of `MEASURES` over all steps."""
    value: float | tuple[float, ...] = getattr(comparison, measure)
    return value[-1] if isinstance(value, tuple) else value


def _largest(comparison: Comparison, measure: str) -> float:
    """Return the most that a measure was after any number of steps."""
    value: float | tuple[float, ...] = getattr(comparison, measure)
    return max(value) if isinstance(value, tuple) else value


def _at_most(measure: str) -> float:
    """Return what a measure of nothing at all would be, beyond which no gap counts for more."""
    return 2.0 if measure == "direction" else 1.0


def _rounded(value: float) -> float:
    """Round up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.6g}")
