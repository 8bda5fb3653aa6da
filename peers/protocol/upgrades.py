"""Rules that come into force while a run goes on, as soft forks do (after BIP 9, "Version bits").

A build names in its claims the rules that it would go by (`Claim.signals`). The chain remembers of each peer
what the newest of its included claims named. A rule that three quarters of the electors, by weight, name is
*locked in* by that block, and is in force from `Rules.upgrade_rounds` after it, for good. Every peer counts
this from the chain alone (counters.py), also a build that does not know the rule: it says so at once, and
stops before the round in which the rule comes into force, for what it would make by then counts for nobody.

A rule only forbids what was allowed before, so that builds of before take what is made under it until they
stop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import StringConstraints

from recipes.keys.keys import PeerId

RuleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
MAX_SIGNALS = 8  # rules that one claim names
MAX_RULES = 64  # that a run ever puts into force
THRESHOLD = (3, 4)  # of the electors' weight


@dataclass(frozen=True)
class Build:
    """What a build of the program can go by.

    Attributes:
        wire: counts the builds whose messages have more fields or kinds; told in HeadNotice.
        knows: the rules that it can go by.
        signals: those of them that its claims name, in order.
        adds: fields that its claims have beside those of messages.py: a build for trials has some.
    """

    wire: int
    knows: frozenset[str]
    signals: tuple[str, ...]
    adds: tuple[tuple[str, str], ...] = ()


THIS_BUILD = Build(wire=2, knows=frozenset(), signals=())


def lock_in(
    rules: Mapping[str, int],
    signals: Mapping[PeerId, Collection[str]],
    weights: Mapping[PeerId, int],
    *,
    in_force_from: int,
) -> dict[str, int]:
    """Return the rules of a run after a block, each with the first round in which it is in force.

    Args:
        rules: those of before.
        signals: what each elector's newest included claim named.
        weights: what each elector weighs.
        in_force_from: the first round in which a rule is in force that is locked in now.
    """
    support = Counter[str]()
    for peer, names in signals.items():
        support.update(dict.fromkeys(set(names), weights[peer]))
    whole = sum(weights.values())
    agreed = sorted(
        name
        for name, weight in support.items()
        if name not in rules and weight * THRESHOLD[1] >= whole * THRESHOLD[0]
    )
    return {**rules, **dict.fromkeys(agreed[: MAX_RULES - len(rules)], in_force_from)}


def is_in_force(rules: Mapping[str, int] | None, name: str, round_number: int) -> bool:
    """Whether a rule is in force in a round, by the rules after the block below it."""
    return rules is not None and rules.get(name, round_number + 1) <= round_number
