"""What the convergence benchmark found: a table, and one JSON file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.convergence.arms import Arm
from recipes.errors import DataError
from recipes.formats.files import write_atomic

Result = dict[str, Any]
"""What benchmarks.convergence.run writes of one arm and seed."""

Point = dict[str, Any]
"""One measurement of the validation loss: after which round and how many tokens, and the loss."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """An arm, its seeds taken together. Bits are a parameter; `upload` is a peer's in a round.

    `loss` is None while no seed has come far enough; `curve` is the first seed's.
    """

    arm: Arm
    curve: tuple[Point, ...]
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


def summarise(results: Sequence[Result], *, at: int | None = None) -> list[Line]:
    """Take the seeds of each arm together, in the order of first appearance.

    Args:
        results: what was read or collected.
        at: compare after so many rounds, by the measurements taken underway, in place of the end. An arm with
            other windows is compared at as many tokens; one that has no measurement there has no loss.
    """
    found: dict[Arm, list[Result]] = {}
    for result in results:
        if "rows" in result:
            found.setdefault(replace(Arm(**result["arm"]), name=""), []).append(result)
    tokens = None if at is None else _tokens(results, at)
    return [_line(arm, mine, tokens) for arm, mine in found.items()]


def _tokens(results: Sequence[Result], round_number: int) -> int:
    """Return the tokens of so many rounds.

    Raises:
        DataError: no arm was measured after that round.
    """
    # The shortest windows are taken for the benchmark's own: arms with `steps` lengthen them.
    for result in sorted(results, key=lambda result: int(result.get("steps", 0))):
        for point in result.get("curve", ()):
            if point["round"] == round_number:
                return int(point["tokens"])
    raise DataError(f"No arm was measured after round {round_number}.")


def _line(arm: Arm, results: Sequence[Result], tokens: int | None) -> Line:
    losses, totals, rows = [], [], []
    for result in results:
        mine, loss = result["rows"], result.get("final_loss")
        if tokens is not None:
            point = next((one for one in result["curve"] if one["tokens"] == tokens), None)
            mine, loss = (mine, None) if point is None else (mine[: point["round"]], point["loss"])
        if loss is not None:
            losses.append(loss)
        if loss is not None or len(results) == 1:
            totals.append(sum(_upload(row) for row in mine))
            rows += mine
    return Line(
        arm=arm,
        curve=tuple(results[0].get("curve", ())),
        seeds=len(losses),
        loss=statistics.mean(losses) if losses else None,
        spread=max(losses) - min(losses) if losses else 0.0,
        contribution=_mean(rows, "contribution"),
        reduced=_mean(rows, "reduced"),
        upload=_mean(rows, "upload"),
        total=statistics.mean(totals) if totals else 0.0,
        feedback=_mean(rows[-10:], "feedback_norm") / (_mean(rows[-10:], "delta_norm") or 1.0),
        seconds=statistics.mean(sum(result["seconds"].values()) for result in results),
    )


def table(lines: Sequence[Line], *, title: str) -> Table:
    """Return the arms, best loss first; those without one last."""
    bases = [_best(lines, inner) for inner in ("adamw", "muon")]
    made = Table(title=title)
    made.add_column("arm", overflow="fold")
    for column in ("seeds", "loss", "± / 2", "to AdamW DP", "to Muon DP"):
        made.add_column(column, justify="right")
    for column in ("out", "back", "upload", "total upload", "held / new", "s"):
        made.add_column(column, justify="right")
    for line in sorted(lines, key=lambda line: (line.loss is None, line.loss or 0.0)):
        made.add_row(
            line.arm.label,
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
            found = json.loads(file.read_bytes())
            for result in found:
                Arm(**result["arm"])
            results += found
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"Cannot read the results in {file}: {error}.") from error
    return results


def write(results: Sequence[Result], out: Path) -> None:
    """Write everything that is known as one JSON file."""
    write_atomic(out, json.dumps(list(results)).encode())


def _best(lines: Sequence[Line], inner: str) -> float | None:
    """Return the best loss of data parallel training with an inner optimizer."""
    mine = [line for line in lines if (line.arm.method, line.arm.inner) == ("data-parallel", inner)]
    return min((line.loss for line in mine if line.loss is not None), default=None)


def _upload(row: dict[str, float]) -> float:
    return row.get("upload", 0.0)


def _mean(rows: Sequence[dict[str, float]], key: str) -> float:
    found = [row[key] for row in rows if key in row]
    return statistics.mean(found) if found else 0.0


def _gap(loss: float | None, base: float | None) -> str:
    return "-" if loss is None or base is None else f"{100 * (loss / base - 1):+.2f}%"
