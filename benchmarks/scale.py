"""Rounds of 4 to 64 simulated peers on home links: what they wait for, what they send, what they cost.

    python -m benchmarks.scale [--peers 4,8,16,32,64] [--rounds 8] [--out results/scale.json]

The production round engine in virtual time: links drawn from old DSL to fibre (5 to 100 Mbit/s up,
logarithmically even; 10 to 300 ms from home to home), messages weighed exactly, contributions and reduced
segments as large as those of a model of `--parameters` with the catalogue's codecs, and the recipe's default
bounds for every deadline. The first rounds, in which deadlines settle and electors are earned, are left
out. CPU and memory are real: those of one engine, and of parsing and verifying what a round brings it.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import time
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.harness.sizes import sizes_of
from peers.protocol.counters import counted_segments
from peers.protocol.events import BlockAdopted, Claimed
from peers.protocol.messages import AnyMessage, Signed, kind_of, parse
from peers.protocol.rules import Bounds
from peers.simulation.simulator import World, WorldForm
from peers.simulation.virtual_disk import RUN
from peers.simulation.virtual_peer import VirtualPeer
from peers.simulation.virtual_surroundings import Peer
from recipes.command import plain_errors
from recipes.formats.files import write_atomic

CONTRIBUTION_BITS = 0.1495  # a parameter, 64 of 4096 at 2 levels: docs/measurements.md, "Codec"
REDUCED_BITS = 0.5200  # 256 of 4096 at 4 levels
BOUNDS = (Bounds(1.0, 120.0), Bounds(3.0, 1800.0), Bounds(2.0, 120.0))  # a recipe's defaults
_SAMPLES = 3  # messages of a kind that are timed
_SETTLING_ROUNDS = 10  # in which quotas grow until nobody uses its own up early


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Rounds of one size of swarm: means over rounds, and over peers where not said otherwise."""

    peers: int
    rounds: int
    round_seconds: float
    overhead_seconds: float  # of a round, beside its window
    overhead_spread: float  # standard deviation over rounds
    upload_bytes: float  # a peer and round
    download_bytes: float
    upload_contributions: float  # the upload, in contributions
    messages: float  # sent by a peer in a round, segments and requests included
    made_the_cut: float  # share of claimed segments that were counted
    engine_ms: float  # CPU of one engine in a round
    busiest_engine_ms: float  # of the peer for which it is highest
    parsing_ms: float  # CPU for parsing and verifying what a peer receives in a round
    engine_bytes: int  # memory that one engine holds, chain and round
    deadlines: tuple[float, float, float]  # grace, transfer, leader, at the end


def measure(
    *, peers: int, rounds: int, segments: int, window_seconds: float, parameters: int, reduced_bits: float
) -> Scale:
    """Run one world, and return what its rounds took."""
    contribution = round(CONTRIBUTION_BITS * parameters / 8)
    world = World(
        seed=peers,
        peers=peers,
        form=WorldForm(
            segments=segments,
            window_seconds=window_seconds,
            contribution_bytes=contribution,
            reduced_bytes=round(reduced_bits * parameters / 8),
            bounds=BOUNDS,
            measured=True,
        ),
    )
    chance = random.Random(peers)
    for number, (name, peer) in enumerate(world.peers.items()):
        peer.speed = chance.uniform(50, 150) / window_seconds  # slots a second
        world.start(name, at=0.05 * number)
    world.run(until_round=_SETTLING_ROUNDS, at_most_seconds=1e6)
    first = min(world.round_of(name) for name in world.peers)
    before = {name: _spent(peer) for name, peer in world.peers.items()}
    seen = _listen(world)
    world.run(until_round=first + rounds, at_most_seconds=world.now + 1e6)
    spent = {
        name: [b - a for a, b in zip(before[name], _spent(peer), strict=True)]
        for name, peer in world.peers.items()
    }
    per_round = {name: [value / rounds for value in values] for name, values in spent.items()}
    durations = _durations(world, first, first + rounds)
    up = statistics.mean(values[0] for values in per_round.values())
    deadlines = world.peers["p0"].running.deadlines
    return Scale(
        peers=peers,
        rounds=rounds,
        round_seconds=statistics.mean(durations),
        overhead_seconds=statistics.mean(durations) - window_seconds,
        overhead_spread=statistics.pstdev(durations),
        upload_bytes=up,
        download_bytes=statistics.mean(values[1] for values in per_round.values()),
        upload_contributions=up / contribution,
        messages=statistics.mean(values[2] for values in per_round.values()),
        made_the_cut=_share_counted(world, first, first + rounds),
        engine_ms=1000 * statistics.mean(values[3] for values in per_round.values()),
        busiest_engine_ms=1000 * max(values[3] for values in per_round.values()),
        parsing_ms=1000 * _parsing_seconds(seen) / peers / rounds,
        engine_bytes=max(_held_bytes(peer.running) for peer in list(world.peers.values())[:4]),
        deadlines=(deadlines.grace, deadlines.transfer, deadlines.leader),
    )


def _spent(peer: VirtualPeer) -> tuple[float, float, float, float]:
    return (peer.line.sent_bytes, peer.line.received_bytes, peer.line.sent_messages, peer.engine_seconds)


def _listen(world: World) -> list[AnyMessage]:
    """Return a list that fills with every message sent from now on, once for each receiver."""
    seen: list[AnyMessage] = []
    said = world.watch.said

    def listen(peer: Peer, message: AnyMessage) -> None:
        seen.append(message)
        said(peer, message)

    world.watch.said = listen  # type: ignore[method-assign]
    return seen


def _durations(world: World, first: int, last: int) -> list[float]:
    """Return each round's seconds: from one block's adoption to the next, mean over peers."""
    at: dict[int, list[float]] = {}
    for when, _, event in world.events:
        if isinstance(event, BlockAdopted):
            at.setdefault(event.round, []).append(when)
    means = {number: statistics.mean(times) for number, times in at.items()}
    return [means[number] - means[number - 1] for number in range(first + 1, last + 1)]


def _share_counted(world: World, first: int, last: int) -> float:
    claimed = sum(isinstance(event, Claimed) and first < event.round <= last for _, _, event in world.events)
    counted = 0
    for number in range(first + 1, last + 1):
        block = world.peers["p0"].running.chain.link(world.block_at("p0", number)).block
        if block is not None:
            counted += sum(len(segments) for segments in counted_segments(block.body).values())
    return counted / max(1, claimed * world.rules.segments)


def _parsing_seconds(seen: list[AnyMessage]) -> float:
    """Return the CPU seconds that it takes to parse all these messages, each kind judged by a few of them.

    Signatures that a peer has verified before are not verified again: a roster's claims come once more in
    its block.
    """
    counts = Counter(kind_of(message) for message in seen)
    total = 0.0
    for kind, count in counts.items():
        samples = (message for message in seen if kind_of(message) == kind and isinstance(message, Signed))
        contents = [message.canonical() for message in islice(samples, _SAMPLES)]
        began = time.thread_time()
        for content in contents:
            parse(kind, content, run=RUN)
        total += count * (time.thread_time() - began) / max(1, len(contents))
    return total


def _held_bytes(root: object) -> int:
    """Return the bytes of everything that `root` refers to, shared things counted once."""
    seen: set[int] = set()
    waiting: list[Any] = [root]
    size = 0
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(thing))
        size += sys.getsizeof(thing)
        waiting += gc.get_referents(thing)
    return size


def table(results: list[Scale]) -> Table:
    """Return the results as a table, a column for each size."""
    made = Table(title="Rounds on simulated home links")
    made.add_column("peers")
    for one in results:
        made.add_column(str(one.peers), justify="right")
    rows: dict[str, Callable[[Scale], str]] = {
        "round, s": lambda one: f"{one.round_seconds:.1f}",
        "of it beside the window, s": lambda one: f"{one.overhead_seconds:.1f} ± {one.overhead_spread:.1f}",
        "sent a peer, MB": lambda one: f"{one.upload_bytes / 1e6:.2f}",
        "received a peer, MB": lambda one: f"{one.download_bytes / 1e6:.2f}",
        "sent, in contributions": lambda one: f"{one.upload_contributions:.2f}",
        "messages sent a peer": lambda one: f"{one.messages:.0f}",
        "made the cut": lambda one: f"{one.made_the_cut:.1%}",
        "engine, CPU ms": lambda one: f"{one.engine_ms:.0f}",
        "the busiest peer's": lambda one: f"{one.busiest_engine_ms:.0f}",
        "parsing and verifying, CPU ms": lambda one: f"{one.parsing_ms:.0f}",
        "memory of an engine, MB": lambda one: f"{one.engine_bytes / 1e6:.1f}",
        "grace, T, leader, s": lambda one: ", ".join(f"{seconds:.1f}" for seconds in one.deadlines),
    }
    for title, cell in rows.items():
        made.add_row(title, *(cell(one) for one in results))
    return made


def main(
    peers: Annotated[str, typer.Option(help="Sizes of the swarms, separated by commas.")] = "4,8,16,32,64",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to measure.")] = 8,
    segments: Annotated[int, typer.Option(min=1, max=1024, help="Segments of a contribution.")] = 64,
    window: Annotated[float, typer.Option(min=1, help="Seconds of a window.")] = 300.0,
    parameters: Annotated[int, typer.Option(min=1, help="Of the model.")] = 100_000_000,
    reduced_bits: Annotated[
        float, typer.Option(min=0.01, max=32, help="Bits a parameter of all reduced segments together.")
    ] = REDUCED_BITS,
    out: Annotated[Path, typer.Option(help="Where to write the results as JSON.")] = Path(
        "results/scale.json"
    ),
) -> None:
    """Measure rounds of simulated swarms, from a few peers to a full group."""
    console = Console(highlight=False)
    sizes = sizes_of(peers)
    with plain_errors():
        results = []
        for size in sizes:
            console.print(f"{size} peers ...")
            results.append(
                measure(
                    peers=size,
                    rounds=rounds,
                    segments=segments,
                    window_seconds=window,
                    parameters=parameters,
                    reduced_bits=reduced_bits,
                )
            )
        console.print(table(results))
        write_atomic(out, json.dumps([asdict(one) for one in results], indent=1).encode())
        console.print(f"Wrote {out}.")


if __name__ == "__main__":
    typer.run(main)
