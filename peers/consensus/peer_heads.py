"""Where other peers stand: their head notices, when to ask for them, and what to fetch because of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from peers.chain.fork_choice import cosignatures_behind
from peers.chain.link import Link
from peers.consensus.block_search import PATIENCE_SECONDS, BlockSearch
from peers.consensus.context import RoundContext
from peers.consensus.cosigning import Cosigning
from peers.consensus.effects import AskHead, FetchRoster
from peers.consensus.final_blocks import FinalBlocks
from peers.protocol.events import Notice
from peers.protocol.messages import MAX_COSIGNATURES, CoSignature, HeadNotice, Reduction, Signed
from recipes.keys.keys import PeerId

MAX_HEADS = 1024  # named by others: more than there are acquaintances
_ASKED_AT_THE_START = 8  # peers
_ALWAYS_ASKED = 4  # of these: those by whose addresses this peer joined are the first of its acquaintances
_SILENCE_SECONDS = 30.0  # for which a newcomer asks on if nobody at all answers
_EARLY_WINDOWS = 3  # a message waits so many windows for its block or roster
_ASKED_FOR = 2  # missing blocks or rosters, at once


@dataclass(frozen=True)
class ToldOfRound:
    """What others told of the round at a head before this peer took part.

    Attributes:
        began: when its window began, on this peer's clock; None if nobody stands there.
        rosters: the rosters in use in that round, by hash, each with a peer that has it.
    """

    began: float | None
    rosters: dict[str, PeerId]


class PeerHeads:
    """The heads that others named last, and what they told of their rounds before this peer started."""

    def __init__(
        self, context: RoundContext, *, search: BlockSearch, cosigning: Cosigning, final: FinalBlocks
    ) -> None:
        self._context = context
        self._search = search
        self._cosigning = cosigning
        self._final = final
        self._heads: dict[PeerId, tuple[int, str]] = {}  # named last by acquaintances, with rounds
        self._window_began: dict[PeerId, tuple[str, float]] = {}  # a block, and when its window began
        self._rosters: dict[PeerId, tuple[str, str]] = {}  # a block, and the roster in use on top of it
        self._newer: set[PeerId] = set()  # acquaintances whose build is newer than this one
        self._newer_told = False
        self._awaited: dict[PeerId, float] = {}  # since when, before this peer has started
        self._anybody_answered = False
        self._asked = 0
        self._ask_at = context.now
        self._skipped_at = context.now

    def sizes(self) -> tuple[int, int, int]:
        """Return how many heads, windows and rosters are remembered, for checks of their bounds."""
        return len(self._heads), len(self._window_began), len(self._rosters)

    # ------------------------------------------------------------ what they say

    def take_notice(self, sender: PeerId, notice: HeadNotice) -> None:
        """Note where another peer stands, and look for its head if that is not known here."""
        context, checkpoint = self._context, self._final.checkpoint
        context.measures.answered(sender, context.now)
        self.not_told(sender, answered=True)
        if checkpoint is not None and notice.checkpoint != checkpoint.body.block:
            context.send([sender], checkpoint)
        if notice.word is not None:
            self._cosigning.take_or_keep(sender, notice.word)
        if len(self._heads) >= MAX_HEADS:
            self._heads = {peer: head for peer, head in self._heads.items() if peer in context.acquaintances}
        if sender in context.acquaintances:
            self._heads[sender] = (notice.round, notice.block)
            self._note_build(sender, notice)
        if not context.started and sender in context.acquaintances:  # needed before the start only
            self._note_round(sender, notice)
        if (
            notice.roster is not None
            and notice.block == context.head
            and context.round.exchange.roster is None
        ):
            context.emit(FetchRoster(sender, notice.roster))
        self._tell_what_weighs(sender, notice.block)
        self.look_for(sender, notice.block, notice.round)

    def _note_build(self, sender: PeerId, notice: HeadNotice) -> None:
        """Tell once that most others run a newer build."""
        context, wire = self._context, self._context.build.wire
        if self._newer_told or (notice.wire or 0) <= wire:
            return
        self._newer = {peer for peer in self._newer if peer in context.acquaintances} | {sender}
        if 2 * len(self._newer) > len(context.acquaintances):
            self._newer_told = True
            context.tell(
                Notice(
                    f"{len(self._newer)} of {len(context.acquaintances)} peers run a newer build. "
                    "This one goes on; install the newer one when it suits you."
                )
            )

    def not_told(self, sender: PeerId, *, answered: bool) -> None:
        """Wait no longer for a peer that names no head, or cannot be asked."""
        self._awaited.pop(sender, None)
        self._anybody_answered = self._anybody_answered or answered

    def awaited_until(self) -> float:
        """Return until when to wait for what others, asked where they stand, may still say."""
        if not self._context.acquaintances:
            return -math.inf
        if not self._anybody_answered:
            return self._context.round.started + _SILENCE_SECONDS
        present = (at for peer, at in self._awaited.items() if peer in self._context.acquaintances)
        return max(present, default=-math.inf) + PATIENCE_SECONDS

    def _note_round(self, sender: PeerId, notice: HeadNotice) -> None:
        for told in (self._window_began, self._rosters):
            for gone in told.keys() - self._context.acquaintances.keys():
                del told[gone]
        self._window_began[sender] = (notice.block, self._context.now - notice.age_seconds)
        if notice.roster is not None:
            self._rosters[sender] = (notice.block, notice.roster)

    def told_of_round(self) -> ToldOfRound:
        """Return what others told of the round on top of the head, and forget what they told of any round."""
        head = self._context.head
        began = next((at for block, at in self._window_began.values() if block == head), None)
        rosters = {roster: peer for peer, (block, roster) in self._rosters.items() if block == head}
        self._window_began, self._rosters = {}, {}
        return ToldOfRound(began, rosters)

    def others_stand_at(self, block: str) -> bool:
        """Whether another peer said, before this one started, that it stands at `block`."""
        return any(head == block for head, _ in self._window_began.values())

    def named_after(self, round_number: int) -> list[int]:
        """Return the rounds after `round_number` of the heads that acquaintances named last."""
        heads = (self._heads[peer][0] for peer in self._context.acquaintances if peer in self._heads)
        return [number for number in heads if number > round_number]

    def comes_late(self, link: Link) -> bool:
        """Whether a peer that has not failed to deliver before names a head later than this block."""
        return any(
            peer in self._heads and self._heads[peer][0] > link.round and not self._search.failed(peer)
            for peer in self._context.acquaintances
        )

    def most_stand_elsewhere(self) -> bool:
        """Whether most others last named a head that is not here and newer than this peer's final block."""
        context, chain = self._context, self._context.chain
        final = chain.link(chain.final).round
        heads = [self._heads[peer] for peer in context.acquaintances if peer in self._heads]
        elsewhere = [block for number, block in heads if number > final and block not in chain]
        return 2 * len(elsewhere) > len(context.acquaintances)

    def _tell_what_weighs(self, peer: PeerId, block: str) -> None:
        """Send a peer on another branch the electors' co-signatures behind this one.

        It may have missed one that is never sent again, because its author's disk lost it.
        """
        context, chain = self._context, self._context.chain
        if block not in chain or context.head not in chain:
            return
        fork = chain.common_ancestor(context.head, block)
        if fork not in (context.head, block):
            for cosignature in cosignatures_behind(chain, fork, context.head)[:MAX_COSIGNATURES]:
                context.send([peer], cosignature)

    # ------------------------------------------------------------ asking

    def look_for(self, source: PeerId, block: str, round_number: int) -> None:
        """Have a block fetched that `source` names and that is not here."""
        context, chain = self._context, self._context.chain
        if block not in chain and round_number > chain.link(chain.root).round and source != context.me:
            self._search.name(source, block, round_number, context.now)

    def ask_again(self, *, at_the_start: bool = False) -> None:
        """Ask for others' heads in this step."""
        self._ask_at = self._context.now
        if at_the_start:
            self._asked = 0

    def ask_around(self) -> None:
        """Ask for others' heads: several at once when starting, then one now and again, in turn."""
        context = self._context
        if not context.acquaintances or not context.reached(self._ask_at):
            return
        self._ask_at = context.now + context.deadlines.leader
        context.wake_by(self._ask_at)
        self._asked += 1
        asked = self._next_asked()
        for peer in asked:
            context.measures.asked(peer, context.now)
            if not context.started:
                self._awaited.setdefault(peer, context.now)
        context.emit(AskHead(asked))

    def _next_asked(self) -> tuple[PeerId, ...]:
        """Return whom to ask now: others each time, but before this peer has started always the first few."""
        peers = sorted(self._context.acquaintances)
        if self._context.started:
            return (peers[self._asked % len(peers)],)
        if len(peers) <= _ASKED_AT_THE_START:
            return tuple(peers[(self._asked + turn) % len(peers)] for turn in range(len(peers)))
        first = list(self._context.acquaintances)[:_ALWAYS_ASKED]
        rest = [peer for peer in peers if peer not in first]
        count = _ASKED_AT_THE_START - _ALWAYS_ASKED
        return (*first, *(rest[(self._asked * count + turn) % len(rest)] for turn in range(count)))

    def ask_for_what_was_skipped(self) -> None:
        """Ask for a block or roster that others' messages name and that did not come by itself.

        Of several, the one that most peers name is asked for: a single peer may name one that does not exist.
        One that nobody delivers for long is forgotten.
        """
        context, inbox = self._context, self._context.inbox
        pause = context.deadlines.leader / 2
        if not inbox.waiting or not context.reached(self._skipped_at + pause):
            return
        self._skipped_at = context.now
        context.wake_by(context.now + pause)
        inbox.drop_older_than(context.now - _EARLY_WINDOWS * context.rules.window_seconds)
        due = [key for key, since in inbox.since.items() if since <= context.now - pause]
        due.sort(key=lambda key: -len({sender for sender, _ in inbox.waiting[key]}))
        for key in due[:_ASKED_FOR]:
            self._ask_for(key)

    def _ask_for(self, key: str) -> None:
        """Ask for a missing block or roster: the peer that named it last is asked."""
        context, chain = self._context, self._context.chain
        for sender, message in self._context.inbox.waiting[key][::-1]:
            body = message.body if isinstance(message, Signed) else message
            if isinstance(body, CoSignature) and body.round > chain.link(chain.ground).round:
                self.look_for(sender, key, body.round)
                return
            if isinstance(body, Reduction) and context.round.exchange.roster is None:
                context.emit(FetchRoster(sender, key))
                return
