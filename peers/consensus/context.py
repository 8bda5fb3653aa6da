"""What the parts of the engine share: the peer, its chain and head, the round, and the step's outbox."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.consensus.effects import Effect, Send, Tell
from peers.consensus.inbox import Inbox
from peers.consensus.measurements import Measures
from peers.consensus.round_state import RoundState
from peers.protocol.assignment import leaders
from peers.protocol.events import Event
from peers.protocol.messages import AnyMessage, Signed
from peers.protocol.rules import FANOUT, Rules
from peers.protocol.timeouts import Deadlines
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey

MAX_ACQUAINTANCES = 256


class RoundContext:
    """One peer's place in its run. Only the methods here change it.

    Attributes:
        key: this peer's.
        me: its name.
        rules: of the run.
        chain: what is known of it.
        head: the block after which the canonical state stands.
        digest: of that state, hex.
        round: the round on top of the head.
        started: whether this peer has begun a round since it was started or its chain was built anew.
        leaving: whether it was asked to leave.
        acquaintances: peers that are about, those to ask first in front.
        inbox: messages that came before what they belong to.
        measures: stopwatches for the next claim.
        now: the time of this step, in seconds.
        wake_at: when the engine wants to be called again at the latest.
        last_silence_base: `silence_base` of the round before.
    """

    def __init__(self, *, key: SigningKey, chain: Chain, head: str, digest: str, now: float) -> None:
        self.key = key
        self.me = key.peer_id
        self.rules: Rules = chain.rules
        self.chain = chain
        self.head = head
        self.digest = digest
        self.round = RoundState(parent=chain.link(head), started=now)
        self.started = False
        self.leaving = False
        self.acquaintances: dict[PeerId, None] = {}
        self.inbox = Inbox()
        self.measures = Measures()
        self.now = now
        self.wake_at = now
        self.last_silence_base = math.inf
        self._outbox: list[Effect] = []

    # ------------------------------------------------------------ a step

    def begin_step(self, now: float) -> None:
        """Begin a step at time `now` with nothing to be done."""
        self.now, self.wake_at, self._outbox = now, math.inf, []

    def effects(self) -> list[Effect]:
        """Return what is to be done after this step, in order."""
        return self._outbox

    def emit(self, effect: Effect) -> None:
        """Add an effect to those of this step."""
        self._outbox.append(effect)

    def tell(self, event: Event) -> None:
        """Add an event for the listeners."""
        self._outbox.append(Tell(event))

    def send(self, peers: Collection[PeerId], message: AnyMessage) -> None:
        """Send to all of `peers` but oneself."""
        others = tuple(sorted(set(peers) - {self.me}))
        if others:
            self.emit(Send(others, message))

    def spread(self, message: Signed[Any], audience: Collection[PeerId], *, root: PeerId) -> None:
        """Send on what `root` wrote to this peer's part of the audience: a tree, the same for everybody.

        A peer that is skipped because the one above it is gone learns of it from others' later messages, and
        asks.
        """
        order = sorted(set(audience) - {root}, key=lambda peer: digest((message.hash + peer).encode()))
        if self.me == root:
            place = -1
        elif self.me in order:
            place = order.index(self.me)
        else:
            return
        self.send(order[FANOUT * (place + 1) : FANOUT * (place + 2)], message)

    # ------------------------------------------------------------ time

    def reached(self, at: float) -> bool:
        """Whether time `at` has come; if not, the engine is woken then."""
        if self.now >= at:
            return True
        self.wake_by(at)
        return False

    def wake_by(self, at: float) -> None:
        """Let the engine be called again by then."""
        self.wake_at = min(self.wake_at, at)

    @property
    def deadlines(self) -> Deadlines:
        """How long this round waits for things."""
        return self.round.parent.counters.deadlines

    def silence_base(self) -> float:
        """Return the time from which the silence of this round's leaders is counted.

        A peer that has used up its slots early waits for the others: the whole window is theirs.
        """
        full = self.round.started + self.rules.window_seconds
        return max(full, self.round.window.ended_at or full)

    def adopted_at(self) -> float:
        """Return when the head was adopted: with overlap, its window had begun before that."""
        return self.round.started + self.deadlines.exchange

    # ------------------------------------------------------------ the leaders

    def leaders(self) -> list[PeerId]:
        """Return the leaders of this round in the order of their turn."""
        return self.round.leaders(self.me, self.rules)

    def chain_leaders(self) -> list[PeerId]:
        """Return the leaders whose rank follows from the chain alone."""
        return leaders(self.round.parent.counters, self.rules)

    # ------------------------------------------------------------ what changes

    def move_to(self, link: Link, state_digest: str) -> None:
        """Make a block the head, since the state after it is here."""
        self.last_silence_base = self.silence_base()
        self.head, self.digest = link.hash, state_digest
        self.round = RoundState(parent=link, started=self.now)

    def begin_round(self, began: float) -> None:
        """Take part in the round on top of the head, whose window began at `began`."""
        self.started = True
        self.round = RoundState(parent=self.chain.link(self.head), started=began, begun=True)

    def stand_on(self, chain: Chain, head: str) -> None:
        """Go on from a chain that was built anew, as if just started."""
        self.chain, self.head, self.started = chain, head, False
        self.round = RoundState(parent=chain.link(head), started=self.now)

    def leave(self) -> None:
        """Begin no round any more."""
        self.leaving = True

    def meet(self, peer: PeerId) -> bool:
        """Note that a peer is about; return whether that is new. There is room for `MAX_ACQUAINTANCES`."""
        known = peer == self.me or peer in self.acquaintances
        if known or len(self.acquaintances) >= MAX_ACQUAINTANCES:
            return False
        self.acquaintances[peer] = None
        return True

    def forget_all_but(self, present: Iterable[PeerId]) -> None:
        """Keep of the acquaintances those that are present, and take in the peers of the last roster."""
        met = self.acquaintances
        rostered = self.round.parent.counters.rostered()
        self.acquaintances = {peer: None for peer in rostered if peer != self.me}
        self.acquaintances |= {peer: None for peer in present if peer in met and peer != self.me}

    def put_first(self, peers: Iterable[PeerId]) -> None:
        """Bring those of the acquaintances to the front that are among `peers`, in this order."""
        front = {peer: None for peer in peers if peer in self.acquaintances}
        self.acquaintances = front | self.acquaintances
