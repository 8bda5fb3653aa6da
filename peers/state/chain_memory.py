"""What a snapshot holds of the chain: the counters and the accounts after its block.

The state digest covers both, so whoever co-signs a block vouches for them with the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from peers.chain.link import Link
from peers.credit.accounts import Accounts
from peers.credit.canonical_accounts import canonical_accounts, leaves_of, pieces_of
from peers.protocol.counters import initial
from peers.protocol.requests import StatePiece
from peers.protocol.rules import Rules
from recipes.formats import blake3_tree


@dataclass(frozen=True)
class ChainLeaves:
    """The leaf hashes of the counters, and of each piece of the accounts; 32 bytes each."""

    counters: bytes
    accounts: tuple[bytes, ...]


@dataclass(frozen=True)
class ChainMemory:
    """The counters and the accounts after a block, in canonical form."""

    counters: bytes
    accounts: bytes

    @cached_property
    def leaves(self) -> ChainLeaves:
        """The hashes of their pieces."""
        return ChainLeaves(blake3_tree.leaf_hash(self.counters), leaves_of(self.accounts))

    def pieces(self) -> Iterator[tuple[StatePiece, bytes]]:
        """Yield each piece with its place in a snapshot."""
        yield StatePiece("counters", 0), self.counters
        for index, piece in enumerate(pieces_of(self.accounts)):
            yield StatePiece("accounts", index), bytes(piece)


def first_memory(rules: Rules) -> ChainMemory:
    """Return what a snapshot of the genesis state holds of the chain."""
    return ChainMemory(initial(rules).canonical(), canonical_accounts(Accounts()))


def memory_after(link: Link) -> ChainMemory:
    """Return what a snapshot of the state after a block holds of the chain."""
    return ChainMemory(link.counters.canonical(), canonical_accounts(link.accounts))


def leaves_after(link: Link) -> ChainLeaves:
    """Return the hashes of `memory_after`: the accounts are not written out again for it."""
    return ChainLeaves(blake3_tree.leaf_hash(link.counters.canonical()), link.ledger.accounts_leaves)
