"""A leader's two acts: drawing up the roster, and making the block.

Leaders take turns by rank. The first acts as soon as it can; each one after it only when those before
have been silent for another of the round's leader deadlines. A successor that holds the roster goes on from
it; one that holds none draws up its own, as the next attempt.
"""

from __future__ import annotations

from peers.chain.validation import claim_fault, needs_no_words
from peers.consensus.allreduce import Allreduce
from peers.consensus.audit_duties import AuditDuties
from peers.consensus.block_processing import BlockProcessing
from peers.consensus.context import RoundContext
from peers.consensus.evidence import EvidenceBook
from peers.consensus.statements.act_book import ActBook
from peers.protocol.events import Refused
from peers.protocol.messages import (
    MAX_PEERS,
    Block,
    Claim,
    Evidence,
    Missing,
    Roster,
    Signed,
    SlotRange,
    sign,
)
from peers.protocol.rules import BLOCK_AFTER
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
        acts: ActBook,
    ) -> None:
        self._context = context
        self._acts = acts
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
            if claim.peer == context.me:
                self._acts.claimed(signed)
            else:
                context.measures.claim_came(context.now - context.silence_base())

    def draw_up_roster(self) -> None:
        """Draw up a roster of the claims, when it is this peer's turn and the claims are in."""
        context = self._context
        current = context.round
        if current.exchange.roster is not None or not current.pool.held or self._blocks.applying is not None:
            return
        if not self._acts.may_act():
            return
        rank, ranked = context.leaders().index(context.me), len(context.chain_leaders())
        attempt = self._acts.roster_attempt(rank, ranked=ranked)
        if not self._claims_are_in(attempt):
            return
        claims = self._compatible_claims()
        if not claims:
            return
        self._acts.draw_up_roster(attempt)
        parent = current.parent
        body = Roster(
            run=context.rules.run,
            peer=context.me,
            round=parent.round + 1,
            parent=parent.hash,
            attempt=attempt,
            claims=tuple(claims),
        )
        signed = sign(context.key, body)
        rostered = {claim.body.peer for claim in claims}
        context.spread(signed, rostered, root=context.me)
        context.send(current.pool.ready - rostered, signed)
        self._allreduce.take_roster(signed)

    def _claims_are_in(self, attempt: int) -> bool:
        context = self._context
        current = context.round
        deadline = context.silence_base() + context.deadlines.grace
        if attempt > 0:
            return context.reached(deadline + attempt * context.deadlines.leader)
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

        Established electors go first, then others that the chain knows: names that did not work crowd nobody
        out. Of two newcomers in one lane, what nobody else knew before chooses: no name is made up for it.
        """
        context = self._context
        current = context.round
        start = context.chain.elected_digest(current.parent) or context.digest
        chosen: list[Signed[Claim]] = []
        used: list[SlotRange] = []
        known, established = current.parent.counters.peers, current.parent.say.established
        own = current.window.claim
        chance = (own.body.preimage if own is not None else None) or current.parent.counters.beacon
        lots = {peer: digest(f"lane/{chance}/{peer}".encode()) for peer in current.pool.held}
        for peer in sorted(lots, key=lambda peer: (peer not in established, peer not in known, lots[peer])):
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
        if exchange.roster is None or self._blocks.applying is not None or current.made_block:
            return False
        turn = self._turn(exchange.roster.body) if self._acts.may_act() else None
        if turn is None:
            return False
        attempt, missing = turn
        roster = exchange.roster.body
        current.make_block()
        self._acts.make_block(attempt)
        signed = sign(context.key, self._duties.with_operations(self._block(attempt, missing)))
        rostered = {claim.body.peer for claim in roster.claims}
        context.spread(signed, rostered, root=context.me)
        others = sorted(current.pool.ready - rostered) + sorted(
            context.acquaintances.keys() - rostered - current.pool.ready
        )
        context.send(others[:MOST_BYSTANDERS], signed)
        self._blocks.take_block(context.me, signed)
        return True

    def _turn(self, roster: Roster) -> tuple[int, tuple[Signed[Missing], ...]] | None:
        """Return the attempt as which this peer may make the block now, with words on empty segments.

        Without the words that it would need, it waits for them; in the end, for its turn after all others'.
        """
        context = self._context
        rank, ranked = context.leaders().index(context.me), len(context.chain_leaders())
        deadline = context.round.exchange.roster_at + BLOCK_AFTER * context.deadlines.transfer
        attempt = roster.attempt if roster.peer == context.me else rank
        while attempt < roster.attempt or (attempt == roster.attempt and roster.peer != context.me):
            attempt += max(1, ranked)
        while True:
            due = deadline + (attempt - roster.attempt) * context.deadlines.leader
            complete = attempt == roster.attempt and self._allreduce.all_here()
            if not complete and not context.reached(due):
                return None
            words = self._words(attempt, ranked)
            if words is not None and not self._acts.made_block(attempt):
                return attempt, words
            attempt += max(1, ranked)

    def _words(self, attempt: int, ranked: int) -> tuple[Signed[Missing], ...] | None:
        """Return the words that a block of this attempt needs, or None if they are not here."""
        context = self._context
        if needs_no_words(attempt, ranked):
            return ()
        exchange = context.round.exchange
        empty = [number for number in range(context.rules.segments) if exchange.obtained(number) is None]
        return self._allreduce.words.covering(empty)

    def _block(self, attempt: int, missing: tuple[Signed[Missing], ...]) -> Block:
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
            reductions=tuple(map(current.exchange.obtained, range(context.rules.segments))),
            digest_before=chain.agreed_digest(parent, cosignatures) or context.digest,
            cosignatures=tuple(cosignatures),
            ledger=parent.ledger.head,
            accounts=parent.ledger.accounts_hash,
            missing=missing,
        )
