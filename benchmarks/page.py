"""How long the page takes to be there for a swarm of a thousand peers, and how many series its metrics have.

    python -m benchmarks.page [--peers 1000] [--rounds 40] [--out results/page.json]

A synthetic run with real signatures, in which 60 peers at a time have their turns, is watched and served on
loopback. Each page is asked for several times; where Chromium is installed, it is also opened there, and
timed until it is drawn. Goals: every page in under a second, and fewer than 300 series.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.ledger.chain import SyntheticRun
from monitoring.http.server import Server, listening
from monitoring.metrics.swarm_metrics import swarm_registry
from monitoring.swarm.archive import Archive
from monitoring.swarm.block_times import Seen
from monitoring.swarm.loss_store import Measured
from monitoring.swarm.view import RunPicture
from monitoring.swarm.watch import SwarmWatch
from monitoring.web.app import Site
from monitoring.web.live import Live
from peers.chain.chain import Chain
from recipes.command import plain_errors
from recipes.formats.files import write_atomic

AT_ONCE = 60  # peers in a round; a block holds at most 64
GOAL_SECONDS = 1.0
GOAL_SERIES = 300
_REPEATED = 5
_ROUND_SECONDS = 70.0
_PARAMETERS = 50_000_000


@dataclass(frozen=True)
class Timed:
    """One address: its size, and the median seconds until it was answered, and until it was drawn."""

    path: str
    bytes: int
    answered_seconds: float
    drawn_seconds: float | None


@dataclass(frozen=True)
class Figures:
    """What was measured; `block_seconds` is what taking in one more block takes."""

    peers: int
    rounds: int
    series: int
    block_seconds: float
    pages: tuple[Timed, ...]

    @property
    def reached(self) -> bool:
        """Whether both goals are."""
        slowest = max(max(one.answered_seconds, one.drawn_seconds or 0.0) for one in self.pages)
        return slowest < GOAL_SECONDS and self.series < GOAL_SERIES


def watch_synthetic(peers: int, rounds: int) -> tuple[SwarmWatch, float, float]:
    """Return a watch that saw every block of a run, the time then, and what the last block took, seconds."""
    run = SyntheticRun(peers, at_once=min(peers, AT_ONCE))
    words = RunPicture(
        run=run.rules.run,
        name="synthetic",
        description="A run whose contributions are only names.",
        parameters=_PARAMETERS,
        goal_tokens=10**9,
        window_seconds=run.rules.window_seconds,
        overlaps=False,
        flops_per_token=run.ground.rules.flops_per_token,
        join="python -m trainer.join RUN --peer ADDRESS",
    )
    chain = Chain(run.ground.rules, genesis_digest=run.ground.genesis_digest)
    watch = SwarmWatch(words, run.ground, chain, archive=Archive(), measured=Measured(None), seen=Seen(None))
    now, took = time.time() - rounds * _ROUND_SECONDS, 0.0
    for number, block in zip(range(1, rounds + 1), run.blocks(), strict=False):
        now += _ROUND_SECONDS
        started = time.perf_counter()
        watch.take([block], seen_at=now)
        took = time.perf_counter() - started
        watch.validated(number, 2.0 + 3.0 / number, at=now)
    return watch, now, took


@contextmanager
def served(watch: SwarmWatch, now: float) -> Iterator[tuple[int, Live]]:
    """Serve a page on a port of its own until the block ends."""
    live = Live(watch.picture(now=now + 1, heard_at=now, board=()))
    site = Site(live, watch.archive, swarm_registry(lambda: live.picture, version="0"), timed=watch.timed)
    with listening("127.0.0.1", 0) as door:
        server = Server(site.app())
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[door])))
        thread.start()
        try:
            yield door.getsockname()[1], live
        finally:
            live.close()
            server.should_exit = True
            thread.join()


def ask(port: int, path: str) -> tuple[bytes, float]:
    """Return an answer, and the median of the seconds that it took."""
    took, body = [], b""
    for _ in range(_REPEATED):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        started = time.perf_counter()
        connection.request("GET", path)
        body = connection.getresponse().read()
        took.append(time.perf_counter() - started)
        connection.close()
    return body, statistics.median(took)


def drawn(port: int, paths: Sequence[str]) -> dict[str, float]:
    """Return for each path the median seconds until Chromium has laid it out; nothing without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return {}
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for path in paths:
            took = []
            for _ in range(_REPEATED):
                tab = browser.new_page()
                tab.goto(f"http://127.0.0.1:{port}{path}", wait_until="load")
                # From the request on; asking for a box has the page laid out.
                took.append(tab.evaluate("document.body.getBoundingClientRect() && performance.now()") / 1000)
                tab.close()
            found[path] = statistics.median(took)
        browser.close()
    return found


def measure(peers: int, rounds: int) -> Figures:
    """Measure one swarm."""
    watch, now, block_seconds = watch_synthetic(peers, rounds)
    with served(watch, now) as (port, live):
        one = live.picture.peers[0].peer
        pages = ("/", "/peers", f"/peers/{one}", "/rounds", "/recipe")
        data = ("/api/v1/peers", "/api/v1/curve", "/metrics")
        in_browser = drawn(port, pages)
        timed = []
        for path in (*pages, *data):
            body, seconds = ask(port, path)
            timed.append(Timed(path.replace(one, "ID"), len(body), seconds, in_browser.get(path)))
        metrics, _ = ask(port, "/metrics")
    series = sum(not line.startswith(b"#") for line in metrics.splitlines())
    return Figures(len(live.picture.peers), rounds, series, block_seconds, tuple(timed))


def main(
    peers: Annotated[int, typer.Option(min=1, help="Peers of the run.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of it.")] = 40,
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("results/page.json"),
) -> None:
    """Time the page of a large swarm."""
    with plain_errors():
        figures = measure(peers, rounds)
        write_atomic(out, json.dumps(asdict(figures), indent=1).encode() + b"\n")
    table = Table("address", "kB", "answered ms", "drawn ms", box=None)
    for one in figures.pages:
        shown = f"{1000 * one.drawn_seconds:.0f}" if one.drawn_seconds is not None else "-"
        table.add_row(one.path, f"{one.bytes / 1000:.0f}", f"{1000 * one.answered_seconds:.0f}", shown)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{figures.peers:,} peers, {figures.rounds} rounds: {figures.series} series; taking in one more "
        f"block takes {1000 * figures.block_seconds:.0f} ms. "
        f"Every page in under a second, under {GOAL_SERIES} series: {'yes' if figures.reached else 'NO'}."
    )


if __name__ == "__main__":
    typer.run(main)
