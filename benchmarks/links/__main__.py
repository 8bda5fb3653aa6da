"""Tokens per second over thin links: ours, blocking and overlapped, beside hivemind.Optimizer and all-reduce.

    python -m benchmarks.links [--rates 1,3,10,30,100] [--arms blocking,overlapped,...] [--window 10]
    python -m benchmarks.links --rates 10 --arms overlapped,all-reduce --again

Every arm trains the model of `stdlib-tiny` with the same batch, AdamW and one thread a process, in as many
processes, and everybody has data and first weights beforehand. The links are the rates at 100 ms and 1% loss,
`scaled` (as thin for this model as 10 Mbit/s is for one of 1e9 parameters with windows of 300 s), and
`unshaped` (loopback). Beside them stands what the same processes do with no network at all. The results are
written after each cell; what is in them already is not measured again. Needs root. Takes about 45 minutes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from benchmarks.harness.bad_links import prepare
from benchmarks.links.cells import ARMS, Benchmark, about, caption, publish_for, rows
from benchmarks.links.figures import (
    ALONE,
    LABELS,
    NO_NETWORK,
    Cell,
    Link,
    comparable,
    in_order,
    scaled_megabits,
    show,
)
from benchmarks.links.measure import Conditions
from benchmarks.links.plot import plot
from benchmarks.links.results import measured, read_cells, with_cell, write_cells
from recipes.command import plain_errors
from recipes.errors import NetworkError
from recipes.layout import published_layout


def rates_of(text: str) -> list[float]:
    """Return the rates of a list such as `1,3,10`.

    Raises:
        typer.BadParameter: it is not such a list.
    """
    try:
        rates = [float(entry) for entry in text.split(",") if entry]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list of Mbit/s, such as 1,3,10") from error
    if not all(rate > 0 for rate in rates):
        raise typer.BadParameter("a rate needs to be above 0")
    return rates


def arms_of(text: str) -> list[str]:
    """Return the arms of a list such as `blocking,all-reduce`.

    Raises:
        typer.BadParameter: one of them is unknown.
    """
    arms = text.split(",")
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise typer.BadParameter(f"there is no arm {unknown[0]!r}; there are {', '.join(ARMS)}")
    return arms


def main(
    arms: Annotated[str, typer.Option(help="What to compare, separated by commas.")] = ",".join(ARMS),
    rates: Annotated[str, typer.Option(help="Mbit/s of each peer, each way.")] = "1,3,10,30,100",
    peers: Annotated[int, typer.Option(min=2, max=64, help="Processes, of ours or of a rival.")] = 4,
    window: Annotated[float, typer.Option(min=1, help="Seconds of training in a round.")] = 10.0,
    overlap: Annotated[
        Literal["eager", "delayed"], typer.Option(help="How the overlapped arm begins its windows.")
    ] = "eager",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of ours to measure.")] = 3,
    warm_up: Annotated[int, typer.Option(min=0, help="Rounds before them, once all are counted.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="A rival's span, if its exchanges are quick.")] = 30.0,
    delay: Annotated[float, typer.Option(min=0, help="One way between two peers, in ms.")] = 50.0,
    loss: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the packets lost, each way.")] = 0.01,
    congestion: Annotated[
        str | None, typer.Option(help="TCP's congestion control: bbr, reno ... By default the machine's.")
    ] = None,
    again: Annotated[bool, typer.Option(help="Measure also what --out holds already.")] = False,
    out: Annotated[Path, typer.Option(help="JSON; the plot goes beside it.")] = Path("results/links.json"),
) -> None:
    """Measure training over thin links, ours beside others'."""
    console = Console(highlight=False, soft_wrap=True)
    chosen, megabits = arms_of(arms), rates_of(rates)
    before = read_cells(out)  # a wrong --out shows before anything is measured
    with plain_errors():
        congestion = prepare(congestion)
        conditions = Conditions(
            peers=peers,
            window_seconds=window,
            rounds=rounds,
            warm_up_rounds=warm_up,
            seconds=seconds,
            delay_ms=delay,
            loss=loss,
            congestion=congestion,
        )
        folder = Path(tempfile.mkdtemp(prefix="manyhands-links-"))
        try:
            plain = publish_for(folder / "plain", window, "none")
            benchmark = Benchmark(
                conditions=conditions,
                overlap=overlap,
                plain=plain,
                parameters=published_layout(plain.recipe).size,
                folder=folder,
                console=console,
            )
            cells = _measure_all(benchmark, chosen, megabits, before, again=again, out=out)
        finally:
            shutil.rmtree(folder / "plain", ignore_errors=True)
            with suppress(OSError):
                folder.rmdir()  # but not with the logs of a cell that failed
        show(console, cells, caption(benchmark))
        plot(cells, out.with_suffix(".png"))
        console.print(f"Wrote {out} and {out.with_suffix('.png')}.")
        failed = [f"{cell.link}, {LABELS[cell.arm]}" for cell in cells if cell.failed]
        if failed:
            raise NetworkError(
                f"{len(failed)} of {len(cells)} cells have no figures: {'; '.join(failed)}.",
                remedy=f"The processes' logs are below {folder}; the same command tries these cells again.",
            )


def _measure_all(
    benchmark: Benchmark,
    arms: Sequence[str],
    rates: Sequence[float],
    before: Sequence[Cell],
    *,
    again: bool,
    out: Path,
) -> list[Cell]:
    """Measure what is not known, writing after each cell; return all cells under these conditions."""
    cells = list(before)

    def obtain(wanted: Cell, count: str) -> Cell:
        nonlocal cells
        known = None if again else measured(cells, wanted)
        if known is not None:
            benchmark.console.print(
                f"[{count}] {wanted.link}, {LABELS[wanted.arm]}: measured before", markup=False
            )
            return known
        benchmark.console.print(f"[{count}]", end=" ", markup=False)
        cell = benchmark.measure(wanted)
        cells = with_cell(cells, cell)
        write_cells(out, cells, about(benchmark))
        return cell

    scaled = scaled_megabits(benchmark.parameters, window_seconds=benchmark.conditions.window_seconds)
    links = rows(rates, scaled=scaled)
    total = 1 + len(links) * len(arms)
    alone = obtain(benchmark.wanted(ALONE, Link(NO_NETWORK), None), f"1/{total}")
    places = [(link, arm) for link in links for arm in arms]
    for number, (link, arm) in enumerate(places, 2):
        obtain(benchmark.wanted(arm, link, alone.speed), f"{number}/{total}")
    return in_order([cell for cell in cells if comparable(cell, benchmark.reference)])


if __name__ == "__main__":
    typer.run(main)
