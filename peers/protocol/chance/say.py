"""Say: which peers' word counts after a block, and how much. Identities cost nothing, so work weighs.

A peer weighs 1 + its vested credit in mean claims. Once any elector has vested the credit of a mean claim,
all those without weigh at most a tenth together. Where ten or more have some, none counts for more than a
tenth of what all of them vested: among fewer, a cap would hand what it takes to whoever brings many names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from recipes.keys.keys import PeerId

UNIT = 1 << 20  # the weight of a peer without vested credit among its like: whole numbers, yet divisible
LARGEST_SHARE = 10  # no peer has more than a tenth, where so many have vested credit
WITHOUT_WORK = (1, 9)  # weight of all without vested credit, over that of the others: a tenth of all


@dataclass(frozen=True)
class Say:
    """Who has a say after one block.

    Attributes:
        weights: each elector's weight, above 0, by name in ascending order.
        established: the electors with the vested credit of a mean claim; while there are none, all electors.
        out: peers that the chain knows and that lead nothing: expelled, or with a retired key.
    """

    weights: Mapping[PeerId, int]
    established: frozenset[PeerId]
    out: frozenset[PeerId] = field(default_factory=frozenset)

    @property
    def total(self) -> int:
        """All weights together."""
        return sum(self.weights.values())

    def of(self, peers: Iterable[PeerId]) -> int:
        """Return what some peers weigh together; each counts once."""
        return sum(self.weights.get(peer, 0) for peer in set(peers))


def alike(peers: Iterable[PeerId]) -> Say:
    """Return the say where all electors weigh the same, as at genesis."""
    names = sorted(set(peers))
    return Say(dict.fromkeys(names, UNIT), frozenset(names))


def weigh(vested: Mapping[PeerId, int], *, mean_claim: int) -> dict[PeerId, int]:
    """Return the weight of each of some peers, above 0, by name in ascending order.

    Args:
        vested: the vested credit of each, in FLOPs; 0 for one without.
        mean_claim: FLOPs of a mean claim.
    """
    worked = {
        peer: 1 + amount // mean_claim for peer, amount in vested.items() if has_worked(amount, mean_claim)
    }
    if not worked:
        return dict.fromkeys(sorted(vested), UNIT)
    capped = capped_weights(worked)
    together = UNIT * sum(capped.values()) * WITHOUT_WORK[0] // WITHOUT_WORK[1]
    others = len(vested) - len(worked)
    each = max(1, min(UNIT, together // max(1, others)))
    return {peer: UNIT * capped[peer] if peer in capped else each for peer in sorted(vested)}


def has_worked(vested: int, mean_claim: int) -> bool:
    """Whether a peer's vested credit is that of a mean claim at least."""
    return vested >= mean_claim > 0


def capped_weights(weights: Mapping[PeerId, int]) -> dict[PeerId, int]:
    """Return the weights, none above a tenth of what all weigh uncapped. Fewer than ten peers are not capped.

    A tenth of what is left after capping would be less each time: then ten names with next to no credit would
    bring those who did the work down to their level.
    """
    if len(weights) < LARGEST_SHARE:
        return dict(weights)
    most = max(1, sum(weights.values()) // LARGEST_SHARE)
    return {peer: min(weight, most) for peer, weight in weights.items()}


def is_three_quarters(part: int, whole: int) -> bool:
    """Whether a weight is a quorum of another: three quarters, and not nothing."""
    return 4 * part >= 3 * whole > 0


def without(weights: Mapping[PeerId, int], excluded: Collection[PeerId]) -> dict[PeerId, int]:
    """Return the weights of all but some peers."""
    return {peer: weight for peer, weight in weights.items() if peer not in excluded}
