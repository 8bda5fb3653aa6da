"""This peer's acts as leader and reducer: on disk before they leave, so that a crash repeats none of them.

Two rosters or blocks of one attempt, or an average without a part for which a receipt was given, are evidence
that expels their author. So a peer that was started again draws up no second roster and makes no second block
of an attempt, and under a roster by which it had begun to give receipts or to reduce it does neither again.
It has a further turn as leader, after all others (validation.py), so that also a peer all alone goes on.

A peer that lost its disk does not know what it did. It acts only on top of a block whose roster holds a claim
that it made since, or on a descendant of one: all of these are younger than the loss.
"""

from __future__ import annotations

from dataclasses import replace

from peers.chain.acts import MAX_PARENTS, Acts, free_attempt
from peers.consensus.context import RoundContext
from peers.consensus.cosigning import Cosigning
from peers.consensus.effects import SaveActs
from peers.consensus.host import Remembered
from peers.protocol.messages import Claim, Signed


class ActBook:
    """What this peer did on top of each block, and whether it may act on top of the head."""

    def __init__(self, context: RoundContext, cosigning: Cosigning, remembered: Remembered) -> None:
        """Go on from before a restart.

        Args:
            context: the engine's context.
            cosigning: knows whether this peer's memory was lost.
            remembered: its acts, and its claims: after a loss, those made since.
        """
        self._context = context
        self._cosigning = cosigning
        self._acts = dict(remembered.acts)
        self._claims = {claim.hash: claim.body.parent for claim in remembered.own_claims}
        self._younger: tuple[str, bool] = ("", False)  # a head, and whether it is younger than the loss

    def claimed(self, claim: Signed[Claim]) -> None:
        """Note a claim that this peer made."""
        self._claims[claim.hash] = claim.body.parent

    # ------------------------------------------------------------ whether it may act

    def may_act(self) -> bool:
        """Whether this peer may lead and reduce on top of the head."""
        context = self._context
        if self._cosigning.forgot or context.round.parent.accounts.is_out(context.me):
            return False
        if not self._cosigning.lost_before:
            return True
        alone = context.head in self._claims.values() and context.is_alone()
        return alone or self._head_is_younger()

    def _head_is_younger(self) -> bool:
        """Whether the head, or a block below it, holds a claim that this peer made since its loss."""
        head, chain = self._context.head, self._context.chain
        if self._younger[0] != head:
            link = chain.links.get(head)
            found = False
            while link is not None and link.block is not None and not found:
                found = any(claim.hash in self._claims for claim in link.block.body.roster.body.claims)
                link = chain.links.get(link.parent)
            self._younger = (head, found)
        return self._younger[1]

    # ------------------------------------------------------------ what it did on top of the head

    @property
    def _here(self) -> Acts:
        parent = self._context.round.parent
        return self._acts.get(parent.hash) or Acts(parent.round)

    def roster_attempt(self, rank: int, *, ranked: int) -> int:
        """Return the attempt as which this peer's next roster is drawn up."""
        return free_attempt(rank, self._here.rosters, ranked=ranked)

    def made_block(self, attempt: int) -> bool:
        """Whether this peer made a block of this attempt."""
        return attempt in self._here.blocks

    def has_begun(self, roster: str) -> bool:
        """Whether this peer may have given receipts, or announced averages, under a roster."""
        return roster in self._here.begun

    # ------------------------------------------------------------ what it does now

    def draw_up_roster(self, attempt: int) -> None:
        """Keep that a roster of this attempt is drawn up, before it leaves."""
        self._keep(replace(self._here, rosters=(*self._here.rosters, attempt)))

    def make_block(self, attempt: int) -> None:
        """Keep that a block of this attempt is made, before it leaves."""
        self._keep(replace(self._here, blocks=(*self._here.blocks, attempt)))

    def begin(self, roster: str) -> None:
        """Keep that receipts are given, or averages made, under a roster, before the first one leaves."""
        if not self.has_begun(roster):
            self._keep(replace(self._here, begun=(*self._here.begun, roster)))

    def _keep(self, acts: Acts) -> None:
        parent = self._context.round.parent.hash
        self._acts[parent] = acts
        if len(self._acts) > MAX_PARENTS:
            del self._acts[next(iter(self._acts))]
        self._context.emit(SaveActs(parent, acts))
