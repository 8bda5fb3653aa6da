"""Rounds of real peers over bad links: each in a network namespace, with delay, rate and loss between them.

    python -m benchmarks.wan [--peers 8] [--rounds 10] [--up 10] [--down 10] [--delay 50] [--loss 0.01]
    python -m benchmarks.wan --peers 4 --rounds 4 --links 1:600,10:100,100:20,1000:1

Trains `stdlib-tiny` with a longer window, for many processes share few cores; all else in the recipe stays,
whatever the link. Measured are the rounds after the first one that counted everybody. Needs root.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness.bad_links import BadLinks, path_line, prepare
from benchmarks.harness.shaped_swarm import Swarm, places_on, publish_changed
from benchmarks.wan.figures import Figures, Moved, figures_of, overview, show
from recipes.command import plain_errors
from recipes.errors import NetworkError
from recipes.formats.files import write_atomic

WINDOW_SECONDS = 20.0
_SEED = 1


@dataclass(frozen=True)
class Link:
    """A path between any two peers."""

    up_megabits: float
    down_megabits: float
    delay_ms: float  # one way
    loss: float  # share of the packets, each way

    def __str__(self) -> str:
        rate = f"{self.up_megabits:g}"
        if self.down_megabits != self.up_megabits:
            rate += f" up, {self.down_megabits:g} down"
        return f"{rate} Mbit/s, RTT {2 * self.delay_ms:g} ms, {self.loss:.1%} loss"


def links_of(text: str, *, loss: float) -> list[Link]:
    """Return the links of a list such as `1:600,10:100`: Mbit/s, and the round trip in ms.

    Raises:
        typer.BadParameter: it is not such a list.
    """
    links = []
    for entry in text.split(","):
        try:
            rate, round_trip = (float(value) for value in entry.split(":"))
        except ValueError as error:
            raise typer.BadParameter(f"{entry!r} is not Mbit/s:RTT, such as 10:100") from error
        if rate <= 0 or round_trip < 0:
            raise typer.BadParameter(f"{entry!r} needs a rate above 0 and a round trip of at least 0")
        links.append(Link(rate, rate, round_trip / 2, loss))
    return links


def main(
    peers: Annotated[int, typer.Option(min=2, max=64, help="Peers, each a process in a namespace.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to measure.")] = 10,
    up: Annotated[float, typer.Option(min=0.01, help="Mbit/s that each peer can send.")] = 10.0,
    down: Annotated[float, typer.Option(min=0.01, help="Mbit/s that each peer can receive.")] = 10.0,
    delay: Annotated[float, typer.Option(min=0, help="One way between two peers, in ms.")] = 50.0,
    loss: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the packets lost, each way.")] = 0.01,
    congestion: Annotated[
        str | None, typer.Option(help="TCP's congestion control: bbr, reno ... By default the machine's.")
    ] = None,
    window: Annotated[float, typer.Option(min=1, help="Seconds of training in a round.")] = WINDOW_SECONDS,
    links: Annotated[
        str,
        typer.Option(help="Measure several links in turn, instead: Mbit/s:RTT in ms, separated by commas."),
    ] = "",
    fetch: Annotated[
        bool, typer.Option(help="Newcomers fetch data and first weights over their lines, or have them.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Where to write the results as JSON.")] = Path("results/wan.json"),
) -> None:
    """Measure rounds over bad links."""
    console = Console(highlight=False, soft_wrap=True)
    with plain_errors():
        congestion = prepare(congestion)
        wanted = links_of(links, loss=loss) if links else [Link(up, down, delay, loss)]
        folder = Path(tempfile.mkdtemp(prefix="manyhands-wan-"))
        rows: dict[str, Figures | str] = {}
        try:
            for number, link in enumerate(wanted, 1):
                rows[str(link)] = _row(
                    link,
                    peers=peers,
                    rounds=rounds,
                    window=window,
                    congestion=congestion,
                    fetch=fetch,
                    folder=folder / f"link-{number}",
                    console=console,
                )
        finally:
            with suppress(OSError):
                folder.rmdir()  # but not with the logs of a link that failed
        if len(rows) > 1:
            overview(console, rows)
        _write(out, rows, congestion=congestion, window=window, fetch=fetch)
        console.print(f"Wrote {out}.")
        failed = [name for name, row in rows.items() if isinstance(row, str)]
        if failed:
            raise NetworkError(
                f"{len(failed)} of {len(rows)} links did not complete their rounds: {'; '.join(failed)}.",
                remedy=f"Each peer's log.txt and events.jsonl are below {folder}.",
            )


def _row(
    link: Link,
    *,
    peers: int,
    rounds: int,
    window: float,
    congestion: str,
    fetch: bool,
    folder: Path,
    console: Console,
) -> Figures | str:
    """Measure a link and show its figures, or return why there are none."""
    console.print(f"{link}, TCP with {congestion}, {peers} peers, windows of {window:g} s:")
    keep = False
    try:
        publication = publish_changed(folder, {"window_seconds": f"{window:g}"})
        line = path_line(link.up_megabits, link.down_megabits, delay_ms=link.delay_ms, loss=link.loss)
        with BadLinks([line] * peers, seed=_SEED, congestion=congestion) as links:
            places = places_on(links.hosts)
            with Swarm(places, publication, folder, window=window, fetch=fetch, tell=console.print) as swarm:
                figures = _measure(swarm, links, rounds, segments=publication.recipe.round.segments)
    except NetworkError as error:
        keep = True
        console.print(f"  failed: {error}")
        return str(error)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    show(console, figures)
    return figures


def _measure(swarm: Swarm, links: BadLinks, rounds: int, *, segments: int) -> Figures:
    """Measure the `rounds` after the first one that counts all."""
    first = swarm.gather()
    swarm.tell(f"  round {first} counts all {len(swarm.peers)} peers; measuring {rounds} more")
    before = _moved(links)
    swarm.follow(first, rounds)
    return figures_of(
        swarm.logs,
        first,
        rounds,
        segments=segments,
        before=before,
        after=_moved(links),
        attempts=swarm.attempts,
    )


def _moved(links: BadLinks) -> Moved:
    return Moved(
        router=links.statistics(),
        retransmitted=tuple(host.tcp_counters()["RetransSegs"] for host in links.hosts),
    )


def _write(
    out: Path, rows: Mapping[str, Figures | str], *, congestion: str, window: float, fetch: bool
) -> None:
    results = {name: {"failed": row} if isinstance(row, str) else asdict(row) for name, row in rows.items()}
    content = {"congestion": congestion, "window_seconds": window, "fetch": fetch, "links": results}
    write_atomic(out, json.dumps(content, indent=1).encode())


if __name__ == "__main__":
    typer.run(main)
