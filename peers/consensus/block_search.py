"""Whom to ask for which blocks: heads that others name are fetched block by block, and no block twice.

A head that is not here is anybody's word. Its source is asked for the blocks up to it, one answer after the
other, and is given up once it has delivered nothing that connects for `FRUITLESS_SECONDS`, or failed. Then it
rests, each time for longer, until it delivers again. Of all sources, one is asked at a time, so that no
answer comes twice: the one that gave most blocks a second. While answers stay out, others are asked beside, a
few at a time. Every fourth request, or each while answers are slow, goes to a source that was not tried yet:
none decides alone what is known here, and none holds the others up.

An answer that does not connect left our branch further below: its source is asked again from two rounds
further back, then from four, and so on, down to what is final here. One that holds only what is known here
leads on from its end.

Until the heads that were named are here, no state need be tried: `waits` says so, for at most
`PATIENCE_SECONDS` after the last block that connected, and in all for `LONGEST_WAIT_SECONDS` and a second for
each block, whoever names what. Who has failed to deliver before is not waited for.

Nothing here reads a clock: times are passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peers.chain.chain import Chain
from peers.chain.fork_choice import best_head
from peers.protocol.messages import Block, Signed
from recipes.keys.keys import PeerId

PATIENCE_SECONDS = 10.0  # for heads that were named, while nothing connects
LONGEST_WAIT_SECONDS = 30.0  # for them in all, and a second for each block that connects
ALL_TRIED_SECONDS = 20.0  # of it, until each source was asked once
FRUITLESS_SECONDS = 20.0  # for a source that delivers nothing that connects
SILENCE_SECONDS = 5.0  # for an answer, until others are asked beside
LONGEST_SILENCE_SECONDS = 30.0  # the same on a line on which answers are slow
TRIAL_SECONDS = 1.0  # the same while a better source waits: or twice what its answer took
MOST_BESIDE = 3  # requests of which an answer is still hoped for
TRIED_EVERY = 4  # requests
FIRST_REST_SECONDS = 10.0
LONGEST_REST_SECONDS = 60.0
MAX_SOUGHT = 64  # heads
MAX_RESTING = 1024  # sources
_INSTANT_SECONDS = 0.001
LIKELY_FORK = 2  # rounds below our tip from which a source is asked first


@dataclass
class _Sought:
    """A head that a source named, and how its blocks come."""

    head: str
    round: int
    turn: int = 0  # when it was asked last; 0 is never
    asked_at: float | None = None  # the request that is open
    asked_after: int = 0  # the round after which it asks
    next_after: int | None = None  # what to ask next, where that does not follow from what is known here
    back: int = 1  # rounds by which the last step went back
    goes_back: bool = False  # its last answer left our branch below
    tip: str = ""  # the newest block that it delivered and that is known here
    blocks_a_second: float = 0.0  # that were new, in its last answer
    answer_seconds: float = 0.0  # that it took
    fruitless_since: float | None = None  # asked, and nothing came since that connects


@dataclass(frozen=True)
class BlocksWanted:
    """A request to make: a peer's blocks of rounds after `after_round`."""

    peer: PeerId
    after_round: int


class BlockSearch:
    """The heads that are looked for, by who named them."""

    def __init__(self) -> None:
        self.look_at = math.inf  # when to call `due` again, at the latest
        self._sought: dict[PeerId, _Sought] = {}
        self._resting: dict[PeerId, tuple[float, float]] = {}  # until when, and how long that was
        self._turns = 0
        self._connected_at = -math.inf  # when the last new block came, or waiting began
        self._waited_in_vain = False  # since a block came
        self._waits_until = -math.inf  # at the latest
        self._began_at = -math.inf  # when waiting began
        self._silence_seconds = SILENCE_SECONDS

    def __len__(self) -> int:
        return len(self._sought)

    def resting(self) -> int:
        """Return how many sources could not deliver what they named."""
        return len(self._resting)

    def failed(self, source: PeerId) -> bool:
        """Whether a source could not deliver what it named when it was asked last."""
        return source in self._resting

    def name(self, source: PeerId, head: str, round_number: int, now: float) -> None:
        """Look for a block that is not here, and that `source` must have, by its own word."""
        if now < self._resting.get(source, (-math.inf, 0.0))[0]:
            return
        known = self._sought.get(source)
        if known is not None:
            if round_number >= known.round:
                known.head, known.round = head, round_number
        elif len(self._sought) < MAX_SOUGHT:
            if not self._hopeful() and source not in self._resting and not self._waited_in_vain:
                self._connected_at, self._waited_in_vain = now, True
                self._began_at, self._waits_until = now, now + LONGEST_WAIT_SECONDS
            self._sought[source] = _Sought(head, round_number)

    def waits(self, now: float) -> bool:
        """Whether heads that were named may still come; `look_at` is no later than when that ends."""
        if not self._hopeful() or now >= self._waits_until:
            return False
        untried = any(not sought.turn for sought in self._sought.values())
        return now < self._connected_at + PATIENCE_SECONDS or (
            untried and now < self._began_at + ALL_TRIED_SECONDS
        )

    def _hopeful(self) -> bool:
        """Whether a head is looked for that was named by who has failed to deliver none so far."""
        return bool(self._sought.keys() - self._resting.keys())

    def due(self, chain: Chain, standing: str, now: float) -> list[BlocksWanted]:
        """Return the requests to make now.

        Args:
            chain: what is known.
            standing: the block after which this peer's state stands.
            now: seconds.
        """
        self._look_through(chain, now)
        best = best_head(chain, standing)
        free = [source for source, sought in self._sought.items() if sought.asked_at is None]
        wanted = []
        for source in self._next(free, now):
            sought = self._sought[source]
            sought.asked_after = _ask_from(sought, chain, best)
            self._turns += 1
            sought.turn, sought.asked_at = self._turns, now
            if sought.fruitless_since is None:
                sought.fruitless_since = now
            wanted.append(BlocksWanted(source, sought.asked_after))
        self.look_at = min((at for at in self._moments() if at > now), default=math.inf)
        return wanted

    def _next(self, free: Sequence[PeerId], now: float) -> Sequence[PeerId]:
        """Return which of the sources that have nothing to answer are asked now."""
        pending = [sought for sought in self._sought.values() if sought.asked_at is not None]
        if any(now < self._asked_beside_at(sought) for sought in pending):
            return ()
        going_back = [source for source in free if self._sought[source].goes_back]
        good = [source for source in free if self._sought[source].blocks_a_second]
        untried = [source for source in free if not self._sought[source].turn]
        if going_back:
            return going_back[:1]
        best = max(good, key=lambda source: self._sought[source].blocks_a_second, default=None)
        if best is not None:
            slow = self._sought[best].answer_seconds > TRIAL_SECONDS
            in_turn = slow or (self._turns + 1) % TRIED_EVERY == 0
            return untried[:1] if untried and in_turn and not pending else [best]
        others = sorted(set(free) - set(untried), key=lambda source: self._sought[source].turn)
        hoped_for = sum(now < (sought.asked_at or 0.0) + PATIENCE_SECONDS for sought in pending)
        return (untried + others)[: max(0 if pending else 1, min(len(pending) + 1, MOST_BESIDE - hoped_for))]

    def _asked_beside_at(self, sought: _Sought) -> float:
        """Return until when an answer is waited for without asking another source."""
        asked_at = sought.asked_at or 0.0
        waiting = [
            other for other in self._sought.values() if other.asked_at is None and other.blocks_a_second
        ]
        best = max(waiting, key=lambda other: other.blocks_a_second, default=None)
        if best is None or best.blocks_a_second <= sought.blocks_a_second:
            return asked_at + self._silence_seconds
        return asked_at + min(max(TRIAL_SECONDS, 2 * best.answer_seconds), self._silence_seconds)

    def answered(
        self, source: PeerId, blocks: Sequence[Signed[Block]], *, new: int, chain: Chain, now: float
    ) -> bool:
        """Note what a source answered; say whether its branch left ours below what is final here.

        Args:
            source: who was asked.
            blocks: what it gave, parents first; nothing if it failed. Valid ones are in the chain.
            new: how many of them were not known before.
            chain: what is known now.
            now: seconds.
        """
        if new:
            self._connected_at, self._waited_in_vain = now, False
            self._waits_until += new
            self._resting.pop(source, None)
        sought = self._sought.get(source)
        if sought is None or sought.asked_at is None:
            return False
        sought.answer_seconds = max(now - sought.asked_at, _INSTANT_SECONDS)
        sought.blocks_a_second = new / sought.answer_seconds
        if new:
            slow = 1.5 * sought.answer_seconds
            self._silence_seconds = min(max(self._silence_seconds, slow), LONGEST_SILENCE_SECONDS)
        sought.asked_at = sought.next_after = None
        sought.goes_back = False
        known = [signed for signed in blocks if signed.hash in chain]
        missing = next((signed for signed in blocks if signed.hash not in chain), None)
        if known:
            sought.tip = known[-1].hash
        if new:
            sought.fruitless_since, sought.back = None, 1
        elif missing is not None and missing.body.parent not in chain:  # it left our branch further below
            ground = chain.link(chain.ground).round
            if sought.asked_after <= ground:
                self._rest(source, now)
                return True
            sought.back *= 2
            sought.goes_back = True
            sought.next_after = max(ground, sought.asked_after - sought.back)
        elif missing is None and known and sought.asked_after < known[-1].body.round < sought.round:
            sought.next_after = known[-1].body.round  # what is not known here comes above
        else:
            self._rest(source, now)
        return False

    def _look_through(self, chain: Chain, now: float) -> None:
        """Drop what is here by now, and who has delivered nothing for too long."""
        for source, sought in list(self._sought.items()):
            since = sought.fruitless_since
            if sought.head in chain or sought.round <= chain.link(chain.root).round:
                del self._sought[source]
            elif since is not None and now >= since + FRUITLESS_SECONDS:
                self._rest(source, now)

    def _rest(self, source: PeerId, now: float) -> None:
        del self._sought[source]
        _, before = self._resting.pop(source, (0.0, 0.0))
        seconds = min(max(2 * before, FIRST_REST_SECONDS), LONGEST_REST_SECONDS)
        self._resting[source] = (now + seconds, seconds)
        if len(self._resting) > MAX_RESTING:
            del self._resting[next(iter(self._resting))]

    def _moments(self) -> list[float]:
        """Return when something is over: an answer's time, a source's patience, the waiting."""
        moments = []
        if self._sought:
            moments = [self._connected_at + PATIENCE_SECONDS, self._waits_until]
            moments.append(self._began_at + ALL_TRIED_SECONDS)
        for sought in self._sought.values():
            if sought.asked_at is not None:
                moments.append(self._asked_beside_at(sought))
            if sought.fruitless_since is not None:
                moments.append(sought.fruitless_since + FRUITLESS_SECONDS)
        return moments


def _leads_to(best: str, sought: _Sought, chain: Chain) -> bool:
    return sought.tip in chain and chain.stands_on(best, sought.tip)


def _ask_from(sought: _Sought, chain: Chain, best: str) -> int:
    """Return the round after which a source's blocks most likely connect to ours, and are new."""
    ground = chain.link(chain.ground).round
    if sought.next_after is not None:
        return max(sought.next_after, ground)
    if sought.tip in chain and not _leads_to(best, sought, chain):
        return max(chain.link(sought.tip).round, ground)  # on a branch of its own
    back = 0 if sought.turn else LIKELY_FORK
    return max(min(chain.link(best).round, sought.round - 1) - back, ground)
