"""The beginning of a round: its window is trained, goes on from before, or is sat out."""

from __future__ import annotations

from peers.chain.link import Link
from peers.consensus.audit_duties import AuditDuties
from peers.consensus.block_processing import BlockProcessing
from peers.consensus.claims import Claims
from peers.consensus.context import RoundContext
from peers.consensus.cosigning import Cosigning
from peers.consensus.effects import FetchRoster, GoOn, StopOutdated, Train
from peers.consensus.peer_heads import PeerHeads
from peers.protocol.events import Notice, Waiting, WindowGoesOn, WindowStarted
from peers.protocol.messages import ClaimsWanted, Ready
from peers.protocol.round_reasons import WaitReason
from peers.protocol.rules import CLAIM_LEADERS
from recipes.slots import total

SHORTEST_WINDOW = 0.3  # share of a window: with less left, a newcomer waits for the next round
_ROSTERS_ASKED_FOR = 2  # of those that others named before this peer started


class Windows:
    """Begins this peer's windows."""

    def __init__(
        self,
        context: RoundContext,
        *,
        duties: AuditDuties,
        cosigning: Cosigning,
        heads: PeerHeads,
        blocks: BlockProcessing,
        claims: Claims,
    ) -> None:
        self._context = context
        self._duties = duties
        self._cosigning = cosigning
        self._heads = heads
        self._blocks = blocks
        self._claims = claims
        self._warned: set[str] = set()  # of rules that this build does not know

    def begin_round(self) -> None:
        """Begin the round on top of the head."""
        context = self._context
        comes_late = not context.started
        link = context.chain.link(context.head)
        if self._is_outdated(link):
            return
        told = self._heads.told_of_round()
        began = min(context.now - link.counters.deadlines.exchange, context.now)
        if told.began is not None:
            began = min(began, told.began)
        goes_on = self._claims.take_ahead() == link.parent
        context.begin_round(began)
        self._cosigning.lock_afresh()
        if comes_late and context.me in context.chain_leaders()[:CLAIM_LEADERS]:
            # Before a restart, it may have held claims that are not sent again unless asked for.
            context.round.pool.asked(context.now)
            context.send(context.acquaintances, ClaimsWanted(round=link.round + 1, parent=context.head))
        left = began + context.rules.window_seconds - context.now
        if reason := self._reason_to_wait(link, left):
            self._sit_out(link, reason)
        else:
            self._train(link, left, goes_on=goes_on)
        for roster, peer in list(told.rosters.items())[:_ROSTERS_ASKED_FOR]:
            context.emit(FetchRoster(peer, roster))  # this peer may have claimed in it before it was away
        self._duties.begin_round()
        context.inbox.release(context.head)

    def _train(self, link: Link, left: float, *, goes_on: bool) -> None:
        """Train for the round, or let the window that runs ahead count for it."""
        context, number = self._context, link.round + 1
        # The time that it takes to turn a window into a claim is part of the window: others do not wait.
        seconds = max(left - self._claims.overrun, SHORTEST_WINDOW * context.rules.window_seconds)
        context.round.window.begin(context.now + seconds)
        context.round.pool.ready.add(context.me)
        first = context.leaders()[:CLAIM_LEADERS]
        everybody = context.acquaintances if len(context.chain_leaders()) < CLAIM_LEADERS else {}
        context.send(set(first) | set(everybody), Ready(round=number, parent=context.head))
        if goes_on:
            context.tell(WindowGoesOn(number, seconds))
            context.emit(GoOn(context.head, seconds))
        else:
            slots = link.counters.slots_for(context.me, context.rules)
            context.tell(WindowStarted(number, seconds, total(slots)))
            context.emit(Train(context.head, number, slots, link.counters.tokens, seconds))

    def _sit_out(self, link: Link, reason: WaitReason) -> None:
        """Wait for the round's block, and send the claim that was made for it before a restart, if any."""
        context = self._context
        last = link.accounts.expelled_until(context.me) if reason == "expelled" else None
        context.tell(Waiting(link.round + 1, reason, until=last))
        context.emit(Train(context.head, link.round + 1, (), link.counters.tokens, 0.0))
        if context.head in self._claims.own_claims and not context.leaving:
            self._claims.claim_again()

    def _reason_to_wait(self, link: Link, seconds: float) -> WaitReason | None:
        """Return why this peer does not train in the round that begins; None if it does."""
        context, vote_lock = self._context, self._cosigning.vote_lock
        if context.leaving:
            return "leaving"
        if link.accounts.expelled_until(context.me) > link.round:
            return "expelled"
        if self._cosigning.forgot or (vote_lock is not None and link.round < vote_lock.claims_after):
            return "memory_lost"
        if context.head in self._claims.own_claims:
            return "claimed_before"
        if seconds < SHORTEST_WINDOW * context.rules.window_seconds:
            return "too_late"
        return None

    def _is_outdated(self, link: Link) -> bool:
        """Stop where a rule is in force that this build does not know, and tell of one that soon will be."""
        context = self._context
        for rule, in_force_from in (link.counters.rules or {}).items():
            if rule in context.build.knows:
                continue
            if in_force_from <= link.round + 1:
                context.emit(StopOutdated(rule, in_force_from))
                return True
            if rule not in self._warned:
                self._warned.add(rule)
                minutes = (in_force_from - link.round) * context.rules.window_seconds / 60
                context.tell(
                    Notice(
                        f"From round {in_force_from} on, in about {minutes:.0f} minutes, this run goes by a "
                        f"rule that this build does not know ({rule}), and this peer will stop. Install a "
                        "newer build of Manyhands before then, and run the same command again."
                    )
                )
        return False

    # ------------------------------------------------------------ beginning anew

    def begin_after_waiting(self) -> bool:
        """Begin the round again if this peer need not sit it out any more; return whether it did."""
        if self._blocks.applying is None and self._cosigning.may_claim_at_once():
            self.begin_round()
            return True
        return False

    def train_after_all(self) -> bool:
        """Begin the window again if every peer that might have trained sits it out; return whether it did."""
        context, current = self._context, self._context.round
        idle = not current.window.training and not current.pool.held and current.exchange.roster is None
        if not idle or self._blocks.applying is not None or context.leaving or not current.begun:
            return False
        silence = context.deadlines.grace + CLAIM_LEADERS * context.deadlines.leader
        if not context.reached(max(context.silence_base(), current.started) + silence):
            return False
        self.begin_round()
        return True
