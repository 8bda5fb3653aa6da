"""What an observer costs: the bytes that a swarm sends it, and the processor time that it takes.

    python -m benchmarks.observer [--minutes 4] [--validate-every 4] [--out results/observer.json]

A publisher and two volunteers, processes on loopback, train `stdlib-tiny`. An observer joins them over the
network in this process, and is left alone for some minutes from the first round that it saw end: what it sent
and received, by purpose, and the time that it, its network daemon and its measuring of the model took.
"""

from __future__ import annotations

import asyncio
import json
import os
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from monitoring.assembly import Choices, in_the_swarm
from monitoring.monitor import Station
from monitoring.web.live import Live
from peers.network.traffic import TrafficStatistics
from recipes.command import plain_errors
from recipes.errors import NetworkError
from recipes.formats.files import write_atomic
from recipes.locate import locate_recipe
from recipes.publish import publish
from trainer.demo.peer import DemoPeer, free_port

VOLUNTEERS = 2
_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 300.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figures:
    """What was measured over `seconds`, in which `rounds` ended. CPU seconds are by process."""

    seconds: float
    rounds: int
    parameters: int
    validate_every: int
    received: dict[str, int]
    sent: dict[str, int]
    cpu_seconds: dict[str, float]

    def a_minute(self, amount: float) -> float:
        """Return an amount of the whole time for one minute."""
        return amount * 60 / self.seconds


async def observe(swarm: list[DemoPeer], run_id: str, *, home: Path, seconds: float, every: int) -> Figures:
    """Watch a swarm, and return what that cost.

    Raises:
        NetworkError: no round is seen to end.
    """
    choices = Choices(home=home, validate_every=every)
    async with in_the_swarm(run_id, None, [swarm[0].address], choices, say=print) as station:
        live = Live(station.picture())
        work = asyncio.create_task(station.work(live))
        try:
            await _first_round(station, every)
            before, first, spent = _traffic(station), station.watch.round, _cpu_seconds()
            started = time.monotonic()
            await asyncio.sleep(seconds)
            took = time.monotonic() - started
            after, last, spent_after = _traffic(station), station.watch.round, _cpu_seconds()
            parameters = station.picture().run.parameters
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    return Figures(
        seconds=took,
        rounds=last - first,
        parameters=parameters,
        validate_every=every,
        received={kind: size - before.received.get(kind, 0) for kind, size in after.received.items()},
        sent={kind: size - before.sent.get(kind, 0) for kind, size in after.sent.items()},
        cpu_seconds={name: value - spent.get(name, 0.0) for name, value in spent_after.items()},
    )


async def _first_round(station: Station, every: int) -> None:
    """Wait until a round was watched as it ended, and the model was measured once."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not station.watch.round or (every and not station.picture().validations):
        if time.monotonic() > deadline:
            raise NetworkError(
                "No round was seen to end.", remedy="Try again on a machine that is less busy."
            )
        await asyncio.sleep(_LOOK_SECONDS)


def _traffic(station: Station) -> TrafficStatistics:
    if station.traffic is None:
        raise NetworkError("This observer has no network.")
    return station.traffic.statistics()


def _cpu_seconds() -> dict[str, float]:
    """Return the processor time so far of this process and of its children that are an observer's."""
    found = {"observer": _spent(os.getpid())}
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"p2pd" in command:
            found["network daemon"] = _spent(int(child))
        elif b"trainer.evaluate" in command:
            found["measuring the model"] = _spent(int(child))
    return found


def _spent(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime: proc(5)


def measure(folder: Path, *, seconds: float, every: int) -> Figures:
    """Publish, let a swarm train, and watch it.

    Raises:
        ManyhandsError: the swarm does not come about.
    """
    published = publish(
        locate_recipe("stdlib-tiny"),
        [sysconfig.get_paths()["stdlib"]],
        folder / "run",
        home=folder / "publisher",
        tell=lambda _: None,
    )
    first = DemoPeer("publisher", folder, run=str(published.folder), port=free_port(), address=None)
    others = [
        DemoPeer(f"volunteer-{number}", folder, run=published.run_id, port=free_port(), address=first.address)
        for number in range(1, VOLUNTEERS + 1)
    ]
    swarm = [first, *others]
    try:
        first.start(validate=False)
        _until(lambda: first.tally.connected, [first])
        for peer in others:
            peer.start(validate=False)
        _until(lambda: all(peer.tally.counted_rounds for peer in swarm), swarm)
        return asyncio.run(
            observe(swarm, published.run_id, home=folder / "observer", seconds=seconds, every=every)
        )
    finally:
        for peer in swarm:
            if peer.running:
                peer.kill()


def _until(reached: Callable[[], bool], swarm: Sequence[DemoPeer]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not reached():
        for peer in swarm:
            peer.look()
        if time.monotonic() > deadline or not all(peer.running for peer in swarm):
            raise NetworkError(
                "The swarm does not train.", remedy="Try again on a machine that is less busy."
            )
        time.sleep(_LOOK_SECONDS)


def main(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long to watch.")] = 4.0,
    validate_every: Annotated[
        int, typer.Option(min=0, help="Rounds between two measurements of the model; 0: it is not kept.")
    ] = 4,
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("results/observer.json"),
) -> None:
    """Measure what an observer costs."""
    with plain_errors(), tempfile.TemporaryDirectory(prefix="manyhands-observer-") as folder:
        figures = measure(Path(folder), seconds=60 * minutes, every=validate_every)
        write_atomic(out, json.dumps(asdict(figures), indent=1).encode() + b"\n")
    table = Table("", "a minute", "a round", box=None)
    rounds = max(1, figures.rounds)
    for way, sizes in (("received", figures.received), ("sent", figures.sent)):
        for purpose, size in sorted(sizes.items(), key=lambda item: -item[1]):
            if size:
                table.add_row(
                    f"{way}, {purpose}", f"{figures.a_minute(size) / 1000:.1f} kB", _kilobytes(size / rounds)
                )
        total = sum(sizes.values())
        table.add_row(
            f"{way}, in all", f"{figures.a_minute(total) / 1000:.1f} kB", _kilobytes(total / rounds)
        )
    for name, spent in figures.cpu_seconds.items():
        table.add_row(f"CPU, {name}", f"{figures.a_minute(spent):.2f} s", f"{spent / rounds:.2f} s")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{figures.rounds} rounds in {figures.seconds:.0f} s, {figures.parameters:,} parameters.")


def _kilobytes(size: float) -> str:
    return f"{size / 1000:.1f} kB"


if __name__ == "__main__":
    typer.run(main)
