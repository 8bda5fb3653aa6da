"""One peer's own credit and audits, for its metrics: derived from its chain on disk as blocks become final.

A thread of low priority does it, so that neither rounds nor scrapes wait. After a start it goes through the
whole chain once, in the background; then through each block that becomes final.
"""

from __future__ import annotations

import os
import queue
import threading
from contextlib import closing
from pathlib import Path
from typing import Protocol

from peers.credit.entries import Entry, VerdictCounted
from peers.credit.escrow import Account
from peers.ledger.derive import Derivation, Ground
from peers.protocol.events import BlockFinal, Event
from peers.protocol.verdicts import Outcome
from peers.state.block_store import ChainStore
from recipes.errors import DataError, StorageError
from recipes.keys.keys import PeerId

_NICENESS = 19


class CreditListener(Protocol):
    """Hears of one peer's credit and audits."""

    def credited(self, account: Account) -> None:
        """Take note of the peer's account after the newest final block."""

    def audited(self, outcome: Outcome, by_this_peer: bool) -> None:
        """Take note of a verdict's outcome, and of whether the peer gave it; else it got it."""


class OwnCredit:
    """Follows the final chain, and tells what of it concerns one peer. It is a listener of final blocks."""

    def __init__(
        self,
        chain_file: Path,
        ground: Ground,
        peer: PeerId,
        listener: CreditListener,
    ) -> None:
        """Begin before the first block.

        Args:
            chain_file: the peer's chain.
            ground: what the run stands on.
            peer: whose credit and audits are told.
            listener: is told of them.
        """
        self._chain_file = chain_file
        self._run = ground.run
        self._peer = peer
        self._listener = listener
        self._derivation = Derivation(ground)
        self._final: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, event: Event) -> None:
        """Take in an event: a block that became final is followed in the background."""
        if not isinstance(event, BlockFinal):
            return
        self._final.put(event.block)
        if self._thread is None:  # a daemon: it holds nothing that a farewell must wait for
            self._thread = threading.Thread(target=self._follow_all, name="own credit", daemon=True)
            self._thread.start()

    def _follow_all(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)  # Linux: of this thread alone
        while True:
            block = self._final.get()
            while not self._final.empty():
                block = self._final.get()
            try:
                self.follow(block)
            except (DataError, StorageError):
                return  # the chain here is not whole: this peer's credit stays as it was told last

    def follow(self, block: str) -> None:
        """Derive up to a final block, as far as the chain on disk reaches.

        Raises:
            DataError: a block is not what the run's rules allow in its place.
            StorageError: the disk refuses.
        """
        after = self._derivation.accounts.round
        with closing(ChainStore(self._chain_file, read_only=True)) as store:
            # Twice through, so that never more than one block of a long chain is in memory.
            parents = {one.hash: one.body.parent for one in store.blocks(run=self._run, after_round=after)}
            branch = set()
            while block in parents:
                branch.add(block)
                block = parents[block]
            for one in store.blocks(run=self._run, after_round=after):
                if one.hash in branch:
                    for entry in self._derivation.follow(one).entries:
                        self._tell(entry)
        self._listener.credited(self._derivation.accounts.peers.get(self._peer, Account()))

    def _tell(self, entry: Entry) -> None:
        if isinstance(entry, VerdictCounted):
            if entry.auditor == self._peer:
                self._listener.audited(entry.outcome, True)
            if entry.peer == self._peer:
                self._listener.audited(entry.outcome, False)
