"""The ledger on disk beside a chain: it ends where the peer stands, whatever branch it stood on before."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from rounds import Swarm, elected, fork

from peers.chain.link import Link
from peers.ledger.catch_up import follow_branch
from peers.ledger.store import LedgerStore


def heads(store: LedgerStore) -> list[tuple[int, str, int, str]]:
    return [(head.round, head.block, head.size, head.root.hex()) for head in store.heads()]


def expected(swarm: Swarm, link: Link) -> list[tuple[int, str, int, str]]:
    """The heads after each block up to `link`, as the chain itself has them."""
    path = swarm.chain.path(swarm.chain.root, link.hash)
    assert path is not None
    return [(one.round, one.hash, one.ledger.head.size, one.ledger.head.root) for one in path]


def test_it_goes_on_where_it_ended_and_leaves_a_branch_with_the_peer(tmp_path: Path) -> None:
    swarm, trunk = elected(3)
    one, other = fork(swarm, trunk, swarm.keys[:1], swarm.keys[1:])
    with closing(LedgerStore(tmp_path / "ledger.sqlite")) as store:
        for link in (trunk, one, swarm.grow(other, swarm.keys), trunk):
            assert follow_branch(store, swarm.chain, link.hash)
            assert heads(store) == expected(swarm, link)


def test_below_what_a_chain_still_holds_it_changes_nothing(tmp_path: Path) -> None:
    swarm, link = elected(3)
    with closing(LedgerStore(tmp_path / "ledger.sqlite")) as store:
        swarm.chain.prune(below_round=link.round - 2)
        assert not follow_branch(store, swarm.chain, link.hash)
        assert store.head() is None


def test_what_other_rules_gave_is_derived_again(tmp_path: Path) -> None:
    swarm, link = elected(3)
    path = tmp_path / "ledger.sqlite"
    with closing(LedgerStore(path)) as store:
        follow_branch(store, swarm.chain, link.hash)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 999")
    with closing(LedgerStore(path)) as store:
        assert (store.head(), store.size) == (None, 0)
        assert follow_branch(store, swarm.chain, link.hash)
        assert heads(store) == expected(swarm, link)
