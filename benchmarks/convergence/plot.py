"""The plot of the convergence benchmark: loss by rounds, and by what a peer has sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.convergence.arms import Arm
from benchmarks.convergence.report import Line

_COLOURS = (*range(0, 20, 2), *range(1, 20, 2))  # of tab20, whose neighbours are alike
_SHOWN = 15  # curves and their labels


def plot(lines: Sequence[Line], out: Path, *, parameters: int) -> None:
    """Draw the lines that have a loss into a PNG file.

    Left, the best arm of each kind over the rounds. Right, every arm that sends sparse values, by what a peer
    has sent; arms that differ in their way back only are joined.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    shown = best_of_each_kind(lines)[:_SHOWN]
    colours = {kind(line.arm): colormaps["tab20"](_COLOURS[number]) for number, line in enumerate(shown)}
    figure = Figure(figsize=(15, 6.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    per_round = min(
        (line.curve[1]["tokens"] / line.curve[1]["round"] for line in shown if line.curve[1:]), default=1
    )
    for line in shown:
        curve = line.curve[1:]
        rounds = [point["tokens"] / per_round for point in curve]
        style = "--" if is_dense(line.arm) else "-"
        losses = [point["loss"] for point in curve]
        left.plot(rounds, losses, style, label=line.arm.label, color=colours[kind(line.arm)])
    left.set(xlabel="rounds", ylabel="validation loss, nats a token", yscale="log")
    ticks = [0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0]
    left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    left.minorticks_off()
    left.legend(fontsize=7.5)
    _draw_by_bytes(right, lines, shown, colours, parameters / 8e6)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=85)


def _draw_by_bytes(
    axes: Any, lines: Sequence[Line], shown: Sequence[Line], colours: dict[Arm, Any], megabytes_a_bit: float
) -> None:
    worst = max((line.loss or 0.0 for line in shown), default=1.0)
    sparse = [
        line for line in lines if not is_dense(line.arm) and line.loss is not None and line.loss <= worst
    ]
    backs: dict[Arm, list[tuple[float, float]]] = {}
    for line in sparse:
        place = (line.total * megabytes_a_bit, line.loss or 0.0)
        axes.plot(*place, "o", color=colours.get(kind(line.arm), "lightgrey"), markersize=5)
        backs.setdefault(_without_way_back(line.arm), []).append(place)
    for arm, places in backs.items():
        if len(places) > 1:
            axes.plot(
                *zip(*sorted(places), strict=True),
                "-",
                linewidth=1,
                color=colours.get(kind(arm), "lightgrey"),
            )
    for line in sparse:
        if len(backs[_without_way_back(line.arm)]) > 1:
            name = f"{line.arm.reduced_keep}@{line.arm.reduced_level_bits}"
            place = (line.total * megabytes_a_bit, line.loss or 0.0)
            offset = (-12, -13) if line.arm.reduced_level_bits == 1 else (5, 4)
            axes.annotate(name, place, xytext=offset, textcoords="offset points", fontsize=7.5)
    for number, line in enumerate(filter(lambda line: is_dense(line.arm), shown)):
        colour = colours[kind(line.arm)]
        axes.axhline(line.loss, linestyle="--", linewidth=1, color=colour)
        name = f"{line.arm.label}: {line.total * megabytes_a_bit / 1000:,.1f} GB"
        side = "top" if number % 2 else "bottom"  # two that end alike do not cover each other
        spot = (0.01, line.loss)
        axes.annotate(name, spot, xycoords=("axes fraction", "data"), va=side, fontsize=7.5, color="dimgrey")
    axes.set(xlabel="MB that a peer has sent", ylabel="validation loss in the table", xscale="log")
    ticks = [5, 7, 10, 15, 20, 30, 40]
    if sparse:
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()


def best_of_each_kind(lines: Sequence[Line]) -> list[Line]:
    """Return the line with the least loss of each kind of arm, best first."""
    best: dict[Arm, Line] = {}
    for line in sorted((line for line in lines if line.loss is not None), key=lambda line: line.loss or 0.0):
        best.setdefault(kind(line.arm), line)
    return list(best.values())


def kind(arm: Arm) -> Arm:
    """Return the arm with all left out that does not make it another kind of training."""
    muon = arm.muon_state if arm.inner == "muon" else "restart"
    return Arm(
        name="",
        method=arm.method,
        inner=arm.inner,
        adam_state=arm.adam_state,
        muon_state=muon,
        overlap=arm.overlap,
        early="early" if arm.early else "",
    )


def is_dense(arm: Arm) -> bool:
    """Whether the arm sends all values."""
    return arm.method in ("data-parallel", "dense")


def _without_way_back(arm: Arm) -> Arm:
    return replace(arm, reduced_keep=1, reduced_level_bits=0)
