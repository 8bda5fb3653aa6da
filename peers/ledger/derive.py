"""Deriving the ledger from the chain: one branch, block by block from genesis on.

Each block is checked in its place as every peer checks it (validation.py), so that a branch that this accepts
is one that the run's rules allow. Of the chain only the newest blocks stay in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.chain.validation import block_fault
from peers.credit.accounts import Accounts
from peers.credit.entries import Entry
from peers.credit.ledger import Ledger
from peers.credit.rules import CreditRules, credit_rules
from peers.protocol.messages import Block, Signed
from recipes.errors import DataError

if TYPE_CHECKING:
    from peers.ledger.store import LedgerStore
    from recipes.publication import SignedRecipe

_KEPT_BLOCKS = 64  # at least; electorates look back less far than that
_PRUNED_EVERY = 64


@dataclass(frozen=True)
class Ground:
    """A run's genesis and rules: all that its ledger depends on besides its blocks."""

    rules: CreditRules
    genesis_digest: str

    @property
    def run(self) -> str:
        """The run's id, hex."""
        return self.rules.protocol.run


def ground_of(signed: SignedRecipe) -> Ground:
    """Return what follows from a published recipe whose signature holds.

    Raises:
        ModelError: its model cannot be built.
    """
    from peers.protocol.rules import Rules
    from peers.state.genesis import start_digest
    from recipes.layout import layout_of

    rules = Rules.of(signed.recipe, signed.run_id)
    digest = start_digest(signed.recipe, rules, layout_of(signed.recipe))
    return Ground(credit_rules(signed.recipe, rules), digest)


@dataclass(frozen=True)
class Settled:
    """A block, and what it added to the ledger."""

    block: Signed[Block]
    ledger: Ledger

    @property
    def accounts(self) -> Accounts:
        return self.ledger.accounts

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.ledger.entries


class Derivation:
    """The accounts of one branch, as far as its blocks were followed."""

    def __init__(self, ground: Ground) -> None:
        self._chain = Chain(ground.rules, genesis_digest=ground.genesis_digest)
        self._hashes = [self._chain.root]  # of the newest blocks, oldest first

    @property
    def chain(self) -> Chain:
        """The newest blocks of the branch."""
        return self._chain

    @property
    def newest(self) -> Link:
        """The block that was followed last, in its place."""
        return self._chain.link(self._hashes[-1])

    @property
    def ledger(self) -> Ledger:
        """The ledger after the newest block."""
        return self.newest.ledger

    @property
    def accounts(self) -> Accounts:
        """The accounts after the newest block."""
        return self.ledger.accounts

    @property
    def final_round(self) -> int:
        """The round of the newest block that the chain itself shows to be final."""
        return self._chain.link(self._shown_final).round

    def follow(self, signed: Signed[Block]) -> Settled:
        """Take the next block of the branch. Its signatures must have been verified (`messages.parse`).

        Raises:
            DataError: it does not stand on the block before, or the rules do not allow it there.
        """
        block = signed.body
        if block.parent != self._hashes[-1]:
            raise DataError("The block does not stand on the one before it.")
        if (fault := block_fault(self._chain, block)) is not None:
            raise DataError(f"The block is not valid in its place: {fault}.")
        link = self._chain.add(signed)
        self._hashes.append(link.hash)
        if len(self._hashes) >= _KEPT_BLOCKS + _PRUNED_EVERY:
            self._forget()
        return Settled(signed, link.ledger)

    @property
    def _shown_final(self) -> str:
        shown = self._chain.link(self._hashes[-1]).finality.final
        return shown if shown in self._chain else self._chain.root

    def _forget(self) -> None:
        """Drop old blocks: this follows one branch, so it never goes back to them."""
        del self._hashes[:-_KEPT_BLOCKS]
        oldest = self._chain.link(self._hashes[0])
        self._chain.keep_final(oldest.hash)
        self._chain.prune(below_round=oldest.round)


def derive(ground: Ground, blocks: Iterable[Signed[Block]]) -> Iterator[Settled]:
    """Yield what each block of a branch adds, from the first one on.

    Raises:
        DataError: as `Derivation.follow`.
    """
    derivation = Derivation(ground)
    for signed in blocks:
        yield derivation.follow(signed)


def bring_up(store: LedgerStore, settled: Iterable[Settled]) -> None:
    """Let a ledger on disk hold what a branch adds: keep what they share, drop the rest, add what is missing.

    Args:
        store: the ledger.
        settled: the branch, from its first block on.

    Raises:
        StateError: the branch leaves what the store holds before the entries that it still has.
        StorageError: the disk refuses.
    """
    known = {head.round: head.block for head in store.heads()}
    last = 0
    for one in settled:
        last = one.block.body.round
        if known.get(last) == one.block.hash:
            continue
        if known:
            store.rewind(last - 1)
            known = {}
        store.append(
            round_number=last,
            block=one.block.hash,
            entries=one.ledger.leaves,
        )
    if max(known, default=0) > last:
        store.rewind(last)
