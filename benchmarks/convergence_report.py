"""What the convergence benchmark found: a table, a plot, and one JSON file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from recipes.errors import DataError
from recipes.files import write_atomic

Result = dict[str, Any]
"""What benchmarks.convergence_run writes of one arm and seed."""

_SHOWN = 16  # curves in one plot


@dataclass(frozen=True, kw_only=True)
class Line:
    """An arm, its seeds taken together. Bits are a parameter; `upload` is a peer's in a round.

    `loss` is None while no seed is done.
    """

    arm: str
    seeds: int
    loss: float | None
    spread: float
    contribution: float
    reduced: float
    upload: float
    total: float
    feedback: float
    seconds: float


def collect(files: Sequence[Path]) -> list[Result]:
    """Read what arms have written; unfinished ones too."""
    return [json.loads(file.read_bytes()) for file in files if file.exists()]


def summarise(results: Sequence[Result]) -> list[Line]:
    """Take the seeds of each arm together, in the order of first appearance."""
    lines = []
    for name in dict.fromkeys(result["arm"]["name"] for result in results):
        mine = [result for result in results if result["arm"]["name"] == name and "rows" in result]
        done = [result["final_loss"] for result in mine if "final_loss" in result]
        rows = [row for result in mine for row in result["rows"]]
        total = sum(_upload(row) for row in rows) / max(1, len(mine))
        lines.append(
            Line(
                arm=name,
                seeds=len(done),
                loss=statistics.mean(done) if done else None,
                spread=max(done) - min(done) if done else 0.0,
                contribution=_mean(rows, "contribution"),
                reduced=_mean(rows, "reduced"),
                upload=total / max(1, len(rows) / max(1, len(mine))),
                total=total,
                feedback=_mean(rows[-10:], "feedback_norm") / (_mean(rows[-10:], "delta_norm") or 1.0),
                seconds=statistics.mean(sum(result["seconds"].values()) for result in mine) if mine else 0.0,
            )
        )
    return lines


def table(lines: Sequence[Line], *, title: str) -> Table:
    """Return the arms, best loss first; those without one last."""
    bases = [_best(lines, name) for name in ("adamw-dp", "muon-dp")]
    made = Table(title=title)
    made.add_column("arm", overflow="fold")
    for column in ("seeds", "loss", "± / 2", "to AdamW DP", "to Muon DP"):
        made.add_column(column, justify="right")
    for column in ("out", "back", "upload", "total upload", "held / new", "s"):
        made.add_column(column, justify="right")
    for line in sorted(lines, key=lambda line: (line.loss is None, line.loss or 0.0)):
        made.add_row(
            line.arm,
            str(line.seeds),
            "-" if line.loss is None else f"{line.loss:.4f}",
            f"{line.spread / 2:.4f}",
            *(_gap(line.loss, base) for base in bases),
            f"{line.contribution:.3f}",
            f"{line.reduced:.3f}",
            f"{line.upload:.3f}",
            f"{line.total:.1f}",
            f"{line.feedback:.1f}",
            f"{line.seconds:.0f}",
        )
    return made


def read(files: Sequence[Path]) -> list[Result]:
    """Read the results of earlier benchmarks, from the files that `write` wrote.

    Raises:
        DataError: a file cannot be read, or holds something else.
    """
    results: list[Result] = []
    for file in files:
        try:
            results += json.loads(file.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"Cannot read the results in {file}: {error}.") from error
    return results


def write(results: Sequence[Result], out: Path) -> None:
    """Write everything that is known as one JSON file."""
    write_atomic(out, json.dumps(list(results)).encode())


def plot(results: Sequence[Result], lines: Sequence[Line], out: Path) -> None:
    """Draw validation loss by tokens, and final loss by upload, into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    finished = [line for line in lines if line.loss is not None]
    for name in [line.arm for line in finished][:_SHOWN]:
        result = next(one for one in results if one["arm"]["name"] == name)
        curve = result["curve"][1:]
        left.plot([point["tokens"] for point in curve], [point["loss"] for point in curve], label=name)
    left.set(xlabel="tokens", ylabel="validation loss, nats a token", yscale="log")
    left.legend(fontsize=6)
    for line in finished:
        if line.upload and line.loss is not None:
            right.plot(line.upload, line.loss, "o")
            right.annotate(line.arm, (line.upload, line.loss), fontsize=5)
    right.set(xlabel="upload of a peer in a round, bits a parameter", ylabel="loss at the end", xscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def _best(lines: Sequence[Line], base: str) -> float | None:
    """Return the best loss of a base's arms."""
    found = [line.loss for line in lines if line.arm.partition(":")[0] == base and line.loss is not None]
    return min(found, default=None)


def _upload(row: dict[str, float]) -> float:
    return row.get("upload", 0.0)


def _mean(rows: Sequence[dict[str, float]], key: str) -> float:
    found = [row[key] for row in rows if key in row]
    return statistics.mean(found) if found else 0.0


def _gap(loss: float | None, base: float | None) -> str:
    return "-" if loss is None or base is None else f"{100 * (loss / base - 1):+.2f}%"
