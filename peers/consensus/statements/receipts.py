"""Receipts for segments: given by reducers, kept by claimants, and held against reductions.

A reducer gives one to a claimant when all that claimant's parts for it are here, and for what is here just
before it reduces. From then on it must not leave these parts out. Parts that come later get none.
"""

from __future__ import annotations

from collections.abc import Iterable

from peers.consensus.context import RoundContext
from peers.consensus.evidence import EvidenceBook
from peers.consensus.round_state import Exchange
from peers.consensus.statements.act_book import ActBook
from peers.protocol.events import Refused
from peers.protocol.messages import Evidence, Receipt, Reduction, Signed, sign
from peers.protocol.reductions import leaves_out
from recipes.keys.keys import PeerId


class Receipts:
    """This peer's receipts in the exchange at hand: those that it gave, and those that it was given."""

    def __init__(self, context: RoundContext, evidence: EvidenceBook, acts: ActBook) -> None:
        self._context = context
        self._evidence = evidence
        self._acts = acts

    @property
    def _state(self) -> Exchange:
        return self._context.round.exchange

    # ------------------------------------------------------------ giving

    def give_to_complete(self) -> None:
        """Give a receipt to each claimant all of whose parts for this reducer came lately."""
        state = self._state
        if not state.take_news() or not state.may_reduce:
            return
        own = [
            segment
            for segment, assignment in enumerate(state.assignments)
            if assignment.reducer == self._context.me
        ]
        for place, claimant in enumerate(state.claimants):
            if own and all(claimant in state.stored.get(segment, ()) for segment in own):
                self._give(place, claimant)

    def give_before(self, segment: int) -> None:
        """Give a receipt to each claimant with a part of `segment`, which is about to be reduced."""
        arrived = self._state.stored.get(segment, set())
        for place, claimant in enumerate(self._state.claimants):
            if claimant in arrived and segment not in self._state.given.get(place, ()):
                self._give(place, claimant)

    def _give(self, place: int, claimant: PeerId) -> None:
        """Give a claimant a receipt for all parts that are here in time, unless it has one for them."""
        context, state = self._context, self._state
        known = state.given.get(place, frozenset())
        here = {segment for segment, arrived in state.stored.items() if claimant in arrived}
        segments = known | (here - state.reducing)
        if claimant == context.me or segments == known or state.roster is None:
            return
        state.given[place] = frozenset(segments)
        body = Receipt(
            run=context.rules.run,
            peer=context.me,
            round=context.round.parent.round + 1,
            roster=state.roster.hash,
            claimant=place,
            segments=tuple(sorted(segments)),
        )
        self._acts.begin(state.roster.hash)
        context.send([claimant], sign(context.key, body))

    def are_kept_by(self, segment: int, included: Iterable[int]) -> bool:
        """Whether an average has all parts of a segment in it for which receipts were given."""
        due = {place for place, segments in self._state.given.items() if segment in segments}
        return due.issubset(included)

    # ------------------------------------------------------------ taking

    def take(self, signed: Signed[Receipt]) -> None:
        """Keep a receipt for own parts by their reducer or backup, and compare it with what it announced."""
        context, state, body = self._context, self._state, signed.body
        if fault := self._fault(body):
            context.tell(Refused(body.peer, "receipt", fault))
            return
        for segment in body.segments:
            state.receipts.setdefault((body.peer, segment), signed)
            known = state.reductions.get(segment, {}).get(body.peer)
            if known is not None:
                self._compare_two(signed, known)

    def _fault(self, receipt: Receipt) -> str | None:
        context, state = self._context, self._state
        if receipt.round != context.round.parent.round + 1:
            return "a receipt for another round"
        if receipt.claimant >= len(state.claimants) or state.claimants[receipt.claimant] != context.me:
            return "a receipt for another claimant"
        if receipt.segments[-1] >= len(state.assignments):
            return "a receipt for a segment that there is not"
        for segment in receipt.segments:
            assigned = state.assignments[segment]
            if receipt.peer not in (assigned.reducer, assigned.backup):
                return "a receipt for a segment that was not given to it"
        return None

    def compare(self, reduction: Signed[Reduction]) -> None:
        """Hold a reduction under the accepted roster against the receipts for the same segment."""
        body = reduction.body
        receipt = self._state.receipts.get((body.peer, body.segment))
        if receipt is not None:
            self._compare_two(receipt, reduction)

    def _compare_two(self, receipt: Signed[Receipt], reduction: Signed[Reduction]) -> None:
        if leaves_out(reduction.body, receipt.body):
            self._evidence.take(Evidence(one=receipt, other=reduction))
