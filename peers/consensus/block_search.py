"""The search for blocks that others name: which peer is asked for which blocks, and no block twice.

Any peer can name a head that does not exist. The peer that named a head, its *source*, is asked for the
blocks up to it, answer by answer. It is given up once it failed, or delivered no block that connects for
`FRUITLESS_SECONDS`; then it rests, each time for longer, until it delivers again. One source is asked at a
time, so that no answer comes twice: the one that gave most blocks a second. While its answer is late, a few
others are asked as well. Every fourth request, and every one while answers are slow, goes to a source that
was not tried yet: so no source alone decides what is known here, and none holds the others up.

If an answer does not connect, its source's branch left ours further below: it is asked again from two rounds
further back, then from four, and so on, down to the final block. If an answer holds known blocks only, the
next request begins at its end.

No state need be tried until the heads that were named are here: `waits` is true until then, for at most
`PATIENCE_SECONDS` after the last block that connected, and in all for at most `LONGEST_WAIT_SECONDS` and a
second for each block, whatever heads are named. A source that failed to deliver before is not waited for.

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

PATIENCE_SECONDS = 10.0  # wait for heads that were named, while no block connects
LONGEST_WAIT_SECONDS = 30.0  # wait for them in all, plus a second for each block that connects
ALL_TRIED_SECONDS = 20.0  # of that, until each source was asked once
FRUITLESS_SECONDS = 20.0  # wait for a source that delivers no block that connects
SILENCE_SECONDS = 5.0  # wait for an answer, before others are asked as well
LONGEST_SILENCE_SECONDS = 30.0  # the same on a line on which answers are slow
TRIAL_SECONDS = 1.0  # the same while a better source waits, or twice the time of its last answer
MOST_BESIDE = 3  # requests open at once
TRIED_EVERY = 4  # of so many requests, one goes to an untried source
FIRST_REST_SECONDS = 10.0
LONGEST_REST_SECONDS = 60.0
MAX_SOUGHT = 64  # heads
MAX_RESTING = 1024  # sources
_INSTANT_SECONDS = 0.001
LIKELY_FORK = 2  # a source is first asked from so many rounds below our tip


@dataclass
class _Sought:
    """A head that a source named, and how its blocks come."""

    head: str
    round: int
    turn: int = 0  # number of its last request; 0 if it was never asked
    asked_at: float | None = None  # when the open request was made, seconds; None without one
    asked_after: int = 0  # the round after which the open request asks
    next_after: int | None = None  # the round of the next request, if the known blocks do not give it
    back: int = 1  # rounds by which the last step went back
    goes_back: bool = False  # its last answer did not connect
    tip: str = ""  # the newest block that it delivered and that connected
    blocks_a_second: float = 0.0  # new blocks, in its last answer
    answer_seconds: float = 0.0  # time of its last answer
    fruitless_since: float | None = None  # since when no block of its connects


@dataclass(frozen=True)
class BlocksWanted:
    """A request to make: a peer's blocks of rounds after `after_round`."""

    peer: PeerId
    after_round: int


class BlockSearch:
    """The heads that are looked for, by the peer that named each."""

    def __init__(self) -> None:
        self.look_at = math.inf  # when to call `due` again, at the latest
        self._sought: dict[PeerId, _Sought] = {}
        self._resting: dict[PeerId, tuple[float, float]] = {}  # until when, and for how long
        self._turns = 0
        self._connected_at = -math.inf  # when the last new block came, or waiting began
        self._waited_in_vain = False  # since the last block came
        self._waits_until = -math.inf  # at the latest
        self._began_at = -math.inf  # when waiting began
        self._silence_seconds = SILENCE_SECONDS

    def __len__(self) -> int:
        return len(self._sought)

    def resting(self) -> int:
        """Return how many sources rest, since they could not deliver the head that they named."""
        return len(self._resting)

    def failed(self, source: PeerId) -> bool:
        """Whether a source, when last asked, could not deliver the head that it named."""
        return source in self._resting

    def name(self, source: PeerId, head: str, round_number: int, now: float) -> None:
        """Look for a block that is not here and that `source` says it has."""
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
        """Whether heads that were named may still come; `look_at` is set to when that ends, or earlier."""
        if not self._hopeful() or now >= self._waits_until:
            return False
        untried = any(not sought.turn for sought in self._sought.values())
        return now < self._connected_at + PATIENCE_SECONDS or (
            untried and now < self._began_at + ALL_TRIED_SECONDS
        )

    def _hopeful(self) -> bool:
        """Whether one of the heads looked for has a source that has never failed."""
        return bool(self._sought.keys() - self._resting.keys())

    def due(self, chain: Chain, standing: str, now: float) -> list[BlocksWanted]:
        """Return the requests to make now.

        Args:
            chain: the known blocks.
            standing: hash of the block after which this peer's state stands.
            now: time, seconds.
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
        """Return which of the sources without an open request are asked now."""
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
        """Return until when an answer is awaited before another source is asked as well."""
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
        """Note a source's answer; return whether its branch left ours below the final block.

        Args:
            source: the peer that was asked.
            blocks: its answer, parents first; empty if it failed. Valid blocks are in the chain already.
            new: how many of them were not known before.
            chain: the known blocks, these included.
            now: time, seconds.
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
        elif missing is not None and missing.body.parent not in chain:  # its branch left ours further below
            ground = chain.link(chain.ground).round
            if sought.asked_after <= ground:
                self._rest(source, now)
                return True
            sought.back *= 2
            sought.goes_back = True
            sought.next_after = max(ground, sought.asked_after - sought.back)
        elif missing is None and known and sought.asked_after < known[-1].body.round < sought.round:
            sought.next_after = known[-1].body.round  # unknown blocks come above it
        else:
            self._rest(source, now)
        return False

    def _look_through(self, chain: Chain, now: float) -> None:
        """Drop heads that are here by now, and sources that have delivered nothing for too long."""
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
        """Return the times at which a wait ends: for an answer, for a source, for all heads."""
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
    """Return the round after which a source's blocks most likely connect to ours and are new."""
    ground = chain.link(chain.ground).round
    if sought.next_after is not None:
        return max(sought.next_after, ground)
    if sought.tip in chain and not _leads_to(best, sought, chain):
        return max(chain.link(sought.tip).round, ground)  # on a branch of its own
    back = 0 if sought.turn else LIKELY_FORK
    return max(min(chain.link(best).round, sought.round - 1) - back, ground)
