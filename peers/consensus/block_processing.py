"""Following the chain: take blocks in, choose the best branch, have the state brought to its head."""

from __future__ import annotations

import math
from collections.abc import Sequence

from peers.chain.chain import Chain
from peers.chain.fork_choice import best_head
from peers.chain.validation import RULED_OUT, block_fault
from peers.consensus.adoption import Adoption
from peers.consensus.allreduce import Allreduce
from peers.consensus.block_search import PATIENCE_SECONDS, BlockSearch
from peers.consensus.context import RoundContext
from peers.consensus.effects import Applied, Apply, ApplyFailed, FetchBlocks, SaveBlock
from peers.consensus.final_blocks import FinalBlocks
from peers.consensus.peer_heads import PeerHeads
from peers.protocol.chance.say import without
from peers.protocol.events import Notice, Refused
from peers.protocol.messages import Block, Signed
from recipes.keys.keys import PeerId

MAX_OF_ONE = 3  # blocks on one parent, by one leader
MAX_SIBLINGS = 16  # blocks on one parent, by leaders that the chain does not rank
APART = (
    "Most other peers are on a branch that a final block rules out here: this peer trained apart from them "
    "for too long. Ask the run's owner for a checkpoint (python -m peers.checkpoint)."
)
LONGEST_PUT_OFF_SECONDS = 30.0  # wait before a block that cannot be applied is tried again
_DOUBLINGS = 10  # of that wait: enough to reach the longest
_TOLD_EVERY_SECONDS = 60.0


class BlockProcessing:
    """Puts blocks into the chain, and follows the best branch whose state can be had."""

    def __init__(
        self,
        context: RoundContext,
        *,
        search: BlockSearch,
        final: FinalBlocks,
        allreduce: Allreduce,
        heads: PeerHeads,
        adoption: Adoption,
    ) -> None:
        """Begin at the context's head.

        Args:
            context: the engine's context.
            search: chooses which peer to ask for which blocks.
            final: is told when a block makes another one final.
            allreduce: tells until when the accepted roster is kept.
            heads: knows where others stand.
            adoption: makes a block the head.
        """
        self._context = context
        self._search = search
        self._final = final
        self._allreduce = allreduce
        self._heads = heads
        self._adoption = adoption
        self._state_is_here = False
        self._applying: str | None = None
        self._unavailable: dict[str, float] = {}  # by block: when to try it again, seconds
        self._barred: dict[str, float] = {}  # the same, for blocks on the way there
        self._put_off_in_a_row = 0  # blocks that could not be applied
        self._apart_told_at = -math.inf
        self._waiting_told_at = -math.inf

    def begin(self, *, state_is_here: bool) -> None:
        """Note whether there is a state at the head."""
        self._state_is_here = state_is_here

    @property
    def applying(self) -> str | None:
        """The block to which the state is being brought."""
        return self._applying

    @property
    def state_is_here(self) -> bool:
        """Whether there is a state at the head."""
        return self._state_is_here

    def sizes(self) -> tuple[int, int]:
        """Return how many blocks are put off, and how many lie on the way to one, for tests of the bounds."""
        return len(self._unavailable), len(self._barred)

    # ------------------------------------------------------------ taking blocks in

    def take_block(self, sender: PeerId, signed: Signed[Block], *, fetched: bool = False) -> bool:
        """Put a block into the chain if it is valid, and return whether it was new.

        If its parent is not here, that is looked for. `fetched`: the block was asked for, so others have it.
        """
        context, chain = self._context, self._context.chain
        if signed.hash in chain:
            return False
        if chain.rules_out(signed):
            self._refuse(sender, signed, RULED_OUT)
            return False
        if signed.body.parent not in chain:
            if not fetched:
                self._heads.look_for(sender, signed.hash, signed.body.round)
            return False
        self._allreduce.compare_block(signed)
        if fault := block_fault(chain, signed.body):
            self._refuse(sender, signed, fault)
            return False
        if not self._has_room(signed.body):
            return False
        before = chain.final
        chain.add(signed)
        context.emit(SaveBlock(signed))
        if not fetched and sender != context.me:
            rostered = [claim.body.peer for claim in signed.body.roster.body.claims]
            context.spread(signed, rostered, root=signed.body.peer)
        self._final.tell(before)
        context.inbox.release(signed.hash)  # co-signatures; messages of the round on top of it are kept again
        return True

    def fetch_blocks(self) -> None:
        """Ask for blocks up to the heads that others named."""
        context = self._context
        for wanted in self._search.due(context.chain, context.head, context.now):
            context.emit(FetchBlocks(wanted.peer, wanted.after_round))
        context.wake_by(self._search.look_at)

    def answered(self, sender: PeerId, blocks: Sequence[Signed[Block]], *, new: int) -> None:
        """Note the answer to a request for blocks (empty if it failed); `new` of them were unknown."""
        context = self._context
        apart = self._search.answered(sender, blocks, new=new, chain=context.chain, now=context.now)
        if apart:
            self._tell_apart()

    def _refuse(self, sender: PeerId, signed: Signed[Block], fault: str) -> None:
        self._context.tell(Refused(sender, "block", fault, which=signed.hash[:8]))
        if fault == RULED_OUT:
            self._tell_apart()

    def _tell_apart(self) -> None:
        """If this peer seems to be on a branch of its own, tell now and again what to do."""
        context = self._context
        pause = context.rules.rewind_depth * context.rules.window_seconds
        if context.now >= self._apart_told_at + pause and self._heads.most_stand_elsewhere():
            self._apart_told_at = context.now
            context.tell(Notice(APART))

    def _has_room(self, block: Block) -> bool:
        """Whether one more block on its parent is kept: a few of each leader that the chain ranks."""
        chain = self._context.chain
        beside = [chain.link(child).block for child in chain.children(block.parent)]
        own = sum(one is not None and one.body.peer == block.peer for one in beside)
        return own < MAX_OF_ONE and (len(beside) < MAX_SIBLINGS or self._is_ranked(block))

    def _is_ranked(self, block: Block) -> bool:
        """Whether the chain itself ranks the block's leader."""
        return block.peer in self._context.chain.link(block.parent).leaders

    # ------------------------------------------------------------ the best branch

    def follow_best_branch(self) -> bool:
        """Have the state brought to the best head; return whether the round on top of the head begins now.

        While blocks still come, only a child of the head is applied: nobody stands at the blocks in between,
        and their states may be long gone everywhere.
        """
        context = self._context
        if self._applying is not None:
            return False
        waiting = {block for block, at in self._unavailable.items() if not context.reached(at)}
        self._unavailable = {block: at for block, at in self._unavailable.items() if block in waiting}
        self._barred = {block: at for block, at in self._barred.items() if not context.reached(at)}
        waiting |= self._premature()
        best = self._best_to_be_had(waiting)
        while (early := self._too_fast(best)) is not None and early not in waiting:
            waiting.add(early)
            best = self._best_to_be_had(waiting)
        if best in waiting:
            return False
        is_next = best == context.head or context.chain.link(best).parent == context.head
        if not (context.started and is_next) and self._search.waits(context.now):
            return False
        if best != context.head or (not self._state_is_here and self._may_start()):
            self._applying = best
            context.emit(Apply(best))
            return False
        return self._state_is_here and not context.round.begun and self._may_start()

    def _best_to_be_had(self, waiting: set[str]) -> str:
        """Return the best head that can be applied now; those that cannot are added to `waiting`.

        The blocks below a head that cannot be applied may still lead to another one that can.
        """
        chain, head = self._context.chain, self._context.head
        while True:
            best = best_head(chain, head, waiting)
            if best in waiting or best == head or best not in self._barred:
                return best
            lowest = best
            while (below := chain.link(lowest).parent) in self._barred and chain.children(below) == [lowest]:
                lowest = below
            waiting |= {best, lowest}

    def _premature(self) -> set[str]:
        """Return children of the head whose turn has not come, and that most others do not stand behind."""
        context = self._context
        if not context.started:
            return set()
        return {child for child in context.chain.children(context.head) if self._is_premature(child)}

    def _is_premature(self, child: str) -> bool:
        """Whether a child of the head is not followed yet.

        A leader has its turn after those before it; the first one not while this peer trains, if it leaves
        it out. Whoever has a turn, the first or a later one, could else take rounds before others claim.
        """
        context = self._context
        signed = context.chain.link(child).block
        if signed is None or signed.body.peer == context.me:
            return False
        block = signed.body
        over = context.silence_base() + context.deadlines.grace
        if block.attempt:
            turn = over + (block.attempt - 1) * context.deadlines.leader
            turn = max(turn, self._allreduce.block_due_at(block))
        else:
            turn = context.first_turn([claim.body.peer for claim in block.roster.body.claims])
        return not (context.reached(turn) or self._has_backing(child))

    def _too_fast(self, best: str) -> str | None:
        """Return the first block on the way to the best head that is there before it can be, if there is one.

        A round takes a window. So no more blocks than windows have passed are followed, unless most others
        stand on them: whoever leads once could else show as many rounds of its own as it likes.
        """
        context, chain = self._context, self._context.chain
        if not context.started or best == context.head or self._has_backing(best):
            return None
        fork = chain.link(chain.common_ancestor(context.head, best))
        if not without(fork.say.weights, {context.me}):
            return None  # nobody else could stand behind it
        here, window = chain.link(context.head).round - fork.round, context.rules.window_seconds
        possible = 1 + max(0, int((context.now - context.silence_base()) // window))
        for link in (chain.path(fork.hash, best) or [])[here + possible :]:
            if not chain.stands_on(chain.justified, link.hash) and not self._has_backing(link.hash):
                context.wake_by(context.silence_base() + possible * window)
                return link.hash
        return None

    def _has_backing(self, block: str) -> bool:
        """Whether most of the weight that others have, at the head or the fork below, stands on a block."""
        context, chain = self._context, self._context.chain
        fork = chain.link(chain.common_ancestor(context.head, block))
        weights = without(fork.say.weights, {context.me})
        standing = 0
        for elector, weight in weights.items():
            latest = chain.latest_cosignature(elector)
            if latest is None or elector in chain.equivocations:
                continue
            if chain.stands_on(latest.block, block):
                standing += weight
        return 2 * standing > sum(weights.values())

    def _may_start(self) -> bool:
        """Whether this peer, which has just started, may take its head for the swarm's.

        If others name a later head, or may still name one, only an elector may go on without them: any other
        peer's work would count for nobody.
        """
        context = self._context
        if context.started or not context.acquaintances or self._heads.others_stand_at(context.head):
            return True
        here = context.chain.link(context.head).round
        later = self._heads.named_after(here)
        if context.me not in context.chain.electors_at(context.head):
            if later:
                self._tell_waiting(here, later)
                return False
            if not context.reached(self._heads.awaited_until()):
                return False
        return context.reached(context.round.started + context.deadlines.leader)

    def _tell_waiting(self, here: int, later: Sequence[int]) -> None:
        """Tell now and again why a newcomer does not train yet."""
        context = self._context
        patient_until = context.round.started + PATIENCE_SECONDS
        if not context.reached(max(patient_until, self._waiting_told_at + _TOLD_EVERY_SECONDS)):
            return
        self._waiting_told_at = context.now
        context.tell(
            Notice(
                f"{len(later)} of {len(context.acquaintances)} peers name heads up to round {max(later)}, "
                f"and this one stands at round {here}: nobody has delivered what lies between. Asking on; "
                "training here now would count for nobody. If this lasts, join with --peer and another "
                "peer's address."
            )
        )

    # ------------------------------------------------------------ what became of it

    def applied(self, applied: Applied) -> None:
        """Adopt the block to which the state was brought."""
        chain = self._context.chain
        self._applying = None
        self._put_off_in_a_row = 0
        self._state_is_here = applied.block in chain  # if not, it was pruned meanwhile
        if self._state_is_here:
            self._adoption.adopt(chain.link(applied.block), applied)

    def put_off(self, failed: ApplyFailed) -> None:
        """Put off a block that cannot be applied; follow another branch until it is tried again.

        The blocks between `above` and it cannot be applied either, and are put off with it. Each failure in a
        row doubles the wait, so that segments which nobody could give are not asked for again at once.
        """
        context, chain, block = self._context, self._context.chain, failed.block
        self._applying = None
        self._put_off_in_a_row += 1
        patience = context.deadlines.leader * 2.0 ** (min(self._put_off_in_a_row, _DOUBLINGS) - 1)
        until = context.now + min(patience, max(LONGEST_PUT_OFF_SECONDS, context.deadlines.leader))
        path = (chain.path(failed.above, block) if block in chain and failed.above in chain else None) or []
        self._unavailable[block] = until
        self._barred |= {link.hash: until for link in path}
        context.tell(
            Notice(
                f"Block {block[:8]} cannot be applied yet: {failed.reason.rstrip('.')}. "
                f"Trying again in {until - context.now:.0f} s."
            )
        )

    def stand_on(self, chain: Chain) -> None:
        """Go on from a chain that was rebuilt."""
        context, before = self._context, self._context.chain.final
        head = context.head
        self._applying = None
        if head not in chain:
            head, self._state_is_here = chain.final, False
        context.stand_on(chain, head)
        if not chain.awaits_decreed:
            self._final.tell(before)
        self._heads.ask_again(at_the_start=True)
