"""How long rounds took, by when this observer saw their blocks come: no signed record says it.

No absolute time crosses the network, and no claim says how long a round took. So the clock here counts, for
the rounds that were watched as they ended. How a round's time splits into phases follows from what the next
round's claims measured of it: how late others' claims came, and how long transfers took.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from monitoring.swarm.block_times import Seen
from monitoring.swarm.view import PHASES, Phase, RoundPicture, Timing, Watched

_PACE_ROUNDS = 32  # that averages are taken over


def timing_of(
    seconds: float, *, measured: RoundPicture | None, window_seconds: float, overlaps: bool
) -> Timing:
    """Return how a round's time splits into phases, as medians of what its peers measured.

    Args:
        seconds: from the block before it to its own.
        measured: the round after it, whose claims speak of this one; None if it has not come.
        window_seconds: of the recipe.
        overlaps: whether windows go on during the exchange: then the next one has begun before the block.
    """
    if overlaps and measured is not None and measured.exchange_ms is not None:
        train = max(0.0, seconds - measured.exchange_ms / 1000)
    else:
        train = min(seconds, window_seconds)
    rest = seconds - train
    late = (measured.late_ms or 0) / 1000 if measured is not None else 0.0
    moved = (measured.transfer_ms or 0) / 1000 if measured is not None else 0.0
    roster = min(rest, late)
    exchange = min(rest - roster, moved)
    return Timing(
        seconds, {"train": train, "roster": roster, "exchange": exchange, "block": rest - roster - exchange}
    )


class Stopwatch:
    """Makes times of rounds from when blocks came, and adds them up over the rounds that were watched."""

    def __init__(self, seen: Seen, *, window_seconds: float, overlaps: bool) -> None:
        self._seen = seen
        self._window, self._overlaps = window_seconds, overlaps
        self._last: RoundPicture | None = None
        self._waiting: tuple[RoundPicture, float] | None = None  # for the claims that speak of it
        self._recent: deque[tuple[float, RoundPicture]] = deque(maxlen=_PACE_ROUNDS)
        self._phases: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._seconds = 0.0
        self._rounds = 0

    def adopted(self, one: RoundPicture) -> None:
        """Take in that a round's block is the newest now; each round once, in order."""
        if self._waiting is not None:
            self._count(*self._waiting, measured=one)
        before = self._last
        seconds = self._between(before, one)
        self._waiting = (one, seconds) if seconds is not None else None
        if seconds is not None:
            self._recent.append((seconds, one))
            self._seconds += seconds
            self._rounds += 1
        self._last = one

    def timed(self, rounds: Sequence[RoundPicture]) -> tuple[RoundPicture, ...]:
        """Return rounds, newest first, with when they came and how long they took, where that was watched."""
        found = []
        for place, one in enumerate(rounds):
            after = rounds[place - 1] if place else None
            before = rounds[place + 1] if place + 1 < len(rounds) else None
            seconds = self._between(before, one)
            timing = None
            if seconds is not None:
                timing = timing_of(
                    seconds, measured=after, window_seconds=self._window, overlaps=self._overlaps
                )
            found.append(replace(one, seen_at=self._seen.at(one.block), timing=timing))
        return tuple(found)

    def watched(self) -> Watched:
        """Return the sums so far, and the figures of the newest rounds."""
        seconds = sum(one for one, _ in self._recent)
        tokens = sum(one.tokens for _, one in self._recent)
        told = [(took, one.compute_ms / 1000) for took, one in self._recent if one.compute_ms is not None]
        computed = sum(min(took, one) for took, one in told)
        return Watched(
            rounds=self._rounds,
            phases=dict(self._phases),
            seconds=self._seconds,
            compute_ratio=computed / sum(took for took, _ in told) if told else None,
            tokens_per_second=tokens / seconds if seconds else None,
            round_seconds=seconds / len(self._recent) if self._recent else None,
        )

    def _between(self, before: RoundPicture | None, one: RoundPicture) -> float | None:
        """Return the time from the block before to a round's own; None unless both were watched."""
        if before is None or before.round != one.round - 1:
            return None
        start, end = self._seen.at(before.block), self._seen.at(one.block)
        return max(1e-3, end - start) if start is not None and end is not None else None

    def _count(self, one: RoundPicture, seconds: float, *, measured: RoundPicture) -> None:
        follows = measured if measured.round == one.round + 1 else None
        timing = timing_of(seconds, measured=follows, window_seconds=self._window, overlaps=self._overlaps)
        for phase, took in timing.phases.items():
            self._phases[phase] += took
