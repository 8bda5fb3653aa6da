"""Co-signatures: other peers' are recorded, and this peer's are made.

A co-signature states that a peer applied a block, and the digest of its state after it. Before this peer
sends one, the vote lock is on disk: the rule for later co-signatures (finality.py, after Casper FFG). A peer
that lost its vote lock makes none for a while.
"""

from __future__ import annotations

from peers.chain.finality import VoteLock
from peers.chain.link import Link
from peers.consensus.context import RoundContext
from peers.consensus.effects import SaveVoteLock
from peers.consensus.evidence import EvidenceBook
from peers.consensus.final_blocks import FinalBlocks
from peers.protocol.messages import CoSignature, Evidence, Signed, sign
from recipes.keys.keys import PeerId

FORGETFUL_WINDOWS = 3  # a lone elector that lost its memory goes on after so many windows


class Cosigning:
    """Records other peers' co-signatures, and makes this peer's."""

    def __init__(
        self,
        context: RoundContext,
        *,
        evidence: EvidenceBook,
        final: FinalBlocks,
        vote_lock: VoteLock | None,
        state_round: int,
    ) -> None:
        """Go on with the vote lock from before a restart.

        Args:
            context: the engine's context.
            evidence: takes proofs that a peer co-signed two blocks of one height.
            final: is told when a co-signature makes a block final.
            vote_lock: the rule that earlier co-signatures set for later ones; None if it is lost.
            state_round: round of the state on disk, which may be later than any block left in the chain.
        """
        self._context = context
        self._evidence = evidence
        self._final = final
        self._vote_lock = vote_lock
        self._state_round = state_round
        self._forgot = vote_lock is None  # such a peer may have claimed in the round that it finds
        self._lost_before = vote_lock is None or vote_lock.claims_after > 0
        self._found_at: float | None = None  # when a peer that lost its memory found a head
        self._rounds_seen = 0  # since the start; a round whose roster came in time counts twice

    @property
    def vote_lock(self) -> VoteLock | None:
        """The rule that earlier co-signatures set for later ones; None if it is lost."""
        return self._vote_lock

    @property
    def state_round(self) -> int:
        """The round of the state on disk at the start."""
        return self._state_round

    @property
    def forgot(self) -> bool:
        """Whether this peer lost its memory, and so may have claimed in the round that it finds."""
        return self._forgot

    @property
    def lost_before(self) -> bool:
        """Whether this peer ever lost its memory: what it did before that is not known."""
        return self._lost_before

    # ------------------------------------------------------------ others' and own

    def take_or_keep(self, sender: PeerId, signed: Signed[CoSignature]) -> None:
        """Record a co-signature now, or once its block is here."""
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
        """Co-sign the head, once per height, if this peer has a say in it and the vote lock allows it."""
        context = self._context
        self._lock_by_checkpoint()
        if self._vote_lock is None or self._forgot or not self._vote_lock.allows(link.round, link.finality):
            return
        interested = context.chain.may_cosign(link)
        if context.me not in interested:
            return
        self._vote_lock = self._vote_lock.after(link.round, link.finality)
        body = CoSignature(
            run=context.rules.run,
            peer=context.me,
            round=link.round,
            block=link.hash,
            digest=context.digest,
        )
        signed = sign(context.key, body)
        context.emit(SaveVoteLock(self._vote_lock))
        self.take(signed)
        context.send(interested | set(context.acquaintances), signed)

    def _lock_by_checkpoint(self) -> None:
        """Once the trusted checkpoint's block is final here, tie the vote lock to its electors."""
        chain, checkpoint, vote_lock = self._context.chain, self._final.checkpoint, self._vote_lock
        if vote_lock is None or checkpoint is None or vote_lock.decreed == checkpoint.body.block:
            return
        decreed = checkpoint.body.block
        if decreed in chain and chain.is_final(decreed):
            self._vote_lock = vote_lock.under(decreed, chain.newest_justified_above(decreed))
            self._context.emit(SaveVoteLock(self._vote_lock))

    # ------------------------------------------------------------ a lost memory

    def lock_afresh(self) -> None:
        """If the vote lock is lost, make one that allows no claim on the head and no early co-signature.

        Before the loss, this peer may have been `rewind_depth` rounds further, on another branch. It was at
        least as far as the state on disk, whatever head it finds.
        """
        if self._vote_lock is None:
            context = self._context
            link = context.chain.link(context.head)
            deep = max(link.round, self._state_round) + context.rules.rewind_depth
            self._vote_lock = VoteLock(deep, link.finality.justified_round, link.round)
            self._found_at = self._found_at or context.now

    def left_branch(self, link: Link) -> None:
        """After a rewind to `link`, wait again until a block is seen being made, if memory was lost lately.

        What was seen being made was on the branch that it leaves; on this one it may have claimed before.
        """
        lock, depth = self._vote_lock, self._context.rules.rewind_depth
        if lock is not None and lock.claims_after > 0 and link.round <= lock.claims_after + depth:
            self._forgot, self._rounds_seen, self._found_at = True, 0, self._context.now

    def saw_round(self, *, live: bool) -> None:
        """Count a block that came in time; `live`: its roster had come before it."""
        self._rounds_seen += 2 if live else 1

    def may_claim_at_once(self) -> bool:
        """Let a peer that lost its memory claim again; return whether it may in the round at hand.

        It may claim on a block that it saw being made, since it cannot have claimed there before. It saw that
        if it held the block's roster, or if two blocks came in time. An elector that is all alone goes on
        after `FORGETFUL_WINDOWS`; blocks that another peer makes alone would count for nobody.
        """
        context = self._context
        if not self._forgot or self._found_at is None:
            return False
        if self._rounds_seen > 1:
            self._forgot, self._vote_lock = False, None
            self.lock_afresh()
            if self._vote_lock is not None:
                context.emit(SaveVoteLock(self._vote_lock))
            return False
        long_enough = self._found_at + FORGETFUL_WINDOWS * context.rules.window_seconds
        elects = context.me in context.chain.electors_at(context.head)
        if elects and context.reached(long_enough) and context.is_alone():
            self._forgot = False
            if self._vote_lock is not None:
                context.emit(SaveVoteLock(self._vote_lock))
            return True
        return False
