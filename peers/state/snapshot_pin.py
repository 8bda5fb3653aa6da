"""Which snapshot beyond the newest ones is kept because somebody is still fetching it.

Over a thin line, the newest snapshots are replaced faster than one of them can be fetched. So one more stays:
one that pieces were asked of in the last minutes. Strangers must not be able to fill the disk, so it is one,
however many are asked for; it stays until nobody asks for it any more, and for `MOST_ROUNDS` at most. A line
that carries less than a snapshot in that time could not carry the rounds either: a reduced segment has about
0.6 bits a parameter where a snapshot has 32.

Nothing here reads a clock: times are passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

IDLE_SECONDS = 300.0  # a fetch that asks many sources in turn comes to each one rarely
MOST_ROUNDS = 64


@dataclass
class Hold:
    """The one snapshot that is spared, and when each one was last asked for."""

    round: int | None = None
    _until_round: int = 0
    _asked_at: dict[int, float] = field(default_factory=dict)

    def asked(self, round_number: int, now: float) -> None:
        """Note that somebody fetched a piece of a snapshot that is here."""
        self._asked_at[round_number] = now

    def spare(self, superseded: Sequence[int], *, newest: int, now: float) -> int | None:
        """Return which of the superseded snapshots stays; all others may go.

        Args:
            superseded: the rounds of those that newer ones have replaced.
            newest: the round of the newest one.
            now: seconds of any steady clock.
        """
        fresh = {n: at for n, at in list(self._asked_at.items()) if now - at < IDLE_SECONDS}
        wanted = [number for number in superseded if number in fresh]
        if self.round not in wanted:
            self.round, self._until_round = max(wanted, default=None), newest + MOST_ROUNDS
        elif newest > self._until_round:
            self.round = None  # the next one has its turn when it is superseded
        self._asked_at = {n: at for n, at in fresh.items() if n == self.round or n not in superseded}
        return self.round
