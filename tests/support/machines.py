"""A machine that a run was joined from, with its keys, chain and state, for tests of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rounds import Swarm

from peers.chain.link import Link
from peers.chain.rebuild import KeptFinal
from peers.protocol.messages import Vouched
from peers.state.block_store import CHAIN_FILE, ChainStore
from peers.state.canonical_state import CanonicalState
from peers.state.chain_memory import ChainMemory
from recipes.home import run_folder
from recipes.keys.keys import SigningKey
from recipes.layout import layout_of
from recipes.publication import Publication

ROUNDS = 6


@dataclass(frozen=True)
class Machine:
    """A home folder from which the tiny run was joined, and a swarm that writes into its chain."""

    home: Path
    publication: Publication
    swarm: Swarm
    owner: SigningKey

    @property
    def run(self) -> str:
        return self.publication.run_id

    @property
    def folder(self) -> Path:
        return run_folder(self.home, self.run)

    def keep(self, links: Sequence[Link], *, final: Link | None = None, settled: bool = False) -> None:
        """Have blocks in the chain on disk, and which of them is final."""
        store = ChainStore(self.folder / CHAIN_FILE)
        for link in links:
            assert link.block is not None
            store.save_block(link.block)
        if final is not None:
            store.save_final(KeptFinal(final.round, final.hash, settled))
        store.close()

    def kept(self) -> Vouched | None:
        store = ChainStore(self.folder / CHAIN_FILE)
        try:
            return store.checkpoint(run=self.run)
        finally:
            store.close()

    def trunk(self, rounds: int = ROUNDS, *, members: Sequence[SigningKey] = ()) -> list[Link]:
        """Rounds on top of genesis, all co-signed."""
        tip = self.swarm.grow(self.swarm.genesis, members or self.swarm.keys, rounds)
        return self.swarm.chain.path(self.swarm.genesis.hash, tip.hash) or []

    def stand_on(self, link: Link) -> None:
        """Have the state on disk say that it is the one after `link`."""
        recipe = self.publication.recipe
        state = CanonicalState(self.folder, layout=layout_of(recipe), outer=recipe.outer)
        root = bytes.fromhex(recipe.genesis.weights_root) if recipe.genesis else b""
        state.adopt_genesis(ChainMemory(b"", b"{}"), block=link.hash, weights_root=root)


def in_lanes_of_their_own(keys: Sequence[SigningKey], swarm: Swarm) -> list[SigningKey]:
    """Those of `keys` that can all claim in the first round: the run is another one in each test."""
    lanes: dict[object, SigningKey] = {}
    for key in keys:
        lanes.setdefault(swarm.genesis.counters.slots_for(key.peer_id, swarm.rules), key)
    return list(lanes.values())
