"""The ledger on disk, kept at the head of the branch that this peer follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peers.chain.chain import Chain
    from peers.ledger.store import LedgerStore


def follow_branch(store: LedgerStore, chain: Chain, head: str) -> bool:
    """Let a ledger on disk end with block `head`: drop what a branch that was left gave, add what is missing.

    Returns:
        False if `chain` was pruned above the block where the two part: nothing is changed then, and a chain
        from its first block on is needed.

    Raises:
        StateError: the entries that would have to be the newest were dropped here.
        StorageError: the disk refused.
    """
    missing = []
    link = chain.links.get(head)
    while link is not None and link.round and store.block_of(link.round) != link.hash:
        missing.append(link)
        link = chain.links.get(link.parent)
    if link is None:
        return False
    newest = store.head()
    if newest is not None and newest.round > link.round:
        store.rewind(link.round)
    for link in reversed(missing):
        store.append(round_number=link.round, block=link.hash, entries=link.ledger.leaves)
    return True
