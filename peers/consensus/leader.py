"""A leader's two acts: drawing up the roster, and making the block.

Leaders take turns by rank. The first acts as soon as it can; each one after it only when those before
have been silent for another of the round's leader deadlines. A successor that holds the roster goes on from
it; one that holds none draws up its own, as the next attempt.
"""

from __future__ import annotations

from peers.chain.validation import claim_fault
from peers.consensus.allreduce import BLOCK_AFTER, Allreduce
from peers.consensus.audit_duties import AuditDuties
from peers.consensus.block_processing import BlockProcessing
from peers.consensus.context import RoundContext
from peers.consensus.evidence import EvidenceBook
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
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId
from recipes.slots import merge, total

MOST_BYSTANDERS = 32  # peers outside the roster to which a block is sent; others ask for it


class Leader:
    """This peer as a leader of the round at hand: it holds claims, draws up rosters, makes blocks."""

    def __init__(
        self,
        context: RoundContext,
        *,
        evidence: EvidenceBook,
        duties: AuditDuties,
        allreduce: Allreduce,
        blocks: BlockProcessing,
    ) -> None:
        self._context = context
        self._evidence = evidence
        self._duties = duties
        self._allreduce = allreduce
        self._blocks = blocks

    def take_claim(self, signed: Signed[Claim]) -> None:
        """Keep a claim on top of the head, if a roster may list it. A peer's first claim stands."""
        context = self._context
        claim, pool, parent = signed.body, context.round.pool, context.round.parent
        if claim.peer in pool.held:
            if (first := pool.held[claim.peer][0]).hash != signed.hash:
                self._evidence.take(Evidence(one=first, other=signed))
            return
        if fault := claim_fault(claim, parent, context.rules):
            context.tell(Refused(claim.peer, "claim", fault))
            return
        known = parent.counters.peers
        if claim.peer in known or len(pool.held.keys() - known.keys()) < 2 * MAX_PEERS:
            pool.hold(signed, context.now)
            if claim.peer != context.me:
                context.measures.claim_came(context.now - context.silence_base())

    def draw_up_roster(self) -> None:
        """Draw up a roster of the claims, when it is this peer's turn and the claims are in."""
        context = self._context
        current = context.round
        if current.exchange.roster is not None or not current.pool.held or self._blocks.applying is not None:
            return
        rank = context.leaders().index(context.me)
        if rank in current.led_rosters or not self._claims_are_in(rank):
            return
        claims = self._compatible_claims()
        if not claims:
            return
        current.led_rosters.add(rank)
        parent = current.parent
        body = Roster(
            run=context.rules.run,
            peer=context.me,
            round=parent.round + 1,
            parent=parent.hash,
            attempt=rank,
            claims=tuple(claims),
        )
        signed = sign(context.key, body)
        rostered = {claim.body.peer for claim in claims}
        context.spread(signed, rostered, root=context.me)
        context.send(current.pool.ready - rostered, signed)
        self._allreduce.take_roster(signed)

    def _claims_are_in(self, rank: int) -> bool:
        context = self._context
        current = context.round
        deadline = context.silence_base() + context.deadlines.grace
        if rank > 0:
            return context.reached(deadline + rank * context.deadlines.leader)
        if not context.reached(current.pool.asked_at + context.deadlines.grace):
            return False
        still_training = current.window.training and current.window.ended_at is None
        if not still_training and self._expected() <= current.pool.held.keys():
            return True
        return context.reached(deadline)

    def _expected(self) -> set[PeerId]:
        """Return the peers for whose claims the first leader waits, within the grace: those that train.

        A window that began ahead may be over when its block comes. So the peers of the last round are given
        time to say that they train.
        """
        context = self._context
        current = context.round
        if context.rules.trains_ahead and not context.reached(
            context.adopted_at() + context.deadlines.leader
        ):
            return current.pool.ready | set(current.parent.counters.rostered())
        return current.pool.ready

    def _compatible_claims(self) -> list[Signed[Claim]]:
        """Return the claims that start from the agreed state and share no slots.

        Peers that the chain knows go first: newcomers cannot crowd those out. Of two newcomers that drew the
        same lane, chance chooses, by what nobody else knew before: no name can be made up for it.
        """
        context = self._context
        current = context.round
        start = context.chain.elected_digest(current.parent) or context.digest
        chosen: list[Signed[Claim]] = []
        used: list[SlotRange] = []
        known = current.parent.counters.peers
        own = current.window.claim
        chance = (own.body.preimage if own is not None else None) or current.parent.counters.beacon
        lots = {peer: digest(f"lane/{chance}/{peer}".encode()) for peer in current.pool.held}
        for peer in sorted(lots, key=lambda peer: (peer not in known, lots[peer])):
            signed, _ = current.pool.held[peer]
            slots = list(signed.body.slots)
            if signed.body.start_digest != start:
                context.tell(Refused(peer, "claim", "started from another state"))
            elif total(merge([*used, *slots])) != total(used) + total(slots):
                context.tell(Refused(peer, "claim", "its slots were used by another claim of this round"))
            elif len(chosen) < MAX_PEERS:
                chosen.append(signed)
                used += slots
        return sorted(chosen, key=lambda signed: signed.body.peer)

    def make_block(self) -> bool:
        """Make the block, if it is this peer's turn and the segments are here; return whether it did."""
        context = self._context
        current = context.round
        exchange = current.exchange
        if exchange.roster is None or self._blocks.applying is not None:
            return False
        roster = exchange.roster.body
        rank = context.leaders().index(context.me)
        deadline = exchange.roster_at + BLOCK_AFTER * context.deadlines.transfer
        if roster.peer == context.me:
            attempt = roster.attempt
            due = self._allreduce.all_here() or context.reached(deadline)
        elif rank > roster.attempt:
            attempt = rank
            due = context.reached(deadline + (rank - roster.attempt) * context.deadlines.leader)
        else:
            return False
        if not due or attempt in current.led_blocks:
            return False
        current.led_blocks.add(attempt)
        signed = sign(context.key, self._duties.with_operations(self._block(attempt)))
        rostered = {claim.body.peer for claim in roster.claims}
        context.spread(signed, rostered, root=context.me)
        others = sorted(current.pool.ready - rostered) + sorted(
            context.acquaintances.keys() - rostered - current.pool.ready
        )
        context.send(others[:MOST_BYSTANDERS], signed)
        self._blocks.take_block(context.me, signed)
        return True

    def _block(self, attempt: int) -> Block:
        context = self._context
        current, chain = context.round, context.chain
        parent = current.parent
        roster = current.exchange.roster
        if roster is None:
            raise RuntimeError("a block needs a roster")  # make_block has checked
        cosignatures = chain.admissible_cosignatures(parent)
        if chain.elected_digest(parent) is None:  # whatever others claim, the digest computed here counts
            cosignatures = [signed for signed in cosignatures if signed.body.digest == context.digest]
        return Block(
            run=context.rules.run,
            peer=context.me,
            round=parent.round + 1,
            attempt=attempt,
            parent=parent.hash,
            roster=roster,
            reductions=tuple(self._obtained(segment) for segment in range(context.rules.segments)),
            digest_before=chain.agreed_digest(parent, cosignatures) or context.digest,
            cosignatures=tuple(cosignatures),
            ledger=parent.ledger.head,
            accounts=parent.ledger.accounts_hash,
        )

    def _obtained(self, segment: int) -> Signed[Reduction] | None:
        """Return the reduction of `segment` whose bytes are here; None leaves the segment empty."""
        fetched = self._context.round.exchange.fetched
        for reduction in self._allreduce.by_preference(segment):
            if reduction.body.root in fetched:
                return reduction
        return None
