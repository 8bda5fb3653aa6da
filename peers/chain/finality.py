"""When a block is final: two quorums in a row, by an electorate that changes only through what is final.

The rules are those of Casper FFG (Buterin and Griffith 2017, arXiv:1710.09437), with every block a checkpoint
and the source of a vote read off the chain, as in chained BFT protocols (HotStuff, Yin et al. 2019):

- A block *shows a quorum* for its parent if the co-signatures that it carries are by a quorum. The newest
  block for which a chain shows one is the chain's *justified* block.
- A block is final once its child shows a quorum for it and a quorum co-signed that child.
- An elector co-signs one block a height, heights only upwards, and no block whose chain's justified block is
  older than the newest one under any block that it co-signed before.

A quorum is three quarters of an electorate's weight (peers/protocol/chance/say.py). Two quorums then share at
least half of it, so two blocks that contradict each other are both final only if half of an electorate broke
those rules: no minority can bring it about. Those whom the chain itself expels, or shows to have broken them,
count neither in a quorum nor in the whole from that block on: a weight of w takes 3/4 w from that half.

Electors come and go, so the electorate is renewed in terms. A term begins with a block that shows a new
block to be final, not older than the term before; its electors are those at that final block. Until the
next term, a quorum takes both: three quarters of the term's electors, and of the last term's. Two branches
from one block therefore share an electorate until one of them has made something of its own final, and then
the other cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from peers.protocol.chance.say import Say, is_three_quarters, without
from recipes.keys.keys import PeerId

MANY_ELECTORS = 4  # with so many electors, their quorum alone shows that enough peers hold a block's state


@dataclass(frozen=True)
class VoteLock:
    """The rule for an elector's next co-signature, kept on disk."""

    round: int = 0  # round of the last block that it co-signed
    justified_round: int = 0  # newest justified round under any block it co-signed
    claims_after: int = 0  # it claims in later rounds only: up to here, it may have lost its memory of one
    decreed: str = ""  # newest trusted checkpoint's block, to whose electors `justified_round` belongs

    def allows(self, round_number: int, finality: Finality) -> bool:
        """Whether a block of this round, with this finality, may be co-signed."""
        return round_number > self.round and finality.justified_round >= self.justified_round

    def after(self, round_number: int, finality: Finality) -> VoteLock:
        """Return the vote lock after co-signing a block of this round, with this finality."""
        justified_round = max(self.justified_round, finality.justified_round)
        return replace(self, round=round_number, justified_round=justified_round)

    def under(self, decreed: str, newest_justified: int) -> VoteLock:
        """Return the vote lock once a trusted checkpoint's block began a new electorate.

        Blocks that the old electorate justified bind no longer. Those that the new one justified bind as if
        this elector had co-signed them, for it may have. The height stays: two co-signatures at one height
        are an equivocation.
        """
        return replace(self, justified_round=newest_justified, decreed=decreed)


@dataclass(frozen=True)
class Electorate:
    """The peers whose co-signatures make a quorum in one term, which began at the block of round `since`."""

    previous: Mapping[PeerId, int]  # with each peer's weight, as at the final block that began the term
    current: Mapping[PeerId, int]
    since: int

    @property
    def terms(self) -> tuple[Mapping[PeerId, int], Mapping[PeerId, int]]:
        """The weights of the last term and of this one."""
        return self.previous, self.current

    @property
    def members(self) -> frozenset[PeerId]:
        """All peers with a say."""
        return frozenset(self.previous.keys() | self.current.keys())

    def agrees(self, signers: Collection[PeerId], *, known: int, excluded: Collection[PeerId] = ()) -> bool:
        """Whether `signers` are a quorum of this term's electors, and of the last term's, by weight.

        Those that are `excluded` by now count nowhere.

        A peer that co-signed a block holds its state, and a final block's state must not be on one disk only.
        So while there are fewer than four electors, or two of them alone are a quorum, four of the `known`
        peers that the chain counts have to co-sign; all of them if they are fewer, but at least two.
        """
        terms = [without(weights, excluded) for weights in self.terms]
        quorums = all(_is_quorum(weights, signers) for weights in terms)
        heard = len(set(signers) - set(excluded))
        few = len(self.current) < MANY_ELECTORS or _is_twos(terms[1])
        return quorums and (not few or heard >= max(2, min(MANY_ELECTORS, known)))


@dataclass(frozen=True)
class Finality:
    """What a chain shows to be justified and final at one of its blocks: the same to every peer.

    It follows from the blocks alone. `justified` and `final` are blocks' hashes, each with its round.
    """

    electorate: Electorate
    justified: str
    justified_round: int
    final: str
    final_round: int


def begin(block: str, round_number: int, say: Say) -> Finality:
    """Return the finality at a block that is final by itself: genesis, or one that was settled."""
    electorate = Electorate(say.weights, say.weights, round_number)
    return Finality(electorate, block, round_number, block, round_number)


def show(
    before: Finality,
    *,
    parent: str,
    grandparent: str,
    round_number: int,
    signers: Collection[PeerId],
    known: int,
    excluded: Collection[PeerId],
    say_at: Callable[[str], Say],
) -> Finality:
    """Return the finality at a block of `round_number` that carries co-signatures of its parent.

    Args:
        before: the finality at the parent.
        parent: the parent's hash.
        grandparent: hash of the block before the parent.
        round_number: the block's round.
        signers: the peers whose co-signatures of the parent the block carries.
        known: how many peers the chain counts at the parent.
        excluded: the peers whose word counts for nothing after the parent.
        say_at: returns the say after a block, by its hash.
    """
    if not before.electorate.agrees(signers, known=known, excluded=excluded):
        return before
    final, final_round = before.final, before.final_round
    electorate = before.electorate
    if before.justified == grandparent and before.justified_round > final_round:
        final, final_round = before.justified, before.justified_round
        if final_round >= electorate.since:
            electorate = Electorate(electorate.current, say_at(final).weights, round_number)
    return Finality(electorate, parent, round_number - 1, final, final_round)


def _is_quorum(weights: Mapping[PeerId, int], signers: Collection[PeerId]) -> bool:
    """Whether at least three quarters of the weight is among `signers`."""
    return is_three_quarters(sum(weights.get(peer, 0) for peer in set(signers)), sum(weights.values()))


def _is_twos(weights: Mapping[PeerId, int]) -> bool:
    """Whether two of the electors alone are a quorum."""
    return is_three_quarters(sum(sorted(weights.values())[-2:]), sum(weights.values()))
