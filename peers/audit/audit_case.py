"""The case of an audited claim: the facts on the chain that its author and its auditors must know alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.credit.audit import Audit
from peers.credit.sampling import chunks_to_open
from peers.exchange.lineage import Source, has_strayed, is_anchored, shows_source, source_of
from peers.protocol.messages import Claim, Roster, Signed
from recipes.keys.keys import PeerId


@dataclass(frozen=True)
class Case:
    """A claim that is audited, in its place on the chain.

    Attributes:
        claim: the audited one.
        parent: hash of the block on top of which the claim counts.
        start: the block after whose state its window starts: `parent`, or the one before if it ran ahead.
        source: the author's newest claim below, from which an anchored one goes on (lineage.py).
        may_stray: whether the claim may go on from one that is in no block below it.
        established: those whose word counted after `start`.
        seed: of the audit; empty if nothing is drawn.
        steps: that are replayed.
        places: the chunks that are opened, ascending; none unless all steps are replayed.
    """

    claim: Signed[Claim]
    parent: Link
    start: Link
    source: Source | None
    may_stray: bool
    established: frozenset[PeerId]
    seed: bytes
    steps: int
    places: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether the contribution is checked, too."""
        return bool(self.places)

    @property
    def shows_work(self) -> bool:
        """Whether chunks are opened: of a whole window, if the error feedback follows from the chain."""
        return self.whole and is_anchored(self.claim.body, self.source)

    @property
    def continued(self) -> Source | None:
        """The claim whose error feedback it goes on from; None without one that the chain shows."""
        reset = self.claim.body.feedback_reset or not is_anchored(self.claim.body, self.source)
        return None if reset else self.source

    @property
    def start_digest(self) -> str:
        """The digest of the state after `start`, as the chain has it."""
        below = self.parent.block
        ahead = self.claim.body.ahead and below is not None
        return below.body.digest_before if ahead and below is not None else self.claim.body.start_digest

    @property
    def tokens(self) -> int:
        """Trained on below the claim's round: its contribution's density follows from them."""
        return self.parent.counters.tokens


def case_of(chain: Chain, head: str, audit: Audit, *, chunks: int) -> Case | None:
    """Return the case of an audit that the accounts at `head` hold; None if the chain here is too short.

    Args:
        chain: as far as it is known.
        head: a block above the one that drew the audit.
        audit: the audit whose case is wanted.
        chunks: of the model.
    """
    link: Link | None = chain.links.get(head)
    counting = None
    while link is not None and link.round >= audit.work.round:
        counting = link if link.round == audit.work.round else counting
        link = chain.links.get(link.parent)
    if counting is None or counting.block is None or counting.parent not in chain:
        return None
    claim = _claim_in(counting.block.body.roster.body, audit.work.claim)
    bare = bare_case(chain, claim, counting.parent, steps=audit.steps) if claim is not None else None
    if bare is None:
        return None
    seed = bytes.fromhex(audit.seed)
    whole = audit.steps == audit.work.steps
    places = chunks_to_open(seed, audit.work.claim, chunks) if whole else ()
    return replace(bare, seed=seed, places=places)


def bare_case(chain: Chain, claim: Signed[Claim], parent: str, *, steps: int) -> Case | None:
    """Return the case of a claim on top of `parent` for which nothing was drawn: no seed, and no chunks.

    None if the chain here is too short.
    """
    link, peer = chain.link(parent), claim.body.peer
    start = chain.links.get(link.parent) if claim.body.ahead else link
    if start is None or not shows_source(chain, parent):
        return None
    return Case(
        claim=claim,
        parent=link,
        start=start,
        source=source_of(chain, parent, peer),
        may_stray=not has_strayed(chain, parent, peer),
        established=start.say.established,
        seed=b"",
        steps=steps,
        places=(),
    )


def _claim_in(roster: Roster, claim: str) -> Signed[Claim] | None:
    return next((signed for signed in roster.claims if signed.hash == claim), None)
