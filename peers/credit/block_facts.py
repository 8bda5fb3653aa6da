"""The facts in one block on which accounts depend: its claims, and the operations that it carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from peers.credit.audit import Work
from peers.credit.rules import CreditRules
from peers.protocol.counters import Counters, counted_segments
from peers.protocol.key_change import Moved
from peers.protocol.messages import Block, Claim, Evidence, Signed
from peers.protocol.reasons import Breach
from peers.protocol.round_reasons import Equivocation
from peers.protocol.verdicts import Dispute, Verdict
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId
from recipes.slots import total

_BREACHES: dict[Equivocation, Breach] = {
    "two_rosters": "two rosters",
    "two_blocks": "two blocks",
    "broken_receipt": "broken receipt",
    "two_cosignatures": "two co-signatures",
}


@dataclass(frozen=True)
class RosteredClaim:
    """A claim of the block's roster: the work that it states, and how much of it was included."""

    work: Work
    predecessor: str | None
    segments: int


@dataclass(frozen=True)
class DoubleClaim:
    """Proof that a peer signed two claims for one round, on top of one block."""

    peer: PeerId
    round: int


@dataclass(frozen=True)
class Contradiction:
    """Proof that a peer contradicted itself as leader, reducer or elector in a round; `proof` is its hash."""

    peer: PeerId
    round: int
    breach: Breach
    proof: str


@dataclass(frozen=True)
class RoundFacts:
    """A block's facts: claims in roster order, and the operations that it carries, each with its body's hash.

    `beacon` and `electors` are those after the block. `drawing` are the electors that will draw its claims,
    whomever its roster lists: their hash chains were anchored before. `shown` is what the electors showed of
    theirs for the round before this block: it draws the claims of the round before that.
    """

    round: int
    beacon: str
    electors: frozenset[PeerId]
    drawing: frozenset[PeerId] = frozenset()
    shown: Mapping[PeerId, str] = field(default_factory=dict)
    claims: tuple[RosteredClaim, ...] = ()
    verdicts: tuple[tuple[str, Verdict], ...] = ()
    disputes: tuple[Dispute, ...] = ()
    double_claims: tuple[DoubleClaim, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    rotations: tuple[Moved, ...] = ()


def facts_of(block: Block, counters: Counters, rules: CreditRules) -> RoundFacts:
    """Return the facts of a block that is valid on its chain. `counters` are those after it."""
    counted = counted_segments(block)
    claims = (
        RosteredClaim(_work(signed, rules), signed.body.predecessor, len(counted[signed.body.peer]))
        for signed in block.roster.body.claims
    )
    double_claims = (double_claim(one) for one in block.evidence)
    contradictions = (contradiction(one) for one in block.evidence)
    moved = (one.moved() for one in block.rotations)
    electors = counters.electors(rules.protocol)
    records = {peer: counters.peers[peer] for peer in electors if peer in counters.peers}
    shown = {peer: record.shown_for(block.round - 1) for peer, record in records.items()}
    drawing = (peer for peer, one in records.items() if one.preimage and one.anchored < block.round)
    return RoundFacts(
        round=block.round,
        beacon=counters.beacon,
        electors=electors,
        drawing=frozenset(drawing),
        shown={peer: preimage for peer, preimage in shown.items() if preimage is not None},
        claims=tuple(claims),
        verdicts=tuple((signed.hash, signed.body) for signed in block.verdicts),
        disputes=tuple(signed.body for signed in block.disputes),
        double_claims=tuple(proof for proof in double_claims if proof is not None),
        contradictions=tuple(proof for proof in contradictions if proof is not None),
        rotations=tuple(one for one in moved if one is not None),
    )


def _work(signed: Signed[Claim], rules: CreditRules) -> Work:
    """Return the work of a claim. Its steps are computed from its slots, not taken from its own field."""
    claim = signed.body
    slots = total(claim.slots)
    return Work(
        claim=signed.hash,
        peer=claim.peer,
        signer=claim.peer,
        round=claim.round,
        tokens=slots * rules.protocol.tokens_per_slot,
        steps=-(-slots // rules.batch_slots),
        numeric_class=claim.numeric_class,
        calibrated=claim.numeric_class in rules.calibrated,
    )


def double_claim(evidence: Evidence) -> DoubleClaim | None:
    """Return the double claim that a proof shows, or None if it shows none."""
    peer, one = evidence.culprit(), evidence.one.body
    if peer is None or not isinstance(one, Claim) or evidence.round is None:
        return None
    return DoubleClaim(peer, one.round)


def contradiction(evidence: Evidence) -> Contradiction | None:
    """Return what a proof shows beside a double claim, or None if it shows nothing else."""
    shown, signed_in = evidence.shows(), evidence.round
    breach = _BREACHES.get(shown) if shown is not None else None
    if breach is None or signed_in is None:
        return None
    proof = digest(evidence.canonical()).hex()
    return Contradiction(evidence.one.body.peer, signed_in, breach, proof)
