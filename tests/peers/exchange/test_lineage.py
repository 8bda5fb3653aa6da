"""Which claim a peer's error feedback goes on from: what the chain shows of it, to authors and auditors."""

from __future__ import annotations

from rounds import Swarm

from peers.chain.link import Link
from peers.exchange.lineage import (
    MOST_BLOCKS_BETWEEN,
    STRAY_BLOCKS,
    has_strayed,
    is_anchored,
    may_stray,
    shows_source,
    source_of,
)
from peers.protocol.messages import Claim, Signed


class Author:
    """The first of three peers, whose claims follow each other."""

    def __init__(self) -> None:
        self.swarm = Swarm(3)
        self.swarm.claimed = {"feedback_reset": True}
        self.key = self.swarm.keys[0]
        self.head: Link = self.swarm.genesis
        self.newest: Signed[Claim] | None = None

    def claim(self, *, listed: bool = True) -> Signed[Claim]:
        """Claim, going on from the newest own claim. If not listed, a block is made without it."""
        swarm = self.swarm
        before = self.newest.hash if self.newest is not None else None
        reset = before is None
        claim = swarm.claim(self.key, self.head, predecessor=before, feedback_reset=reset)
        others = [swarm.claim(key, self.head) for key in swarm.keys[1:]]
        roster = swarm.roster([claim, *others] if listed else others, self.head)
        self.head = swarm.add(swarm.block(self.head, (), roster=roster))
        self.newest = claim
        return claim

    def miss(self, rounds: int = 1) -> None:
        self.head = self.swarm.grow(self.head, self.swarm.keys[1:], rounds)

    @property
    def strayed(self) -> bool:
        return has_strayed(self.swarm.chain, self.head.hash, self.key.peer_id)


def test_a_claim_goes_on_from_the_newest_one_in_the_blocks_right_below() -> None:
    author = Author()
    author.claim()
    second = author.claim()
    chain, me = author.swarm.chain, author.key.peer_id
    for _ in range(MOST_BLOCKS_BETWEEN):
        source = source_of(chain, author.head.hash, me)
        assert source is not None
        assert source.claim == second
        assert source.tokens == chain.link(source.link.parent).counters.tokens
        assert source.established == chain.link(source.link.parent).say.established
        author.miss()
    assert source_of(chain, author.head.hash, me) is None


def test_a_claim_in_no_roster_is_no_source_and_who_goes_on_from_it_has_strayed_for_a_while() -> None:
    author = Author()
    first = author.claim()
    author.claim(listed=False)
    source = source_of(author.swarm.chain, author.head.hash, author.key.peer_id)
    assert source is not None
    assert source.claim == first
    assert not author.strayed
    stray = author.claim()
    assert not is_anchored(stray.body, source)
    assert author.strayed
    for _ in range(STRAY_BLOCKS - 1):
        author.claim()
        assert author.strayed
    author.claim()
    assert not author.strayed


def test_who_begins_with_zero_is_anchored_whatever_went_before() -> None:
    author = Author()
    author.claim(listed=False)
    author.newest = None
    author.claim()
    assert not author.strayed


def test_an_author_that_knows_too_few_blocks_does_not_stray_and_an_auditor_accuses_nobody_for_them() -> None:
    author = Author()
    author.claim()
    author.miss(MOST_BLOCKS_BETWEEN + STRAY_BLOCKS)
    author.newest = None
    author.claim()
    author.miss(MOST_BLOCKS_BETWEEN - 1)
    author.claim()  # goes on from what the chain below will not show any more
    for _ in range(STRAY_BLOCKS - 1):
        author.claim()
    chain, head, me = author.swarm.chain, author.head, author.key.peer_id
    assert may_stray(chain, head.hash, me)
    low = head.round - STRAY_BLOCKS - 1
    final = head
    while final.round > low:
        final = chain.link(final.parent)
    chain.keep_final(final.hash)
    chain.prune(below_round=low)
    assert not may_stray(chain, head.hash, me)
    assert not has_strayed(chain, head.hash, me)
    assert shows_source(chain, head.hash)
