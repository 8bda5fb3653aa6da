"""Rounds of real peers over bad links: each in a network namespace, with delay, rate and loss between them.

    python -m benchmarks.wan [--peers 8] [--rounds 10] [--up 10] [--down 10] [--delay 50] [--loss 0.01]
    python -m benchmarks.wan --peers 4 --rounds 4 --links 1:600,10:100,100:20,1000:1

Trains `stdlib-tiny` with a longer window, for many processes share few cores; all else in the recipe stays,
whatever the link. Measured are the rounds after the first one that counted everybody. Needs root.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.bad_links import BadLinks, check_platform, default_congestion, path_line
from benchmarks.wan_figures import Figures, Moved, figures_of, overview, show
from recipes.command import plain_errors
from recipes.errors import NetworkError, UnreachableError
from recipes.files import write_atomic
from recipes.locate import locate_recipe
from recipes.publication import Publication
from recipes.publish import publish
from trainer.demo_peer import DemoPeer, launch

WINDOW_SECONDS = 20.0
_PORT = 31330
_SEED = 1
_LOOK_SECONDS = 0.2
_WORDS = 1000  # characters of a peer's log that an error shows
_TEXT_BYTES = 1_000_000
_FETCH_SECONDS = 180.0  # in which a newcomer must have made some progress
_STALL_SECONDS = 90.0  # beyond two windows, in which every peer must have adopted another block
_JOIN_ATTEMPTS = 5  # of a peer that ends because nobody answers it
_JOIN_SECONDS = 600.0  # within which all must train; the least for 4 peers at 1 Mbit/s is about 200
_JOIN_WINDOWS = 12  # in which some round must count everybody, once all train


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


class Swarm:
    """Peers on links, from their start until enough rounds are done."""

    def __init__(
        self,
        links: BadLinks,
        publication: Publication,
        folder: Path,
        *,
        window: float,
        fetch: bool,
        tell: Callable[[str], None],
    ) -> None:
        """Prepare a peer for each host, the first one the publisher's.

        Args:
            links: the hosts.
            publication: the run.
            folder: for the peers' home folders.
            window: the recipe's, in seconds.
            fetch: whether newcomers get the data and first weights over their lines, or have the folder.
            tell: is told of progress.
        """
        self.peers: list[DemoPeer] = []
        self._training: list[DemoPeer] = []
        self._links, self._publication, self._window, self._tell = links, publication, window, tell
        for host in links.hosts:
            self.peers.append(
                DemoPeer(
                    f"peer-{host.number + 1}",
                    folder,
                    run=publication.run_id if fetch and self.peers else str(publication.folder),
                    port=_PORT,
                    address=self.peers[0].address if self.peers else None,
                    host=host.address,
                    launched_by=partial(launch, prefix=host.prefix),
                )
            )

    def measure(self, rounds: int) -> Figures:
        """Start the peers, wait until one round counts all of them, and measure the `rounds` after it.

        Raises:
            NetworkError: that does not come about, or a peer ended.
        """
        try:
            first = self._gather()
            before = self._moved()
            self._follow(first, rounds)
            after = self._moved()
        finally:
            for peer in self.peers:
                peer.kill()
        attempts = sum(peer.lives for peer in self.peers)
        segments = self._publication.recipe.round.segments
        logs = [peer.reported for peer in self.peers]
        return figures_of(
            logs, first, rounds, segments=segments, before=before, after=after, attempts=attempts
        )

    def _gather(self) -> int:
        """Return the first round in which all were counted."""
        began = time.monotonic()
        publisher, *rest = self.peers
        publisher.start(validate=False)
        while publisher.tally.state != "training":
            self._look()
            _check(began + _FETCH_SECONDS, "The publisher's peer did not begin to train.")
        self._training.append(publisher)
        for peer in rest:
            peer.start(validate=False)
        heard, since = 0, time.monotonic()
        while waiting := [peer for peer in rest if peer not in self._training]:
            self._look()
            for peer in waiting:
                if any(event["event"] == "WindowStarted" for event in peer.reported):
                    self._training.append(peer)
                    self._tell(f"  {peer.name} trains, {time.monotonic() - began:.0f} s after the start")
            if (reports := sum(len(peer.reported) for peer in rest)) != heard:
                heard, since = reports, time.monotonic()
            names = ", ".join(peer.name for peer in waiting)
            _check(
                since + _FETCH_SECONDS,
                f"For {_FETCH_SECONDS:g} s, nothing was heard from {names}, which cannot train yet.",
            )
            _check(
                began + _JOIN_SECONDS,
                f"After {_JOIN_SECONDS:g} s, {names} cannot train yet. The last words of {waiting[0].name}:\n"
                f"{waiting[0].log.read_text(errors='replace')[-_WORDS:]}",
            )
        since = time.monotonic()
        while not (everyone := set.intersection(*(peer.tally.counted_rounds for peer in self.peers))):
            self._look()
            within = _JOIN_WINDOWS * self._window
            counted = sum(len(peer.tally.counted_rounds) > 0 for peer in self.peers)
            _check(
                since + within,
                f"No round counted everybody within {within:g} s; {counted} of {len(self.peers)} peers were "
                f"counted in any, and the newest is round {max(peer.tally.round for peer in self.peers)}.",
            )
        return min(everyone)

    def _follow(self, first: int, rounds: int) -> None:
        """Wait until all have adopted `rounds` blocks after `first`, telling of each."""
        within = 2 * self._window + _STALL_SECONDS
        done, since = first, time.monotonic()
        self._tell(f"  round {first} counts all {len(self.peers)} peers; measuring {rounds} more")
        while done < first + rounds:
            self._look()
            if all(peer.tally.round > done for peer in self.peers):
                done += 1
                counted = sum(done in peer.tally.counted_rounds for peer in self.peers)
                self._tell(f"  round {done}: {counted} counted, {time.monotonic() - since:.1f} s")
                since = time.monotonic()
            behind = ", ".join(peer.name for peer in self.peers if peer.tally.round <= done)
            _check(
                since + within, f"Within {within:g} s, the block of round {done + 1} did not reach {behind}."
            )

    def _look(self) -> None:
        """Read what the peers report; one that gave up before it trained is started again, as it asks for."""
        time.sleep(_LOOK_SECONDS)
        for peer in self.peers:
            peer.look()
            if not peer.lives or peer.running:
                continue
            words = peer.log.read_text(errors="replace")[-_WORDS:]
            if peer.returncode != UnreachableError.exit_code or peer in self._training:
                raise NetworkError(f"{peer.name} ended by itself. Its last words:\n{words}")
            if peer.lives > _JOIN_ATTEMPTS:
                raise NetworkError(f"{peer.name} could not join in {peer.lives} attempts. It said:\n{words}")
            self._tell(f"  {peer.name} gave up joining, and is started again")
            peer.start(validate=False, address=self.peers[0].address)

    def _moved(self) -> Moved:
        return Moved(
            router=self._links.statistics(),
            retransmitted=tuple(host.tcp_counters()["RetransSegs"] for host in self._links.hosts),
        )


def _check(deadline: float, sentence: str) -> None:
    if time.monotonic() > deadline:
        raise NetworkError(sentence)


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


def publish_tiny(home: Path, window: float, **settings: int) -> Publication:
    """Publish `stdlib-tiny` with another window and other settings, on a part of the standard library."""
    home.mkdir(parents=True)
    text = home / "text.py"
    files = sorted(Path(json.__file__).parents[1].glob("*.py"))
    text.write_bytes(b"\n".join(file.read_bytes() for file in files)[:_TEXT_BYTES])
    template = home / "recipe.toml"
    content = locate_recipe("stdlib-tiny").read_text()
    for name, value in {"window_seconds": window, **settings}.items():
        content = re.sub(rf"(?m)^{name} = .*", f"{name} = {value:g}", content)
    template.write_text(content)
    return publish(template, [str(text)], home / "run", home=home / "peer-1", tell=lambda _: None)


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
        check_platform(congestion)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` runs
        congestion = congestion or default_congestion()
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
        publication = publish_tiny(folder, window)
        line = path_line(link.up_megabits, link.down_megabits, delay_ms=link.delay_ms, loss=link.loss)
        with BadLinks([line] * peers, seed=_SEED, congestion=congestion) as links:
            swarm = Swarm(links, publication, folder, window=window, fetch=fetch, tell=console.print)
            figures = swarm.measure(rounds)
    except NetworkError as error:
        keep = True
        console.print(f"  failed: {error}")
        return str(error)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    show(console, figures)
    return figures


def _write(
    out: Path, rows: Mapping[str, Figures | str], *, congestion: str, window: float, fetch: bool
) -> None:
    results = {name: {"failed": row} if isinstance(row, str) else asdict(row) for name, row in rows.items()}
    content = {"congestion": congestion, "window_seconds": window, "fetch": fetch, "links": results}
    write_atomic(out, json.dumps(content, indent=1).encode())


if __name__ == "__main__":
    typer.run(main)
