"""Final blocks, which are never undone: final by the electors' votes, by time, or by the owner."""

from __future__ import annotations

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.consensus.context import RoundContext
from peers.consensus.effects import ReloadChain, SaveCheckpoint, SaveFinal
from peers.protocol.events import BlockFinal, Notice
from peers.protocol.messages import Checkpoint, Vouched, vouchers


class FinalBlocks:
    """Tells which blocks become final, and settles deep ones where none does for long."""

    def __init__(self, context: RoundContext, *, checkpoint: Vouched | None) -> None:
        """Begin with the trusted checkpoint that was known before a restart.

        Args:
            context: the engine's context.
            checkpoint: the newest trusted checkpoint; None if there is none.
        """
        self._context = context
        self._checkpoint = checkpoint
        self._rounds_without = 0  # rounds without a new final block, of those that this peer went through
        self._newcomer = len(context.chain.links) == 1

    @property
    def checkpoint(self) -> Vouched | None:
        """The newest trusted checkpoint that is known."""
        return self._checkpoint

    def tell(self, before: str, *, settled: bool = False) -> None:
        """If another block than `before` is final now, keep and tell that, and drop blocks far below it."""
        context, chain = self._context, self._context.chain
        if chain.final == before:
            return
        self._rounds_without = 0
        final = chain.link(chain.final)
        context.emit(SaveFinal(final.round, final.hash, settled))
        context.tell(BlockFinal(final.round, final.hash))
        shared = chain.link(chain.common_ancestor(context.head, final.hash)).round
        chain.prune(below_round=min(shared, final.round - 2 * context.rules.rewind_depth))

    def went_through_round(self) -> None:
        """Count a round in which this peer took part from beginning to end."""
        self._rounds_without += 1

    def settle(self, link: Link) -> None:
        """Settle a block deep below the new head, if none became final for `settled_depth` rounds.

        A newcomer takes the number of such rounds from the chain that it finds.
        """
        context, chain, rules = self._context, self._context.chain, self._context.rules
        found = self._newcomer and link.round - chain.link(chain.final).round > rules.settled_depth
        if self._rounds_without >= rules.settled_depth or found:
            deep = _settled_below(link, chain)
            if chain.link(deep).round > chain.link(chain.final).round:
                before = chain.final
                chain.settle(deep)
                number = chain.link(deep).round
                context.tell(Notice(f"Nothing became final for long: round {number} is settled."))
                self.tell(before, settled=True)
        self._newcomer = False

    def take_checkpoint(self, signed: Vouched) -> None:
        """Follow a trusted checkpoint and pass it on, if it is the newest and enough owners signed it."""
        context, chain, known = self._context, self._context.chain, self._checkpoint
        body = signed.body
        enough = len(vouchers(signed).intersection(context.rules.owners)) >= context.rules.owner_threshold
        if not enough or (known is not None and not _goes_before(body, known.body)):
            return
        self._checkpoint = signed
        context.emit(SaveCheckpoint(signed))
        context.send(set(context.acquaintances), signed)
        if chain.agrees_with(body.block):
            before = chain.final
            chain.decree(body.round, body.block)
            self.tell(before)
            return
        if body.block in chain:
            text = "An owner's checkpoint contradicts what was final here; going by the checkpoint."
            context.tell(Notice(text))
        context.emit(ReloadChain())  # its branch may leave ours at a block that is on disk only


def _settled_below(link: Link, chain: Chain) -> str:
    """Return the block that time settles below a head: one whose round is a multiple of `rewind_depth`."""
    depth = chain.rules.rewind_depth
    deep = link.hash
    while (number := chain.link(deep).round) > link.round - 2 * depth or (
        number % depth and chain.link(deep).parent in chain
    ):
        deep = chain.link(deep).parent
    return deep


def _goes_before(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether one checkpoint goes before another: the newer one, or in one round the higher hash."""
    return (one.round, one.block) > (other.round, other.block)
