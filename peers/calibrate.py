"""Measure how closely honest work repeats and how far cheats lie from it, and choose a recipe's thresholds.

    python -m peers.calibrate RECIPE --data PATH...
    python -m peers.calibrate PUBLISHED_FOLDER --into TEMPLATE

It trains a few windows of the recipe on this machine, repeats some of them in every kind of numerics that
the machine has (precision, micro-batch, threads, GPU and CPU) and by every cheat of
peers/calibration/cheats.py, and chooses thresholds by the rule of peers/calibration/thresholds.py. They are
written into the template; a published recipe is signed and cannot take them any more. Ctrl+C loses at most
the window at hand: the same command goes on, and --read makes table, picture and thresholds of what was
measured, here or elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from peers.calibration.margin_record import Record, read_record, write_record
from peers.calibration.margin_report import draw, table, threshold_table, with_thresholds
from peers.calibration.margins import Bench, Plan
from peers.calibration.thresholds import choose, outcomes
from peers.training.interface import find_replay_source
from recipes.command import plain_errors
from recipes.corpus import TokenArray
from recipes.errors import RecipeError
from recipes.formats.files import write_atomic
from recipes.locate import locate_recipe
from recipes.publication import RECIPE_FILE, Publication, load_publication, read_recipe_file
from recipes.schema.recipe import Recipe, parse_recipe

INTERRUPTED = 130
MARGINS_FILE = "margins.json"
PICTURE_FILE = "margins.png"
THRESHOLDS_FILE = "thresholds.toml"

Tell = Callable[[str], None]
"""Told what is being done, in a few words."""


def find_template(path: Path, into: Path | None) -> Path | None:
    """Return the file that takes the thresholds: `into`, or else the recipe at `path` unless it is published.

    Raises:
        RecipeError: one of the two is malformed, or `into` is published.
    """
    is_published = parse_recipe(read_recipe_file(path), name=str(path)).genesis is not None
    if into is None:
        return None if is_published else path
    if parse_recipe(read_recipe_file(into), name=str(into)).genesis is not None:
        raise RecipeError(
            f"{into} is published: a change would make its signature void.",
            remedy="Name the template that it was published from.",
        )
    return into


def find_publication(path: Path, data: Sequence[str], out: Path, *, tell: Tell) -> Publication:
    """Return the published run to train: that of `path`, or one made of the template there, in out/run.

    Raises:
        RecipeError: `path` is a template and there is no text, or out/run is of another recipe.
    """
    recipe = parse_recipe(read_recipe_file(path), name=str(path))
    if recipe.genesis is not None:
        return load_publication(path.parent)
    folder = out / "run"
    if (folder / RECIPE_FILE).exists():
        made = load_publication(folder)
        if _trains_alike(made.recipe, recipe):
            return made
        raise RecipeError(
            f"{folder} was made from a recipe that trains otherwise than {path}.",
            remedy="Remove it, or name another folder with --out.",
        )
    if not data:
        raise RecipeError(
            f"{path} is a template: there is no text to train on yet.",
            remedy="Name some with --data, or give a published folder.",
        )
    from recipes.publish import publish

    return publish(path, data, folder, home=out / "home", tell=tell)


def measure(publication: Publication, plan: Plan, devices: Sequence[str], out: Path, *, tell: Tell) -> Record:
    """Measure what is not in out/margins.json yet, and write it there window by window.

    Raises:
        PlatformError: a device is not here.
        ModelError: the model does not fit a device.
        StorageError: the disk refuses.
    """
    recipe = publication.recipe
    source = find_replay_source()
    numerics = source.numerics_here(recipe, wanted=devices)
    record = Record(
        recipe=recipe.run.name,
        run_id=publication.run_id,
        machine=source.describe_machine(numerics),
        day=datetime.now(timezone.utc).date().isoformat(),
        numerics=tuple(one.label for one in numerics),
        plan=plan,
    )
    path = out / MARGINS_FILE
    if path.exists() and record.continues(known := read_record(path)):
        tell(f"going on from {len(known.windows)} windows in {path}")
        record = known
    bench = Bench(
        recipe=recipe,
        tokens=TokenArray(publication.data, publication.manifest, "train"),
        run_id=publication.run_id,
        source=source,
        numerics=numerics,
        plan=plan,
        tell=tell,
    )
    weights = np.memmap(publication.weights, dtype="<f4", mode="r")
    for comparisons in bench.measure(weights, known=record.windows):
        record = record.with_window(comparisons)
        write_record(path, record)
    return record


def report(records: Sequence[Record], out: Path, into: Path | None, *, tell: Tell) -> None:
    """Print table and thresholds, draw the picture, and write the thresholds.

    Args:
        records: of one recipe, from one machine or several.
        out: folder for picture and thresholds.
        into: a template that takes the thresholds; None for none.
        tell: told of what is left out.

    Raises:
        RecipeError: the records are of several recipes.
        StorageError: the disk refuses.
    """
    if len({record.recipe for record in records}) != 1:
        raise RecipeError("These margins are of several recipes.", remedy="Name files of one recipe only.")
    comparisons = [one for record in records for one in record.comparisons]
    choices = choose(comparisons)
    print(f"{table(outcomes(comparisons, choices))}\n\n{threshold_table(choices)}\n")
    provenance = [record.words() for record in records]
    write_atomic(out / THRESHOLDS_FILE, with_thresholds("", choices, provenance=provenance).encode())
    try:
        draw(comparisons, choices, out / PICTURE_FILE)
    except ModuleNotFoundError as error:
        tell(f"no picture, for {error.name} is not here; --read {out / MARGINS_FILE} draws it elsewhere")
    uncalibrated = [choice.numeric_class for choice in choices if choice.thresholds is None]
    if uncalibrated:
        print(f"Not calibrated: {', '.join(uncalibrated)}. Audits of such claims punish nobody.")
    if into is None:
        print(f"The thresholds are in {out / THRESHOLDS_FILE}. Put them into a template and publish it.")
        return
    content = read_recipe_file(into).decode()
    write_atomic(into, with_thresholds(content, choices, provenance=provenance).encode())
    print(f"The thresholds stand in {into}.")


def _trains_alike(one: Recipe, other: Recipe) -> bool:
    sections = ("model", "tokenizer", "data", "inner", "schedule", "outer", "exchange")
    return all(getattr(one, name) == getattr(other, name) for name in sections)


def _teller() -> Tell:
    started = time.monotonic()

    def tell(words: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {words}", file=sys.stderr, flush=True)

    return tell


def main(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's TOML file, a published folder, or a name from the catalogue.")
    ],
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Text to train a template on. Repeat it for more.")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Windows to train before measuring.")] = 8,
    honest: Annotated[bool, typer.Option("--honest", help="Measure honest work alone, no cheats.")] = False,
    windows: Annotated[int, typer.Option(min=1, help="Windows to measure.")] = 4,
    steps: Annotated[int, typer.Option(min=2, help="Local steps of a window.")] = 30,
    chunks: Annotated[int, typer.Option(min=1, help="Chunks of 4096 values that are opened.")] = 128,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="Devices to compare: cpu, cuda ... By default a GPU, if there is one, and the CPU."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for figures and picture.")] = Path("results/calibration"),
    into: Annotated[
        Path | None,
        typer.Option(help="Template that takes the thresholds. By default RECIPE, unless it is published."),
    ] = None,
    read: Annotated[
        list[Path] | None,
        typer.Option(help="Measure nothing: take margins.json from an earlier run. Repeat it for more."),
    ] = None,
) -> None:
    """Measure how closely honest work repeats, and choose the thresholds of a recipe's audits."""
    tell = _teller()
    try:
        with plain_errors():
            path = locate_recipe(recipe)
            template = find_template(path, into)
            if read:
                records = [read_record(file) for file in read]
            else:
                plan = Plan(warmup=warmup, windows=windows, steps=steps, chunks=chunks, cheats=not honest)
                publication = find_publication(path, data or (), out, tell=tell)
                records = [measure(publication, plan, device or (), out, tell=tell)]
            report(records, out, template, tell=tell)
    except KeyboardInterrupt:
        print(
            f"Interrupted. Whole windows are kept in {out / MARGINS_FILE}: the same command goes on, and "
            "--read takes what there is. No recipe was changed.",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    typer.run(main)
