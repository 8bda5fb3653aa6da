"""The exchange from one peer's side: push segments, reduce those assigned to it, fetch the reduced ones.

Deadlines count from the moment the roster was accepted, in units T, the transfer deadline:

    T      a reducer averages what has arrived
    1.5 T  the reducer is silent: segments go to the backup (at once, if its result cannot be had)
    2.5 T  the backup averages what has arrived
    3 T    electors say which segments cannot be had; the leader makes the block, then its successors, in turn
"""

from __future__ import annotations

import math

from peers.chain.validation import is_own_attempt, needs_no_words, parts_fault, roster_fault
from peers.consensus.context import RoundContext
from peers.consensus.effects import (
    BeginExchange,
    FetchReduced,
    PushSegment,
    Reduce,
    ReducedLost,
    SegmentPushed,
    SegmentReduced,
    SegmentStored,
)
from peers.consensus.evidence import EvidenceBook
from peers.consensus.round_state import Exchange
from peers.consensus.statements.act_book import ActBook
from peers.consensus.statements.missing_words import MissingWords
from peers.consensus.statements.receipts import Receipts
from peers.protocol.assignment import assign_reducers
from peers.protocol.events import Notice, Refused, RosterAccepted
from peers.protocol.messages import (
    MAX_PEERS,
    Block,
    Evidence,
    Missing,
    Receipt,
    Reduction,
    Roster,
    Signed,
    sign,
)
from peers.protocol.rules import BLOCK_AFTER, CLAIM_LEADERS
from recipes.keys.keys import PeerId
from recipes.slots import merge, total

REDUCE_AFTER = 1.0
BACKUP_AFTER = 1.5
BACKUP_REDUCES_AFTER = 2.5
TOLERATED_OMISSIONS = 0.05  # share of the claims held; one is always forgiven, since messages cross
MAX_CANDIDATES = 16


class Allreduce:
    """This peer's part in the round's exchange; `round_state.Exchange` holds how far it is.

    Attributes:
        receipts: receipts for segments, given and taken.
        words: words on segments that cannot be had.
    """

    def __init__(self, context: RoundContext, evidence: EvidenceBook, acts: ActBook) -> None:
        self._context = context
        self._evidence = evidence
        self._acts = acts
        self.receipts = Receipts(context, evidence, acts)
        self.words = MissingWords(context)

    @property
    def _state(self) -> Exchange:
        return self._context.round.exchange

    # ------------------------------------------------------------ the roster

    def take_roster(self, signed: Signed[Roster]) -> None:
        """Keep a leader's valid roster; `accept_best_roster` accepts it in its turn."""
        context = self._context
        state, roster = self._state, signed.body
        self._evidence.compare(signed)
        if fault := roster_fault(context.chain, roster, context.round.parent):
            context.tell(Refused(roster.peer, "roster", fault))
            return
        order = context.leaders()
        ranked = len(context.chain_leaders())
        rank = order.index(roster.peer) if roster.peer in order else len(order)
        if not is_own_attempt(roster.attempt, rank, ranked):
            context.tell(Refused(roster.peer, "roster", "an attempt that is not its own"))
            return
        if roster.attempt not in state.candidates and roster.peer != context.me:
            context.spread(signed, [claim.body.peer for claim in roster.claims], root=roster.peer)
        state.candidates.setdefault(roster.attempt, signed)
        for claim in roster.claims:
            held = context.round.pool.held.get(claim.body.peer)
            if held is not None and held[0].hash != claim.hash:
                self._evidence.take(Evidence(one=held[0], other=claim))
        if len(state.candidates) > MAX_CANDIDATES:
            del state.candidates[max(state.candidates)]  # its turn would come last

    def accept_best_roster(self) -> None:
        """Accept the highest attempt whose time has come: the leaders before it have been silent."""
        context, state = self._context, self._state
        deadlines = context.deadlines
        accepted = -1 if state.roster is None else state.roster.body.attempt
        for attempt in sorted(state.candidates, reverse=True):
            if attempt <= accepted:
                return
            signed = state.candidates[attempt]
            patience = context.silence_base() + deadlines.grace + (attempt - 1) * deadlines.leader
            turn = max(patience, self.gives_way_at(signed.hash, attempt))
            if attempt == 0:
                turn = context.first_turn([claim.body.peer for claim in signed.body.claims])
            if context.reached(turn):
                self._accept(signed)
                return

    def gives_way_at(self, roster: str, attempt: int) -> float:
        """Return the time until which the accepted roster does not give way to one of a later attempt.

        Its exchange may be under way, with many more claims than a roster of a peer that knew of none.
        """
        context = self._context
        state = self._state
        held = state.roster
        if held is None or held.hash == roster:
            return -math.inf
        over = state.roster_at + BLOCK_AFTER * context.deadlines.transfer
        return over + max(1, attempt - held.body.attempt) * context.deadlines.leader

    def block_due_at(self, block: Block) -> float:
        """Return the time until which a block by a later leader than its roster's is not followed.

        One that may leave segments empty without a word has to wait for the turns of all others.
        """
        context = self._context
        given_way = self.gives_way_at(block.roster.hash, block.attempt)
        if not self.empties_without_words(block):
            return given_way
        state = self._state
        later = block.attempt - block.roster.body.attempt
        due = state.roster_at + BLOCK_AFTER * context.deadlines.transfer + later * context.deadlines.leader
        return max(given_way, due)

    def empties_without_words(self, block: Block) -> bool:
        """Whether a block by the accepted roster may leave segments empty without a word, and does so."""
        may_be_empty = needs_no_words(block.attempt, len(self._context.chain_leaders()))
        return may_be_empty and self._state.is_by(block.roster.hash) and None in block.reductions

    def _accept(self, signed: Signed[Roster]) -> None:
        context, roster = self._context, signed.body
        claimants = [claim.body.peer for claim in roster.claims]
        settled = context.now - context.deadlines.grace / 2
        self._state.accept(
            signed,
            assign_reducers(
                claimants, context.round.parent.counters, context.round.parent.say, context.rules
            ),
            context.now,
            refused=self.leaves_out_too_many(roster, until=settled),
            may_reduce=self._acts.may_act() and not self._acts.has_begun(signed.hash),
        )
        own = context.round.window.claim
        mine = own is not None and any(claim.hash == own.hash for claim in roster.claims)
        context.emit(BeginExchange(signed))
        context.tell(RosterAccepted(roster.round, roster.attempt, roster.peer, len(claimants), mine))
        context.inbox.release(signed.hash)

    def leaves_out_too_many(self, roster: Roster, *, until: float) -> bool:
        """Whether the roster omits claims that were here by `until` and should have been in it.

        This peer's own, where it is not full of established electors' claims. Of the others', only the first
        leaders judge, to whom all claims go, and only by those of established electors: who sends a claim to
        others alone, or comes with new names, cannot keep a roster from being co-signed.
        """
        context = self._context
        held, established = context.round.pool.held, context.round.parent.say.established
        claimants = {claim.body.peer for claim in roster.claims}
        if len(roster.claims) == MAX_PEERS and claimants <= established:
            return False
        used = [slots for claim in roster.claims for slots in claim.body.slots]
        start = roster.claims[0].body.start_digest
        omitted: set[PeerId] = set()
        for peer, (signed, arrived) in held.items():
            slots = signed.body.slots
            disjoint = total(merge([*used, *slots])) == total(used) + total(slots)
            if peer not in claimants and arrived <= until and disjoint and signed.body.start_digest == start:
                omitted.add(peer)
        if context.me in omitted & (established if len(roster.claims) == MAX_PEERS else omitted):
            return True
        if context.me not in context.leaders()[:CLAIM_LEADERS]:
            return False
        present = held.keys() & established
        return len(omitted & established) > max(1, TOLERATED_OMISSIONS * len(present))

    # ------------------------------------------------------------ segments

    def exchange(self) -> None:
        """Do what is due now in the exchange by the accepted roster."""
        context, state = self._context, self._state
        if state.roster is None:
            return
        claimants = [claim.body.peer for claim in state.roster.body.claims]
        self.receipts.give_to_complete()
        for segment in range(context.rules.segments):
            self._push(segment, claimants)
            self._reduce(segment, claimants)
            self._fetch(segment)
        if self.all_here():
            state.complete(context.now)
        self.words.say()

    def _push(self, segment: int, claimants: list[PeerId]) -> None:
        """Send the own segment to its reducer, and to the backup if the reducer failed."""
        context, state = self._context, self._state
        if state.roster is None or context.round.window.claim is None or context.me not in claimants:
            return
        assignment = state.assignments[segment]
        targets = [assignment.reducer]
        if assignment.backup is not None and self._reducer_failed(segment):
            targets.append(assignment.backup)
        for target in targets:
            if (segment, target) not in state.pushed:
                state.pushed.add((segment, target))
                if target != context.me:
                    context.measures.transfer_began((state.roster.hash, segment, target), context.now)
                context.emit(PushSegment(state.roster.hash, segment, target))

    def _reducer_failed(self, segment: int) -> bool:
        """Whether the segment's reducer has been silent too long, or its result cannot be had."""
        context, state = self._context, self._state
        word = state.reductions.get(segment, {}).get(state.assignments[segment].reducer)
        if word is not None:
            return word.body.root in state.lost
        return context.reached(state.roster_at + BACKUP_AFTER * context.deadlines.transfer)

    def _reduce(self, segment: int, claimants: list[PeerId]) -> None:
        """Average a segment that this peer is to reduce, once all parts are in or the time is up."""
        context, state = self._context, self._state
        assignment = state.assignments[segment]
        if state.roster is None or segment in state.reducing or not state.may_reduce:
            return
        if context.me == assignment.reducer:
            wait = REDUCE_AFTER
        elif context.me == assignment.backup and self._reducer_failed(segment):
            wait = BACKUP_REDUCES_AFTER
        else:
            return
        arrived = state.stored.get(segment, set())
        # A reducer that failed will most likely not send its own part to its backup either.
        expected = set(claimants) - ({assignment.reducer} if wait == BACKUP_REDUCES_AFTER else set())
        if arrived and (
            arrived >= expected or context.reached(state.roster_at + wait * context.deadlines.transfer)
        ):
            self._acts.begin(state.roster.hash)
            self.receipts.give_before(segment)
            state.reducing.add(segment)
            places = tuple(place for place, peer in enumerate(claimants) if peer in arrived)
            context.emit(Reduce(state.roster.hash, segment, places))

    def _fetch(self, segment: int) -> None:
        """Fetch the reduced segment that the block will most likely name, from its author or a claimant."""
        context, state = self._context, self._state
        if state.roster is None:
            return
        claimants = [claim.body.peer for claim in state.roster.body.claims if claim.body.peer != context.me]
        for reduction in state.by_preference(segment):
            body = reduction.body
            if body.root in state.fetched:
                return
            if body.root not in state.fetching:
                state.fetching.add(body.root)
                context.measures.transfer_began(body.root, context.now)
                sources = tuple(dict.fromkeys([body.peer, *claimants]))
                context.emit(FetchReduced(body.roster, segment, body.root, body.bytes, sources))
            if body.root not in state.lost:
                return

    def announce(self, done: SegmentReduced) -> None:
        """Sign and send the reduction of a segment that this peer has reduced."""
        context, state = self._context, self._state
        if state.roster is None or state.roster.hash != done.roster:
            return
        if not self.receipts.are_kept_by(done.segment, done.included):
            context.tell(Notice(f"Segment {done.segment} was averaged without a part that has a receipt."))
            return
        body = Reduction(
            run=context.rules.run,
            peer=context.me,
            roster=done.roster,
            segment=done.segment,
            root=done.root,
            bytes=done.size,
            included=done.included,
        )
        signed = sign(context.key, body)
        state.fetched.add(done.root)
        state.reductions.setdefault(done.segment, {})[context.me] = signed
        roster = state.roster.body
        context.send({claim.body.peer for claim in roster.claims} | {roster.peer}, signed)

    def take_reduction(self, signed: Signed[Reduction]) -> None:
        """Keep a reduction by a segment's reducer or backup under the accepted roster; the first stands."""
        context = self._context
        state, body = self._state, signed.body
        if state.roster is None or body.segment >= len(state.assignments):
            return
        assignment = state.assignments[body.segment]
        if body.peer not in (assignment.reducer, assignment.backup):
            context.tell(Refused(body.peer, "reduction", "the segment was not given to it"))
            return
        if fault := parts_fault(body, state.roster.body):
            context.tell(Refused(body.peer, "reduction", fault))
            return
        self.receipts.compare(signed)
        state.reductions.setdefault(body.segment, {}).setdefault(body.peer, signed)

    def take_statement(self, signed: Signed[Reduction] | Signed[Receipt] | Signed[Missing]) -> None:
        """Take a statement under the accepted roster."""
        match signed.body:
            case Reduction():
                self.take_reduction(signed)
            case Receipt():
                self.receipts.take(signed)
            case Missing():
                self.words.take(signed)

    def compare_block(self, signed: Signed[Block]) -> None:
        """Hold a block against what its leader and reducers signed before, whether it is valid or not."""
        self._evidence.compare(signed)
        self._evidence.compare(signed.body.roster)
        if self._state.is_by(signed.body.roster.hash):
            for reduction in signed.body.reductions:
                if reduction is not None:
                    self.receipts.compare(reduction)

    def all_here(self) -> bool:
        """Whether a reduced segment is here, with its bytes, for every segment."""
        return all(self._state.obtained(segment) for segment in range(self._context.rules.segments))

    # ------------------------------------------------------------ what became of it

    def pushed(self, outcome: SegmentPushed) -> None:
        """Note how sending an own segment went."""
        transfer = (outcome.roster, outcome.segment, outcome.reducer)
        if outcome.taken:
            self._context.measures.transfer_ended(transfer, self._context.now)
        else:
            self._context.measures.transfer_failed(transfer)

    def stored(self, outcome: SegmentStored) -> None:
        """Note that a claimant's segment is here to be reduced."""
        if self._state.is_by(outcome.roster):
            self._state.store(outcome.segment, outcome.claimant)

    def fetched(self, root: str) -> None:
        """Note that a reduced segment is here."""
        self._state.fetched.add(root)
        self._context.measures.transfer_ended(root, self._context.now)

    def lost(self, outcome: ReducedLost) -> None:
        """Note that a reduced segment cannot be had."""
        self._state.lost.add(outcome.root)
        self._context.measures.transfer_failed(outcome.root)
        self._context.tell(Notice(f"A reduced segment could not be had: {outcome.reason}"))
