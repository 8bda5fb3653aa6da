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
from peers.protocol.events import Event
from peers.protocol.messages import AnyMessage, Signed
from peers.protocol.rules import FANOUT, Rules
from peers.protocol.timeouts import Deadlines
from peers.protocol.upgrades import Build
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey

MAX_ACQUAINTANCES = 256
ALONE_WINDOWS = 3  # without a word from anybody


class RoundContext:
    """Where one peer stands in its run. Only the methods here change it.

    Attributes:
        key: this peer's signing key.
        me: this peer's id.
        rules: the rules of the run.
        build: what this program can go by.
        chain: the blocks that this peer knows.
        head: hash of the block after which the canonical state stands.
        digest: digest of that state, hex.
        round: the round on top of the head.
        started: whether this peer has begun a round since it was started or its chain was rebuilt.
        leaving: whether this peer was asked to leave.
        acquaintances: peers that are present, those to ask first in front.
        inbox: messages that came before the block or roster to which they belong.
        measures: stopwatches for the next claim.
        now: the time of this step, in seconds.
        wake_at: the latest time at which the engine wants to be called again, in seconds.
        heard_at: when another peer was last heard, in seconds.
        last_silence_base: `silence_base` of the round before.
    """

    def __init__(
        self, *, key: SigningKey, chain: Chain, head: str, digest: str, build: Build, now: float
    ) -> None:
        self.key = key
        self.build = build
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
        self.heard_at = now
        self.last_silence_base = math.inf
        self._outbox: list[Effect] = []

    # ------------------------------------------------------------ a step

    def begin_step(self, now: float) -> None:
        """Begin a step at time `now` (seconds), with an empty outbox."""
        self.now, self.wake_at, self._outbox = now, math.inf, []

    def effects(self) -> list[Effect]:
        """Return this step's effects, in the order in which they are to be carried out."""
        return self._outbox

    def emit(self, effect: Effect) -> None:
        """Add an effect to this step's."""
        self._outbox.append(effect)

    def tell(self, event: Event) -> None:
        """Add an event for the listeners."""
        self._outbox.append(Tell(event))

    def send(self, peers: Collection[PeerId], message: AnyMessage) -> None:
        """Send a message to each of `peers` except this one."""
        others = tuple(sorted(set(peers) - {self.me}))
        if others:
            self.emit(Send(others, message))

    def spread(self, message: Signed[Any], audience: Collection[PeerId], *, root: PeerId) -> None:
        """Pass a message by `root` on down a tree over the audience; every peer computes the same tree.

        A peer misses the message where the peer above it in the tree is gone. It learns of it from later
        messages, and asks for it.
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
        """Whether time `at` (seconds) has come; if not, the engine is woken then."""
        if self.now >= at:
            return True
        self.wake_by(at)
        return False

    def wake_by(self, at: float) -> None:
        """Have the engine called again at `at` (seconds) or before."""
        self.wake_at = min(self.wake_at, at)

    @property
    def deadlines(self) -> Deadlines:
        """How long this round waits for claims, transfers and leaders."""
        return self.round.parent.counters.deadlines

    def silence_base(self) -> float:
        """Return the time from which the silence of this round's leaders is counted.

        A peer that has used up its slots early waits for the others: the whole window is theirs.
        """
        full = self.round.started + self.rules.window_seconds
        return max(full, self.round.window.ended_at or full)

    def first_turn(self, claimants: Collection[PeerId]) -> float:
        """Return from when on what the first leader made is followed, by those whom its roster lists.

        It waits for all who train. So while this peer does, and is not listed, its own window has to be over.
        """
        window = self.round.window
        waits = window.training and window.ended_at is None and self.me not in claimants
        return self.silence_base() if waits else -math.inf

    def adopted_at(self) -> float:
        """Return when the head was adopted, in seconds; with overlap, the window began earlier."""
        return self.round.started + self.deadlines.exchange

    def heard(self) -> None:
        """Note that another peer is heard."""
        self.heard_at = self.now

    def is_alone(self) -> bool:
        """Whether nobody was heard for some windows, whoever was here before; the engine is woken then."""
        return not self.acquaintances or self.reached(
            self.heard_at + ALONE_WINDOWS * self.rules.window_seconds
        )

    # ------------------------------------------------------------ the leaders

    def leaders(self) -> list[PeerId]:
        """Return the leaders of this round in the order of their turn."""
        return self.round.leaders(self.me)

    def chain_leaders(self) -> list[PeerId]:
        """Return the leaders whose rank follows from the chain alone."""
        return list(self.round.parent.leaders)

    # ------------------------------------------------------------ what changes

    def move_to(self, link: Link, state_digest: str) -> None:
        """Make a block the head; the canonical state after it is already here."""
        self.last_silence_base = self.silence_base()
        self.head, self.digest = link.hash, state_digest
        self.round = RoundState(parent=link, started=self.now)

    def begin_round(self, began: float) -> None:
        """Take part in the round on top of the head, whose window began at `began`."""
        self.started = True
        self.round = RoundState(parent=self.chain.link(self.head), started=began, begun=True)

    def stand_on(self, chain: Chain, head: str) -> None:
        """Go on from a chain that was rebuilt, as if just started."""
        self.chain, self.head, self.started = chain, head, False
        self.round = RoundState(parent=chain.link(head), started=self.now)

    def leave(self) -> None:
        """Begin no further round."""
        self.leaving = True

    def meet(self, peer: PeerId) -> bool:
        """Note that a peer is present; return whether that is new. At most `MAX_ACQUAINTANCES` are kept."""
        known = peer == self.me or peer in self.acquaintances
        if known or len(self.acquaintances) >= MAX_ACQUAINTANCES:
            return False
        self.acquaintances[peer] = None
        return True

    def forget_all_but(self, present: Iterable[PeerId]) -> None:
        """Keep only those acquaintances that are in `present`, and add the peers of the last roster."""
        met = self.acquaintances
        rostered = self.round.parent.counters.rostered()
        self.acquaintances = {peer: None for peer in rostered if peer != self.me}
        self.acquaintances |= {peer: None for peer in present if peer in met and peer != self.me}

    def put_first(self, peers: Iterable[PeerId]) -> None:
        """Bring those of the acquaintances to the front that are among `peers`, in this order."""
        front = {peer: None for peer in peers if peer in self.acquaintances}
        self.acquaintances = front | self.acquaintances
