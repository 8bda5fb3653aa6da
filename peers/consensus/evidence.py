"""Proof that a peer contradicted itself: kept, counted against it, and passed on once."""

from __future__ import annotations

from collections.abc import Iterable

from peers.consensus.context import RoundContext
from peers.consensus.effects import SaveEvidence
from peers.consensus.operation_pool import OperationPool
from peers.protocol.events import Convicted
from peers.protocol.messages import (
    Block,
    BlockHeader,
    CoSignature,
    Evidence,
    Roster,
    RosterHeader,
    Signed,
    header_of,
)
from peers.protocol.round_reasons import Equivocation
from recipes.keys.keys import PeerId

MAX_EQUIVOCATORS = 4096
MAX_HEADERS = 1024  # of leaders' acts, the newest


class EvidenceBook:
    """The known equivocators: peers that signed two statements that contradict each other."""

    def __init__(self, context: RoundContext, operations: OperationPool, known: Iterable[Evidence]) -> None:
        """Begin with the proofs that were known before a restart.

        Args:
            context: the engine's context.
            operations: the pool that takes proofs to the next block.
            known: from disk: one proof of each kind against each equivocator.
        """
        self._context = context
        self._operations = operations
        self._shown: set[tuple[PeerId, Equivocation]] = set()
        self._headers: dict[tuple[str, ...], Signed[RosterHeader] | Signed[BlockHeader]] = {}
        for proof in known:
            if (shown := proof.shows()) is not None:
                self._shown.add((proof.one.body.peer, shown))
            operations.keep_evidence(proof, context.round.parent.accounts)

    @property
    def equivocators(self) -> frozenset[PeerId]:
        """The peers against which there is a proof."""
        return frozenset(peer for peer, _ in self._shown)

    def headers(self) -> int:
        """Return how many headers are kept, for tests of the bound."""
        return len(self._headers)

    def compare(self, signed: Signed[Roster] | Signed[Block]) -> None:
        """Hold a leader's act against what it signed before for the same attempt on the same parent.

        Only leaders that the chain ranks are compared: names cost nothing, and would push out what is kept.
        """
        body, chain = signed.body, self._context.chain
        if body.parent not in chain or body.peer not in chain.link(body.parent).leaders:
            return
        place = (body.purpose, body.peer, body.parent, str(body.attempt), str(body.round))
        first = self._headers.get(place)
        if first is None:
            if len(self._headers) >= MAX_HEADERS:
                del self._headers[next(iter(self._headers))]
            self._headers[place] = header_of(signed)
        elif first.signature != signed.signature:
            self.take(Evidence(one=first, other=header_of(signed)))

    def take(self, evidence: Evidence) -> None:
        """Keep a proof that a peer contradicted itself; pass on the first of each kind about each peer."""
        context = self._context
        shown = evidence.shows()
        if shown is None:
            return
        culprit = evidence.one.body.peer
        if not self._counts(culprit):
            return
        costs_more = self._operations.keep_evidence(evidence, context.round.parent.accounts)
        if (culprit, shown) in self._shown or len(self._shown) >= MAX_EQUIVOCATORS:
            if costs_more:  # another one, of a later round: leaders have to know of it
                context.send(set(context.acquaintances), evidence)
            return
        self._shown.add((culprit, shown))
        one, other = evidence.one, evidence.other
        if isinstance(one.body, CoSignature):
            context.chain.note_equivocation(one, other)  # type: ignore[arg-type]
        context.tell(Convicted(culprit, shown, evidence.signed_in))
        context.emit(SaveEvidence(evidence))
        context.send(set(context.acquaintances), evidence)

    def _counts(self, peer: PeerId) -> bool:
        """Whether a peer is one that a proof can cost something: a name that the chain or the round knows."""
        parent, round_ = self._context.round.parent, self._context.round
        known = parent.counters.peers.keys() | parent.accounts.peers.keys() | parent.say.weights.keys()
        return peer in known or peer in round_.pool.held or peer in round_.pool.ready
