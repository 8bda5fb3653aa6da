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

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from benchmarks.bad_links import check_platform, default_congestion
from benchmarks.links_figures import (
    ALONE,
    LABELS,
    NO_NETWORK,
    SCALED,
    UNSHAPED,
    Cell,
    Link,
    Speed,
    comparable,
    in_order,
    scaled_megabits,
    show,
)
from benchmarks.links_hivemind import settings_for
from benchmarks.links_measure import Conditions, measure_ours, measure_rival
from benchmarks.links_plot import plot
from benchmarks.links_results import measured, read_cells, with_cell, write_cells
from benchmarks.shaped_swarm import publish_changed
from recipes.command import plain_errors
from recipes.errors import NetworkError
from recipes.layout import published_layout
from recipes.publication import Publication

_INNER = "adamw"  # of all arms: hivemind.Optimizer takes one torch optimizer, and the recipe's Muon is two
_NEWCOMER_SLOTS_A_SECOND = (
    400  # more than a peer uses: its first window is to end by time, not for want of slots
)
_ARMS = tuple(arm for arm in LABELS if arm != ALONE)
_ROUNDS, _SPAN = ("rounds", "warm_up_rounds"), ("seconds",)  # conditions of ours alone, and of rivals
_SHAPE = ("delay_ms", "loss", "congestion")
_RIVALS = {
    "hivemind-local": "hivemind",
    "hivemind-gradients": "hivemind",
    "all-reduce": "all-reduce",
    ALONE: ALONE,
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What stays the same from cell to cell."""

    conditions: Conditions
    overlap: str  # of the overlapped arm
    plain: Publication  # the model and data that rivals train
    parameters: int
    folder: Path
    console: Console

    def wanted(self, arm: str, link: Link, alone: Speed | None) -> Cell:
        """Return the cell to measure, with all settings on which its figures depend.

        Args:
            arm: its name.
            link: its row.
            alone: what the same processes do with no network, if that is known: it says how many sequences
                a window takes.
        """
        settings: dict[str, Any] = {
            **asdict(self.conditions),
            "parameters": self.parameters,
            "inner": _INNER,
            "processors": os.cpu_count(),
        }
        foreign = _ROUNDS if _is_rival(arm) else _SPAN
        for key in (*foreign, *(_SHAPE if link.megabits is None else ())):
            del settings[key]
        if arm == "overlapped":
            settings["overlap"] = self.overlap
        if arm.startswith("hivemind"):
            if alone is None:
                raise NetworkError("How fast training is without a network is not known: it did not succeed.")
            recipe, peers = self.plain.recipe, self.conditions.peers
            slots_per_second = alone.tokens_per_second / recipe.data.sequence_length
            settings["hivemind"] = settings_for(
                "parameters" if arm == "hivemind-local" else "gradients",
                parameters=self.parameters,
                peers=peers,
                batch_slots=recipe.inner.batch_slots,
                slots_per_window=round(slots_per_second * self.conditions.window_seconds),
                megabits=link.megabits,
            ).model_dump()
        return Cell(arm=arm, link=link, settings=settings)

    def measure(self, cell: Cell) -> Cell:
        """Return the wanted cell with its speed, or with why there is none."""
        began = time.monotonic()
        self.console.print(f"{cell.link}, {LABELS[cell.arm]}:")
        folder = self.folder / f"{cell.link.name}-{cell.arm}"
        try:
            speed = self._rival(cell, folder) if _is_rival(cell.arm) else self._ours(cell, folder)
        except NetworkError as error:
            self.console.print(f"  failed: {error}", markup=False)
            return replace(cell, failed=str(error))
        shutil.rmtree(folder, ignore_errors=True)  # but the logs of a cell that failed stay
        self.console.print(
            f"  {speed.tokens_per_second:,.0f} tokens/s, {speed.utilisation:.0%} of the time in local steps, "
            f"{speed.exchanges:.3g} exchanges in {speed.span_seconds:.0f} s "
            f"({time.monotonic() - began:.0f} s in all)"
        )
        return replace(cell, speed=speed)

    def _ours(self, cell: Cell, folder: Path) -> Speed:
        overlap = self.overlap if cell.arm == "overlapped" else "none"
        publication = _publish(folder, self.conditions.window_seconds, overlap)
        return measure_ours(
            cell.link, publication, folder, conditions=self.conditions, tell=self.console.print
        )

    def _rival(self, cell: Cell, folder: Path) -> Speed:
        return measure_rival(
            _RIVALS[cell.arm],
            cell.link,
            self.plain,
            folder,
            conditions=self.conditions,
            hivemind=cell.settings.get("hivemind", {}),
            tell=self.console.print,
        )


def _is_rival(arm: str) -> bool:
    return arm in _RIVALS


def _publish(home: Path, window_seconds: float, overlap: str) -> Publication:
    changes = {
        "window_seconds": f'{window_seconds:g}\noverlap = "{overlap}"',
        "newcomer_slots": f"{round(_NEWCOMER_SLOTS_A_SECOND * window_seconds)}",
        "optimizer": f'"{_INNER}"',
    }
    return publish_changed(home, changes)


def rows(rates: Sequence[float], *, scaled: float) -> list[Link]:
    """Return the links in the order in which they are measured: the thinner, the later."""
    links = [Link(f"{rate:g}", rate) for rate in sorted(rates, reverse=True)]
    return [Link(UNSHAPED), *links, Link(SCALED, round(scaled, 4))]


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
    if unknown := [arm for arm in arms if arm not in _ARMS]:
        raise typer.BadParameter(f"there is no arm {unknown[0]!r}; there are {', '.join(_ARMS)}")
    return arms


def main(
    arms: Annotated[str, typer.Option(help="What to compare, separated by commas.")] = ",".join(_ARMS),
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
        check_platform(congestion)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` runs
        conditions = Conditions(
            peers=peers,
            window_seconds=window,
            rounds=rounds,
            warm_up_rounds=warm_up,
            seconds=seconds,
            delay_ms=delay,
            loss=loss,
            congestion=congestion or default_congestion(),
        )
        folder = Path(tempfile.mkdtemp(prefix="manyhands-links-"))
        try:
            plain = _publish(folder / "plain", window, "none")
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
    """Measure what is not known, writing after each cell; return all cells under these conditions, in order."""
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
    return in_order([cell for cell in cells if comparable(cell, alone)])


def caption(benchmark: Benchmark) -> str:
    """Return what a reader of the table must know."""
    conditions, millions = benchmark.conditions, benchmark.parameters / 1e6
    scaled = scaled_megabits(benchmark.parameters, window_seconds=conditions.window_seconds)
    return (
        f"{conditions.peers} processes of one thread on {os.cpu_count()} processors, which limit all arms. "
        f"{millions:.2f} million parameters, windows of {conditions.window_seconds:g} s, RTT "
        f"{2 * conditions.delay_ms:g} ms, {conditions.loss:.1%} loss, TCP with {conditions.congestion}; ours "
        f"overlapped is {benchmark.overlap}. `{SCALED}` is {scaled:.3g} Mbit/s: 10 Mbit/s x ({millions:.2f} "
        f"million / 1 billion parameters) x (300 s / {conditions.window_seconds:g} s), so as thin for this model "
        "as 10 Mbit/s is for one of 1 billion in windows of 300 s; its delay and loss are those of the others. "
        f"`{UNSHAPED}`: loopback. `{NO_NETWORK}`: the same processes, each for itself."
    )


def about(benchmark: Benchmark) -> dict[str, Any]:
    """Return what the file says beside its cells."""
    conditions = benchmark.conditions
    return {
        "caption": caption(benchmark),
        "scaled_megabits": scaled_megabits(benchmark.parameters, window_seconds=conditions.window_seconds),
        "processors": os.cpu_count(),
    }


if __name__ == "__main__":
    typer.run(main)
