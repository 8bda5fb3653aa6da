"""Co-signatures: those of others, and the own ones, which a peer that lost its memory withholds for a while.

Each is the word of a peer that it applied a block and that its state's digest is now this. Before the own one
is sent, its vote lock is on disk: what every later one must respect (finality.py, after Casper FFG).
"""

from __future__ import annotations

from peers.chain.chain import Link
from peers.chain.finality import Promise
from peers.consensus.context import RoundContext
from peers.consensus.effects import SavePromise
from peers.consensus.evidence import EvidenceBook
from peers.consensus.final_blocks import FinalBlocks
from peers.protocol.messages import CoSignature, Evidence, Signed, sign
from recipes.keys.keys import PeerId

FORGETFUL_WINDOWS = 3  # after which a lone elector that lost its memory goes on


class Cosigning:
    """Takes co-signatures in, and makes this peer's own."""

    def __init__(
        self,
        context: RoundContext,
        *,
        evidence: EvidenceBook,
        final: FinalBlocks,
        promise: Promise | None,
        state_round: int,
    ) -> None:
        """Go on from what was promised before a restart.

        Args:
            context: of the engine.
            evidence: takes proof that a peer co-signed two blocks of one height.
            final: is told when a co-signature makes a block final.
            promise: what co-signatures made so far demand of later ones; None if that is forgotten.
            state_round: of the state on disk, which may be further than what is left of the chain.
        """
        self._context = context
        self._evidence = evidence
        self._final = final
        self._promise = promise
        self._state_round = state_round
        self._forgot = promise is None  # it may have claimed already in the round that it finds
        self._found_at: float | None = None  # when a peer that forgot found a head
        self._rounds_seen = 0  # since the start; those whose roster came in time count twice

    @property
    def promise(self) -> Promise | None:
        """What co-signatures made so far demand of later ones."""
        return self._promise

    @property
    def state_round(self) -> int:
        """The round of the state on disk at the start."""
        return self._state_round

    @property
    def forgot(self) -> bool:
        """Whether this peer may have claimed, before it lost its memory, in a round that it finds."""
        return self._forgot

    # ------------------------------------------------------------ others' and own

    def take_or_keep(self, sender: PeerId, signed: Signed[CoSignature]) -> None:
        """Record a co-signature, now or when its block is here."""
        if signed.body.block in self._context.chain:
            self.take(signed)
        else:
            self._context.inbox.keep(signed.body.block, sender, signed, self._context.now)

    def take(self, signed: Signed[CoSignature]) -> None:
        """Record a co-signature of a known block."""
        chain = self._context.chain
        before = chain.final
        if chain.add_cosignature(signed):
            self._final.tell(before)
            found = chain.equivocations.get(signed.body.peer)
            if found is not None:
                self._evidence.take(Evidence(one=found[0], other=found[1]))

    def cosign(self, link: Link) -> None:
        """Co-sign the head once per height, if this peer has a say in it."""
        context = self._context
        self._promise_by_checkpoint()
        if self._promise is None or self._forgot or not self._promise.allows(link.round, link.finality):
            return
        interested = context.chain.may_cosign(link)
        if context.me not in interested:
            return
        self._promise = self._promise.after(link.round, link.finality)
        body = CoSignature(
            run=context.rules.run,
            peer=context.me,
            round=link.round,
            block=link.hash,
            digest=context.digest,
        )
        signed = sign(context.key, body)
        context.emit(SavePromise(self._promise))
        self.take(signed)
        context.send(interested | set(context.acquaintances), signed)

    def _promise_by_checkpoint(self) -> None:
        """Once the owner's block is final here, let the promise count on its electors."""
        chain, checkpoint, promise = self._context.chain, self._final.checkpoint, self._promise
        if promise is None or checkpoint is None or promise.decreed == checkpoint.body.block:
            return
        decreed = checkpoint.body.block
        if decreed in chain and chain.is_final(decreed):
            self._promise = promise.under(decreed, chain.newest_justified_above(decreed))
            self._context.emit(SavePromise(self._promise))

    # ------------------------------------------------------------ a lost memory

    def promise_afresh(self) -> None:
        """If the promise is forgotten, claim nothing on the head that is found, and co-sign nothing for long.

        Before it forgot, this peer may have been `rewind_depth` rounds further, on another branch; and it was
        as far as the state on disk, whatever head it finds.
        """
        if self._promise is None:
            context = self._context
            link = context.chain.link(context.head)
            deep = max(link.round, self._state_round) + context.rules.rewind_depth
            self._promise = Promise(deep, link.finality.justified_round, link.round)
            self._found_at = self._found_at or context.now

    def saw_round(self, *, live: bool) -> None:
        """Count a block that came in its time; `live`: its roster had come, too."""
        self._rounds_seen += 2 if live else 1

    def may_claim_at_once(self) -> bool:
        """Let a forgetful peer claim again; return whether even in the round at hand.

        Once it saw a block being made, it may claim on that, for there it cannot have claimed. It saw that if
        it held the block's roster before, or if two blocks came in their time. An elector that is all alone
        goes on after a while; what any other peer would make alone counts for nobody.
        """
        context = self._context
        if not self._forgot or self._found_at is None:
            return False
        if self._rounds_seen > 1:
            self._forgot, self._promise = False, None
            self.promise_afresh()
            if self._promise is not None:
                context.emit(SavePromise(self._promise))
            return False
        long_enough = self._found_at + FORGETFUL_WINDOWS * context.rules.window_seconds
        alone = not context.acquaintances and context.me in context.chain.electors_at(context.head)
        if alone and context.reached(long_enough):
            self._forgot = False
            return True
        return False
