"""A leader's two acts: drawing up the roster, and making the block.

Leaders take turns by rank. The first acts as soon as it can; each one after it only when those before
have been silent for `leader_seconds` more. A successor that holds the roster goes on from it; one that
holds none draws up its own, as the next attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.chain.validation import claim_fault
from peers.consensus import allreduce, audit_duties, block_processing
from peers.protocol.events import Refused
from peers.protocol.messages import (
    MAX_PEERS,
    Block,
    Claim,
    Evidence,
    Reduction,
    Roster,
    Signed,
    SlotRange,
    sign,
)
from recipes.keys.keys import PeerId
from recipes.slots import merge, total

if TYPE_CHECKING:
    from peers.consensus.engine import RoundEngine

MOST_BYSTANDERS = 32  # peers outside the roster to whom a block is sent; others ask for it


def take_claim(engine: RoundEngine, signed: Signed[Claim]) -> None:
    """Keep a claim on top of the head, if it may be rostered. The first one of a peer stands."""
    claim = signed.body
    current = engine.round
    if claim.peer in current.claims:
        if (first := current.claims[claim.peer][0]).hash != signed.hash:
            block_processing.take_evidence(engine, Evidence(one=first, other=signed))
        return
    if fault := claim_fault(claim, current.parent, engine.rules):
        engine.tell(Refused(claim.peer, "claim", fault))
        return
    known = current.parent.counters.peers
    if claim.peer in known or len(current.claims.keys() - known.keys()) < 2 * MAX_PEERS:
        current.claims[claim.peer] = (signed, engine.now)
        if claim.peer != engine.me:
            engine.measures.claim_came(engine.now - engine.silence_base())


def draw_up_roster(engine: RoundEngine) -> None:
    """Order the claims into a roster, when it is this peer's turn and the claims are in."""
    current = engine.round
    if current.roster is not None or not current.claims or engine.applying is not None:
        return
    rank = engine.leaders().index(engine.me)
    if rank in current.led_rosters or not _claims_are_in(engine, rank):
        return
    claims = _compatible_claims(engine)
    if not claims:
        return
    current.led_rosters.add(rank)
    parent = current.parent
    body = Roster(
        run=engine.rules.run,
        peer=engine.me,
        round=parent.round + 1,
        parent=parent.hash,
        attempt=rank,
        claims=tuple(claims),
    )
    signed = sign(engine.key, body)
    rostered = {claim.body.peer for claim in claims}
    engine.spread(signed, rostered, root=engine.me)
    engine.send(current.ready - rostered, signed)
    allreduce.take_roster(engine, signed)


def _claims_are_in(engine: RoundEngine, rank: int) -> bool:
    current = engine.round
    deadline = engine.silence_base() + engine.deadlines.grace
    if rank > 0:
        return engine.reached(deadline + rank * engine.deadlines.leader)
    if not engine.reached(current.claims_asked_at + engine.deadlines.grace):
        return False
    still_training = current.training and current.window_ended is None
    if not still_training and _expected(engine) <= current.claims.keys():
        return True
    return engine.reached(deadline)


def _expected(engine: RoundEngine) -> set[PeerId]:
    """Return whose claims the first leader waits for, within the grace: those who said that they train.

    A window that began ahead may be over when its block comes. So whoever was in the last round has time
    to say so.
    """
    current = engine.round
    if engine.rules.trains_ahead and not engine.reached(engine.adopted_at() + engine.deadlines.leader):
        return current.ready | set(current.parent.counters.rostered())
    return current.ready


def _compatible_claims(engine: RoundEngine) -> list[Signed[Claim]]:
    """Return the claims that start from the agreed state and share no slots.

    They come by their peers' names, those whom the chain knows first: newcomers cannot crowd them out.
    """
    current = engine.round
    start = engine.chain.elected_digest(current.parent) or engine.digest
    chosen: list[Signed[Claim]] = []
    used: list[SlotRange] = []
    known = current.parent.counters.peers
    for peer in sorted(current.claims, key=lambda peer: (peer not in known, peer)):
        signed, _ = current.claims[peer]
        slots = list(signed.body.slots)
        if signed.body.start_digest != start:
            engine.tell(Refused(peer, "claim", "started from another state"))
        elif total(merge([*used, *slots])) != total(used) + total(slots):
            engine.tell(Refused(peer, "claim", "its slots were used by another claim of this round"))
        elif len(chosen) < MAX_PEERS:
            chosen.append(signed)
            used += slots
    return chosen


def make_block(engine: RoundEngine) -> None:
    """Close the round, when it is this peer's turn and the reduced segments are there."""
    current = engine.round
    if current.roster is None or engine.applying is not None:
        return
    roster = current.roster.body
    rank = engine.leaders().index(engine.me)
    deadline = current.roster_at + allreduce.BLOCK_AFTER * engine.deadlines.transfer
    if roster.peer == engine.me:
        attempt = roster.attempt
        due = allreduce.all_here(engine) or engine.reached(deadline)
    elif rank > roster.attempt:
        attempt = rank
        due = engine.reached(deadline + (rank - roster.attempt) * engine.deadlines.leader)
    else:
        return
    if not due or attempt in current.led_blocks:
        return
    current.led_blocks.add(attempt)
    signed = sign(engine.key, audit_duties.with_words(engine, _block(engine, attempt)))
    rostered = {claim.body.peer for claim in roster.claims}
    engine.spread(signed, rostered, root=engine.me)
    others = sorted(current.ready - rostered) + sorted(engine.acquaintances.keys() - rostered - current.ready)
    engine.send(others[:MOST_BYSTANDERS], signed)
    block_processing.take_block(engine, engine.me, signed)
    block_processing.follow_best_branch(engine)


def _block(engine: RoundEngine, attempt: int) -> Block:
    current, chain = engine.round, engine.chain
    parent = current.parent
    roster = current.roster
    if roster is None:
        raise RuntimeError("a block needs a roster")  # make_block has checked
    cosignatures = chain.admissible_cosignatures(parent)
    if chain.elected_digest(parent) is None:  # others may say what they like: go by what was computed here
        cosignatures = [signed for signed in cosignatures if signed.body.digest == engine.digest]
    return Block(
        run=engine.rules.run,
        peer=engine.me,
        round=parent.round + 1,
        attempt=attempt,
        parent=parent.hash,
        roster=roster,
        reductions=tuple(_obtained(engine, segment) for segment in range(engine.rules.segments)),
        digest_before=chain.agreed_digest(parent, cosignatures) or engine.digest,
        cosignatures=tuple(cosignatures),
        ledger=parent.ledger.head,
    )


def _obtained(engine: RoundEngine, segment: int) -> Signed[Reduction] | None:
    """Return the reduction of `segment` whose bytes are here, or None: the segment stays empty."""
    for reduction in allreduce.by_preference(engine, segment):
        if reduction.body.root in engine.round.fetched:
            return reduction
    return None
