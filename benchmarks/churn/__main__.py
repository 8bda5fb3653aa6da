"""A swarm of which some are killed in every round, beside one that is left alone.

    python -m benchmarks.churn [--peers 8] [--killed 2] [--rounds 30] [--seeds 3] [--out results]

Real processes on loopback train a very small model. In each round of the disturbed runs, `--killed`
volunteers die by SIGKILL, while they train, after their claim or in the exchange, and are started again at
once with their disks. For each seed, the validation losses of both runs are compared at equal numbers of
counted tokens.

A finished run is kept in OUT/churn and not run again, unless --fresh. The command ends with exit code 1 if
a round took longer than its bound, if two peers held different states, or if the disturbed runs' loss is
more than 1% above that of the others. At equal tokens a disturbed run has had more rounds, so equal rounds
are shown, too.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from benchmarks.churn.figures import Comparison, compare
from benchmarks.churn.swarm import RECIPE, RunRecord, Swarm
from benchmarks.harness.warm_start import warm_launch
from recipes.command import plain_errors
from recipes.errors import RecipeError
from recipes.formats.blake3_tree import digest
from recipes.formats.files import write_atomic
from trainer.demo.peer import launch

TOLERANCE = 0.01  # of the loss
_RECORDS = TypeAdapter(RunRecord)


def one_run(
    seed: int, *, peers: int, killed: int, rounds: int, cold: bool, kept: Path, fresh: bool, console: Console
) -> RunRecord:
    """Return the record of one run: the kept one if it was made with the same settings, or that of a new run.

    Raises:
        NetworkError: the swarm lost a process that nobody killed, or stood still.
    """
    settings: dict[str, int | str] = {"peers": peers, "killed": killed, "rounds": rounds, "cold": cold}
    settings["recipe"] = digest(RECIPE.encode()).hex()
    folder = kept / f"seed-{seed}-{'disturbed' if killed else 'undisturbed'}"
    file = folder.with_suffix(".json")
    if file.exists() and not fresh:
        content = json.loads(file.read_bytes())
        if content["settings"] == settings:
            console.print(f"Kept: {file}")
            return _RECORDS.validate_python(content["record"])
    shutil.rmtree(folder, ignore_errors=True)
    swarm = Swarm(
        folder.absolute(),
        seed=seed,
        peers=peers,
        killed=killed,
        rounds=rounds,
        launched_by=launch if cold else warm_launch,
        tell=console.print,
    )
    record = swarm.run()
    write_atomic(file, json.dumps({"settings": settings, "record": asdict(record)}, indent=1).encode())
    return record


def rounds_table(records: Sequence[RunRecord]) -> Table:
    """Return a row for each run: what its rounds took, and what they counted."""
    table = Table(title="Rounds", box=None, padding=(0, 1))
    columns = ("seed", "killed", "rounds", "mean s", "longest", "bound", "counted", "claims", "rewinds")
    for column in (*columns, "agree"):
        table.add_column(column, justify="right")
    for record in records:
        took = [one.seconds for one in record.rounds]
        table.add_row(
            str(record.seed),
            str(len(record.deaths)),
            str(len(record.rounds)),
            f"{statistics.mean(took):.1f}",
            f"{max(took):.1f}",
            f"{record.bound_seconds:.0f}",
            f"{record.counted_share:.1%}",
            f"{record.counted / max(1, record.claimed):.1%}",
            str(record.rewinds),
            "yes" if record.identical else "NO",
        )
    return table


def losses_table(comparisons: Sequence[Sequence[Comparison]]) -> Table:
    """Return a row for each seed and point: the losses at equal counted tokens."""
    table = Table(title="Validation loss, nats a token, at equal counted tokens", box=None, padding=(0, 1))
    for column in ("seed", "tokens", "killed in every round", "left alone", "ratio"):
        table.add_column(column, justify="right")
    for seed, points in enumerate(comparisons, start=1):
        for point in points:
            losses = (f"{point.disturbed:.4f}", f"{point.undisturbed:.4f}", f"{point.ratio:.4f}")
            table.add_row(str(seed), f"{point.tokens:,}", *losses)
    return table


def draw(path: Path, records: Sequence[RunRecord]) -> None:
    """Write a picture of all loss curves over counted tokens, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    for record in records:
        tokens, losses = zip(*record.curve, strict=True)
        label = f"seed {record.seed}, " + ("killed in every round" if record.disturbed else "left alone")
        style = "-" if record.disturbed else "--"
        axes.plot(tokens, losses, style, color=f"C{record.seed % 10}", linewidth=1, label=label)
    axes.set_xlabel("counted tokens")
    axes.set_ylabel("validation loss, nats a token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def faults(records: Sequence[RunRecord], comparisons: Sequence[Sequence[Comparison]]) -> list[str]:
    """Return what was not as it should be, a sentence each."""
    found = []
    for record in records:
        name = f"Seed {record.seed}, {'disturbed' if record.disturbed else 'undisturbed'}"
        if record.past_bound:
            rounds = ", ".join(str(number) for number in record.past_bound)
            found.append(f"{name}: past the bound of {record.bound_seconds:.0f} s: round {rounds}.")
        if not record.identical:
            found.append(f"{name}: peers ended with different states.")
    mean = statistics.mean(comparison[-1].ratio for comparison in comparisons)
    if mean - 1 > TOLERANCE:
        found.append(f"The disturbed runs' loss is {mean:.4f} of the others', which is more than 1% above.")
    return found


def main(
    peers: Annotated[int, typer.Option(min=3, max=32, help="Processes: a publisher and volunteers.")] = 8,
    killed: Annotated[int, typer.Option(min=1, help="Volunteers killed in each round.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds after all were counted once.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Pairs of runs, with seeds from 1 on.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for churn.json, churn.png, and the runs' logs.")] = Path(
        "results"
    ),
    cold: Annotated[
        bool, typer.Option("--cold", help="Start each process with all its imports, as volunteers do.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what has been run already.")] = False,
) -> None:
    """Kill peers in every round, and compare the loss with that of a swarm left alone."""
    console = Console(highlight=False, soft_wrap=True)
    with plain_errors():
        if killed > peers - 1:
            raise RecipeError(
                f"Of {peers} peers, {peers - 1} are volunteers: {killed} cannot be killed.",
                remedy="Lower --killed, or raise --peers.",
            )
        records: list[RunRecord] = []
        comparisons: list[list[Comparison]] = []
        for seed in range(1, seeds + 1):
            disturbed, undisturbed = (
                one_run(
                    seed,
                    peers=peers,
                    killed=number,
                    rounds=rounds,
                    cold=cold,
                    kept=out / "churn",
                    fresh=fresh,
                    console=console,
                )
                for number in (killed, 0)
            )
            # Both are held to what the disturbed one may take.
            records += [disturbed, replace(undisturbed, bound_seconds=disturbed.bound_seconds)]
            comparisons.append(compare(disturbed.curve, undisturbed.curve))
    console.print(rounds_table(records), losses_table(comparisons))
    ratios = [points[-1].ratio for points in comparisons]
    console.print(
        f"Ratio of the losses at the end, over {seeds} seeds: mean {statistics.mean(ratios):.4f}, "
        f"from {min(ratios):.4f} to {max(ratios):.4f}"
    )
    by_rounds = equal_rounds(records)
    console.print(
        f"At equal rounds instead of equal tokens: mean {statistics.mean(by_rounds):.4f}, "
        f"from {min(by_rounds):.4f} to {max(by_rounds):.4f}"
    )
    draw(out / "churn.png", records)
    write_atomic(out / "churn.json", json.dumps(_result(records, comparisons), indent=1).encode())
    console.print(f"Wrote {out / 'churn.json'} and {out / 'churn.png'}. Logs are below {out / 'churn'}.")
    wrong = faults(records, comparisons)
    for sentence in wrong:
        console.print(sentence)
    sys.exit(1 if wrong else 0)


def equal_rounds(records: Sequence[RunRecord]) -> list[float]:
    """Return for each seed the disturbed run's loss over the other's, after as many rounds."""
    ratios = []
    for disturbed, undisturbed in zip(records[::2], records[1::2], strict=True):
        rounds = min(len(disturbed.curve), len(undisturbed.curve))
        ratios.append(disturbed.curve[rounds - 1][1] / undisturbed.curve[rounds - 1][1])
    return ratios


def _result(records: Sequence[RunRecord], comparisons: Sequence[Sequence[Comparison]]) -> dict[str, Any]:
    ratios = [comparison[-1].ratio for comparison in comparisons]
    return {
        "loss_ratio": {"mean": statistics.mean(ratios), "min": min(ratios), "max": max(ratios)},
        "loss_ratio_at_equal_rounds": equal_rounds(records),
        "comparisons": [[{**asdict(c), "ratio": c.ratio} for c in points] for points in comparisons],
        "runs": [asdict(record) for record in records],
    }


if __name__ == "__main__":
    typer.run(main)
