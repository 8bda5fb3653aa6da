"""The disk of a node: chain, ledger, state, segments and contributions in its run's folder."""

from __future__ import annotations

from dataclasses import dataclass

from peers.chain.chain import Chain
from peers.exchange.contributor import Contributor
from peers.exchange.segment_store import ExchangeStore
from peers.ledger.catch_up import follow_branch
from peers.ledger.store import LedgerStore
from peers.state.block_store import StoredChain
from peers.sync.state_sync import StateSync
from peers.training.start_weights import StartWeights


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeDisk:
    """The parts of a node that keep files.

    Attributes:
        chain: blocks, own claims and operations, the vote_lock.
        ledger: derived from the blocks up to the head.
        state: the canonical state, and the means to bring it to a block.
        exchange: segments, own and others'.
        contributor: own contributions and their error feedback.
        starts: the weights from which windows ahead start; None if there are no such windows.
    """

    chain: StoredChain
    ledger: LedgerStore
    state: StateSync
    exchange: ExchangeStore
    contributor: Contributor
    starts: StartWeights | None

    def follow(self, chain: Chain, block: str) -> None:
        """Let the branch that is given to others, and the ledger, end with a block that was adopted.

        Raises:
            StorageError: the disk refuses.
        """
        self.chain.store.follow(chain, block)
        if not follow_branch(self.ledger, chain, block):
            follow_branch(self.ledger, self.chain.load(), block)  # they part below what memory holds

    def reload_chain(self) -> Chain:
        """Build the chain anew from the blocks on disk, and give others its final branch.

        Raises:
            StorageError: the disk refuses.
        """
        chain = self.chain.load()
        self.chain.store.follow(chain, chain.final)
        return chain
