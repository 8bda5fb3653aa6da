"""What one way to train came to on one link, and how such cells stand beside each other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from recipes.errors import NetworkError

NO_NETWORK = "no network"
UNSHAPED = "unshaped"
SCALED = "scaled"
ALONE = "alone"

LABELS = {
    "blocking": "ours, blocking",
    "overlapped": "ours, overlapped",
    "hivemind-local": "hivemind, local",
    "hivemind-gradients": "hivemind, gradients",
    "all-reduce": "all-reduce",
    ALONE: "alone",
}
"""The arms by name."""

Event = Mapping[str, Any]

_SCALE_MEGABITS = 10.0  # to a model of
_SCALE_PARAMETERS = 1e9  # in windows of
_SCALE_WINDOW_SECONDS = 300.0


@dataclass(frozen=True)
class Link:
    """A row: the rate of every peer's line, each way; None where nothing shapes it."""

    name: str
    megabits: float | None = None

    def __str__(self) -> str:
        if self.megabits is None:
            return self.name
        return f"{self.name}: {self.megabits:.3g} Mbit/s" if self.name == SCALED else f"{self.name} Mbit/s"


@dataclass(frozen=True)
class Count:
    """What one rival process has done by one moment, since its start."""

    at: float  # CLOCK_MONOTONIC, which all processes of a machine share
    tokens: int
    computing_seconds: float  # in local steps
    exchanges: float  # with all peers; one with fewer of them counts in proportion


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What all peers together did in the measured span."""

    tokens_per_second: float
    utilisation: float  # share of the peers' time in local steps
    exchanges: float  # that a peer completed
    span_seconds: float
    sent_bytes_per_second: float | None = None  # a peer, IP packets; None where nobody counts them
    sent_bytes_per_token: float | None = None  # that the same peer trained on


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm on one link. `settings` are all those on which the figures depend."""

    arm: str
    link: Link
    settings: dict[str, Any] = field(default_factory=dict)
    speed: Speed | None = None
    failed: str = ""  # why there is no speed


def scaled_megabits(parameters: int, *, window_seconds: float) -> float:
    """Return the rate that is as thin for this model as 10 Mbit/s is for 1e9 parameters in windows of 300 s.

    What a round sends grows with the parameters, and the time for it with the window.
    """
    model = parameters / _SCALE_PARAMETERS
    return _SCALE_MEGABITS * model * _SCALE_WINDOW_SECONDS / window_seconds


def speed_of_rounds(logs: Sequence[Sequence[Event]], first: int, rounds: int) -> Speed:
    """Return the speed of our peers in the rounds after `first`: of all tokens, those that blocks counted.

    Each peer's own clock tells how long the rounds took it, from one adopted block to the other.

    Raises:
        NetworkError: no peer adopted both the block before these rounds and the last one.
    """
    last = first + rounds
    rates, spans, exchanges = [], [], []
    for log in logs:
        blocks = {event["round"]: event for event in log if event["event"] == "BlockAdopted"}
        counted = sum(block["counted_segments"] > 0 for n, block in blocks.items() if first < n <= last)
        exchanges.append(counted)
        if first in blocks and last in blocks:
            spans.append(blocks[last]["at_seconds"] - blocks[first]["at_seconds"])
            rates.append((blocks[last]["tokens"] - blocks[first]["tokens"]) / spans[-1])
    if not rates:
        raise NetworkError("No peer went through these rounds from beginning to end.")
    windows = [
        event
        for log in logs
        for event in log
        if event["event"] == "WindowFinished" and first < event["round"] <= last
    ]
    computed = sum(window["seconds"] for window in windows)
    waited = sum(window["waited"] for window in windows)
    return Speed(
        tokens_per_second=statistics.fmean(rates),
        utilisation=computed / (computed + waited) if windows else 0.0,
        exchanges=statistics.fmean(exchanges),
        span_seconds=statistics.fmean(spans),
    )


def speed_between(before: Sequence[Count], after: Sequence[Count]) -> Speed:
    """Return the speed of rival processes, from each one's count at the span's beginning and at its end.

    Raises:
        NetworkError: a process did nothing in between.
    """
    pairs = list(zip(before, after, strict=True))
    spans = [end.at - start.at for start, end in pairs]
    if min(spans) <= 0:
        raise NetworkError("A process took no step in the measured span.")
    tokens = [end.tokens - start.tokens for start, end in pairs]
    computing = sum(end.computing_seconds - start.computing_seconds for start, end in pairs)
    return Speed(
        tokens_per_second=sum(count / span for count, span in zip(tokens, spans, strict=True)),
        utilisation=computing / sum(spans),
        exchanges=statistics.fmean(end.exchanges - start.exchanges for start, end in pairs),
        span_seconds=statistics.fmean(spans),
    )


def comparable(one: Cell, other: Cell) -> bool:
    """Whether two cells of different arms or links were measured under the same conditions otherwise."""
    shared = one.settings.keys() & other.settings.keys() - {"hivemind"}  # which depends on the link
    return all(one.settings[key] == other.settings[key] for key in shared)


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells as a table has them: no network, unshaped, then by rate, the thinner the later."""
    links, arms = (NO_NETWORK, UNSHAPED), tuple(LABELS)
    return sorted(
        cells,
        key=lambda cell: (
            links.index(cell.link.name) if cell.link.name in links else len(links),
            -(cell.link.megabits or 0.0),
            arms.index(cell.arm),
        ),
    )


def ratio(cells: Sequence[Cell], cell: Cell, link: str, *, arm: str | None = None) -> float | None:
    """Return a cell's tokens per second over those on `link`, of the same arm or another; None if unknown."""
    places = (o for o in cells if o.link.name == link and o.arm == (arm or cell.arm))
    base = next((other for other in places if comparable(cell, other)), None)
    if cell.speed is None or base is None or base.speed is None or not base.speed.tokens_per_second:
        return None
    return cell.speed.tokens_per_second / base.speed.tokens_per_second


def as_records(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the cells for JSON, each with its ratios to the same arm unshaped and to training alone."""
    return [
        {
            **asdict(cell),
            "of_unshaped": ratio(cells, cell, UNSHAPED),
            "of_no_network": ratio(cells, cell, NO_NETWORK, arm=ALONE),
        }
        for cell in cells
    ]


def show(console: Console, cells: Sequence[Cell], caption: str) -> None:
    """Print the table: under each link, a line for each arm."""
    columns = (
        "tokens/s",
        "in\nsteps",
        "of un-\nshaped",
        "of\nalone",
        "kB/s\nup",
        "bytes a\ntoken",
        "ex-\nchanges",
    )
    table = Table(title="Training over links: all peers together", padding=0)
    table.add_column("link, arm", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    above = ""
    for cell in cells:
        if str(cell.link) != above:
            above = str(cell.link)
            table.add_section()
            table.add_row(above)
        table.add_row(f"  {LABELS[cell.arm]}", *(_figures(cells, cell) or ("failed",)))
    console.print(table)
    console.print(caption, markup=False)
    for cell in cells:
        if cell.failed:
            console.print(f"{cell.link}, {LABELS[cell.arm]}: {cell.failed}", markup=False)


def _figures(cells: Sequence[Cell], cell: Cell) -> tuple[str, ...]:
    speed = cell.speed
    if speed is None:
        return ()
    return (
        f"{speed.tokens_per_second:,.0f}",
        f"{speed.utilisation:.0%}",
        _share(ratio(cells, cell, UNSHAPED)),
        _share(ratio(cells, cell, NO_NETWORK, arm=ALONE)),
        "" if speed.sent_bytes_per_second is None else f"{speed.sent_bytes_per_second / 1000:.1f}",
        "" if speed.sent_bytes_per_token is None else f"{speed.sent_bytes_per_token:,.1f}",
        f"{speed.exchanges:.1f}",
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
