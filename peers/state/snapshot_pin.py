"""The pin: one superseded snapshot that is kept while peers are still fetching it.

On a slow connection, the newest snapshots are superseded faster than one of them can be fetched. So one more
is kept: one from which pieces were requested in the last minutes. It is only one, however many are requested,
for strangers must not be able to fill the disk. It is kept until nobody requests it any more, and for
`MOST_ROUNDS` at most. A connection that cannot carry a snapshot in that time could not carry the rounds
either: reduced segments have about 0.6 bits a parameter, a snapshot has 32.

Nothing here reads a clock: times are passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

IDLE_SECONDS = 300.0  # a peer that fetches from many sources in turn requests rarely of each
MOST_ROUNDS = 64


@dataclass
class SnapshotPin:
    """The pinned snapshot, and when pieces of each snapshot were last requested.

    Attributes:
        round: of the pinned snapshot; None if none is pinned.
    """

    round: int | None = None
    _until_round: int = 0
    _requested_at: dict[int, float] = field(default_factory=dict)

    def requested(self, round_number: int, now: float) -> None:
        """Note that a peer fetched a piece of a snapshot."""
        self._requested_at[round_number] = now

    def choose(self, superseded: Sequence[int], *, newest: int, now: float) -> int | None:
        """Return the round of the superseded snapshot to keep, or None. All others may be deleted.

        Args:
            superseded: the rounds of the snapshots that newer ones have superseded.
            newest: the round of the newest snapshot.
            now: seconds of any steady clock.
        """
        fresh = {n: at for n, at in list(self._requested_at.items()) if now - at < IDLE_SECONDS}
        wanted = [number for number in superseded if number in fresh]
        if self.round not in wanted:
            self.round, self._until_round = max(wanted, default=None), newest + MOST_ROUNDS
        elif newest > self._until_round:
            self.round = None  # another one can be pinned when it is superseded
        self._requested_at = {n: at for n, at in fresh.items() if n == self.round or n not in superseded}
        return self.round
