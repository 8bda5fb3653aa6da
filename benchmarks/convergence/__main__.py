"""What sparse rounds cost in loss: ways to train the same small model on the same tokens, side by side.

    python -m benchmarks.convergence [--arm ARM]... [--arms FILE] [--workers 8] [--rounds 150] [--steps 15]
        [--seeds 0,1,2] [--device auto] [--jobs 2] [--data FOLDER] [--at ROUND] [--out FILE]
    python -m benchmarks.convergence --read FILE [--read FILE]... [--at ROUND] [--out FILE]

All workers of an arm live in one process, in one batch (benchmarks/convergence/local.py), and exchange
through the production codec, reduction and outer optimizer (benchmarks/convergence/exchange.py). An ARM is a
base, and changes to it: `ours:reduced_keep=128,reduced_level_bits=2`; benchmarks/convergence/arms.py has the
bases and the fields. A FILE holds an arm a line, in the order in which they are to run, and where seeds
differ, `seeds=0,1` after it. For every seed, all arms begin with the same weights and take the same tokens in
each round. It is meant for a GPU; on a CPU, choose few rounds.

`main` is long by its options: each is one parameter.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.convergence.arms import BASES, Arm, parse_arm
from benchmarks.convergence.model import check_against_production
from benchmarks.convergence.plot import plot
from benchmarks.convergence.report import Result, collect, read, summarise, table, write
from benchmarks.convergence.run import Task, run
from recipes.command import plain_errors
from recipes.corpus import TokenArray
from recipes.errors import DataError, PlatformError, RecipeError
from recipes.layout import Layout, layout_of
from recipes.locate import locate_recipe
from recipes.model import build_model, flatten_into
from recipes.publication import Publication, load_publication
from recipes.publish import publish

_PRELOADED = ["benchmarks.convergence.run", "torch", "numpy"]
_POLL_SECONDS = 5.0
ROUNDS = 150

console = Console(highlight=False, width=190)


@dataclass(frozen=True)
class Wanted:
    """An arm and the seeds that it runs with."""

    arm: Arm
    seeds: tuple[int, ...]


def read_arms(file: Path, seeds: tuple[int, ...]) -> list[Wanted]:
    """Read arms, one a line; `#` begins a comment.

    Raises:
        DataError: the file cannot be read.
        RecipeError: a line is not an arm.
    """
    try:
        text = file.read_text()
    except OSError as error:
        raise DataError(f"Cannot read the arms in {file}: {error.strerror}.") from error
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        mine = seeds
        for word in words[1:]:
            key, _, value = word.partition("=")
            if key != "seeds":
                raise RecipeError(f"After an arm comes seeds=0,1 or nothing, not {word!r}.")
            mine = _numbers(value)
        found.append(Wanted(parse_arm(words[0]), mine))
    return found


def run_all(tasks: Sequence[Task], *, jobs: int, deadline: float, out: Path) -> None:
    """Run tasks in order, so many at a time, each in a process of its own, and gather what they write.

    A process that dies takes nothing with it but its own arm. After `deadline`, a time of `time.monotonic`,
    what still runs is ended; what it has measured so far stays.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    waiting, running = list(tasks), dict[ForkServerProcess, Task]()
    ended = 0
    try:
        while (waiting or running) and time.monotonic() < deadline:
            while waiting and len(running) < jobs:
                task = waiting.pop(0)
                process = context.Process(target=run, args=(task,), daemon=True)
                process.start()
                running[process] = task
            ready = wait([process.sentinel for process in running], timeout=_POLL_SECONDS)
            for process in [process for process in running if process.sentinel in ready]:
                task = running.pop(process)
                process.join()
                ended += 1
                _tell(task, process.exitcode, f"{ended}/{len(tasks)}")
            if ready:
                write(collect([task.out for task in tasks]), out)
    finally:
        for process in running:
            process.kill()
        write(collect([task.out for task in tasks]), out)
    if waiting or running:
        console.print(f"Time is up: {len(running)} arms were cut short, and {len(waiting)} did not begin.")


def _tell(task: Task, code: int | None, count: str) -> None:
    result = json.loads(task.out.read_bytes()) if task.out.exists() else {}
    if "final_loss" in result:
        how = f"{result['final_loss']:.4f}, seconds {result['seconds']}, recorded {result['recorded']}"
    else:
        how = f"failed with exit code {code}\n{result.get('failed', '')}"
    console.print(f"{count} {task.arm.name}, seed {task.seed}: {how}", markup=False)


def prepare(data: str, run_folder: Path | None, recipe: str, folder: Path) -> Publication:
    """Return the run at `run_folder`, or publish `recipe` with the text at `data` there, or in `folder`."""
    where = run_folder or folder / "run"
    if (where / "recipe.toml").exists():
        return load_publication(where)
    return publish(locate_recipe(recipe), [data], where, home=folder / "home", tell=console.print)


def first_weights(publication: Publication, layout: Layout, seed: int, folder: Path) -> Path:
    """Draw a seed's first weights; seed 0 has the recipe's."""
    recipe = publication.recipe
    model = recipe.model.model_copy(update={"seed": recipe.model.seed + seed})
    weights = np.empty(layout.padded, dtype=np.float32)
    flatten_into(build_model(recipe.model_copy(update={"model": model})), weights)
    path = folder / f"weights-{seed}.npy"
    np.save(path, weights)
    return path


def _check(publication: Publication) -> None:
    tokens = TokenArray(publication.data, publication.manifest, "train")
    batch = np.stack([tokens.sequence(position) for position in range(4)])
    check_against_production(publication.recipe, torch.from_numpy(batch.reshape(2, 2, -1)))
    console.print("The batched model's losses and gradients are those of the production model.")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise RecipeError(f"Seeds are whole numbers with commas between, not {text!r}.") from error


def main(
    arm: Annotated[list[str] | None, typer.Option(help="An arm; may be given more than once.")] = None,
    arms: Annotated[Path | None, typer.Option(help="A file of arms, one a line.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64)] = 8,
    rounds: Annotated[int | None, typer.Option(min=1, help="150, where there is a GPU.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Local steps of a round.")] = 15,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    device: Annotated[str, typer.Option(help="`cpu`, `cuda`, or `auto`.")] = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Arms that run at the same time.")] = 2,
    minutes: Annotated[float, typer.Option(help="After so many, what still runs is ended.")] = 1e6,
    recipe: Annotated[str, typer.Option(help="A recipe's file, or its name.")] = "stdlib-tiny",
    data: Annotated[str, typer.Option(help="The text to train on.")] = str(Path(json.__file__).parents[1]),
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="A published run to train on; it is made if there is none.")
    ] = None,
    evaluations: Annotated[int, typer.Option(min=1, help="Points of each curve.")] = 25,
    warmup: Annotated[float, typer.Option(help="Share of the tokens for warming up.")] = 0.02,
    final_slots: Annotated[int, typer.Option(min=1, help="Sequences of the last measurement.")] = 2048,
    read_results: Annotated[
        list[Path] | None, typer.Option("--read", help="Train nothing: show results written before.")
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(
            min=1, help="Compare after this round, and not at the end, which some have not reached."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="JSON; the plot goes beside it.")] = Path(
        "results/convergence.json"
    ),
) -> None:
    """Train the same model in many ways, and compare the losses at equal tokens."""
    deadline = time.monotonic() + 60 * minutes
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    with plain_errors(), tempfile.TemporaryDirectory() as temporary:
        if read_results:
            results = read(read_results)
            write(results, out)
            show(results, out, at=at)
            return
        folder = Path(temporary)
        wanted = [Wanted(parse_arm(text), _numbers(seeds)) for text in arm or ()]
        wanted += read_arms(arms, _numbers(seeds)) if arms else []
        if not wanted:
            wanted = [Wanted(parse_arm(base), _numbers(seeds)) for base in BASES]
        where, rounds = _scope(device, rounds)
        publication = prepare(data, run_folder, recipe, folder)
        layout = layout_of(publication.recipe)
        _check(publication)
        chosen = sorted({seed for one in wanted for seed in one.seeds})
        weights = {seed: first_weights(publication, layout, seed, folder) for seed in chosen}
        tasks = [
            Task(
                arm=one.arm,
                seed=seed,
                publication=publication,
                layout=layout,
                weights=weights[seed],
                workers=workers,
                rounds=rounds,
                steps=steps,
                device=where,
                evaluate_every=max(1, rounds // evaluations),
                evaluate_slots=min(256, final_slots),
                final_slots=final_slots,
                warmup_fraction=warmup,
                out=folder / f"arm-{number}.json",
            )
            for number, (one, seed) in enumerate(
                itertools.chain.from_iterable(((one, seed) for seed in one.seeds) for one in wanted)
            )
        ]
        console.print(f"{len(tasks)} runs of {rounds} rounds x {steps} steps x {workers} workers.")
        run_all(tasks, jobs=jobs, deadline=deadline, out=out)
        results = collect([task.out for task in tasks])
        show(results, out, at=at)


def show(results: Sequence[Result], out: Path, *, at: int | None = None) -> None:
    """Print the table, and draw the plot beside `out`."""
    lines = summarise(results, at=at)
    one = results[0]
    title = f"{one['workers']} workers, {one['parameters']:,} parameters, on {one['device']}"
    title += "" if at is None else f", after round {at}"
    console.print(table(lines, title=f"{title}; sizes in bits a parameter"))
    plot(lines, out.with_suffix(".png"), parameters=one["parameters"])
    console.print(f"Wrote {out} and {out.with_suffix('.png')}.")


def _scope(device: str, rounds: int | None) -> tuple[str, int]:
    """Return where to train, and for how many rounds.

    Raises:
        PlatformError: the device is not here, or hundreds of rounds would take it days.
    """
    gpu = torch.cuda.is_available()
    where = ("cuda" if gpu else "cpu") if device == "auto" else device
    if where != "cpu" and not gpu:
        raise PlatformError(f"This machine has no device {where!r} that torch can use.")
    if where == "cpu" and rounds is None:
        raise PlatformError(
            f"{ROUNDS} rounds would take this CPU days.", remedy="Choose few with --rounds, or use a GPU."
        )
    return where, rounds or ROUNDS


if __name__ == "__main__":
    typer.run(main)
