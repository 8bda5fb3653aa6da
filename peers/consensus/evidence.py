"""Proof that a peer contradicted itself: kept, counted against it, and passed on once."""

from __future__ import annotations

from collections.abc import Mapping

from peers.consensus.context import RoundContext
from peers.consensus.effects import SaveEvidence
from peers.consensus.operation_pool import OperationPool
from peers.protocol.events import Convicted
from peers.protocol.messages import CoSignature, Evidence
from peers.protocol.round_reasons import Equivocation
from recipes.keys.keys import PeerId

MAX_EQUIVOCATORS = 4096


class EvidenceBook:
    """The known equivocators: peers that signed two statements that contradict each other."""

    def __init__(
        self, context: RoundContext, operations: OperationPool, known: Mapping[PeerId, Evidence]
    ) -> None:
        """Begin with the proofs that were known before a restart.

        Args:
            context: the engine's context.
            operations: the pool that takes proofs of double claims to the next block.
            known: from disk: the proof against each equivocator.
        """
        self._context = context
        self._operations = operations
        self._equivocators = set(known)
        for proof in known.values():
            operations.keep_evidence(proof, context.round.parent.accounts)

    @property
    def equivocators(self) -> frozenset[PeerId]:
        """The peers against which there is a proof."""
        return frozenset(self._equivocators)

    def take(self, evidence: Evidence) -> None:
        """Keep a proof that a peer contradicted itself; pass on the first one about each peer."""
        context = self._context
        culprit = evidence.culprit()
        if culprit is None:
            return
        costs_more = self._operations.keep_evidence(evidence, context.round.parent.accounts)
        if culprit in self._equivocators or len(self._equivocators) >= MAX_EQUIVOCATORS:
            if costs_more:  # another double claim: leaders have to know of it
                context.send(set(context.acquaintances), evidence)
            return
        self._equivocators.add(culprit)
        one, other = evidence.one, evidence.other
        kind: Equivocation = "two_claims"
        if isinstance(one.body, CoSignature):
            kind = "two_cosignatures"
            context.chain.note_equivocation(one, other)  # type: ignore[arg-type]
        context.tell(Convicted(culprit, kind, one.body.round))
        context.emit(SaveEvidence(culprit, evidence))
        context.send(set(context.acquaintances), evidence)
