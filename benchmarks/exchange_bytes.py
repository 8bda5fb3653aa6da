"""Bytes that the exchange moves, for swarms of 3 to 8 real peers on loopback.

    python -m benchmarks.exchange_bytes [--peers 3,5,8] [--rounds 4] [--out results/exchange_bytes.json]

Each swarm trains `stdlib-tiny` with a short window. Over rounds in which everybody took part, the mean upload
for segments stands beside (R-1)/R x (contribution + reduced); all other traffic is listed by purpose.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.harness.shaped_swarm import peers_at, places_on_loopback, publish_changed
from benchmarks.harness.sizes import sizes_of
from recipes.command import plain_errors
from recipes.errors import NetworkError
from recipes.formats.files import write_atomic
from recipes.publication import Publication
from recipes.schema.recipe import published
from trainer.demo.peer import DemoPeer

_WINDOW_SECONDS = 6
_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Measured:
    """One swarm's traffic: bits per parameter and round, and `other` bytes per peer and round by purpose."""

    peers: int
    rounds: int
    contribution_bits: float
    reduced_bits: float
    upload_bits: float
    expected_bits: float
    other: dict[str, int]

    @property
    def ratio(self) -> float:
        """Measured upload over the formula's."""
        return self.upload_bits / self.expected_bits


def measure(publication: Publication, *, peers: int, rounds: int, folder: Path) -> Measured:
    """Run a swarm until `rounds` rounds in a row counted everybody, and return what they moved.

    Raises:
        NetworkError: that took too long.
    """
    swarm = peers_at(places_on_loopback(peers), publication, folder, supplied=1)
    first, *rest = swarm
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        first.start(validate=False)
        while not first.reported:
            _look(swarm, deadline)
        for peer in rest:
            peer.start(validate=False)
        start = -1
        while start < 0 or min(peer.tally.round for peer in swarm) < start + rounds:
            _look(swarm, deadline)
            everyone = set.intersection(*(peer.tally.counted_rounds for peer in swarm))
            if start < 0 and everyone:
                start = min(everyone)
    finally:
        for peer in swarm:
            peer.kill()
    return _traffic(swarm, start, start + rounds, parameters=published(publication.recipe).parameters)


def _look(swarm: list[DemoPeer], deadline: float) -> None:
    time.sleep(0.2)
    for peer in swarm:
        peer.look()
    if time.monotonic() > deadline:
        raise NetworkError("The swarm did not complete its rounds in time.", remedy="Try fewer peers.")


def _traffic(swarm: list[DemoPeer], first: int, last: int, *, parameters: int) -> Measured:
    sent: Counter[str] = Counter()
    contributions: list[int] = []
    for peer in swarm:
        at = {event["round"]: event for event in peer.reported if event["event"] == "BlockAdopted"}
        sent.update(at[last]["sent"])
        sent.subtract(at[first]["sent"])
        claimed = [event for event in peer.reported if event["event"] == "Claimed"]
        contributions += [event["contribution_bytes"] for event in claimed if first < event["round"] <= last]
    rounds, peers = last - first, len(swarm)
    reduced = _mean_reduced_bytes(swarm[0], first, last)
    per = 8 / parameters
    contribution_bits = sum(contributions) / len(contributions) * per
    reduced_bits = reduced * per
    return Measured(
        peers=peers,
        rounds=rounds,
        contribution_bits=contribution_bits,
        reduced_bits=reduced_bits,
        upload_bits=sent["segments"] / peers / rounds * per,
        expected_bits=(peers - 1) / peers * (contribution_bits + reduced_bits),
        other={name: size // peers // rounds for name, size in sorted(sent.items()) if name != "segments"},
    )


def _mean_reduced_bytes(peer: DemoPeer, first: int, last: int) -> float:
    folders = [folder for folder in peer.home.glob("runs/*/reduced/*") if first < int(folder.name) <= last]
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir()) / len(folders)


def main(
    peers: Annotated[str, typer.Option(help="Sizes of the swarms, separated by commas.")] = "3,5,8",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to measure.")] = 3,
    out: Annotated[Path, typer.Option(help="Where to write the results as JSON.")] = Path(
        "results/exchange_bytes.json"
    ),
) -> None:
    """Measure the bytes that the exchange moves."""
    console = Console(highlight=False)
    sizes = sizes_of(peers)
    with plain_errors(), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        results = []
        for size in sizes:
            home = folder / str(size)
            publication = publish_changed(home, {"window_seconds": str(_WINDOW_SECONDS)})
            console.print(f"Measuring {size} peers ...")
            results.append(measure(publication, peers=size, rounds=rounds, folder=home))
        table = Table(title="Upload a peer and round, bits a parameter")
        for column in ("peers", "contribution", "reduced", "(R-1)/R x both", "measured", "ratio"):
            table.add_column(column, justify="right")
        for result in results:
            bits = (result.contribution_bits, result.reduced_bits, result.expected_bits, result.upload_bits)
            table.add_row(str(result.peers), *(f"{value:.4f}" for value in bits), f"{result.ratio:.3f}")
        console.print(table)
        for result in results:
            console.print(f"{result.peers} peers, other bytes sent a peer and round: {result.other}")
        rows = [{**asdict(result), "ratio": result.ratio} for result in results]
        write_atomic(out, json.dumps(rows, indent=1).encode())
        console.print(f"Wrote {out}.")


if __name__ == "__main__":
    typer.run(main)
