"""A peer's own credit, for its metrics, is what the ledger of its final chain says."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import blocks_of, ground
from rounds import Swarm

from monitoring.metrics.own_credit import OwnCredit
from peers.chain.chain import Link
from peers.credit.entries import VerdictCounted
from peers.credit.escrow import Account
from peers.ledger.derive import derive
from peers.protocol.verdicts import Outcome
from peers.state.block_store import ChainStore
from recipes.errors import DataError
from recipes.keys.keys import PeerId

ESCROW = 6


class Followed:
    """A swarm's chain on disk, and what a peer of it is told of its own credit."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "chain.sqlite"
        self.swarm = Swarm(4)
        self.told: list[Account] = []
        self.verdicts: list[tuple[Outcome, bool]] = []
        self.swarm.play_by(replace(self.swarm.credit, escrow_rounds=ESCROW))
        self.ground = ground(self.swarm)
        self.own = OwnCredit(self.file, self.ground, self.swarm.keys[0].peer_id, self)

    def credited(self, account: Account) -> None:
        self.told.append(account)

    def audited(self, outcome: Outcome, by_this_peer: bool) -> None:
        self.verdicts.append((outcome, by_this_peer))

    def grow(self, link: Link, rounds: int, *, members: int = 4) -> Link:
        """Let the chain grow, and keep it as a peer does."""
        tip = self.swarm.grow(link, self.swarm.keys[:members], rounds)
        with closing(ChainStore(self.file)) as store:
            for block in blocks_of(self.swarm, tip):
                store.save_block(block)
        return tip

    def ledgers_account(self, tip: Link) -> Account:
        *_, last = derive(self.ground, blocks_of(self.swarm, tip))
        return last.accounts.peers[self.swarm.keys[0].peer_id]


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_the_account_is_that_of_the_ledger_at_each_final_block(followed: Followed) -> None:
    first = followed.grow(followed.swarm.genesis, 3)
    second = followed.grow(first, ESCROW)
    followed.own.follow(first.hash)
    followed.own.follow(second.hash)
    assert followed.told == [followed.ledgers_account(first), followed.ledgers_account(second)]
    assert followed.told[0].in_escrow > 0


def test_a_branch_that_is_not_final_is_left_out(followed: Followed) -> None:
    fork = followed.grow(followed.swarm.genesis, 1)
    followed.grow(fork, 1, members=3)
    final = followed.grow(fork, 3)
    followed.own.follow(final.hash)
    assert followed.told == [followed.ledgers_account(final)]


def test_a_chain_that_lacks_a_block_is_not_guessed_at(followed: Followed) -> None:
    tip = followed.swarm.grow(followed.swarm.genesis, followed.swarm.keys, 3)
    with closing(ChainStore(followed.file)) as store:
        for block in blocks_of(followed.swarm, tip)[1:]:
            store.save_block(block)
    with pytest.raises(DataError):
        followed.own.follow(tip.hash)
    assert followed.told == []


def test_verdicts_that_concern_the_peer_are_told_and_others_are_not(followed: Followed) -> None:
    me, other, third = (key.peer_id for key in followed.swarm.keys[:3])

    def counted(*, auditor: PeerId, peer: PeerId) -> VerdictCounted:
        return VerdictCounted(
            round=1,
            claim="a" * 64,
            peer=peer,
            auditor=auditor,
            verdict="b" * 64,
            outcome="pass",
            reason="agrees",
            amount=1,
        )

    for entry in (counted(auditor=me, peer=other), counted(auditor=other, peer=me)):
        followed.own._tell(entry)
    followed.own._tell(counted(auditor=other, peer=third))
    assert followed.verdicts == [("pass", True), ("pass", False)]
