"""The round engine: one peer's part in the round protocol, as a pure state machine.

    engine = RoundEngine(key=..., chain=..., head=..., state_digest=..., remembered=..., now=...)
    effects = engine.handle(input, now)     # and again no later than engine.wake_at

It has no I/O, no clock, and no randomness. A round goes through the phases of `Phase`. A message or a
deadline ends each phase, and every deadline has a next step, so nothing waits for ever:

    TRAINING    the window runs                                  -> claim to the first ranked leaders
    CLAIMED     waiting for a roster    (silence: the next-ranked leader draws one up)
                (with overlap, the next window begins here, before its block is known)
    EXCHANGING  segments to reducers, reduced segments back      (silence: backups reduce)
                waiting for the block   (silence: the next-ranked leader makes it)
    APPLYING    the state is brought to the block                -> co-sign, next round

The parts, in order; each knows those before it, and changes only itself and the context:

    context.py           what all share: the chain, the head, the round at hand, the outbox
    evidence.py          proofs that a peer contradicted itself
    audit_duties.py      the audits that this peer is asked for, its verdicts and disputes
    final_blocks.py      blocks that are never undone
    cosigning.py         co-signatures: other peers' and this peer's
    statements/          acts that a crash must not repeat, receipts, words on missing segments
    allreduce.py         the exchange
    peer_heads.py        where other peers stand
    adoption.py          a block becomes the head
    block_processing.py  blocks come in, and the best branch is followed
    leader.py            rosters and blocks of which this peer is the leader
    claims.py            this peer's claims
    windows.py           the beginning of a round
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from peers.chain.chain import Chain
from peers.consensus.adoption import Adoption
from peers.consensus.allreduce import Allreduce
from peers.consensus.audit_duties import AuditDuties
from peers.consensus.block_processing import BlockProcessing
from peers.consensus.block_search import BlockSearch
from peers.consensus.claims import Claims
from peers.consensus.context import MAX_ACQUAINTANCES, RoundContext
from peers.consensus.cosigning import Cosigning
from peers.consensus.effects import (
    Acquainted,
    Applied,
    ApplyFailed,
    Audited,
    BlocksFetched,
    ChainReloaded,
    Effect,
    HeadNotTold,
    Input,
    Leave,
    LeaveRequested,
    Received,
    ReducedFetched,
    ReducedLost,
    SegmentPushed,
    SegmentReduced,
    SegmentStored,
    Tick,
    WindowEnded,
    WindowLost,
)
from peers.consensus.evidence import EvidenceBook
from peers.consensus.final_blocks import FinalBlocks
from peers.consensus.host import Remembered
from peers.consensus.leader import Leader
from peers.consensus.operation_pool import Operation, OperationPool
from peers.consensus.peer_heads import PeerHeads
from peers.consensus.round_state import Phase, RoundState
from peers.consensus.statements.act_book import ActBook
from peers.consensus.windows import Windows
from peers.protocol.assignment import Assignment
from peers.protocol.key_change import KeyChange
from peers.protocol.messages import (
    AnyMessage,
    Block,
    Checkpoint,
    Claim,
    ClaimsWanted,
    CoSignature,
    Evidence,
    HeadNotice,
    Missing,
    Ready,
    Receipt,
    Reduction,
    Roster,
    Signed,
    Vouched,
)
from peers.protocol.rules import Rules
from peers.protocol.timeouts import Deadlines
from peers.protocol.upgrades import THIS_BUILD, Build
from peers.protocol.verdicts import Dispute, Verdict
from recipes.keys.keys import PeerId, SigningKey


class RoundEngine:
    """One peer's state machine. Only `handle` changes anything; parts and properties are for reading."""

    def __init__(
        self,
        *,
        key: SigningKey,
        chain: Chain,
        head: str,
        state_digest: str,
        remembered: Remembered,
        now: float,
        build: Build = THIS_BUILD,
    ) -> None:
        """Begin at `head`.

        Args:
            key: this peer's signing key.
            chain: the blocks that this peer knows.
            head: hash of the block after which the canonical state stands.
            state_digest: the state's digest there, hex.
            remembered: what the peer found on its disk when it started.
            now: time on this peer's clock, seconds.
            build: what this program can go by.
        """
        self.context = context = RoundContext(
            key=key, chain=chain, head=head, digest=state_digest, build=build, now=now
        )
        self.operations = operations = OperationPool(chain.credit)
        operations.keep_all_own(remembered.own_operations)
        self.search = search = BlockSearch()
        self.evidence = evidence = EvidenceBook(context, operations, remembered.evidence)
        self.duties = duties = AuditDuties(context, operations, remembered.own_changes)
        self.final = final = FinalBlocks(context, checkpoint=remembered.checkpoint)
        self.cosigning = cosigning = Cosigning(
            context,
            evidence=evidence,
            final=final,
            vote_lock=remembered.vote_lock,
            state_round=remembered.state_round,
        )
        self.acts = acts = ActBook(context, cosigning, remembered)
        self.allreduce = allreduce = Allreduce(context, evidence, acts)
        self.heads = heads = PeerHeads(context, search=search, cosigning=cosigning, final=final)
        adoption = Adoption(
            context, duties=duties, final=final, cosigning=cosigning, allreduce=allreduce, heads=heads
        )
        self.blocks = blocks = BlockProcessing(
            context, search=search, final=final, allreduce=allreduce, heads=heads, adoption=adoption
        )
        self.blocks.begin(state_is_here=remembered.state_is_here)
        self.leader = leader = Leader(
            context, evidence=evidence, duties=duties, allreduce=allreduce, blocks=blocks, acts=acts
        )
        self.claims = claims = Claims(
            context, duties=duties, blocks=blocks, leader=leader, own_claims=remembered.own_claims
        )
        self.windows = Windows(
            context, duties=duties, cosigning=cosigning, heads=heads, blocks=blocks, claims=claims
        )
        self._left_at: float | None = None

    # ------------------------------------------------------------ a step

    def handle(self, happened: Input, now: float) -> list[Effect]:
        """Take in what happened at time `now` (seconds, monotonic); return the effects, in order."""
        context = self.context
        context.begin_step(now)
        self._take(happened)
        self._take_released()
        self.heads.ask_for_what_was_skipped()
        self.blocks.fetch_blocks()
        self._follow_best_branch()
        if context.started:
            self._go_through_the_round()
        self.heads.ask_around()
        self._leave_when_done()
        return context.effects()

    def _follow_best_branch(self) -> None:
        if self.blocks.follow_best_branch():
            self.windows.begin_round()
            self._take_released()

    def _go_through_the_round(self) -> None:
        """Do what is due in the round at hand, phase by phase."""
        if self.windows.begin_after_waiting() or self.windows.train_after_all():
            self._take_released()
        self.leader.draw_up_roster()
        self.allreduce.accept_best_roster()
        self._take_released()
        self.allreduce.exchange()
        if self.leader.make_block():
            self._take_released()
            self._follow_best_branch()
        self.claims.claim_further()

    def _leave_when_done(self) -> None:
        """Leave once the round is done and others had time to fetch from this peer."""
        context = self.context
        if not context.leaving or self.blocks.applying is not None:
            return
        if context.started and context.round.window.training:
            return
        if self._left_at is None:
            at_once = not context.acquaintances or not context.started
            self._left_at = context.now + (0.0 if at_once else context.deadlines.leader)
        if context.reached(self._left_at):
            context.emit(Leave())

    # ------------------------------------------------------------ inputs

    def _take(self, happened: Input) -> None:
        match happened:
            case Tick():
                pass
            case Received(sender, message):
                self.context.heard()
                self._meet(sender)
                self._receive(sender, message)
            case Acquainted(peers):
                self.context.forget_all_but(peers)
                for peer in peers:
                    self._meet(peer)
                self.context.put_first(peers)
            case HeadNotTold(sender, answered):
                self.heads.not_told(sender, answered=answered)
            case WindowEnded():
                self.claims.claim(happened)
            case WindowLost(parent):
                self.claims.go_without(parent)
            case SegmentPushed():
                self.allreduce.pushed(happened)
            case SegmentStored():
                self.allreduce.stored(happened)
            case SegmentReduced():
                self.allreduce.announce(happened)
            case ReducedFetched(root):
                self.allreduce.fetched(root)
            case ReducedLost():
                self.allreduce.lost(happened)
            case Applied():
                self.blocks.applied(happened)
            case ApplyFailed():
                self.blocks.put_off(happened)
            case BlocksFetched(sender, blocks):
                self._take_blocks(sender, blocks)
            case ChainReloaded(chain):
                self.blocks.stand_on(chain)
            case Audited(verdict):
                self.duties.give_verdict(verdict)
            case LeaveRequested():
                self.context.leave()

    def _take_blocks(self, sender: PeerId, blocks: Sequence[Signed[Block]]) -> None:
        new = 0
        for signed in blocks:
            new += self.blocks.take_block(sender, signed, fetched=True)
            self._take_released()
        self.blocks.answered(sender, blocks, new=new)

    def _take_released(self) -> None:
        """Take in the messages that waited for a block or roster that is here by now."""
        for sender, message in self.context.inbox.released():
            self._receive(sender, message)

    def _receive(self, sender: PeerId, message: AnyMessage) -> None:
        """Take in a message from `sender`; if its block or roster is not here yet, keep it."""
        body = message.body if isinstance(message, Signed) else message
        match body:
            case Ready(parent=parent):
                pool = self.context.round.pool
                if self._is_of_round(parent, sender, message) and len(pool.ready) < MAX_ACQUAINTANCES:
                    pool.ready.add(sender)
            case ClaimsWanted(parent=parent):
                if parent == self.head and sender in self.context.chain_leaders():
                    self.claims.claim_to(sender)
            case Claim():
                if self._is_of_round(body.parent, sender, message):
                    self.leader.take_claim(cast("Signed[Claim]", message))
            case Roster():
                if self._is_of_round(body.parent, sender, message):
                    self.allreduce.take_roster(cast("Signed[Roster]", message))
            case Reduction() | Receipt() | Missing():
                if self.context.round.exchange.is_by(body.roster):
                    self.allreduce.take_statement(cast("Signed[Reduction]", message))
                else:
                    self.context.inbox.keep(body.roster, sender, message, self.context.now)
            case Block():
                self.blocks.take_block(sender, cast("Signed[Block]", message))
            case CoSignature():
                self.cosigning.take_or_keep(sender, cast("Signed[CoSignature]", message))
            case HeadNotice():
                self.heads.take_notice(sender, body)
            case Checkpoint():
                self.final.take_checkpoint(cast("Vouched", message))
            case Evidence():
                self.evidence.take(body)
            case Verdict() | Dispute():
                self.duties.take_operation(cast("Operation", message))
            case KeyChange():
                self.duties.take_rotation(body)

    def _is_of_round(self, parent: str, sender: PeerId, message: AnyMessage) -> bool:
        """Whether a message belongs to the round at hand; keep one for a block that is not adopted yet."""
        context = self.context
        if parent == context.head:
            return True
        chain, below = context.chain, context.round.parent
        if parent not in chain or chain.link(parent).round >= chain.link(context.head).round:
            context.inbox.keep(parent, sender, message, context.now)
        elif (
            parent == below.parent
            and isinstance(message, Signed)
            and isinstance(message.body, Claim)
            and message.body.peer == sender
            and sender in below.counters.peers
        ):
            context.measures.claim_came(context.now - context.last_silence_base)  # too late for its round
        return False

    def _meet(self, peer: PeerId) -> None:
        checkpoint = self.final.checkpoint
        if self.context.meet(peer) and checkpoint is not None:
            self.context.send([peer], checkpoint)

    # ------------------------------------------------------------ what it says

    def head_notice(self, *, age_seconds: float) -> HeadNotice | None:
        """Return where this peer stands; None while it is still finding that out.

        Args:
            age_seconds: seconds since the head was adopted.
        """
        context, checkpoint = self.context, self.final.checkpoint
        if not context.started:
            return None
        return HeadNotice(
            round=context.chain.link(context.head).round,
            block=context.head,
            age_seconds=age_seconds + context.deadlines.exchange,
            roster=self.roster.hash if self.roster is not None else None,
            word=context.chain.cosignature_of(context.me, context.head),
            checkpoint=checkpoint.body.block if checkpoint is not None else None,
            wire=context.build.wire,
        )

    @property
    def phase(self) -> Phase:
        """Where this peer stands in its round."""
        context = self.context
        if not context.started:
            return Phase.SYNCING
        if self.blocks.applying is not None:
            return Phase.APPLYING
        if self.roster is not None:
            return Phase.EXCHANGING
        return Phase.TRAINING if context.round.window.ended_at is None else Phase.CLAIMED

    @property
    def key(self) -> SigningKey:
        """This peer's signing key."""
        return self.context.key

    @property
    def me(self) -> PeerId:
        """This peer's id."""
        return self.context.me

    @property
    def rules(self) -> Rules:
        """The rules of the run."""
        return self.context.rules

    @property
    def chain(self) -> Chain:
        """The blocks that this peer knows."""
        return self.context.chain

    @property
    def head(self) -> str:
        """Hash of the block after which the canonical state stands."""
        return self.context.head

    @property
    def digest(self) -> str:
        """The canonical state's digest, hex."""
        return self.context.digest

    @property
    def now(self) -> float:
        """The time of the last step, in seconds."""
        return self.context.now

    @property
    def wake_at(self) -> float:
        """When `handle` is to be called again at the latest, in seconds."""
        return self.context.wake_at

    @property
    def deadlines(self) -> Deadlines:
        """How long the round at hand waits for claims, transfers and leaders."""
        return self.context.deadlines

    @property
    def round(self) -> RoundState:
        """The state of the round at hand."""
        return self.context.round

    @property
    def acquaintances(self) -> Collection[PeerId]:
        """The peers that are present."""
        return self.context.acquaintances

    @property
    def roster(self) -> Signed[Roster] | None:
        """The roster that this peer exchanges by."""
        return self.context.round.exchange.roster

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """The reducer and backup of each segment of the accepted roster; empty without one."""
        return self.context.round.exchange.assignments

    @property
    def own_claim(self) -> Signed[Claim] | None:
        """This peer's claim in the round at hand."""
        return self.context.round.window.claim

    @property
    def own_claims(self) -> Mapping[str, Signed[Claim]]:
        """This peer's newest claims, by the block on top of which each was made."""
        return self.claims.own_claims

    @property
    def ahead(self) -> str | None:
        """The head when the window that runs ahead began; None if no window runs ahead."""
        return self.claims.ahead

    @property
    def checkpoint(self) -> Vouched | None:
        """The newest trusted checkpoint that is known."""
        return self.final.checkpoint

    def reductions_of(self, segment: int) -> list[Signed[Reduction]]:
        """Return the known reductions of a segment in the round at hand."""
        return list(self.context.round.exchange.reductions.get(segment, {}).values())
