"""The pure part of the churn benchmark: who dies when, how long a round may take, how losses compare."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from recipes.schema.sections import RoundSection

Moment = Literal["WindowStarted", "Claimed", "RosterAccepted"]
MOMENTS: tuple[Moment, ...] = ("WindowStarted", "Claimed", "RosterAccepted")
DYING_SECONDS = 0.5  # longest time between a claim or roster and the death that follows it
TRANSFERS = 3  # the exchange's deadlines end after so many `transfer_seconds`
POINTS = (0.25, 0.5, 0.75, 1.0)  # shares of the tokens at which losses are compared


@dataclass(frozen=True)
class Victim:
    """A volunteer, by its number from 0, that dies `delay_seconds` after it reported `moment`."""

    volunteer: int
    moment: Moment
    delay_seconds: float


@dataclass(frozen=True)
class Death:
    """A kill as it happened. `doing` is what the victim had reported last."""

    round: int
    peer: str
    moment: Moment
    doing: str


@dataclass(frozen=True)
class Round:
    """One round as the observer saw it and as the chain records it.

    Attributes:
        number: of the round.
        seconds: from the observer's adopting the block before to its adopting this round's.
        attempt: 0 if the first-ranked leader made the block.
        counted: contributions that the block counts, in parts of one where not all segments were.
        empty_segments: segments that this round left as they were.
        tokens: counted by the chain, of all rounds up to this one.
        loss: validation loss after it, nats a token.
    """

    number: int
    seconds: float
    attempt: int
    counted: float
    empty_segments: int
    tokens: int
    loss: float


@dataclass(frozen=True)
class Comparison:
    """Losses of a disturbed and an undisturbed run at the same number of counted tokens."""

    tokens: int
    disturbed: float
    undisturbed: float

    @property
    def ratio(self) -> float:
        """The disturbed run's loss over the other's."""
        return self.disturbed / self.undisturbed


def draw_victims(
    seed: int, round_number: int, *, up: Sequence[bool], killed: int, window_seconds: float
) -> tuple[Victim, ...]:
    """Return who is killed in a round and when: the same for the same arguments.

    `up` says of each volunteer whether it has come back from its last death. Those that have die first:
    otherwise, on a slow machine, most deaths would strike processes that are still starting.
    """
    chance = random.Random(f"churn/{seed}/{round_number}")
    order = chance.sample(range(len(up)), len(up))
    victims = []
    for volunteer in sorted(order, key=lambda number: not up[number])[:killed]:
        moment = chance.choice(MOMENTS)
        longest = window_seconds if moment == "WindowStarted" else DYING_SECONDS
        victims.append(Victim(volunteer, moment, chance.uniform(0.0, longest)))
    return tuple(victims)


def bound_seconds(rules: RoundSection, *, killed: int) -> float:
    """Return how long a round may take with `killed` deaths in it and as many in the round before.

    The window, the grace for claims, the exchange's last deadline, and one leader's silence for each peer
    that died in this round, or in the last one and has not come back.
    """
    silences = 2 * killed * rules.leader_seconds[1]
    return rules.window_seconds + rules.grace_seconds[1] + TRANSFERS * rules.transfer_seconds[1] + silences


def loss_at(curve: Sequence[tuple[int, float]], tokens: float) -> float:
    """Return the loss at `tokens`, on straight lines between the points (tokens, loss) of the curve.

    Raises:
        ValueError: the curve does not reach that far.
    """
    points = sorted(curve)
    if not points or not points[0][0] <= tokens <= points[-1][0]:
        raise ValueError(f"the curve says nothing of {tokens} tokens")
    for (left, before), (right, after) in pairwise(points):
        if left <= tokens <= right:
            return before if left == right else before + (after - before) * (tokens - left) / (right - left)
    return points[0][1]


def compare(
    disturbed: Sequence[tuple[int, float]], undisturbed: Sequence[tuple[int, float]]
) -> list[Comparison]:
    """Compare two curves at `POINTS` of the tokens that both have reached; the last is the end."""
    end = min(max(disturbed)[0], max(undisturbed)[0])
    at = [round(share * end) for share in POINTS]
    return [Comparison(tokens, loss_at(disturbed, tokens), loss_at(undisturbed, tokens)) for tokens in at]
