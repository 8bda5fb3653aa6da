"""One simulated world from beginning to end: faults for a time, then peace, and what peace must bring."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from peers.protocol.rules import Rules
from peers.simulation.faults import QUIET_SECONDS, Fault, Mishap, draw
from peers.simulation.invariants import TRACE_LINES, InvariantBrokenError
from peers.simulation.simulator import World, WorldForm
from recipes.schema.sections import Overlap

ROUNDS_TO_RECOVER = 5
ROUNDS_OF_PROOF = 2  # that everybody completes within that time
_USUAL_ROUND = 1.4  # windows
_ARRIVAL_SECONDS = 20.0  # within which all peers come


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parameters of a world. `only` leaves out all faults but those of these numbers."""

    seed: int
    peers: int
    rounds: int
    faults: frozenset[Fault]
    only: tuple[int, ...] | None = None
    overlap: Overlap = "none"

    @property
    def peace_at(self) -> float:
        """Virtual seconds after which nothing more befalls the world."""
        return QUIET_SECONDS + self.rounds * _USUAL_ROUND * 10.0

    def mishaps(self) -> list[tuple[int, Mishap]]:
        """Return what befalls the world, each with its number."""
        names = [f"p{number}" for number in range(self.peers)]
        drawn = draw(self.faults, seed=self.seed, names=names, until=self.peace_at)
        return [item for item in enumerate(drawn) if self.only is None or item[0] in self.only]

    def command(self) -> str:
        """Return the command that runs this world again."""
        faults = (
            "all" if self.faults == frozenset(Fault) else ",".join(f.value for f in Fault if f in self.faults)
        )
        only = "" if self.only is None else f" --only {','.join(map(str, self.only)) or 'none'}"
        overlap = "" if self.overlap == "none" else f" --overlap {self.overlap}"
        return (
            f"python -m peers.simulate --seed {self.seed} --peers {self.peers} --rounds {self.rounds} "
            f"--faults {faults or 'none'}{only}{overlap}"
        )


@dataclass(frozen=True)
class Outcome:
    """How a world went. `broken` is the invariant that broke, or empty; `trace` is then its last lines."""

    plan: Plan
    rounds: int
    virtual_seconds: float
    recovery_seconds: float  # from the last fault until everybody had completed the rounds of proof
    steps: int
    cpu_seconds: float
    fates: dict[str, int]  # of contributions' segments, settled ones
    broken: str
    trace: tuple[str, ...]


def recovery_bound(rules: Rules, *, liars: int) -> float:
    """Return the seconds within which everybody completes rounds again after the last fault.

    A round takes at most its window, the grace, three transfers, and two silences (roster, block) for each
    liar that may lead and for one more leader, each at its longest; five such rounds bring everybody back
    to one chain.
    """
    silences = 2 * (liars + 1) * rules.leader.most
    longest_round = rules.window_seconds + rules.grace.most + 3 * rules.transfer.most + silences
    return ROUNDS_TO_RECOVER * longest_round


def prepare(plan: Plan) -> World:
    """Return a world with its future written."""
    world = World(seed=plan.seed, peers=plan.peers, form=WorldForm(overlap=plan.overlap))
    chance = random.Random(f"{plan.seed}/arrivals")
    for _, mishap in plan.mishaps():
        mishap.write(world)
    for number, name in enumerate(world.peers):
        usual = chance.uniform(0, _ARRIVAL_SECONDS) if number else 0.0
        world.start(name, at=world.arrivals.get(name, usual))
    world.at(plan.peace_at, lambda: world.remark("no more faults from here on"))
    return world


def live(world: World, *, peace_at: float) -> float:
    """Run a world through its faults and on until everybody has recovered; return how long that took.

    Raises:
        InvariantBrokenError: something that must always hold did not, or nobody recovered in time.
    """
    world.run(until_round=10**9, at_most_seconds=peace_at + 0.001)
    honest = world.honest()
    target = max(world.round_of(peer.name) for peer in honest) + ROUNDS_OF_PROOF
    bound = recovery_bound(world.rules, liars=len(world.peers) - len(honest))
    branches: set[str] = set()
    while world.now < peace_at + bound and len(branches) != 1:
        world.run(until_round=target, at_most_seconds=peace_at + bound)
        branches = {world.block_at(peer.name, target - 1) for peer in honest}
        target += len(branches) != 1
    behind = [
        f"{peer.name} at {world.round_of(peer.name)}" for peer in honest if world.round_of(peer.name) < target
    ]
    world.watch.require(
        not behind,
        f"{bound:.0f} s after the last fault, not all completed round {target}: {', '.join(behind)}",
    )
    world.watch.require(len(branches) == 1, f"{len(branches)} branches {bound:.0f} s after the last fault")
    return world.now - peace_at


def run_world(plan: Plan) -> tuple[World, Outcome]:
    """Make a world, run it, and tell how it went."""
    began = time.process_time()
    world = prepare(plan)
    recovery, broken, trace = 0.0, "", list[str]()
    try:
        recovery = live(world, peace_at=plan.peace_at)
    except InvariantBrokenError as error:
        broken, trace = error.what, error.lines
    except Exception as error:  # noqa: BLE001 - a fault of the engine's own breaks a world like any other
        broken, trace = f"raised {error!r} in {_place(error)}", world.trace[-TRACE_LINES:]
    world.watch.account()
    outcome = Outcome(
        plan=plan,
        rounds=max(world.round_of(name) for name in world.peers),
        virtual_seconds=world.now,
        recovery_seconds=recovery,
        steps=world.steps,
        cpu_seconds=time.process_time() - began,
        fates=dict(world.watch.fates),
        broken=broken,
        trace=tuple(world.readable(line) for line in trace),
    )
    return world, outcome


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.name}, line {frame.lineno} of {Path(frame.filename).name}"


def shrink(outcome: Outcome, *, tries: int = 100) -> Outcome:
    """Return a broken world with fewer mishaps that breaks in some way as well.

    Ever smaller parts of the mishaps are left out, as long as the world still breaks (delta debugging:
    Zeller and Hildebrandt 2002).
    """
    smallest = outcome
    numbers = [number for number, _ in outcome.plan.mishaps()]
    size = max(1, len(numbers) // 2)
    while tries > 0 and numbers:
        for start in range(0, len(numbers), size):
            kept = numbers[:start] + numbers[start + size :]
            tries -= 1
            candidate = run_world(replace(outcome.plan, only=tuple(kept)))[1]
            if candidate.broken:
                smallest, numbers = candidate, kept
                break
            if tries <= 0:
                return smallest
        else:
            if size == 1:
                break
            size = max(1, size // 2)
    return smallest


def run_plan(plan: Plan) -> Outcome:
    """Run a world, and return only how it went."""
    return run_world(plan)[1]


def plans(
    seeds: Collection[int],
    *,
    fewest: int,
    most: int,
    rounds: int,
    faults: frozenset[Fault],
    overlap: Overlap = "none",
) -> list[Plan]:
    """Return a plan for each seed, its peers drawn between `fewest` and `most`: small numbers more often.

    The logarithm of the number is drawn evenly, for most faults show among few peers, and large worlds take
    long.
    """
    found = []
    for seed in seeds:
        draw_of = random.Random(f"{seed}/peers").random()
        count = int(fewest * ((most + 1) / fewest) ** draw_of)
        plan = Plan(seed=seed, peers=min(most, count), rounds=rounds, faults=faults, overlap=overlap)
        found.append(plan)
    return found
