"""This peer's claims: one at most on top of each block, on disk before it is sent, sent until a roster comes.

With overlap, the next round's window begins as soon as the claim is made: the block before has given out its
slots, and the block under which it will count is named later (windows.py).

What a claim shows of this peer's hash chain follows from its key and the chain, so a restart cannot lose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from peers.consensus.audit_duties import AuditDuties
from peers.consensus.block_processing import BlockProcessing
from peers.consensus.context import RoundContext
from peers.consensus.effects import SaveClaim, Train, WindowEnded
from peers.consensus.leader import Leader
from peers.protocol.counters import show_next
from peers.protocol.events import Claimed, Waiting, WindowStarted
from peers.protocol.messages import Claim, Signed, sign
from peers.protocol.round_reasons import WaitReason
from peers.protocol.rules import CLAIM_LEADERS
from recipes.keys.keys import PeerId
from recipes.slots import total

MAX_OWN_CLAIMS = 64


class Claims:
    """This peer's claims: never two on top of one block."""

    def __init__(
        self,
        context: RoundContext,
        *,
        duties: AuditDuties,
        blocks: BlockProcessing,
        leader: Leader,
        own_claims: Sequence[Signed[Claim]],
    ) -> None:
        """Begin with the claims that were made before a restart, the oldest first."""
        self._context = context
        self._duties = duties
        self._blocks = blocks
        self._leader = leader
        self._own_claims = {claim.body.parent: claim for claim in own_claims}
        self._overrun = 0.0  # seconds from a window's planned end to its claim
        self._ahead: str | None = None

    @property
    def own_claims(self) -> Mapping[str, Signed[Claim]]:
        """The newest own claims, by the block on top of which each was made, the oldest first."""
        return MappingProxyType(self._own_claims)

    @property
    def overrun(self) -> float:
        """Seconds that it lately took from a window's end to its claim."""
        return self._overrun

    @property
    def ahead(self) -> str | None:
        """The head when the window that runs ahead began: it counts on top of a child of this block."""
        return self._ahead

    def take_ahead(self) -> str | None:
        """Return `ahead` and reset it: no window runs ahead any more."""
        ahead, self._ahead = self._ahead, None
        return ahead

    # ------------------------------------------------------------ claiming

    def claim(self, work: WindowEnded) -> None:
        """Make this round's claim of a window's work: on disk first, then to the leaders."""
        context, window = self._context, self._context.round.window
        if work.parent != context.head or not window.training or window.claim is not None:
            return
        if reason := self._reason_not_to_claim(work):
            context.tell(Waiting(context.round.parent.round + 1, reason))
            self.go_without(work.parent)
            return
        window.end(context.now)
        self._overrun = max(context.now - window.until, self._overrun / 2, 0.0)
        claim = self._sign(work)
        window.claimed(claim)
        self._own_claims[context.head] = claim
        if len(self._own_claims) > MAX_OWN_CLAIMS:
            del self._own_claims[next(iter(self._own_claims))]
        context.emit(SaveClaim(claim))
        self._leader.take_claim(claim)
        self._send(context.leaders()[:CLAIM_LEADERS])
        context.tell(Claimed(claim.body.round, claim.body.contribution_bytes))
        self._train_ahead()

    def _reason_not_to_claim(self, work: WindowEnded) -> WaitReason | None:
        if work.steps == 0:
            return "no_step"
        return "key_change" if self._duties.awaits_change() else None

    def _sign(self, work: WindowEnded) -> Signed[Claim]:
        context = self._context
        names = [name for name in work.__dataclass_fields__ if name in Claim.model_fields]
        fields: dict[str, Any] = {name: getattr(work, name) for name in names} | dict(context.build.adds)
        newest = next(reversed(self._own_claims.values()), None)
        shown = show_next(context.key, context.round.parent.counters, context.rules)
        body = Claim(
            run=context.rules.run,
            peer=context.me,
            round=context.round.parent.round + 1,
            predecessor=newest.hash if newest is not None else None,
            preimage=shown.preimage,
            anchor=shown.anchor,
            pace=context.measures.take_pace(compute_seconds=work.compute_seconds),
            signals=self._signals(),
            **fields,
        )
        return sign(context.key, body)

    def _signals(self) -> tuple[str, ...] | None:
        """Return the rules that this build would go by, and that the run has not put into force yet."""
        locked_in = self._context.round.parent.counters.rules or {}
        return tuple(name for name in self._context.build.signals if name not in locked_in) or None

    def _train_ahead(self) -> None:
        """Begin the next round's window ahead, unless the state is about to change or this peer leaves."""
        context = self._context
        if not context.rules.trains_ahead or context.leaving or self._blocks.applying is not None:
            return
        self._ahead = context.head
        counters, seconds = context.round.parent.counters, context.rules.window_seconds
        number, slots = counters.round + 2, counters.slots_ahead(context.me, context.rules)
        context.tell(WindowStarted(number, seconds, total(slots)))
        context.emit(Train(context.head, number, slots, counters.tokens, seconds, ahead=True))

    def go_without(self, parent: str) -> None:
        """Go through the round at hand without a claim: its window gave no contribution."""
        window = self._context.round.window
        if parent == self._context.head and window.training and window.claim is None:
            window.give_up(self._context.now)

    # ------------------------------------------------------------ bringing it to leaders

    def claim_to(self, peer: PeerId) -> None:
        """Send the claim to a leader, even if it was sent there before."""
        window = self._context.round.window
        if window.claim is not None:
            window.not_sent_to([peer])
            self._context.send([peer], window.claim)

    def claim_again(self) -> None:
        """Send the claim that was made on top of the head before a restart."""
        context, window = self._context, self._context.round.window
        claim = self._own_claims[context.head]
        window.claimed(claim)
        window.end(context.now)
        context.round.pool.ready.add(context.me)
        self._leader.take_claim(claim)
        self._send(context.leaders()[:CLAIM_LEADERS])

    def claim_further(self) -> None:
        """While no roster comes, send the claim to leaders further down the order."""
        context, current = self._context, self._context.round
        if current.window.claim is None or current.exchange.roster is not None:
            return
        order = context.leaders()
        for rank in range(1, max(2, len(order) - CLAIM_LEADERS + 1)):
            at = context.silence_base() + context.deadlines.grace + rank * context.deadlines.leader
            if not context.reached(at):
                return
            self._send(order[: CLAIM_LEADERS + rank])

    def _send(self, peers: Sequence[PeerId]) -> None:
        """Send the claim to those of `peers` to which it was not sent yet."""
        window = self._context.round.window
        fresh = window.not_sent_to(peers)
        if window.claim is not None:
            self._context.send(fresh, window.claim)
