"""Simulated swarms: the production round engine in virtual time, over virtual links, under drawn faults.

    python -m peers.simulate --seed 7 --peers 8 --rounds 20 --faults crash,partition,loss
    python -m peers.simulate --seed 1 --split 5,3 --rounds 10
    python -m peers.simulate --seeds 0..999 --peers 5..30 --rounds 6 --faults all --overlap eager

The first runs one world and prints what happened in it. So does the second, of a swarm that is cut into parts
for ten rounds; it exits with 1 if they do not end on one chain. The third runs many, on all cores, prints a
table, and exits with 1 if an invariant broke anywhere: with the seed, the fewest mishaps that still break it,
the command that replays just those, and the last lines of that world's trace. The same numbers give the same
world, always.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from peers.protocol.events import BlockAdopted, BlockFinal, Refused, Rewound
from peers.simulation.faults import Fault
from peers.simulation.invariants import InvariantBrokenError
from peers.simulation.partition import cut_apart, meet
from peers.simulation.scenario import Outcome, Plan, plans, run_plan, run_world, shrink
from peers.simulation.simulator import World
from recipes.command import plain_errors
from recipes.formats.files import write_atomic
from recipes.schema.sections import Overlap

BROKEN = 1  # exit code
_SHOWN = 3  # broken worlds that are shrunk, and whose traces are printed


def main(
    seed: Annotated[int, typer.Option(help="The one world to run, and to tell about.")] = 0,
    seeds: Annotated[str | None, typer.Option(help="Many worlds, FIRST..LAST: a table and no tale.")] = None,
    peers: Annotated[
        str, typer.Option(help="Peers: a number, or FEWEST..MOST to draw from, small ones more often.")
    ] = "6",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that faults go on for, about.")] = 12,
    faults: Annotated[
        str, typer.Option(help=f"all, none, or some of: {','.join(fault.value for fault in Fault)}.")
    ] = "all",
    only: Annotated[
        str | None,
        typer.Option(help="Of the mishaps drawn, only those with these numbers, as 0,3,7; or none."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Instead of faults: cut the swarm into parts of so many peers, as 5,3, for --rounds."
        ),
    ] = None,
    overlap: Annotated[
        str, typer.Option(help=f"The recipe's round.overlap: {', '.join(get_args(Overlap))}.")
    ] = "none",
    jobs: Annotated[int, typer.Option(min=0, help="Worlds at once; 0: one a core.")] = 0,
    out: Annotated[Path | None, typer.Option(help="With --seeds, write the table as JSON, too.")] = None,
) -> None:
    """Run simulated swarms and check what must always hold."""
    console = Console(soft_wrap=True, highlight=False)
    if split is not None:
        raise typer.Exit(_split(console, seed, _sizes(split), rounds))
    chosen, (fewest, most), mode = _faults(faults), _span(peers, "--peers"), _overlap(overlap)
    if seeds is None:
        [plan] = plans([seed], fewest=fewest, most=most, rounds=rounds, faults=chosen, overlap=mode)
        plan = replace(plan, only=_numbers(only))
        _announce(console, plan)
        world, outcome = run_world(plan)
        _tell(console, world)
        _conclude(console, outcome)
        raise typer.Exit(BROKEN if outcome.broken else 0)
    first, last = _span(seeds, "--seeds")
    planned = plans(
        range(first, last + 1), fewest=fewest, most=most, rounds=rounds, faults=chosen, overlap=mode
    )
    with multiprocessing.Pool(jobs or os.cpu_count()) as pool:
        done = pool.imap_unordered(run_plan, planned, chunksize=4)
        progress = track(done, "Worlds", total=len(planned), console=Console(stderr=True), transient=True)
        outcomes = sorted(progress, key=lambda outcome: outcome.plan.seed)
    console.print(_table(outcomes))
    console.print(_fates(outcomes))
    broken = [outcome for outcome in outcomes if outcome.broken]
    with plain_errors():
        if out is not None:
            write_atomic(out, json.dumps(_as_json(outcomes), indent=1).encode())
    for outcome in broken[:_SHOWN]:
        smallest = shrink(outcome)
        _announce(console, smallest.plan)
        _conclude(console, smallest)
    for outcome in broken[_SHOWN:]:
        console.print(f"{outcome.plan.command()}: {outcome.broken}", markup=False)
    raise typer.Exit(BROKEN if broken else 0)


def _span(text: str, option: str) -> tuple[int, int]:
    """Return the ends of "7" or "5..30"."""
    found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if last < first or (option == "--peers" and first < 1):
        raise typer.BadParameter(f"{text!r} is neither a number nor FIRST..LAST", param_hint=option)
    return first, last


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if text != "none" and not re.fullmatch(r"\d+(,\d+)*", text):
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 0,3,7", param_hint="--only")
    return () if text == "none" else tuple(map(int, text.split(",")))


def _sizes(text: str) -> tuple[int, ...]:
    """Return the parts' sizes of "5,3"."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)+", text):
        raise typer.BadParameter(f"{text!r} is no list of sizes such as 5,3", param_hint="--split")
    return tuple(map(int, text.split(",")))


def _overlap(text: str) -> Overlap:
    if text not in get_args(Overlap):
        raise typer.BadParameter(
            f"{text!r}; there are {', '.join(get_args(Overlap))}", param_hint="--overlap"
        )
    return cast(Overlap, text)


def _faults(text: str) -> frozenset[Fault]:
    if text in ("all", "none"):
        return frozenset(Fault if text == "all" else ())
    try:
        return frozenset(Fault(name.strip()) for name in text.split(","))
    except ValueError as error:
        known = ", ".join(fault.value for fault in Fault)
        raise typer.BadParameter(
            f"{error}; there are {known}, all and none", param_hint="--faults"
        ) from error


# ---------------------------------------------------------------- one world


def _announce(console: Console, plan: Plan) -> None:
    """Print what will befall a world."""
    for number, mishap in plan.mishaps():
        console.print(f"mishap {number}: {mishap.text}", markup=False)


def _tell(console: Console, world: World) -> None:
    """Print what happened: what befell the world, and how each round went, in the order of time."""
    remarks = [line for line in world.trace if " -- " in line[:14]]
    lines = sorted(chain(remarks, _rounds(world), _rewinds(world)), key=lambda line: float(line[:9]))
    for line in lines:
        console.print(world.readable(line), markup=False)
    refused: dict[str, int] = defaultdict(int)
    for _, name, event in world.events:
        if isinstance(event, Refused) and world.peers[name].liar is None:
            refused[f"{event.kind}: {event.fault.split(': ')[-1]}"] += 1
    for reason, times in sorted(refused.items(), key=lambda item: -item[1]):
        console.print(f"refused {times} times: {reason}", markup=False)
    for peer in world.peers.values():
        sent, received = peer.line.sent_bytes / 1e6, peer.line.received_bytes / 1e6
        console.print(f"{peer.name}: {sent:.1f} MB up, {received:.1f} MB down", markup=False)


def _rounds(world: World) -> Iterator[str]:
    """Yield a line for each block: when it was first adopted, by how many in the end, and what it holds."""
    adopted: dict[str, list[tuple[float, str, BlockAdopted]]] = defaultdict(list)
    final: dict[str, float] = {}
    for at, name, event in world.events:
        if isinstance(event, BlockAdopted):
            adopted[event.block].append((at, name, event))
        elif isinstance(event, BlockFinal):
            final.setdefault(event.block, at)
    for block, seen in adopted.items():
        at, _, event = seen[0]
        empty = f", {event.empty_segments} segments empty" if event.empty_segments else ""
        finality = f"; final at {final[block]:.1f}" if block in final else ""
        yield (
            f"{at:9.3f} round {event.round}: block {block[:8]} by {event.leader} (attempt {event.attempt}), "
            f"{event.claims} claims{empty}; adopted by {len({name for _, name, _ in seen})} "
            f"until {seen[-1][0]:.1f}{finality}"
        )


def _rewinds(world: World) -> Iterator[str]:
    for at, name, event in world.events:
        if isinstance(event, Rewound):
            yield f"{at:9.3f} {name} goes back from round {event.round} to {event.to_round}: a better branch"


def _conclude(console: Console, outcome: Outcome) -> None:
    if outcome.broken:
        console.print(f"\nBROKEN: {outcome.broken}\n    {outcome.plan.command()}", markup=False)
        for line in outcome.trace:
            console.print(f"    {line}", markup=False)
        return
    console.print(
        f"\n{outcome.plan.command()}: {outcome.rounds} rounds in {outcome.virtual_seconds:.0f} virtual "
        f"seconds; recovered {outcome.recovery_seconds:.0f} s after the last fault; {outcome.steps} steps in "
        f"{outcome.cpu_seconds:.1f} s. No invariant broke.",
        markup=False,
    )


def _split(console: Console, seed: int, sizes: tuple[int, ...], rounds: int) -> int:
    """Run and tell a world in parts; return the exit code."""
    world = World(seed=seed, peers=sum(sizes))
    try:
        apart = cut_apart(world, sizes)
        world.run(until_round=apart.after_round + rounds)
        healing = meet(apart)
    except InvariantBrokenError as error:
        console.print("\n".join(["BROKEN: " + error.what, *map(world.readable, error.lines)]), markup=False)
        return BROKEN
    _tell(console, world)
    console.print()
    for names, reached in zip(apart.parts, healing.reached, strict=True):
        made = reached - apart.after_round
        console.print(f"{' '.join(names)}: {made} rounds apart, {apart.after_round + 1} to {reached}")
    console.print(f"Blocks made apart that were final before they met: {len(healing.final_apart)}")
    if healing.seconds is None:
        console.print("They stay apart. An owner's checkpoint decides (python -m peers.checkpoint).")
        return BROKEN
    console.print(f"All on one chain, in one state, {healing.seconds:.1f} virtual seconds after they met")
    undone = ", ".join(f"{name} {depth}" for name, depth in sorted(healing.undone.items()))
    console.print(f"Rounds that peers went back: {undone or 'none'}")
    segments, returned = len(healing.returned) * world.rules.segments, sum(healing.returned.values())
    console.print(
        f"Of {len(healing.returned)} contributions to the {len(healing.lost)} blocks that were left, "
        f"{returned} of {segments} segments returned to their senders"
    )
    return 0


# ---------------------------------------------------------------- many worlds


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(title="Simulated worlds")
    titles = ("peers", "worlds", "broken", "rounds", "virtual hours", "slowest recovery, s", "CPU s")
    for title in titles:
        table.add_column(title, justify="right")
    by_size: dict[int, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_size[outcome.plan.peers].append(outcome)
    for size, group in [*sorted(by_size.items()), ("all", outcomes)]:
        table.add_row(
            str(size),
            str(len(group)),
            str(sum(bool(outcome.broken) for outcome in group)),
            str(sum(outcome.rounds for outcome in group)),
            f"{sum(outcome.virtual_seconds for outcome in group) / 3600:.1f}",
            f"{max(outcome.recovery_seconds for outcome in group):.0f}",
            f"{sum(outcome.cpu_seconds for outcome in group):.0f}",
        )
    return table


def _fates(outcomes: list[Outcome]) -> str:
    """Print what became of all contributions' segments."""
    total: Counter[str] = Counter()
    for outcome in outcomes:
        total.update(outcome.fates)
    told = ", ".join(f"{count} {fate}" for fate, count in sorted(total.items(), key=lambda item: -item[1]))
    return f"What became of the segments of contributions: {told or 'there were none'}."


def _as_json(outcomes: list[Outcome]) -> dict[str, object]:
    return {
        "worlds": len(outcomes),
        "broken": [outcome.plan.command() for outcome in outcomes if outcome.broken],
        "rounds": sum(outcome.rounds for outcome in outcomes),
        "steps": sum(outcome.steps for outcome in outcomes),
        "virtual_seconds": sum(outcome.virtual_seconds for outcome in outcomes),
        "cpu_seconds": sum(outcome.cpu_seconds for outcome in outcomes),
        "slowest_recovery_seconds": max(outcome.recovery_seconds for outcome in outcomes),
        "peers": dict(sorted(Counter(outcome.plan.peers for outcome in outcomes).items())),
    }


if __name__ == "__main__":
    typer.run(main)
