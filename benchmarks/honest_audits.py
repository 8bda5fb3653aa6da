"""What audits by a recipe's thresholds say of honest work, in every kind of numerics that a machine has.

    python -m benchmarks.honest_audits RECIPE --data PATH [--jobs 2] [--steps 4,12,30] [--out FILE]

Each job trains on slots of its own, and some later ones for several windows before they measure, so that
work of all ages is audited, the first window from untrained weights included; windows are as short or long
as --steps says. In each window, every kind of numerics (precision, micro-batch, threads, GPU and CPU) does
the work once and audits all others of its precision, over its full length and with opened chunks: what one
calls honest, the other has to pass. A FAIL here would punish somebody who did nothing wrong; an
INCONCLUSIVE costs a second replay.

Results of several machines or runs are read together with --read.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from peers.audit.comparing import ChunkGap, TraceGap
from peers.audit.judging import judge, thresholds_of
from peers.calibrate import find_publication
from peers.calibration.margins import Bench, Comparison, Plan
from peers.training.interface import find_replay_source, precision_of
from recipes.command import plain_errors
from recipes.corpus import TokenArray
from recipes.errors import DataError
from recipes.formats.files import write_atomic
from recipes.locate import locate_recipe
from recipes.publication import load_publication
from recipes.schema.recipe import Recipe

OUTCOMES = ("pass", "inconclusive", "fail")
SLOTS_OF_A_JOB = 1 << 20

console = Console(highlight=False, width=150)


def audit(folder: Path, out: Path, job: int, *, plan: Plan, devices: Sequence[str], until: float) -> None:
    """Measure a job's windows, and write what was compared after each, until it is time to stop.

    Args:
        folder: the published run.
        out: file of this job's results.
        job: its number.
        plan: how many windows, of how many steps.
        devices: in the words of `trainer.join --device`.
        until: when no further window begins, in Unix time.
    """
    publication = load_publication(folder)
    source = find_replay_source()
    numerics = source.numerics_here(publication.recipe, wanted=devices)
    bench = Bench(
        recipe=publication.recipe,
        tokens=TokenArray(publication.data, publication.manifest, "train"),
        run_id=publication.run_id,
        source=source,
        numerics=numerics,
        plan=plan,
        tell=lambda _: None,
    )
    weights = np.memmap(publication.weights, dtype="<f4", mode="r")
    found: dict[str, Any] = {"machine": source.describe_machine(numerics), "job": job, "comparisons": []}
    for comparisons in bench.measure(weights):
        found["comparisons"] += [_short(one) for one in comparisons]
        write_atomic(out, json.dumps(found).encode())
        if time.time() > until:
            return


def _short(one: Comparison) -> dict[str, Any]:
    known = asdict(one)
    return {
        **known,
        "steps": len(one.loss_mean),
        "loss_mean": one.loss_mean[-1],
        "loss_worst": one.loss_worst[-1],
    }


def outcome_of(comparison: dict[str, Any], recipe: Recipe) -> str:
    """Return what an audit of the whole window would say by the recipe's thresholds."""
    return judge(
        TraceGap(mean=comparison["loss_mean"], worst=comparison["loss_worst"]),
        ChunkGap(**{name: comparison[name] for name in ("sound", "dropped", "direction", "length")}),
        thresholds_of(recipe, comparison["claimant_class"]),
    ).outcome


def table(comparisons: Iterable[dict[str, Any]], recipe: Recipe) -> Table:
    """Return a row for each pair of numeric classes, and one for all: audits by outcome, and largest gaps."""
    made = Table(title=f"Audits of honest work by the thresholds of {recipe.run.name}")
    for title in ("claimed in", "audited in", "audits", *OUTCOMES, "unsure"):
        made.add_column(title, justify="left" if title.endswith("in") else "right")
    measures = ("loss_mean", "loss_worst", "dropped", "direction", "length")
    for title in measures:
        made.add_column(title, justify="right")
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in comparisons:
        if precision_of(one["claimant_class"]) != precision_of(one["auditor_class"]):
            continue  # no auditor replays in another precision
        pairs.setdefault((one["claimant_class"], one["auditor_class"]), []).append(one)
    every = [one for found in pairs.values() for one in found]
    for (claimant, auditor), found in [*sorted(pairs.items()), (("all", ""), every)]:
        counts = Counter(outcome_of(one, recipe) for one in found)
        made.add_row(
            claimant,
            auditor,
            f"{len(found):,}",
            *(str(counts[name]) for name in OUTCOMES),
            f"{counts['inconclusive'] / max(1, len(found)):.1%}",
            *(f"{max((one[name] for one in found), default=0):.2g}" for name in measures),
        )
    return made


def main(
    recipe: Annotated[str, typer.Argument(help="A published folder, a template, or a recipe's name.")],
    data: Annotated[list[str], typer.Option(help="Text to train on, for a template.")] = [],  # noqa: B006
    device: Annotated[list[str], typer.Option(help="As for trainer.join; by default all.")] = [],  # noqa: B006
    jobs: Annotated[int, typer.Option(min=1, help="Processes that train side by side.")] = 2,
    windows: Annotated[int, typer.Option(min=1, help="Windows of each job.")] = 4,
    steps: Annotated[str, typer.Option(help="Local steps of a window, one job after the other.")] = "4,12,30",
    chunks: Annotated[int, typer.Option(min=1, help="Chunks that are opened.")] = 128,
    minutes: Annotated[float, typer.Option(min=0, help="After so many, no further window begins.")] = 1e6,
    read: Annotated[list[Path], typer.Option(help="Measure nothing: show these results.")] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="JSON.")] = Path("results/honest_audits.json"),
) -> None:
    """Audit honest work by a recipe's thresholds, and count what the audits say."""
    with plain_errors():
        path = locate_recipe(recipe)
        publication = find_publication(path, data, out.with_suffix(""), tell=console.print)
        found = [json.loads(file.read_bytes()) for file in read] or _measure(
            publication.folder,
            out,
            (jobs, windows, chunks),
            [int(word) for word in steps.split(",")],
            device,
            minutes,
        )
        comparisons = [one for result in found for one in result["comparisons"]]
        if not comparisons:
            raise DataError("Nothing was compared.", remedy="Allow more minutes.")
        console.print(table(comparisons, publication.recipe))
        if not read:
            machine = found[0]["machine"]
            write_atomic(out, json.dumps({"machine": machine, "comparisons": comparisons}).encode())
            console.print(f"On {machine}. Wrote {out}.")


def _measure(
    folder: Path,
    out: Path,
    sizes: tuple[int, int, int],
    lengths: Sequence[int],
    devices: Sequence[str],
    minutes: float,
) -> list[dict[str, Any]]:
    """Run all jobs, and return what they wrote."""
    jobs, windows, chunks = sizes
    context = multiprocessing.get_context("spawn")
    parts = [out.with_suffix(f".{job}.json") for job in range(jobs)]
    until = time.time() + 60 * minutes
    processes = []
    for job, part in enumerate(parts):
        steps = lengths[job % len(lengths)]
        warmup = job // len(lengths) * 3
        plan = Plan(warmup, windows, steps, chunks, first_slot=job * SLOTS_OF_A_JOB, cheats=False)
        process = context.Process(
            target=audit, args=(folder, part, job), kwargs={"plan": plan, "devices": devices, "until": until}
        )
        process.start()
        processes.append(process)
    for process in processes:
        process.join()
    written = [json.loads(part.read_bytes()) for part in parts if part.exists()]
    for part in parts:
        part.unlink(missing_ok=True)
    return written


if __name__ == "__main__":
    typer.run(main)
