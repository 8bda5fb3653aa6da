"""What cheating should come to: in a closed formula, and in lifetimes drawn many at once.

Both leave out what takes rounds (auditors' answers, and vesting that stands still meanwhile), which only adds
to what a cheat loses. So where they and the real code (swarm.py) disagree, one of the three is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peers.credit.rules import MILLION, CreditRules


@dataclass(frozen=True)
class Hazard:
    """What one audit does to a cheat.

    Attributes:
        taken: chance that an audit takes all that is pending.
        passed: chance that it ends with a pass.
        probation: whether who was caught is audited like a newcomer again.
        as_auditor: whether it is caught as an auditor, so that others' audits count, and not its own.
        expelled: whether no claim of who was caught is taken for the recipe's number of rounds.
    """

    taken: float
    passed: float
    probation: bool = True
    as_auditor: bool = False
    expelled: bool = False


def caught(*, detection: float, accomplices: float, repeat: float) -> float:
    """Return the chance that an audit of a cheat is decided against it.

    Args:
        detection: chance that the drawn steps show the cheat to an honest auditor.
        accomplices: share of auditors who pass it whatever they see.
        repeat: share of audits in which a pass takes two.
    """
    honest = 1 - accomplices
    first_honest = honest * (1 - accomplices**2)  # two accomplices after it would outvote it
    return detection * (first_honest + accomplices * repeat * honest**2)


def closed_form(hazard: Hazard, *, rounds: int, passes: int, rules: CreditRules) -> float:
    """Return the share that vests of what an honest peer's claims do, over `rounds` from the start.

    Work of round t vests if nothing was taken up to round t + W, or if the first time was before t, by the
    rounds of an expulsion where one follows, and there is none in the W rounds after t. Rates are those of
    the start, and after the first time a newcomer's. Who is expelled more than once vests less than this.
    """
    escrow = rules.escrow_rounds
    first = _rate(passes, rules) * hazard.taken / MILLION
    on_probation = rules.newcomer_rate / MILLION * hazard.taken
    later = on_probation if hazard.probation and not hazard.as_auditor else first
    if not passes and not hazard.passed:
        return 0.0  # who never passed an audit vests nothing
    times = np.arange(1, rounds - escrow + 1)
    untouched = (1 - first) ** (times + escrow)
    recovers = hazard.passed > 0 or not hazard.probation
    back = np.maximum(0, times - rules.expulsion_rounds) if hazard.expelled else times
    recovered = recovers * (1 - (1 - first) ** back) * (1 - later) ** escrow
    return float(np.mean(untouched + recovered))


def drawn_lifetimes(
    hazard: Hazard, *, lifetimes: int, rounds: int, passes: int, rules: CreditRules, seed: int
) -> npt.NDArray[np.float64]:
    """Return the share that vests in each of many lifetimes, float64 of shape (lifetimes,)."""
    chance = np.random.default_rng(seed)
    start_rate = _rate(passes, rules)
    passed = np.full(lifetimes, passes)
    pending = np.zeros(lifetimes, dtype=np.int64)  # rounds since something was taken
    vested = np.zeros(lifetimes, dtype=np.int64)
    away = np.zeros(lifetimes, dtype=np.int64)  # rounds of an expulsion that are left
    for _ in range(rounds):
        here = away == 0
        away -= ~here
        pending += here
        vested += (pending > rules.escrow_rounds) & (passed > 0)
        fallen = np.maximum(
            rules.least_rate, rules.newcomer_rate * rules.trusted_passes // np.maximum(passed, 1)
        )
        rate = np.where(passed < rules.trusted_passes, rules.newcomer_rate, fallen)
        drawn = here & (chance.random(lifetimes) * MILLION < rate)
        draw = chance.random(lifetimes)
        if hazard.as_auditor:
            taken = chance.random(lifetimes) * MILLION < start_rate * hazard.taken
            passed += drawn
        else:
            taken = drawn & (draw < hazard.taken)
            passed += drawn & ~taken & (draw < hazard.taken + hazard.passed)
        pending[taken] = 0
        if hazard.probation:
            passed[taken] = 0
        if hazard.expelled:
            away[taken] = rules.expulsion_rounds
    return vested / (rounds - rules.escrow_rounds)


def audit_cost(*, passes: int, steps: int, rules: CreditRules) -> float:
    """Return the replayed share of all training, where everybody is honest and at this many passes."""
    full = rules.full_replay_rate / MILLION
    replayed = full + (1 - full) * (steps + 1) / (2 * steps)
    return _rate(passes, rules) / MILLION * replayed * (1 + rules.repeat_rate / MILLION)


def cost_of_stay(rounds: int, rules: CreditRules) -> float:
    """Return the replayed share of an honest newcomer's training, over as many rounds from its first on.

    Its passes grow by their expectation.
    """
    (numeric_class,) = rules.calibrated
    passes, replayed = 0.0, 0.0
    for _ in range(rounds):
        rate = rules.audit_rate(passes=int(passes), numeric_class=numeric_class) / MILLION
        passes += rate
        replayed += rate
    return replayed / rounds * (1 + rules.repeat_rate / MILLION)


def _rate(passes: int, rules: CreditRules) -> int:
    (numeric_class,) = rules.calibrated
    return rules.audit_rate(passes=passes, numeric_class=numeric_class)
