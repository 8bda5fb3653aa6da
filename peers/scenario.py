"""One simulated world from beginning to end: faults for a time, then peace, and what peace must bring."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from peers.faults import QUIET_SECONDS, Fault, afflict
from peers.invariants import TRACE_LINES, InvariantBrokenError
from peers.rules import Rules
from peers.world import World

ROUNDS_TO_RECOVER = 5
ROUNDS_OF_PROOF = 2  # that everybody completes within that time
_USUAL_ROUND = 1.4  # windows
_ARRIVAL_SECONDS = 20.0  # within which all peers come


@dataclass(frozen=True)
class Outcome:
    """How a world went. `broken` is the invariant that broke, or empty; `trace` is then its last lines."""

    seed: int
    peers: int
    faults: tuple[Fault, ...]
    rounds: int
    virtual_seconds: float
    recovery_seconds: float  # from the last fault until everybody had completed the rounds of proof
    steps: int
    real_seconds: float
    broken: str
    trace: tuple[str, ...]


def recovery_bound(rules: Rules, *, liars: int) -> float:
    """Return the seconds within which everybody completes rounds again after the last fault.

    A round takes at most its window, the grace, three transfers, and two silences (roster, block) for each
    liar that may lead and for one more leader; five such rounds bring everybody back to one chain.
    """
    silences = 2 * (liars + 1) * rules.leader.most
    longest_round = rules.window_seconds + rules.grace.most + 3 * rules.transfer.most + silences
    return ROUNDS_TO_RECOVER * longest_round


def prepare(*, seed: int, peers: int, rounds: int, faults: Collection[Fault]) -> tuple[World, float]:
    """Return a world with its future written, and the time of its last fault."""
    world = World(seed=seed, peers=peers)
    chance = random.Random(f"{seed}/arrivals")
    peace_at = QUIET_SECONDS + rounds * _USUAL_ROUND * world.rules.window_seconds
    afflict(world, faults, seed=seed, until=peace_at)
    for number, name in enumerate(world.peers):
        world.start(name, at=chance.uniform(0, _ARRIVAL_SECONDS) if number else 0.0)
    world.at(peace_at, lambda: world.remark("no more faults from here on"))
    return world, peace_at


def live(world: World, *, peace_at: float) -> float:
    """Run a world through its faults and on until everybody has recovered; return how long that took.

    Raises:
        InvariantBrokenError: something that must always hold did not, or nobody recovered in time.
    """
    world.run(until_round=10**9, at_most_seconds=peace_at + 0.001)
    honest = world.honest()
    target = max(world.round_of(peer.name) for peer in honest) + ROUNDS_OF_PROOF
    bound = recovery_bound(world.rules, liars=len(world.peers) - len(honest))
    world.run(until_round=target, at_most_seconds=peace_at + bound)
    behind = [
        f"{peer.name} at {world.round_of(peer.name)}" for peer in honest if world.round_of(peer.name) < target
    ]
    world.watch.require(
        not behind,
        f"{bound:.0f} s after the last fault, not all completed round {target}: {', '.join(behind)}",
    )
    blocks = {world.block_at(peer.name, target - 1) for peer in honest}
    world.watch.require(len(blocks) == 1, f"{len(blocks)} branches at round {target - 1} after recovery")
    return world.now - peace_at


def run_world(*, seed: int, peers: int, rounds: int, faults: Collection[Fault]) -> tuple[World, Outcome]:
    """Make a world, run it, and tell how it went."""
    began = time.perf_counter()
    world, peace_at = prepare(seed=seed, peers=peers, rounds=rounds, faults=faults)
    recovery, broken, trace = 0.0, "", list[str]()
    try:
        recovery = live(world, peace_at=peace_at)
    except InvariantBrokenError as error:
        broken, trace = error.what, error.lines
    except Exception as error:  # a fault of the engine's own breaks a world like any other
        broken, trace = f"raised {error!r} in {_place(error)}", world.trace[-TRACE_LINES:]
    outcome = Outcome(
        seed=seed,
        peers=peers,
        faults=tuple(fault for fault in Fault if fault in faults),
        rounds=max(world.round_of(name) for name in world.peers),
        virtual_seconds=world.now,
        recovery_seconds=recovery,
        steps=world.steps,
        real_seconds=time.perf_counter() - began,
        broken=broken,
        trace=tuple(world.readable(line) for line in trace),
    )
    return world, outcome


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.name}, line {frame.lineno} of {Path(frame.filename).name}"


def shrink(outcome: Outcome, *, rounds: int) -> Outcome:
    """Return a broken world with fewer kinds of faults that breaks in some way as well."""
    smallest = outcome
    for fault in outcome.faults:
        fewer = [other for other in smallest.faults if other is not fault]
        candidate = run_world(seed=outcome.seed, peers=outcome.peers, rounds=rounds, faults=fewer)[1]
        if candidate.broken:
            smallest = candidate
    return smallest
