"""The exchange from one peer's side: push segments, reduce those given to it, fetch what came of it.

Deadlines count from the moment the roster was accepted, in units T, the transfer deadline:

    T      a reducer averages what has arrived
    1.5 T  no word from the reducer: segments go to the backup (at once, if its result cannot be had)
    2.5 T  the backup averages what has arrived
    3 T    the leader makes the block with what it could get; then its successors, in turn
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from peers.chain.validation import parts_fault, roster_fault
from peers.consensus import block_processing
from peers.consensus.effects import BeginExchange, FetchReduced, PushSegment, Reduce, SegmentReduced
from peers.protocol.assignment import assign_reducers
from peers.protocol.events import Refused, RosterAccepted
from peers.protocol.messages import MAX_PEERS, Evidence, Reduction, Roster, Signed, sign
from recipes.keys.keys import PeerId
from recipes.slots import merge, total

if TYPE_CHECKING:
    from peers.consensus.engine import RoundEngine

REDUCE_AFTER = 1.0
BACKUP_AFTER = 1.5
BACKUP_REDUCES_AFTER = 2.5
BLOCK_AFTER = 3.0
TOLERATED_OMISSIONS = 0.05  # of the claims held; one is always forgiven, since messages cross
MAX_CANDIDATES = 16


def take_roster(engine: RoundEngine, signed: Signed[Roster]) -> None:
    """Keep a valid roster from a peer whose turn it is or will be; `exchange` accepts it in its time."""
    current, roster = engine.round, signed.body
    if fault := roster_fault(engine.chain, roster, current.parent):
        engine.tell(Refused(roster.peer, "roster", fault))
        return
    order = engine.leaders()
    ranked_by_chain = len(engine.chain_leaders())
    rank = order.index(roster.peer) if roster.peer in order else len(order)
    if roster.attempt != rank and min(roster.attempt, rank) < ranked_by_chain:
        engine.tell(Refused(roster.peer, "roster", "an attempt that is not its own"))
        return
    if roster.attempt not in current.candidates and roster.peer != engine.me:
        engine.spread(signed, [claim.body.peer for claim in roster.claims], root=roster.peer)
    current.candidates.setdefault(roster.attempt, signed)
    for claim in roster.claims:
        held = current.claims.get(claim.body.peer)
        if held is not None and held[0].hash != claim.hash:
            block_processing.take_evidence(engine, Evidence(one=held[0], other=claim))
    if len(current.candidates) > MAX_CANDIDATES:
        del current.candidates[max(current.candidates)]  # the last whose turn would come


def exchange(engine: RoundEngine) -> None:
    """Do whatever the exchange asks for at this moment."""
    _accept_best_roster(engine)
    current = engine.round
    if current.roster is None:
        return
    claimants = [claim.body.peer for claim in current.roster.body.claims]
    for segment in range(engine.rules.segments):
        _push(engine, segment, claimants)
        _reduce(engine, segment, claimants)
        _fetch(engine, segment)
    if current.exchanged_at is None and all_here(engine):
        current.exchanged_at = engine.now


def _accept_best_roster(engine: RoundEngine) -> None:
    """Accept the highest attempt whose time has come: a leader speaks when those before fell silent."""
    current, deadlines = engine.round, engine.deadlines
    accepted = -1 if current.roster is None else current.roster.body.attempt
    for attempt in sorted(current.candidates, reverse=True):
        if attempt <= accepted:
            return
        signed = current.candidates[attempt]
        patience = engine.silence_base() + deadlines.grace + (attempt - 1) * deadlines.leader
        if attempt == 0 or engine.reached(max(patience, gives_way_at(engine, signed.hash, attempt))):
            _accept(engine, signed)
            return


def gives_way_at(engine: RoundEngine, roster: str, attempt: int) -> float:
    """Return the time before which the roster at hand does not give way to another one of a later attempt.

    Its exchange may be under way, and hold many more claims than one that a peer drew up which knew of none.
    """
    held = engine.round.roster
    if held is None or held.hash == roster:
        return -math.inf
    over = engine.round.roster_at + BLOCK_AFTER * _transfer(engine)
    return over + max(1, attempt - held.body.attempt) * engine.deadlines.leader


def _accept(engine: RoundEngine, signed: Signed[Roster]) -> None:
    current, roster = engine.round, signed.body
    claimants = [claim.body.peer for claim in roster.claims]
    current.roster = signed
    current.roster_at = engine.now
    settled = engine.now - engine.deadlines.grace / 2
    current.roster_refused = leaves_out_too_many(engine, roster, until=settled)
    current.assignments = assign_reducers(claimants, current.parent.counters, engine.rules)
    current.pushed, current.stored, current.reducing, current.reductions = set(), {}, set(), {}
    current.exchanged_at = None
    mine = any(
        current.own_claim is not None and claim.hash == current.own_claim.hash for claim in roster.claims
    )
    engine.emit(BeginExchange(signed))
    engine.tell(RosterAccepted(roster.round, roster.attempt, roster.peer, len(claimants), mine))
    engine.replay_early(signed.hash)


def leaves_out_too_many(engine: RoundEngine, roster: Roster, *, until: float) -> bool:
    """Say whether the roster omits claims that arrived `until` then, and that its leader could have taken."""
    if len(roster.claims) == MAX_PEERS:
        return False
    claimants = {claim.body.peer for claim in roster.claims}
    used = [slots for claim in roster.claims for slots in claim.body.slots]
    start = roster.claims[0].body.start_digest
    omitted = 0
    for peer, (signed, arrived) in engine.round.claims.items():
        slots = signed.body.slots
        disjoint = total(merge([*used, *slots])) == total(used) + total(slots)
        if peer not in claimants and arrived <= until and disjoint and signed.body.start_digest == start:
            omitted += 1
    return omitted > max(1, TOLERATED_OMISSIONS * len(engine.round.claims))


def _push(engine: RoundEngine, segment: int, claimants: list[PeerId]) -> None:
    """Send the own segment to its reducer, and to the backup once the reducer has been silent too long."""
    current = engine.round
    if current.roster is None or current.own_claim is None or engine.me not in claimants:
        return
    assignment = current.assignments[segment]
    targets = [assignment.reducer]
    if assignment.backup is not None and _reducer_failed(engine, segment):
        targets.append(assignment.backup)
    for target in targets:
        if (segment, target) not in current.pushed:
            current.pushed.add((segment, target))
            if target != engine.me:
                engine.measures.transfer_began((current.roster.hash, segment, target), engine.now)
            engine.emit(PushSegment(current.roster.hash, segment, target))


def _reducer_failed(engine: RoundEngine, segment: int) -> bool:
    """Say whether the segment's reducer has been silent too long, or its result cannot be had."""
    current = engine.round
    word = current.reductions.get(segment, {}).get(current.assignments[segment].reducer)
    if word is not None:
        return word.body.root in current.lost
    return engine.reached(current.roster_at + BACKUP_AFTER * _transfer(engine))


def _reduce(engine: RoundEngine, segment: int, claimants: list[PeerId]) -> None:
    """Average a segment that is this peer's to reduce, once all parts are in or the time is up."""
    current = engine.round
    assignment = current.assignments[segment]
    if current.roster is None or segment in current.reducing:
        return
    if engine.me == assignment.reducer:
        wait = REDUCE_AFTER
    elif engine.me == assignment.backup and _reducer_failed(engine, segment):
        wait = BACKUP_REDUCES_AFTER
    else:
        return
    arrived = current.stored.get(segment, set())
    # A reducer that failed will most likely not send its own part to its backup either.
    expected = set(claimants) - ({assignment.reducer} if wait == BACKUP_REDUCES_AFTER else set())
    if arrived and (arrived >= expected or engine.reached(current.roster_at + wait * _transfer(engine))):
        current.reducing.add(segment)
        places = tuple(place for place, peer in enumerate(claimants) if peer in arrived)
        engine.emit(Reduce(current.roster.hash, segment, places))


def _transfer(engine: RoundEngine) -> float:
    return engine.deadlines.transfer


def _fetch(engine: RoundEngine, segment: int) -> None:
    """Fetch the reduced segment that the block will most likely name, from its author or who has it."""
    current = engine.round
    if current.roster is None:
        return
    claimants = [claim.body.peer for claim in current.roster.body.claims if claim.body.peer != engine.me]
    for reduction in by_preference(engine, segment):
        body = reduction.body
        if body.root in current.fetched:
            return
        if body.root not in current.fetching:
            current.fetching.add(body.root)
            engine.measures.transfer_began(body.root, engine.now)
            sources = tuple(dict.fromkeys([body.peer, *claimants]))
            engine.emit(FetchReduced(body.roster, segment, body.root, body.bytes, sources))
        if body.root not in current.lost:
            return


def announce(engine: RoundEngine, done: SegmentReduced) -> None:
    """Sign and send word of a segment that this peer has reduced."""
    current = engine.round
    if current.roster is None or current.roster.hash != done.roster:
        return
    body = Reduction(
        run=engine.rules.run,
        peer=engine.me,
        roster=done.roster,
        segment=done.segment,
        root=done.root,
        bytes=done.size,
        included=done.included,
    )
    signed = sign(engine.key, body)
    current.fetched.add(done.root)
    current.reductions.setdefault(done.segment, {})[engine.me] = signed
    roster = current.roster.body
    engine.send({claim.body.peer for claim in roster.claims} | {roster.peer}, signed)


def take_reduction(engine: RoundEngine, signed: Signed[Reduction]) -> None:
    """Keep the word of a segment's reducer or backup on the accepted roster; its first one stands."""
    current, body = engine.round, signed.body
    if current.roster is None or body.segment >= len(current.assignments):
        return
    assignment = current.assignments[body.segment]
    if body.peer not in (assignment.reducer, assignment.backup):
        engine.tell(Refused(body.peer, "reduction", "the segment was not given to it"))
        return
    if fault := parts_fault(body, current.roster.body):
        engine.tell(Refused(body.peer, "reduction", fault))
        return
    current.reductions.setdefault(body.segment, {}).setdefault(body.peer, signed)


def by_preference(engine: RoundEngine, segment: int) -> list[Signed[Reduction]]:
    """Return the reductions heard of for `segment`, the reducer's before the backup's."""
    heard = engine.round.reductions.get(segment, {})
    assignment = engine.round.assignments[segment]
    return [heard[peer] for peer in (assignment.reducer, assignment.backup) if peer in heard]


def all_here(engine: RoundEngine) -> bool:
    """Say whether a reduction of every segment is here with its bytes."""
    return all(
        any(reduction.body.root in engine.round.fetched for reduction in by_preference(engine, segment))
        for segment in range(engine.rules.segments)
    )
