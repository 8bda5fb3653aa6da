"""Adoption of a block as the head: its events, its counts, and this peer's co-signature."""

from __future__ import annotations

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.consensus.allreduce import Allreduce
from peers.consensus.audit_duties import AuditDuties
from peers.consensus.context import RoundContext
from peers.consensus.cosigning import Cosigning
from peers.consensus.effects import Applied, FollowHead
from peers.consensus.final_blocks import FinalBlocks
from peers.consensus.peer_heads import PeerHeads
from peers.protocol.counters import counted_segments
from peers.protocol.events import BlockAdopted, Notice, Rewound
from peers.protocol.messages import Block
from peers.protocol.round_reasons import RewindReason
from recipes.keys.keys import PeerId

_COMPANY_ROUNDS = 16  # a peer that is alone misses others that contributed in these


class Adoption:
    """Makes a block the head, once its state is here."""

    def __init__(
        self,
        context: RoundContext,
        *,
        duties: AuditDuties,
        final: FinalBlocks,
        cosigning: Cosigning,
        allreduce: Allreduce,
        heads: PeerHeads,
    ) -> None:
        self._context = context
        self._duties = duties
        self._final = final
        self._cosigning = cosigning
        self._allreduce = allreduce
        self._heads = heads

    def adopt(self, link: Link, applied: Applied) -> None:
        """Make the block at `link` the head, and co-sign it if every check of it agreed."""
        context, chain = self._context, self._context.chain
        ancestor = link.hash
        if context.head in chain:
            ancestor = chain.common_ancestor(context.head, link.hash)
            if ancestor != context.head:
                self._tell_rewound(chain.link(context.head), chain.link(ancestor), link.hash)
                self._cosigning.left_branch(link)
        self._tell_adopted(link, applied.digest)
        self._duties.tell_adopted(ancestor, link)
        self._count_round(link)
        self._final.settle(link)
        self._measure(link)
        acceptable = link.block is not None and not self._leaves_out_too_many(link.block.body)
        context.move_to(link, applied.digest)
        self._cosigning.lock_afresh()
        if acceptable and applied.checked:
            self._cosigning.cosign(link)
        if not context.started and not self._heads.others_stand_at(link.hash):
            self._heads.ask_again()  # peers that stand there know how much of the window is left

    def _count_round(self, link: Link) -> None:
        """Count the round that a block closes, if this peer took part in it."""
        context = self._context
        went_through = context.now - context.adopted_at() >= context.rules.window_seconds / 2
        if link.parent == context.head and went_through:
            self._final.went_through_round()
            block = link.block
            live = block is not None and context.round.exchange.is_by(block.body.roster.hash)
            if live or not self._heads.comes_late(link):
                self._cosigning.saw_round(live=live)

    def _measure(self, link: Link) -> None:
        """Stop the stopwatches of the round at hand."""
        context, window = self._context, self._context.round.window
        context.measures.exchange_over(context.now, allowed=context.deadlines.transfer)
        claimed_at = window.ended_at if window.claim is not None else None
        if context.rules.trains_ahead and link.parent == context.head and claimed_at is not None:
            context.measures.exchange_took(context.now - claimed_at)

    def _leaves_out_too_many(self, block: Block) -> bool:
        """Whether the block's roster omits claims that this peer held in time."""
        current = self._context.round
        if block.parent != current.parent.hash:
            return False
        if current.exchange.is_by(block.roster.hash):
            return current.exchange.roster_refused
        return self._allreduce.leaves_out_too_many(block.roster.body, until=self._context.silence_base())

    # ------------------------------------------------------------ what is told

    def _tell_rewound(self, left: Link, to: Link, block: str) -> None:
        self._context.tell(Rewound(left.round, to.round, self._why_rewound(left, to, block)))

    def _why_rewound(self, left: Link, to: Link, block: str) -> RewindReason:
        chain, checkpoint = self._context.chain, self._final.checkpoint
        if left.round - to.round <= self._context.rules.rewind_depth:
            return "more_electors"
        if checkpoint is not None and checkpoint.body.round > to.round and checkpoint.body.block in chain:
            return "trusted_checkpoint"
        if chain.link(chain.justified).round > to.round and chain.path(chain.justified, block) is not None:
            return "quorum"
        return "final_electors"

    def _tell_adopted(self, link: Link, state_digest: str) -> None:
        if link.block is None:
            return
        context, block = self._context, link.block.body
        gone = _gone(link, context.chain, context.me)
        if gone and not _gone(context.chain.link(link.parent), context.chain, context.me):
            context.tell(Notice(_alone(gone)))
        context.emit(FollowHead(link.hash))
        context.tell(
            BlockAdopted(
                round=link.round,
                attempt=block.attempt,
                block=link.hash,
                digest=state_digest,
                leader=block.peer,
                claims=len(block.roster.body.claims),
                counted_segments=len(counted_segments(block).get(context.me, ())),
                empty_segments=sum(reduction is None for reduction in block.reductions),
                tokens=link.counters.tokens,
                phases=self._phases(link),
                gone=gone,
            )
        )

    def _phases(self, link: Link) -> dict[str, float]:
        """Return the seconds of each phase of the round that `link` closes; empty if this peer missed it.

        They add up to the time from block to block. With overlap, the trainer computes in all of them; the
        event `WindowFinished` tells for how long.
        """
        context, current = self._context, self._context.round
        ended, exchange = current.window.ended_at, current.exchange
        if link.parent != current.parent.hash or ended is None or exchange.roster is None:
            return {}
        exchanged = exchange.complete_at or context.now
        return {
            "train": ended - context.adopted_at(),
            "roster": exchange.roster_at - ended,
            "exchange": exchanged - exchange.roster_at,
            "block": context.now - exchanged,
        }


def _gone(link: Link, chain: Chain, me: PeerId) -> int:
    """Return how many others contributed in the rounds before a block to which only `me` contributed."""
    if link.claimants != {me}:
        return 0
    others: set[PeerId] = set()
    oldest = link.round - _COMPANY_ROUNDS
    below = chain.links.get(link.parent)
    while below is not None and below.round >= oldest:
        others |= below.claimants
        below = chain.links.get(below.parent)
    return len(others - {me})


def _alone(gone: int) -> str:
    return (
        f"You train alone: none of the {gone} others of the last {_COMPANY_ROUNDS} rounds contributed with "
        "you. If they go on elsewhere, what you do now is undone when you meet again: check your network, or "
        "join again with --peer and another peer's address."
    )
