"""A block in its place in the chain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from peers.chain.finality import Finality
from peers.credit.accounts import Accounts
from peers.credit.ledger import Ledger
from peers.protocol.assignment import leaders
from peers.protocol.chance.say import Say
from peers.protocol.counters import Counters
from peers.protocol.messages import Block, Signed
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId


@dataclass(frozen=True)
class Link:
    """A block in its place, with the counters, finality, ledger and say after it. Genesis has no block."""

    hash: str
    parent: str
    counters: Counters
    block: Signed[Block] | None
    finality: Finality
    ledger: Ledger
    say: Say

    @cached_property
    def leaders(self) -> tuple[PeerId, ...]:
        """The leaders of the round on top of it whom the chain ranks, in the order of their turn."""
        return tuple(leaders(self.counters, self.say))

    @property
    def accounts(self) -> Accounts:
        """Every peer's credit after the block."""
        return self.ledger.accounts

    @cached_property
    def silenced(self) -> frozenset[PeerId]:
        """The peers of its electorate whose word counts for nothing after it.

        The counters may have forgotten them by then; accounts forget no expulsion.
        """
        return frozenset(peer for peer in self.finality.electorate.members if self.accounts.is_excluded(peer))

    @property
    def round(self) -> int:
        """The block's round; 0 for genesis."""
        return self.counters.round

    @cached_property
    def claimants(self) -> frozenset[PeerId]:
        """The peers in the block's roster."""
        claims = self.block.body.roster.body.claims if self.block is not None else ()
        return frozenset(claim.body.peer for claim in claims)


def genesis_hash(run: str) -> str:
    """Return the hash that stands for genesis, the parent of the first block, hex."""
    return digest(f"genesis/{run}".encode()).hex()
