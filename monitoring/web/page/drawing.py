"""Charts and bars as SVG, drawn here: what a reader without script sees, and what a script draws over.

Coordinates alone are in the markup; colours and widths are the style sheet's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monitoring.swarm.view import PHASES, Phase, Timing

WIDTH, HEIGHT = 640.0, 220.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 8.0, 10.0, 24.0
_TICKS = 4


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, in the drawing's units, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Drawing:
    """A line through points, with the marks of both axes; `points` is an SVG polyline's."""

    points: str
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    last: tuple[float, float] | None


@dataclass(frozen=True)
class Bar:
    """A part of a bar of 100 units: which phase, from where, how wide."""

    phase: Phase
    start: float
    width: float


def line(across: Sequence[float], up: Sequence[float | None], *, from_zero: bool = False) -> Drawing:
    """Return a line through the points that are numbers.

    Args:
        across: ascending.
        up: as many; those that are None are left out.
        from_zero: whether the axis upwards begins at zero.
    """
    known = [(x, y) for x, y in zip(across, up, strict=True) if y is not None and math.isfinite(y)]
    if not known:
        return Drawing("", (), (), None)
    xs, ys = [x for x, _ in known], [y for _, y in known]
    horizontal = _ticks(min(xs), max(xs), whole=True)
    vertical = _ticks(0.0 if from_zero else min(ys), max(ys))
    left, right = min(xs[0], horizontal[0]), max(xs[-1], horizontal[-1])
    low, high = min(vertical[0], *ys), max(vertical[-1], *ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - left) / ((right - left) or 1.0) * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - (y - low) / ((high - low) or 1.0) * (HEIGHT - _TOP - _BOTTOM),
        )

    placed = [place(x, y) for x, y in known]
    return Drawing(
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in placed),
        across=tuple(Tick(round(place(x, low)[0], 1), _label(x)) for x in horizontal),
        up=tuple(Tick(round(place(left, y)[1], 1), _label(y)) for y in vertical),
        last=(round(placed[-1][0], 1), round(placed[-1][1], 1)),
    )


def phase_bar(timing: Timing | None) -> tuple[Bar, ...]:
    """Return a round's phases as parts of a bar of 100 units; nothing if they are not known."""
    if timing is None:
        return ()
    return bar(timing.phases)


def bar(phases: Mapping[Phase, float]) -> tuple[Bar, ...]:
    """Return phases as parts of a bar of 100 units, in their order."""
    whole = sum(phases.values())
    parts, start = [], 0.0
    for phase in PHASES:
        width = 100 * phases.get(phase, 0.0) / whole if whole else 0.0
        if width > 0:
            parts.append(Bar(phase, round(start, 2), round(width, 2)))
        start += width
    return tuple(parts)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return some round numbers from about `low` to about `high`."""
    span = (high - low) or max(abs(high), 1.0) * 0.1
    raw = span / _TICKS
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    step = max(1.0, round(step)) if whole else step
    first = math.ceil(low / step - 1e-9) * step
    found = [first + step * index for index in range(_TICKS + 2)]
    inside = [value for value in found if value <= high + step * 1e-9]
    return inside or [low]


def _label(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f} k" if abs(value) < 1_000_000 else f"{value / 1e6:,.3g} M"
    return f"{value:.4g}"
