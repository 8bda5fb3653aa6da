"""Proof that a peer contradicted itself: kept, counted against it, and passed on once."""

from __future__ import annotations

from collections.abc import Mapping

from peers.consensus.context import RoundContext
from peers.consensus.effects import SaveEvidence
from peers.consensus.operation_pool import Words
from peers.protocol.events import Convicted
from peers.protocol.messages import CoSignature, Evidence
from peers.protocol.round_reasons import Equivocation
from recipes.keys.keys import PeerId

MAX_CONVICTS = 4096


class EvidenceBook:
    """The peers that are known to have signed two things of which an honest one signs only one."""

    def __init__(self, context: RoundContext, words: Words, known: Mapping[PeerId, Evidence]) -> None:
        """Take up what was known before.

        Args:
            context: of the engine.
            words: what the chain does not hold yet, double claims among it.
            known: proof by culprit, from disk.
        """
        self._context = context
        self._words = words
        self._convicts = set(known)
        for proof in known.values():
            words.keep_evidence(proof, context.round.parent.accounts)

    @property
    def convicts(self) -> frozenset[PeerId]:
        """The peers against which there is proof."""
        return frozenset(self._convicts)

    def take(self, evidence: Evidence) -> None:
        """Keep proof that a peer contradicted itself, and pass it on, once for each peer."""
        context = self._context
        culprit = evidence.convicts()
        if culprit is None:
            return
        costs_more = self._words.keep_evidence(evidence, context.round.parent.accounts)
        if culprit in self._convicts or len(self._convicts) >= MAX_CONVICTS:
            if costs_more:  # another double claim: leaders have to know of it
                context.send(set(context.acquaintances), evidence)
            return
        self._convicts.add(culprit)
        one, other = evidence.one, evidence.other
        kind: Equivocation = "two_claims"
        if isinstance(one.body, CoSignature):
            kind = "two_cosignatures"
            context.chain.convict(one, other)  # type: ignore[arg-type]
        context.tell(Convicted(culprit, kind, one.body.round))
        context.emit(SaveEvidence(culprit, evidence))
        context.send(set(context.acquaintances), evidence)
