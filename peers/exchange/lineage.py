"""From claim to claim: the earlier claim whose error feedback a claim goes on from, as the chain shows it.

An auditor can check a contribution only with the error feedback before it, and with what returned to that. A
claim is *anchored* if both follow from the chain: it begins with zero, or goes on from its author's newest
claim in the rosters of the last few blocks. That earlier claim was signed before this one could be known, and
is drawn for audits like any other.

A claim that is in no roster below could be made up afterwards, and with it an error feedback from which any
contribution seems to follow. But a peer whose branch was left, or that came too late for a roster, has such
claims honestly, and what they held is to return. So one claim in `STRAY_BLOCKS` blocks may go on from a claim
that is in no roster; only its losses can be checked. A peer that does so more often begins with zero, or
fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from peers.chain.chain import Chain, trunk_below
from peers.chain.link import Link
from peers.exchange.averaging import clip_factors, newcomers_in
from peers.exchange.residual_returns import IncludedSegment
from peers.protocol.messages import Block, Claim, Signed
from recipes.keys.keys import PeerId

MOST_BLOCKS_BETWEEN = 4
STRAY_BLOCKS = 16


@dataclass(frozen=True)
class Source:
    """An earlier claim of a peer, and its place on the chain.

    Attributes:
        claim: the claim.
        link: the block whose roster holds it.
        tokens: trained on below its round, from which its contribution's density follows.
        established: those whose word counted in its round.
    """

    claim: Signed[Claim]
    link: Link
    tokens: int
    established: frozenset[PeerId]

    def counted(self, *, clip_factor: float, return_dropped: bool) -> dict[int, IncludedSegment]:
        """Return the segments of its contribution that its block includes, by index.

        Args:
            clip_factor: of the run.
            return_dropped: whether values that reduced segments dropped come back.
        """
        if self.link.block is None:
            return {}
        return counted_in(
            self.link.block.body,
            self.claim.hash,
            established=self.established,
            clip_factor=clip_factor,
            return_dropped=return_dropped,
        )


class TrunkOutcomes:
    """What the blocks up to one of a chain include of contributions: the real `ChainOutcomes`."""

    def __init__(self, chain: Chain, head: str, *, clip_factor: float, return_dropped: bool) -> None:
        """Look at the blocks up to `head`.

        Args:
            chain: the chain.
            head: a block that it knows, hex.
            clip_factor: of the run.
            return_dropped: whether the values that reduced segments dropped return.
        """
        self._chain = chain
        self._trunk = trunk_below(chain, head)
        self._clip_factor = clip_factor
        self._return_dropped = return_dropped

    def included(self, round_number: int, claim: str) -> Mapping[int, IncludedSegment] | None:
        """Return the included segments of a contribution, as `ChainOutcomes.included`."""
        link = self._trunk.get(round_number)
        if link is None or link.block is None:
            return None
        below = self._chain.links.get(link.parent)
        return counted_in(
            link.block.body,
            claim,
            established=below.say.established if below is not None else frozenset(),
            clip_factor=self._clip_factor,
            return_dropped=self._return_dropped,
        )


def source_of(chain: Chain, parent: str, peer: PeerId) -> Source | None:
    """Return the newest claim of a peer in the rosters of the last few blocks up to `parent`, if any."""
    for link, below in _going_down(chain, parent, MOST_BLOCKS_BETWEEN):
        if (claim := _claim_of(link, peer)) is not None:
            return Source(claim, link, below.counters.tokens, below.say.established)
    return None


def is_anchored(claim: Claim, source: Source | None) -> bool:
    """Whether the error feedback behind a claim follows from the chain; `source` is that of `source_of`."""
    return claim.feedback_reset or (source is not None and claim.predecessor == source.claim.hash)


def has_strayed(chain: Chain, parent: str, peer: PeerId) -> bool:
    """Whether a claim of a peer in the last `STRAY_BLOCKS` is known to be not anchored."""
    for link, below in _going_down(chain, parent, STRAY_BLOCKS):
        claim = _claim_of(link, peer)
        if claim is None or not shows_source(chain, below.hash):
            continue
        if not is_anchored(claim.body, source_of(chain, below.hash, peer)):
            return True
    return False


def may_stray(chain: Chain, parent: str, peer: PeerId) -> bool:
    """Whether a claim on top of `parent` may surely go on from one that is in none of the blocks below.

    Its auditors may know more blocks than this peer, so it must not where too few are known.
    """
    known = _reaches(chain, parent, STRAY_BLOCKS + MOST_BLOCKS_BETWEEN)
    return known and not has_strayed(chain, parent, peer)


def shows_source(chain: Chain, parent: str) -> bool:
    """Whether the chain here goes down far enough below `parent` for `source_of`."""
    return _reaches(chain, parent, MOST_BLOCKS_BETWEEN)


def counted_in(
    block: Block, claim: str, *, established: frozenset[PeerId], clip_factor: float, return_dropped: bool
) -> dict[int, IncludedSegment]:
    """Return the segments of a claim's contribution that a block includes, by index.

    Args:
        block: the block.
        claim: hash of the claim, hex.
        established: those whose word counted in the block's round.
        clip_factor: of the run.
        return_dropped: whether the values that reduced segments dropped return.
    """
    claims = block.roster.body.claims
    place = next((place for place, signed in enumerate(claims) if signed.hash == claim), None)
    newcomers = newcomers_in(block.roster.body, established)
    counted: dict[int, IncludedSegment] = {}
    for segment, reduction in enumerate(block.reductions):
        if place is None or reduction is None or place not in reduction.body.included:
            continue
        norms = [signed.body.norms[segment] for signed in claims]
        factors = clip_factors(norms, clip_factor=clip_factor, newcomers=newcomers)
        counted[segment] = IncludedSegment(factors[place], reduction.body.root if return_dropped else None)
    return counted


def _going_down(chain: Chain, block: str, most: int) -> Iterator[tuple[Link, Link]]:
    """Yield the known blocks from `block` downwards, each with the one below it."""
    link = chain.link(block)
    for _ in range(most):
        below = chain.links.get(link.parent)
        if link.block is None or below is None:
            return
        yield link, below
        link = below


def _reaches(chain: Chain, block: str, depth: int) -> bool:
    steps = list(_going_down(chain, block, depth))
    lowest = steps[-1][1] if steps else chain.link(block)
    return len(steps) == depth or lowest.block is None


def _claim_of(link: Link, peer: PeerId) -> Signed[Claim] | None:
    claims = link.block.body.roster.body.claims if link.block is not None else ()
    return next((signed for signed in claims if signed.body.peer == peer), None)
