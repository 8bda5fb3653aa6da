"""The ledger after a block: the accounts, and the Merkle tree over all entries so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from peers.credit.accounts import Accounts, entries_after
from peers.credit.canonical_accounts import canonical_accounts, leaves_of
from peers.credit.entries import Entry
from peers.credit.rfc9162_tree import Frontier, leaf_hash
from peers.credit.rules import CreditRules
from peers.protocol.counters import Counters
from peers.protocol.messages import Block, LedgerHead
from recipes.formats import blake3_tree


@dataclass(frozen=True)
class Ledger:
    """The ledger after one block; empty at genesis. Never changed in place.

    Attributes:
        accounts: the accounts after the block.
        entries: the entries that the block adds.
        leaves: these entries in canonical form, as leaves of the tree.
        size: number of entries in all.
        peaks: hashes of the largest full subtrees over all entries, 32 bytes each, from the left.
    """

    accounts: Accounts = field(default_factory=Accounts)
    entries: tuple[Entry, ...] = ()
    leaves: tuple[bytes, ...] = ()
    size: int = 0
    peaks: tuple[bytes, ...] = ()

    @cached_property
    def root(self) -> bytes:
        """The root over all entries so far."""
        return Frontier(self.size, self.peaks).root()

    @cached_property
    def head(self) -> LedgerHead:
        """The ledger's head, as the next block carries it."""
        return LedgerHead(size=self.size, root=self.root.hex())

    @cached_property
    def accounts_leaves(self) -> tuple[bytes, ...]:
        """The leaf hash of each piece of the accounts' bytes, as snapshots list them."""
        return leaves_of(canonical_accounts(self.accounts))

    @cached_property
    def accounts_hash(self) -> str:
        """The hash of the accounts, hex, as the next block carries it."""
        return blake3_tree.root(self.accounts_leaves).hex()

    def after(self, block: Block, counters: Counters, rules: CreditRules) -> Ledger:
        """Return the ledger after a block on top of this one's.

        Args:
            block: a block that is valid on its chain.
            counters: the counters after the block.
            rules: the credit rules of the run.
        """
        accounts, entries = entries_after(self.accounts, block, counters, rules)
        return self._with(accounts, entries)

    def _with(self, accounts: Accounts, entries: Sequence[Entry]) -> Ledger:
        tree = Frontier(self.size, self.peaks)
        leaves = tuple(entry.canonical() for entry in entries)
        for leaf in leaves:
            tree.append(leaf_hash(leaf))
        return Ledger(accounts, tuple(entries), leaves, tree.size, tree.peaks)
