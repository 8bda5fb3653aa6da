"""What is never undone: by the electors' votes, by time where votes stay out, or by the owner."""

from __future__ import annotations

from peers.chain.chain import Chain, Link
from peers.consensus.context import RoundContext
from peers.consensus.effects import ReloadChain, SaveCheckpoint, SaveFinal
from peers.protocol.events import BlockFinal, Notice
from peers.protocol.messages import Checkpoint, Vouched, vouchers


class FinalBlocks:
    """Tells what becomes final, and settles what lies deep where nothing does for long."""

    def __init__(self, context: RoundContext, *, checkpoint: Vouched | None) -> None:
        """Begin with what is known.

        Args:
            context: of the engine.
            checkpoint: the owners' newest that is known.
        """
        self._context = context
        self._checkpoint = checkpoint
        self._rounds_without = 0  # a final block, that this peer went through itself
        self._newcomer = len(context.chain.links) == 1

    @property
    def checkpoint(self) -> Vouched | None:
        """The owners' newest trusted checkpoint that is known."""
        return self._checkpoint

    def tell(self, before: str, *, settled: bool = False) -> None:
        """Keep and tell what is final now, if it is another block than `before`; drop what lies far below."""
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
        """Count a round that this peer went through itself."""
        self._rounds_without += 1

    def settle(self, link: Link) -> None:
        """Settle what lies deep below a new head, once nothing became final for many rounds here.

        A newcomer takes their number from the chain that it finds.
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
        """Go by the owners' checkpoint, and pass it on, if it is the newest and enough of them signed it."""
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
        context.emit(ReloadChain())  # its branch may have left ours where blocks are on disk alone


def _settled_below(link: Link, chain: Chain) -> str:
    """Return the block that time settles below a head: all peers take one whose round D divides."""
    depth = chain.rules.rewind_depth
    deep = link.hash
    while (number := chain.link(deep).round) > link.round - 2 * depth or (
        number % depth and chain.link(deep).parent in chain
    ):
        deep = chain.link(deep).parent
    return deep


def _goes_before(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether one checkpoint counts before another: the newer one; of one round, the same everywhere."""
    return (one.round, one.block) > (other.round, other.block)
