"""The order of leaders and the reducers of segments: drawn by hash, the same for every peer.

Leaders follow from the chain alone, each elector's turn from its own hash chain. Reducers follow from the
beacon and the roster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from peers.protocol.chance.say import Say
from peers.protocol.chance.weighted_order import in_order, uniform
from peers.protocol.counters import Counters
from peers.protocol.messages import Block
from peers.protocol.rules import Rules
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId

_FEWEST_ELECTORS = 2  # that can stand in for each other


@dataclass(frozen=True)
class Assignment:
    """The reducer of one segment, and the backup that steps in if it fails (None in a swarm of one)."""

    reducer: PeerId
    backup: PeerId | None


def leaders(counters: Counters, say: Say, others: Iterable[PeerId] = ()) -> list[PeerId]:
    """Return the leaders of the round after `counters`: electors, then the last roster, then `others`.

    Electors come by weighted chance, each by a number of its own: what its hash chain showed for the round
    before the last block. Nobody else has a part in that number, and a preimage that one leader leaves out
    is shown by the next. Its salt keeps it from being chosen with the chain. Those who showed none come by
    the beacon, in the same order: whom two leaders left out has a turn all the same.
    """
    numbers = {peer: _ticket(peer, counters) or _lot(peer, counters) for peer in say.weights}
    order = with_others(in_order(numbers, say.weights), counters.rostered(), counters, say)
    return with_others(order, others, counters, say)


def with_others(
    order: Sequence[PeerId], others: Iterable[PeerId], counters: Counters, say: Say
) -> list[PeerId]:
    """Return leaders in their order, and after them those others that are not among them, by the beacon."""
    fresh = set(others) - {*order, *say.out}
    return [*order, *sorted(fresh, key=lambda peer: (_lot(peer, counters), peer))]


def _ticket(peer: PeerId, counters: Counters) -> int | None:
    """Return an elector's own number for the round after `counters`; None without an old enough chain."""
    record = counters.peers.get(peer)
    if record is None or record.salt is None or counters.round < 1:
        return None
    shown = record.shown_for(counters.round - 1)
    if shown is None:
        return None
    return uniform(f"leader/{record.salt}/{shown}/{counters.round + 1}/{peer}")


def _lot(peer: PeerId, counters: Counters) -> int:
    """Return a peer's number for the round after `counters`, by the beacon."""
    return uniform(f"leader/{counters.beacon}/{counters.round + 1}/{peer}")


def assign_reducers(
    claimants: Iterable[PeerId], counters: Counters, say: Say, rules: Rules
) -> tuple[Assignment, ...]:
    """Give each segment to a claimant, as evenly as can be, and a different one as backup.

    Where two established electors or more claim, they reduce and step in: identities cost nothing, and an
    attacker with many could leave most of a round empty. Peers that lately failed to deliver are asked last
    of their kind.

    With R claimants, no peer gets more than 2/R of the segments. Electors that are fewer than half get their
    even share, up to 4/R; the segments beyond that go to the others, with electors as backups: a swarm that
    grows fast must not wait for a few.
    """
    peers = sorted(claimants)
    electors = say.established & set(peers)
    if len(electors) < _FEWEST_ELECTORS:
        electors = frozenset()
    failed = (peer for peer in peers if (known := counters.peers.get(peer)) is not None and known.misses)
    draw = f"reducer/{counters.beacon}/{counters.round + 1}"
    return _assign(tuple(peers), electors, frozenset(failed), draw, rules.segments)


@lru_cache(maxsize=8)  # a block's check asks twice
def _assign(
    peers: tuple[PeerId, ...],
    electors: frozenset[PeerId],
    failed: frozenset[PeerId],
    draw: str,
    segments: int,
) -> tuple[Assignment, ...]:
    cap = _share(2, segments, len(peers))
    elector_cap = cap
    if electors:
        even = _share(1, segments, len(electors))
        elector_cap = min(max(cap, even), _share(4, segments, len(peers)))
    kind = {p: (p not in electors, p in failed) for p in peers}
    most = {p: elector_cap if p in electors else cap for p in peers}
    names = {p: p.encode() for p in peers}
    reduces, steps_in = dict.fromkeys(peers, 0), dict.fromkeys(peers, 0)
    assignments = []
    for segment in range(segments):
        seed = f"{draw}/{segment}/".encode()
        drawn = sorted(peers, key=lambda p: digest(seed + names[p]))
        reducer = min(drawn, key=lambda p: (reduces[p] >= most[p], kind[p], reduces[p]))
        others = [p for p in drawn if p != reducer]
        backup = min(others, key=lambda p: (kind[p], steps_in[p])) if others else None
        reduces[reducer] += 1
        if backup is not None:
            steps_in[backup] += 1
        assignments.append(Assignment(reducer, backup))
    return tuple(assignments)


def _share(times: int, segments: int, peers: int) -> int:
    """Return so many times an even share of the segments, rounded up."""
    return -(-times * segments // peers)


def missed_reducers(block: Block, counters: Counters, say: Say, rules: Rules) -> frozenset[PeerId]:
    """Return the reducers whose segments `block` leaves empty, or has from the backup."""
    assignments = assign_reducers((c.body.peer for c in block.roster.body.claims), counters, say, rules)
    return frozenset(
        assignment.reducer
        for assignment, reduction in zip(assignments, block.reductions, strict=True)
        if reduction is None or reduction.body.peer != assignment.reducer
    )
