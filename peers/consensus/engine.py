"""The round engine: one peer's part in the round protocol, as a pure state machine.

    engine = RoundEngine(key=..., chain=..., head=..., promise=..., now=...)
    effects = engine.handle(input, now)     # and again no later than engine.wake_at

It has no I/O, no clock, no randomness of its own. A round goes through the phases of `Phase`; each phase
is ended by a message or by a deadline, and every deadline has a next step, so nothing waits for ever:

    TRAINING    the window runs                                  -> claim to the first ranked leaders
    CLAIMED     waiting for a roster    (silence: the next-ranked leader draws one up)
                (with overlap, the next window begins here, before its block is known)
    EXCHANGING  segments to reducers, reduced segments back      (silence: backups reduce)
                waiting for the block   (silence: the next-ranked leader makes it)
    APPLYING    the block's state is being made                  -> co-sign, next round

What a leader and a reducer do lives in leader.py and allreduce.py, how a peer follows the chain in
block_processing.py, and which branch is the best in chain.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from peers.chain.chain import Chain, Link
from peers.chain.finality import Promise
from peers.consensus import allreduce, audit_duties, block_processing, claims, leader
from peers.consensus.block_search import BlockSearch
from peers.consensus.effects import (
    Acquainted,
    Applied,
    ApplyFailed,
    Audited,
    BlocksFetched,
    ChainReloaded,
    Effect,
    FetchRoster,
    GoOn,
    Input,
    Leave,
    LeaveRequested,
    Received,
    ReducedFetched,
    ReducedLost,
    SavePromise,
    SegmentPushed,
    SegmentReduced,
    SegmentStored,
    Send,
    Tell,
    Tick,
    Train,
    WindowEnded,
    WindowLost,
)
from peers.consensus.measurements import Measures
from peers.consensus.message_buffer import EarlyMessages
from peers.consensus.operation_pool import Word, Words
from peers.consensus.round_state import Phase, RoundState
from peers.credit.audit import Audit
from peers.protocol.assignment import Assignment, leaders
from peers.protocol.events import Event, Notice, Waiting, WindowGoesOn, WindowStarted
from peers.protocol.key_change import KeyChange
from peers.protocol.messages import (
    AnyMessage,
    Block,
    Checkpoint,
    Claim,
    ClaimsWanted,
    CoSignature,
    Evidence,
    HeadNotice,
    Ready,
    Reduction,
    Roster,
    Signed,
    Vouched,
)
from peers.protocol.round_reasons import WaitReason
from peers.protocol.rules import CLAIM_LEADERS, FANOUT, Rules
from peers.protocol.timeouts import Deadlines
from peers.protocol.verdicts import Dispute, Verdict
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey
from recipes.slots import total

MAX_ACQUAINTANCES = 256
SHORTEST_WINDOW = 0.3  # of a window: with less left, a newcomer waits for the next round
_ROSTERS_ASKED_FOR = 2  # of those that others spoke of before this peer has started
FORGETFUL_WINDOWS = 3  # who may have forgotten a claim sits out the round that it finds, but no longer


class RoundEngine:
    """One peer's state machine. `head` is the block after which its canonical state stands."""

    def __init__(
        self,
        *,
        key: SigningKey,
        chain: Chain,
        head: str,
        state_digest: str,
        promise: Promise | None,
        own_claims: Sequence[Signed[Claim]] = (),
        state_is_here: bool = True,
        state_round: int = 0,
        checkpoint: Vouched | None = None,
        evidence: Mapping[PeerId, Evidence] | None = None,
        own_words: Sequence[Word] = (),
        own_changes: Sequence[KeyChange] = (),
        now: float,
    ) -> None:
        """Stand at `head`.

        Args:
            key: this peer's.
            chain: what is known of it.
            head: the block after which the canonical state stands.
            state_digest: the state's digest there.
            promise: what co-signatures made so far demand of later ones; None if that is forgotten.
            own_claims: made before a restart, the oldest first.
            state_is_here: whether there is a state at `head`.
            state_round: of the state on disk, which may be further than what is left of the chain.
            checkpoint: the owners' newest that is known.
            evidence: what proves, and was told, that peers contradicted themselves; by culprit.
            own_words: verdicts and disputes said before a restart, the oldest first.
            own_changes: of keys, which the chain is to hold before this peer claims.
            now: seconds on this peer's clock.
        """
        self.key = key
        self.me = key.peer_id
        self.chain = chain
        self.rules: Rules = chain.rules
        self.head = head
        self.digest = state_digest
        self.promise = promise
        self.checkpoint = checkpoint
        self.measures = Measures()
        self.rounds_without_final = 0  # that this peer went through itself
        self.newcomer = len(chain.links) == 1
        self.forgot = promise is None  # it may have claimed already in the round that it finds
        self.found_at: float | None = None  # when a peer that forgot found a head
        self.rounds_seen = 0  # since the start; those whose roster came in time count twice
        self.wake_at = now
        self.applying: str | None = None
        self.leaving = False
        self.acquaintances: dict[PeerId, None] = {}
        self.round = RoundState(parent=chain.link(head), started=now)
        self.started = False
        self.began_here = False
        self.state_is_here = state_is_here
        self.state_round = state_round  # when it started
        self.unavailable: dict[str, float] = {}  # block -> when to try it again
        self.barred: dict[str, float] = {}  # the same for blocks on the way there
        self.early = EarlyMessages()
        self.skipped_at = now
        self.heads: dict[PeerId, tuple[int, str]] = {}  # that acquaintances named last, with their rounds
        self.apart_told_at = -math.inf
        self.search = BlockSearch()
        self.put_off_in_a_row = 0  # blocks that could not be applied
        self.waiting_told_at = -math.inf
        # What others said before this peer has started: a block, and the roster on top of it, or when its
        # window began, on this clock.
        self.rosters_spoken_of: dict[PeerId, tuple[str, str]] = {}
        self.head_age: dict[PeerId, tuple[str, float]] = {}
        self.own_claims = {claim.body.parent: claim for claim in own_claims}  # never two on top of one block
        self.asked = 0
        self.ask_at = now
        self.overrun = 0.0  # seconds from a window's planned end to its claim
        self.ahead: str | None = None  # the block on top of whose child a window that runs already counts
        self.last_base = math.inf
        self.convicts = set(evidence or ())
        self.words = Words(chain.credit)
        for word in own_words:
            self.words.keep_own(word)
        for proof in (evidence or {}).values():
            self.words.keep_evidence(proof, self.round.parent.accounts)
        self.own_changes = tuple(change for change in own_changes if audit_duties.is_to(change, self.me))
        self.changes_until = now + audit_duties.CHANGE_WINDOWS * self.rules.window_seconds
        self.audits: dict[str, Audit] = {}  # that this peer is asked for, by claim
        self.credit = audit_duties.credit_of(self.round.parent.accounts, self.me)  # as told last
        self._left_at: float | None = None
        self._effects: list[Effect] = []
        self._now = now

    # ------------------------------------------------------------ the face

    def handle(self, happened: Input, now: float) -> list[Effect]:
        """Take in what happened at time `now` (seconds, monotonic); return what is to be done, in order."""
        self._effects = []
        self._now = now
        self.wake_at = math.inf
        self._take(happened)
        block_processing.ask_for_what_was_skipped(self)
        block_processing.fetch_blocks(self)
        block_processing.follow_best_branch(self)
        if self.started:
            self._stop_waiting_for_memory()
            self._train_after_all()
            leader.draw_up_roster(self)
            allreduce.exchange(self)
            leader.make_block(self)
            claims.claim_further(self)
        block_processing.ask_around(self)
        self._leave_when_done()
        return self._effects

    @property
    def phase(self) -> Phase:
        """Where this peer stands in its round."""
        if not self.started:
            return Phase.SYNCING
        if self.applying is not None:
            return Phase.APPLYING
        if self.round.roster is not None:
            return Phase.EXCHANGING
        return Phase.TRAINING if self.round.window_ended is None else Phase.CLAIMED

    @property
    def now(self) -> float:
        """The time of this step."""
        return self._now

    @property
    def deadlines(self) -> Deadlines:
        """How long this round waits for things."""
        return self.round.parent.counters.deadlines

    @property
    def roster(self) -> Signed[Roster] | None:
        """The roster that this peer exchanges by."""
        return self.round.roster

    @property
    def own_claim(self) -> Signed[Claim] | None:
        """The own claim in the round at hand."""
        return self.round.own_claim

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """Who reduces each segment of the accepted roster; empty without one."""
        return self.round.assignments

    def reductions_of(self, segment: int) -> list[Signed[Reduction]]:
        """Return what was heard of a segment's reductions in the round at hand."""
        return list(self.round.reductions.get(segment, {}).values())

    def emit(self, effect: Effect) -> None:
        """Add an effect to those of this step."""
        self._effects.append(effect)

    def tell(self, event: Event) -> None:
        """Add an event for the listeners."""
        self._effects.append(Tell(event))

    def reached(self, at: float) -> bool:
        """Say whether time `at` has come; if not, ask to be woken then."""
        if self._now >= at:
            return True
        self.wake_at = min(self.wake_at, at)
        return False

    def silence_base(self) -> float:
        """Return the time from which this round's leaders' silence is counted.

        Who has used up its slots early waits for the others: the whole window is theirs.
        """
        full = self.round.started + self.rules.window_seconds
        return max(full, self.round.window_ended or full)

    def adopted_at(self) -> float:
        """Return when the head was adopted: with overlap, its window had begun before that."""
        return self.round.started + self.deadlines.exchange

    def leaders(self) -> list[PeerId]:
        """Return this round's leaders in the order of their turn."""
        current = self.round
        known = len(current.ready) + len(current.claims)  # neither ever shrinks
        if current.order is None or current.order[0] != known:
            others = current.ready | current.claims.keys() | {self.me}
            current.order = (known, leaders(current.parent.counters, self.rules, others))
        return current.order[1]

    def chain_leaders(self) -> list[PeerId]:
        """Return the leaders whose rank follows from the chain alone."""
        return leaders(self.round.parent.counters, self.rules)

    def send(self, peers: Collection[PeerId], message: AnyMessage) -> None:
        """Send to all of `peers` but oneself."""
        others = tuple(sorted(set(peers) - {self.me}))
        if others:
            self.emit(Send(others, message))

    def spread(self, message: Signed[Any], audience: Collection[PeerId], *, root: PeerId) -> None:
        """Send on what `root` wrote to this peer's part of the audience: a tree, the same for everybody.

        Who is skipped because the peer above it is gone hears of it from others' later messages, and asks.
        """
        order = sorted(set(audience) - {root}, key=lambda peer: digest((message.hash + peer).encode()))
        if self.me == root:
            place = -1
        elif self.me in order:
            place = order.index(self.me)
        else:
            return
        self.send(order[FANOUT * (place + 1) : FANOUT * (place + 2)], message)

    # ------------------------------------------------------------ inputs

    def _take(self, happened: Input) -> None:
        match happened:
            case Tick():
                pass
            case Received(sender, message):
                self._meet(sender)
                self._receive(sender, message)
            case Acquainted(peers):
                met = self.acquaintances
                self.acquaintances = {
                    peer: None for peer in self.round.parent.counters.rostered() if peer != self.me
                }
                self.acquaintances |= {peer: None for peer in peers if peer in met and peer != self.me}
                for peer in peers:
                    self._meet(peer)
            case WindowEnded():
                claims.claim(self, happened)
            case WindowLost(parent):
                claims.go_without(self, parent)
            case SegmentPushed(roster, segment, reducer, taken):
                if taken:
                    self.measures.transfer_ended((roster, segment, reducer), self._now)
                else:
                    self.measures.transfer_failed((roster, segment, reducer))
            case SegmentStored(roster, segment, claimant):
                if self._is_roster(roster):
                    self.round.stored.setdefault(segment, set()).add(claimant)
            case SegmentReduced():
                allreduce.announce(self, happened)
            case ReducedFetched(root):
                self.round.fetched.add(root)
                self.measures.transfer_ended(root, self._now)
            case ReducedLost(root, reason):
                self.round.lost.add(root)
                self.measures.transfer_failed(root)
                self.tell(Notice(f"A reduced segment could not be had: {reason}"))
            case Applied(block, state_digest, checked):
                block_processing.adopt(self, block, state_digest, checked=checked)
            case ApplyFailed(block, reason, above):
                block_processing.put_off(self, block, reason, above=above)
            case BlocksFetched(sender, blocks):
                block_processing.take_fetched(self, sender, blocks)
            case ChainReloaded(chain):
                block_processing.stand_on(self, chain)
            case Audited(verdict):
                audit_duties.give_verdict(self, verdict)
            case LeaveRequested():
                self.leaving = True

    def _receive(self, sender: PeerId, message: AnyMessage) -> None:
        body = message.body if isinstance(message, Signed) else message
        match body:
            case Ready(round=_, parent=parent):
                if self._here_or_early(parent, sender, message) and len(self.round.ready) < MAX_ACQUAINTANCES:
                    self.round.ready.add(sender)
            case ClaimsWanted(parent=parent):
                if parent == self.head and sender in self.chain_leaders():
                    claims.claim_to(self, sender)
            case Claim():
                if self._here_or_early(body.parent, sender, message):
                    leader.take_claim(self, message)  # type: ignore[arg-type]
            case Roster():
                if self._here_or_early(body.parent, sender, message):
                    allreduce.take_roster(self, message)  # type: ignore[arg-type]
            case Reduction():
                if self._is_roster(body.roster):
                    allreduce.take_reduction(self, message)  # type: ignore[arg-type]
                else:
                    self.early.keep(body.roster, sender, message, self._now)
            case Block():
                block_processing.take_block(self, sender, message)  # type: ignore[arg-type]
            case CoSignature():
                self.take_cosignature(sender, message)  # type: ignore[arg-type]
            case HeadNotice():
                self.measures.answered(sender, self._now)
                block_processing.take_notice(self, sender, body)
            case Checkpoint():
                block_processing.take_checkpoint(self, message)  # type: ignore[arg-type]
            case Evidence():
                block_processing.take_evidence(self, body)
            case Verdict() | Dispute():
                audit_duties.take_word(self, message)  # type: ignore[arg-type]
            case KeyChange():
                audit_duties.take_rotation(self, body)

    def take_cosignature(self, sender: PeerId, signed: Signed[CoSignature]) -> None:
        """Record a co-signature, now or when its block is here."""
        if signed.body.block in self.chain:
            block_processing.take_cosignature(self, signed)
        else:
            self.early.keep(signed.body.block, sender, signed, self._now)

    def head_notice(self, *, age_seconds: float) -> HeadNotice | None:
        """Say where this peer stands, or return None while it is still finding that out.

        Args:
            age_seconds: since the head was adopted.
        """
        if not self.started:
            return None
        roster = self.round.roster
        return HeadNotice(
            round=self.chain.link(self.head).round,
            block=self.head,
            age_seconds=age_seconds + self.deadlines.exchange,
            roster=roster.hash if roster is not None else None,
            word=self.chain.word_of(self.me, self.head),
            checkpoint=self.checkpoint.body.block if self.checkpoint is not None else None,
        )

    def _meet(self, peer: PeerId) -> None:
        if peer == self.me or peer in self.acquaintances or len(self.acquaintances) >= MAX_ACQUAINTANCES:
            return
        self.acquaintances[peer] = None
        if self.checkpoint is not None:
            self.send([peer], self.checkpoint)

    def _is_roster(self, roster: str) -> bool:
        return self.round.roster is not None and self.round.roster.hash == roster

    def _here_or_early(self, parent: str, sender: PeerId, message: AnyMessage) -> bool:
        """Say whether a message belongs to the round at hand; one for a block not yet adopted is kept."""
        if parent == self.head:
            return True
        if parent not in self.chain or self.chain.link(parent).round >= self.chain.link(self.head).round:
            self.early.keep(parent, sender, message, self._now)
        elif (
            parent == self.round.parent.parent
            and isinstance(message, Signed)
            and isinstance(message.body, Claim)
            and message.body.peer == sender
            and sender in self.round.parent.counters.peers
        ):
            self.measures.claim_came(self._now - self.last_base)  # too late for its round
        return False

    def replay_early(self, key: str) -> None:
        """Take in what came before the block or roster `key` was known here."""
        for sender, message in self.early.take(key):
            self._receive(sender, message)

    # ------------------------------------------------------------ waiting

    def _stop_waiting_for_memory(self) -> None:
        """Let a forgetful peer claim again once it saw a block being made: on that it cannot have claimed.

        It saw that if it held the block's roster before, or if two blocks came in their time. An elector that
        is all alone goes on after a while; what anybody else would make alone counts for nobody.
        """
        if not self.forgot or self.found_at is None or self.applying is not None:
            return
        since = self.found_at
        if self.rounds_seen > 1:
            self.forgot, self.promise = False, None
            block_processing.promise_afresh(self)
            if self.promise is not None:
                self.emit(SavePromise(self.promise))
        elif (
            not self.acquaintances
            and self.me in self.chain.electors_at(self.head)
            and self.reached(since + FORGETFUL_WINDOWS * self.rules.window_seconds)
        ):
            self.forgot = False
            self.begin_round()

    def _train_after_all(self) -> None:
        """Begin the window anew where all who might have trained sit the round out: nobody else will."""
        current = self.round
        idle = not current.training and not current.claims and current.roster is None
        if idle and self.applying is None and not self.leaving and self.began_here:
            silence = self.deadlines.grace + CLAIM_LEADERS * self.deadlines.leader
            if self.reached(max(self.silence_base(), current.started) + silence):
                self.begin_round()

    # ------------------------------------------------------------ beginning and leaving

    def begin_round(self) -> None:
        """Start the window on top of the head."""
        comes_late = not self.started
        self.started = self.began_here = True
        link = self.chain.link(self.head)
        told = [at for head, at in self.head_age.values() if head == self.head]
        began = min(self._now - link.counters.deadlines.exchange, *told[:1], self._now)
        self.head_age = {}
        goes_on, self.ahead = self.ahead == link.parent, None
        self.round = RoundState(parent=link, started=began)
        block_processing.promise_afresh(self)
        seconds = began + self.rules.window_seconds - self._now
        slots = link.counters.slots_for(self.me, self.rules)
        number = link.round + 1
        if comes_late and self.me in self.chain_leaders()[:CLAIM_LEADERS]:
            # Before a restart, it may have held claims that nobody will send again by himself.
            self.round.claims_asked_at = self._now
            self.send(self.acquaintances, ClaimsWanted(round=number, parent=self.head))
        if reason := self._reason_to_wait(link, seconds):
            last = link.accounts.expelled_until(self.me) if reason == "expelled" else None
            self.tell(Waiting(number, reason, until=last))
            self.emit(Train(self.head, number, (), link.counters.tokens, 0.0))
            if self.head in self.own_claims and not self.leaving:
                claims.claim_again(self)
        else:
            # What it takes to turn a window into a claim comes off the window, for the others do not wait.
            seconds = max(seconds - self.overrun, SHORTEST_WINDOW * self.rules.window_seconds)
            self.round.train_until = self._now + seconds
            self.round.training = True
            self.round.ready.add(self.me)
            first = self.leaders()[:CLAIM_LEADERS]
            everybody = self.acquaintances if len(self.chain_leaders()) < CLAIM_LEADERS else {}
            self.send(set(first) | set(everybody), Ready(round=number, parent=self.head))
            if goes_on:
                self.tell(WindowGoesOn(number, seconds))
                self.emit(GoOn(self.head, seconds))
            else:
                self.tell(WindowStarted(number, seconds, total(slots)))
                self.emit(Train(self.head, number, slots, link.counters.tokens, seconds))
        spoken_of = {
            roster: peer for peer, (head, roster) in self.rosters_spoken_of.items() if head == self.head
        }
        for roster, peer in list(spoken_of.items())[:_ROSTERS_ASKED_FOR]:
            self.emit(FetchRoster(peer, roster))  # whoever was away may have claimed in it already
        self.rosters_spoken_of = {}
        audit_duties.begin_round(self)
        self.replay_early(self.head)

    def _reason_to_wait(self, link: Link, seconds: float) -> WaitReason | None:
        """Return why this peer does not train in the round that begins, if it does not."""
        if self.leaving:
            return "leaving"
        if link.accounts.expelled_until(self.me) > link.round:
            return "expelled"
        if self.forgot or (self.promise is not None and link.round < self.promise.claims_after):
            return "memory_lost"
        if self.head in self.own_claims:
            return "claimed_before"
        if seconds < SHORTEST_WINDOW * self.rules.window_seconds:
            return "too_late"
        return None

    def _leave_when_done(self) -> None:
        """Once nothing of the round is open, and others had time to fetch what lies here, leave."""
        if not self.leaving or self.applying is not None:
            return
        if self.started and self.round.training:
            return
        if self._left_at is None:
            alone = not self.acquaintances
            self._left_at = self._now + (0.0 if alone or not self.started else self.deadlines.leader)
        if self.reached(self._left_at):
            self.emit(Leave())
