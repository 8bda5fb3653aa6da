"""Workers of the convergence benchmark that send what harms the model, until the run expels them.

When that is follows from the real drawing, hearings and accounts: a swarm of as many peers in which the same
ones cheat is played through them (benchmarks/audits/swarm.py), with the recipe's defaults, all of them
newcomers, and audits that show the cheat, as those of whole windows do (docs/verification.md). There auditors
answer in the next block; as a replay takes its time, the decision comes a few rounds later here.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.audits.swarm import Conduct, LightSwarm, credit_rules

Attack = Literal["none", "flip", "noise", "absent"]
"""What attackers do to their pseudo-gradients: nothing, turn them, draw noise as long, or send nothing."""

_ESCROW_ROUNDS = 110
_REPLAY_ROUNDS = 4  # that two replays, one after the other, take a real swarm


class Attackers:
    """The last ones of the workers, and what they send.

    Attributes:
        expelled: for each attacker the first round, from 0, in which nothing of it counts.
    """

    def __init__(
        self,
        attack: Attack,
        *,
        attackers: int,
        workers: int,
        scale: float,
        expelled: bool,
        rounds: int,
        seed: int,
    ) -> None:
        """`scale` is the factor on what they send; unless `expelled`, they go on to the end."""
        self._attack, self._scale, self._workers = attack, np.float32(scale), workers
        self._chance = np.random.default_rng(seed)
        count = attackers if attack != "none" else 0
        self._first = workers - count
        if attack == "absent":
            self.expelled = [0] * count
        elif expelled:
            self.expelled = expulsions(workers=workers, attackers=count, rounds=rounds, seed=seed)
        else:
            self.expelled = [rounds] * count

    def corrupt(self, deltas: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the pseudo-gradients that are sent, for those that were computed, (workers, padded)."""
        if self._attack not in ("flip", "noise"):
            return deltas
        sent = np.array(deltas)
        for worker in range(self._first, self._workers):
            if self._attack == "flip":
                sent[worker] = -deltas[worker]
            else:
                drawn = self._chance.standard_normal((1, deltas.shape[1]), dtype=np.float32)[0]
                drawn[deltas[worker] == 0] = 0  # padding stays what it is
                sent[worker] = drawn * np.float32(np.linalg.norm(deltas[worker]) / np.linalg.norm(drawn))
            sent[worker] *= self._scale
        return sent

    def weights(self, number: int) -> list[float]:
        """Return what each worker's contribution counts in a round, from 0."""
        return [1.0] * self._first + [float(number < end) for end in self.expelled]


def expulsions(*, workers: int, attackers: int, rounds: int, seed: int) -> list[int]:
    """Return for each attacker the first round, from 0, after it was expelled; `rounds` if it never was."""
    swarm = LightSwarm(
        seed=seed,
        peers=workers,
        cheats=attackers,
        conduct=Conduct(cheats=True),
        detection=1.0,
        passes=0,
        rules=credit_rules(escrow_rounds=_ESCROW_ROUNDS),
    )
    return [min(rounds, number + _REPLAY_ROUNDS) for number in swarm.expulsions(rounds)]
