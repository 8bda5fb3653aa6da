"""Who leads a round and who reduces which segment: drawn by hash, the same for everybody.

Nothing here is anybody's choice. Both orders follow from the chain (its beacon, its counters) and from
the roster, so a leader cannot favour anyone and nobody needs to check that it did not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peers.counters import Counters
from peers.messages import Block
from peers.rules import Rules
from recipes.keys import PeerId
from recipes.merkle import digest


@dataclass(frozen=True)
class Assignment:
    """The reducer of one segment, and who steps in if it fails (None in a swarm of one)."""

    reducer: PeerId
    backup: PeerId | None


def ranked(peers: Iterable[PeerId], counters: Counters) -> list[PeerId]:
    """Return `peers` in the order in which they lead the round after `counters`."""
    seed = f"leader/{counters.beacon}/{counters.round + 1}/"
    return sorted(set(peers), key=lambda peer: digest((seed + peer).encode()))


def leaders(counters: Counters, rules: Rules, others: Iterable[PeerId] = ()) -> list[PeerId]:
    """Return who leads next: the electors, then the last roster, then `others` that hold the head."""
    order: list[PeerId] = []
    for group in (counters.electors(rules), counters.rostered(), others):
        order += [peer for peer in ranked(group, counters) if peer not in order]
    return order


def assign_reducers(claimants: Iterable[PeerId], counters: Counters, rules: Rules) -> tuple[Assignment, ...]:
    """Give each segment to a claimant, as evenly as can be, and a different one as backup.

    Peers that lately failed to deliver are asked last; nobody gets more than 2/R of the segments,
    R being the number of claimants.
    """
    peers = sorted(claimants)
    cap = max(1, -(-2 * rules.segments // len(peers)))
    load = dict.fromkeys(peers, 0)
    failed = {p: bool(s.misses) for p in peers if (s := counters.peers.get(p)) is not None}
    assignments = []
    for segment in range(rules.segments):
        seed = f"reducer/{counters.beacon}/{counters.round + 1}/{segment}/"
        order = sorted(
            peers, key=lambda p: (load[p] >= cap, failed.get(p, False), load[p], digest((seed + p).encode()))
        )
        load[order[0]] += 1
        assignments.append(Assignment(order[0], order[1] if len(order) > 1 else None))
    return tuple(assignments)


def missed_reducers(block: Block, counters: Counters, rules: Rules) -> frozenset[PeerId]:
    """Return the reducers of whose segments `block` holds nothing, or what the backup delivered."""
    assignments = assign_reducers((c.body.peer for c in block.roster.body.claims), counters, rules)
    return frozenset(
        assignment.reducer
        for assignment, reduction in zip(assignments, block.reductions, strict=True)
        if reduction is None or reduction.body.peer != assignment.reducer
    )
