"""The plot of the benchmark of thin links: speed by rate, and what a link leaves of an arm's own speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.links.figures import ALONE, LABELS, NO_NETWORK, SCALED, UNSHAPED, Cell, ratio


def plot(cells: Sequence[Cell], out: Path) -> None:
    """Draw the cells that have a speed into a PNG file.

    Left, tokens per second by the link's rate, with each arm unshaped at the right edge and local training
    alone as a line. Right, the same as a share of the same arm unshaped. A ring marks the scaled link.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    speeds = {(cell.arm, cell.link.name): cell.speed for cell in cells if cell.speed is not None}
    arms = [arm for arm in LABELS if arm != ALONE and any(name == arm for name, _ in speeds)]
    widest = max((cell.link.megabits or 0.0 for cell in cells), default=0.0) or 1.0
    for number, arm in enumerate(arms):
        colour = f"C{number}"
        shaped = sorted(
            (cell for cell in cells if cell.arm == arm and cell.speed and cell.link.megabits),
            key=lambda cell: cell.link.megabits or 0.0,
        )
        points = [(cell.link.megabits, cell.speed.tokens_per_second) for cell in shaped if cell.speed]
        _line(left, points, shaped, colour, LABELS[arm])
        shares = [(cell.link.megabits, ratio(cells, cell, UNSHAPED)) for cell in shaped]
        _line(right, [(x, share) for x, share in shares if share is not None], shaped, colour, LABELS[arm])
        unshaped = speeds.get((arm, UNSHAPED))
        if unshaped is not None:
            left.plot(3 * widest, unshaped.tokens_per_second, "D", color=colour, markersize=6)
    alone = speeds.get((ALONE, NO_NETWORK))
    if alone is not None:
        left.axhline(alone.tokens_per_second, linestyle="--", color="grey", label=LABELS[ALONE])
    left.set(ylabel="tokens a second, all peers; diamonds: unshaped", ylim=(0, None))
    right.set(ylabel="share of the same arm unshaped", ylim=(0, None))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="Mbit/s of each peer, each way")
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=85)


def _line(axes: Any, points: Sequence[Any], cells: Sequence[Cell], colour: str, label: str) -> None:
    if not points:
        return
    axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label, markersize=4)
    scaled = next((cell.link.megabits for cell in cells if cell.link.name == SCALED), None)
    for x, y in points:
        if x == scaled:
            axes.plot(x, y, "o", color=colour, fillstyle="none", markersize=11)
