"""What cheating pays and what audits cost: swarms with cheats by the rules of peers/credit, without training.

    python -m benchmarks.audits [--runs 1000] [--lifetimes 20000] [--out results/audits.json]

For each kind of cheat: the share that it vests of what an honest peer does in an honest swarm. Three times:
from runs of whole swarms through the real drawing, hearings and accounts (swarm.py), from many
lifetimes of one peer drawn with numpy, and from a closed formula (both in model.py). That a cheat is
seen when its work is replayed is one assumed chance; how large it really is takes training and calibration.

Newcomers begin without a passed audit, established peers with so many that their audit rate is at its floor:
a cheat that waited for its trust before it began.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.audits.model import Hazard, audit_cost, caught, closed_form, cost_of_stay, drawn_lifetimes
from benchmarks.audits.swarm import STEPS, TRUSTED, Conduct, LightSwarm, Outcomes, credit_rules
from peers.credit.rules import MILLION, CreditRules
from recipes.command import plain_errors
from recipes.formats.files import write_atomic

PEERS = 12  # of whom two cheat; or, where a tenth of each accomplice's auditors covers it:
PEERS_WITH_RING = 21  # of whom three are accomplices
STAYS = (100, 500, 1000, 2000, 5000)  # rounds
DETECTIONS = (0.8, 0.95)  # assumed; full replays of the model that was measured find all cheats


@dataclass(frozen=True)
class Arm:
    """One kind of cheat under one chance of detection."""

    name: str
    conduct: Conduct
    cheats: int
    detection: float
    hazard: Hazard | None
    passes: int

    @property
    def standing(self) -> str:
        """Where everybody begins."""
        return "established" if self.passes else "newcomers"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one arm came to. Shares are of an honest peer's vested credit in an honest swarm."""

    name: str
    standing: str
    detection: float | None
    runs: int
    share: float | None
    share_error: float | None  # standard error over runs
    share_drawn: float | None
    share_formula: float | None
    honest_rounds: float  # what an honest peer of this swarm vests, in rounds' work, audits included,
    honest_share: float  # and as a share of the same in an honest swarm
    audit_cost: float  # replayed over trained work
    audit_cost_formula: float
    audits: int
    confirmed_fails: int
    false_fails: int


def arms(rules: CreditRules) -> list[Arm]:
    """Return what is measured: an honest swarm first, for newcomers and for established peers."""
    repeat = rules.repeat_rate / MILLION
    found = []
    for passes in (TRUSTED, 0):
        found.append(Arm("nobody cheats", Conduct(), 0, 0.0, None, passes))
        for seen in DETECTIONS:
            taken = caught(detection=seen, accomplices=0, repeat=repeat)
            alone = Hazard(taken, 1 - taken)
            caught_once = replace(alone, expelled=True)
            found.append(Arm("saves work", Conduct(cheats=True), 2, seen, caught_once, passes))
            taken = caught(detection=seen, accomplices=2 / (PEERS_WITH_RING - 1), repeat=repeat)
            ring = Conduct(cheats=True, covers=True)
            covered = Hazard(taken, 1 - taken, expelled=True)
            found.append(Arm("saves work, 10% cover it", ring, 3, seen, covered, passes))
            if not passes:
                churn = Conduct(cheats=True, returns=True)
                found.append(Arm("saves work, new identities", churn, 2, seen, alone, passes))
        silent = Hazard(1.0, 0.0, probation=False)
        found.append(Arm("silent when drawn", Conduct(cheats=True, opens=False), 2, 1.0, silent, passes))
        accuser = Hazard(1 + repeat, 1.0, as_auditor=True)
        found.append(Arm("accuses falsely", Conduct(accuses=True), 2, 1.0, accuser, passes))
        found.append(Arm("10% accuse together", Conduct(accuses=True, covers=True), 3, 1.0, accuser, passes))
    return found


def measure(arm: Arm, *, runs: int, lifetimes: int, rounds: int, rules: CreditRules, honest: float) -> Result:
    """Run an arm. `honest` is what an honest peer vests in an honest swarm; 0 where this is that arm."""
    outcomes = [
        LightSwarm(
            seed=seed,
            peers=PEERS_WITH_RING if arm.conduct.covers else PEERS,
            cheats=arm.cheats,
            conduct=arm.conduct,
            detection=arm.detection,
            passes=arm.passes,
            rules=rules,
        ).run(rounds)
        for seed in range(runs)
    ]
    honest = honest or honest_credit(outcomes)
    shares = [statistics.mean(one.vested_by_cheats) / honest for one in outcomes if one.vested_by_cheats]
    drawn = formula = None
    if arm.hazard is not None:
        drawn = drawn_lifetimes(
            arm.hazard, lifetimes=lifetimes, rounds=rounds, passes=arm.passes, rules=rules, seed=1
        ).mean()
        formula = closed_form(arm.hazard, rounds=rounds, passes=arm.passes, rules=rules)
    return Result(
        name=arm.name,
        standing=arm.standing,
        detection=arm.detection if arm.conduct.cheats and arm.conduct.opens else None,
        runs=runs,
        share=statistics.mean(shares) if shares else None,
        share_error=statistics.stdev(shares) / math.sqrt(runs) if len(shares) > 1 else None,
        share_drawn=None if drawn is None else float(drawn),
        share_formula=formula,
        honest_rounds=honest_credit(outcomes),
        honest_share=honest_credit(outcomes) / honest,
        audit_cost=statistics.mean(one.audit_cost for one in outcomes),
        audit_cost_formula=audit_cost(passes=arm.passes, steps=STEPS, rules=rules),
        audits=sum(one.audits for one in outcomes),
        confirmed_fails=sum(one.fails for one in outcomes),
        false_fails=sum(one.false_fails for one in outcomes),
    )


def honest_credit(outcomes: Sequence[Outcomes]) -> float:
    """Return what an honest peer vested, in rounds' work, mean over runs."""
    return statistics.mean(one.vested_by_honest for one in outcomes)


def table(results: Sequence[Result]) -> Table:
    """Return the results as a table, a row for each arm."""
    made = Table(title="Vested by a cheat, of what an honest peer vests")
    for title in ("who cheats how", "all begin as", "seen", "real code", "drawn", "formula"):
        made.add_column(title, justify="left" if title in ("who cheats how", "all begin as") else "right")
    for title in ("honest peers keep", "audits cost", "formula", "wrong fails / audits"):
        made.add_column(title, justify="right")
    for one in results:
        error = f" ± {one.share_error:.1%}" if one.share_error is not None else ""
        made.add_row(
            one.name,
            one.standing,
            "" if one.detection is None else f"{one.detection:.0%}",
            "" if one.share is None else f"{one.share:.2%}{error}",
            "" if one.share_drawn is None else f"{one.share_drawn:.2%}",
            "" if one.share_formula is None else f"{one.share_formula:.2%}",
            f"{one.honest_share:.1%}",
            f"{one.audit_cost:.1%}",
            f"{one.audit_cost_formula:.1%}",
            f"{one.false_fails} / {one.audits}",
        )
    return made


def _line(one: Result) -> str:
    """Return a result in a line, for those who wait for the table."""
    shares = (one.share, one.share_drawn, one.share_formula)
    vested = ", ".join("-" if share is None else f"{share:.2%}" for share in shares)
    return f"  vested {vested}; honest {one.honest_share:.1%}; audits {one.audit_cost:.1%}"


def main(
    runs: Annotated[int, typer.Option(min=2, help="Runs of whole swarms in all, even over the arms.")] = 1000,
    lifetimes: Annotated[int, typer.Option(min=1, help="Drawn lifetimes of each arm.")] = 20_000,
    escrow: Annotated[
        int, typer.Option(min=4, help="W: rounds in escrow. A run has half as many more.")
    ] = 110,
    out: Annotated[Path, typer.Option(help="Where to write the results as JSON.")] = Path(
        "results/audits.json"
    ),
) -> None:
    """Measure what cheats vest and what audits cost."""
    console = Console(highlight=False, width=150)
    with plain_errors():
        rules = credit_rules(escrow_rounds=escrow)
        rounds = escrow + escrow // 2
        measured = arms(rules)
        each = max(2, -(-runs // len(measured)))
        console.print(f"{len(measured)} arms of {each} runs: {rounds} rounds, W = {escrow}")
        began = time.process_time()
        results: list[Result] = []
        honest = 0.0
        for arm in measured:
            if not arm.cheats:
                honest = 0.0
            seen = f", seen by {arm.detection:.0%} of audits" if arm.conduct.cheats else ""
            console.print(f"{arm.name}, {arm.standing}{seen} ...")
            results.append(
                measure(arm, runs=each, lifetimes=lifetimes, rounds=rounds, rules=rules, honest=honest)
            )
            console.print(_line(results[-1]))
            if not arm.cheats:
                honest = results[-1].honest_rounds
        console.print(table(results))
        stays = {rounds: cost_of_stay(rounds, rules) for rounds in STAYS}
        told = ", ".join(f"{rounds:,} rounds {cost:.1%}" for rounds, cost in stays.items())
        console.print(f"What audits of one honest peer cost, of its work, from its first round on: {told}")
        content: dict[str, Any] = {
            "peers": [PEERS, PEERS_WITH_RING],
            "rounds": rounds,
            "escrow_rounds": escrow,
            "lifetimes": lifetimes,
            "cost_of_stay": stays,
            "cpu_seconds": round(time.process_time() - began),
            "arms": [asdict(one) for one in results],
        }
        write_atomic(out, json.dumps(content, indent=1).encode())
        console.print(f"{content['cpu_seconds']} s of one core. Wrote {out}.")


if __name__ == "__main__":
    typer.run(main)
