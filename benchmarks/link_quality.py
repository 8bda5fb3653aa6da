"""How true the links between namespaces are, and what the router bears.

    python -m benchmarks.link_quality [--seconds 5] [--congestion bbr] [--out results/link_quality.json]

Over each link: datagrams there and back, and one TCP connection at full speed, beside what was asked for.
"""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.harness.bad_links import BadLinks, check_platform, path_line
from benchmarks.harness.router import inside
from recipes.command import plain_errors
from recipes.formats.files import write_atomic

_PORT = 5001
_CHUNK = bytes(65536)
_PINGS = 100
_ANSWER_SECONDS = 2.0
_START_SECONDS = 2.0  # of TCP's slow start, not counted
_LINKS = ((1, 600, 0.0), (10, 100, 0.0), (10, 100, 0.01), (100, 20, 0.0), (100, 20, 0.01), (1000, 1, 0.0))
"""Megabits a second, round trip in ms, share lost each way."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What one path gave."""

    megabits: float
    round_trip_ms: float
    loss: float
    congestion: str
    measured_megabits: float
    measured_ms: tuple[float, float, float]  # least, median, most
    lost: float  # share of the packets
    overflowed: int
    mean_late_ms: float
    worst_late_ms: float
    processor_share: float  # of one core, by the router


def round_trips(links: BadLinks, count: int = _PINGS) -> list[float]:
    """Return the seconds that datagrams take from the first host to the second and back; lost ones miss."""
    ends = []
    for host in links.hosts[:2]:
        with inside(host.namespace):
            end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind((host.address, _PORT))
        end.settimeout(_ANSWER_SECONDS)
        ends.append(end)
    here, there = ends
    seconds = []
    with here, there:
        for number in range(count):
            began = time.monotonic()
            here.sendto(number.to_bytes(4, "big"), (links.hosts[1].address, _PORT))
            with suppress(TimeoutError):  # one of them was lost
                there.sendto(*there.recvfrom(64))
                here.recv(64)
                seconds.append(time.monotonic() - began)
    return seconds


def tcp_bits_per_second(links: BadLinks, seconds: float) -> float:
    """Return what one TCP connection from the first host to the second delivers, once it is up to speed."""
    sender, receiver = links.hosts[:2]
    with inside(receiver.namespace):
        listener = socket.create_server((receiver.address, _PORT))
    with inside(sender.namespace):
        outgoing = socket.socket()
    with listener, outgoing:
        outgoing.connect((receiver.address, _PORT))
        incoming, _ = listener.accept()
        stop = threading.Event()

        def send() -> None:
            with suppress(OSError):
                while not stop.is_set():
                    outgoing.sendall(_CHUNK)

        thread = threading.Thread(target=send)
        with incoming:
            thread.start()
            received = 0
            counted_from = time.monotonic() + _START_SECONDS
            while (now := time.monotonic()) < counted_from + seconds:
                size = len(incoming.recv(1 << 20))
                received += size if now >= counted_from else 0
            stop.set()
        thread.join()
    return received * 8 / seconds


def measure(
    megabits: float, round_trip_ms: float, loss: float, *, seconds: float, congestion: str | None
) -> Quality:
    """Measure a path from one host to another over two equal lines."""
    line = path_line(megabits, megabits, delay_ms=round_trip_ms / 2, loss=loss)
    with BadLinks([line, line], seed=1, congestion=congestion) as links:
        trips = [1000 * trip for trip in round_trips(links)]
        before = links.statistics()
        rate = tcp_bits_per_second(links, seconds)
        after = links.statistics()
        lanes = [*after.up, *after.down]
        return Quality(
            megabits=megabits,
            round_trip_ms=round_trip_ms,
            loss=loss,
            congestion=links.congestion,
            measured_megabits=rate / 1e6,
            measured_ms=(min(trips), statistics.median(trips), max(trips)),
            lost=sum(lane.lost for lane in lanes) / sum(lane.packets for lane in after.up),
            overflowed=sum(lane.overflowed for lane in lanes),
            mean_late_ms=1000 * after.mean_late_seconds,
            worst_late_ms=1000 * after.worst_late_seconds,
            processor_share=(after.processor_seconds - before.processor_seconds) / (seconds + _START_SECONDS),
        )


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of each TCP transfer.")] = 5.0,
    congestion: Annotated[
        str | None, typer.Option(help="TCP's congestion control: bbr, reno ... By default the machine's.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write the results as JSON.")] = Path(
        "results/link_quality.json"
    ),
) -> None:
    """Measure round trips and TCP over links between namespaces."""
    console = Console(highlight=False)
    with plain_errors():
        check_platform(congestion)
        results = []
        for megabits, round_trip_ms, loss in _LINKS:
            console.print(f"Measuring {megabits:g} Mbit/s, {round_trip_ms:g} ms, {loss:.0%} loss ...")
            results.append(measure(megabits, round_trip_ms, loss, seconds=seconds, congestion=congestion))
        table = Table(title=f"Links between two namespaces, TCP with {results[0].congestion}")
        for column in ("Mbit/s, ms, loss", "TCP Mbit/s", "RTT ms", "lost", "full", "late ms", "core"):
            table.add_column(column, justify="right")
        for result in results:
            table.add_row(
                f"{result.megabits:g}, {result.round_trip_ms:g}, {result.loss:.0%}",
                f"{result.measured_megabits:.2f}",
                "{:.1f}, {:.1f}, {:.1f}".format(*result.measured_ms),
                f"{result.lost:.2%}",
                str(result.overflowed),
                f"{result.mean_late_ms:.2f}, {result.worst_late_ms:.1f}",
                f"{result.processor_share:.0%}",
            )
        console.print(table)
        console.print(
            "RTT: least, median, most. Full: packets that met a full queue. Late: packets behind their time, "
            "mean and worst. Core: the router's share of one."
        )
        write_atomic(out, json.dumps([asdict(result) for result in results], indent=1).encode())
        console.print(f"Wrote {out}.")


if __name__ == "__main__":
    typer.run(main)
