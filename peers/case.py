"""What the chain says of a claim that is audited: all that its author and its auditors must know alike."""

from __future__ import annotations

from dataclasses import dataclass

from peers.chain import Chain, Link
from peers.credit.audit import Audit
from peers.credit.drawing import audit_seed, chunks_to_open
from peers.exchange_format import ExchangeFormat
from peers.messages import Block, Claim, Roster, Signed
from peers.reduction import clip_factors, newcomers_in
from peers.returns import Counted
from recipes.keys import PeerId


@dataclass(frozen=True)
class Case:
    """A claim that is audited, in its place on the chain.

    Attributes:
        claim: the audited one.
        parent: the block on top of which it counts.
        start: the block after whose state its window starts: `parent`, or the one before if it ran ahead.
        before: the block below `parent`, None at genesis: on top of it stands the claim before, if that is
            of the round right before.
        seed: of the round's audits.
        steps: that are replayed.
        places: the chunks that are opened, ascending; none unless all steps are replayed.
        electors: of the rounds on top of `before`.
    """

    claim: Signed[Claim]
    parent: Link
    start: Link
    before: Link | None
    seed: bytes
    steps: int
    places: tuple[int, ...]
    electors: frozenset[PeerId]

    @property
    def whole(self) -> bool:
        """Whether the contribution is checked, too."""
        return bool(self.places)

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

    def shows_work(self, predecessor: Signed[Claim] | None) -> bool:
        """Say whether chunks are opened: of a whole window, if it is known what came back to the feedback.

        That is nothing after a reset. Else it follows from the claim before, if that one is of the round
        right before: the parent block counts it or not. After another one, as when the author missed a
        round or its branch was left, what came back depends on more than the chain shows.
        """
        if not self.whole or self.claim.body.feedback_reset:
            return self.whole
        return (
            predecessor is not None
            and self.before is not None
            and predecessor.body.parent == self.before.hash
        )

    def counted(self, predecessor: str, form: ExchangeFormat, *, return_dropped: bool) -> dict[int, Counted]:
        """Return which segments of the claim before the parent block counts.

        Args:
            predecessor: that claim's hash; its round is the one right before.
            form: how the run's segments are encoded and combined.
            return_dropped: whether what reduced segments dropped comes back.
        """
        block = self.parent.block
        if block is None:
            return {}
        return counted_in(
            block.body,
            predecessor,
            electors=self.electors,
            clip_factor=form.clip_factor,
            return_dropped=return_dropped,
        )


def counted_in(
    block: Block, claim: str, *, electors: frozenset[PeerId], clip_factor: float, return_dropped: bool
) -> dict[int, Counted]:
    """Return which segments of a claim's contribution a block counts. `electors` are those of its round."""
    claims = block.roster.body.claims
    place = next((place for place, signed in enumerate(claims) if signed.hash == claim), None)
    newcomers = newcomers_in(block.roster.body, electors)
    counted: dict[int, Counted] = {}
    for segment, reduction in enumerate(block.reductions):
        if place is None or reduction is None or place not in reduction.body.included:
            continue
        norms = [signed.body.norms[segment] for signed in claims]
        factors = clip_factors(norms, clip_factor=clip_factor, newcomers=newcomers)
        counted[segment] = Counted(factors[place], reduction.body.root if return_dropped else None)
    return counted


def case_of(chain: Chain, head: str, audit: Audit, *, chunks: int) -> Case | None:
    """Return the case of an audit that the accounts at `head` hold; None if the chain here is too short.

    Args:
        chain: what is known of it.
        head: a block above the one that drew the audit.
        audit: what is audited.
        chunks: of the model.
    """
    link: Link | None = chain.links.get(head)
    drawn = counting = None
    while link is not None and link.round >= audit.work.round:
        drawn = link if link.round == audit.drawn else drawn
        counting = link if link.round == audit.work.round else counting
        link = chain.links.get(link.parent)
    if drawn is None or counting is None or counting.block is None or counting.parent not in chain:
        return None
    claim = _claim_in(counting.block.body.roster.body, audit.work.claim)
    parent = chain.link(counting.parent)
    before = chain.links.get(parent.parent)
    if claim is None or (before is None and (parent.block is not None or claim.body.ahead)):
        return None
    whole = audit.steps == audit.work.steps
    seed = audit_seed(beacon=drawn.counters.beacon, run=chain.rules.run, round_number=audit.work.round)
    return Case(
        claim=claim,
        parent=parent,
        start=before if claim.body.ahead and before is not None else parent,
        before=before,
        seed=seed,
        steps=audit.steps,
        places=chunks_to_open(seed, audit.work.claim, chunks) if whole else (),
        electors=chain.electors_at(before.hash) if before is not None else frozenset(),
    )


def _claim_in(roster: Roster, claim: str) -> Signed[Claim] | None:
    return next((signed for signed in roster.claims if signed.hash == claim), None)
