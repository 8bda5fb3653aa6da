"""How far a coalition moves the draws of audits and leaders, by the chain's own code.

    python -m benchmarks.draws [--claims 25000] [--rates 0.15,0.035] [--only NAME] [--out results/draws.json]

Each case is played twice: once honestly, once with every choice in the coalition's hands (game.py). The first
table has the share of its claims that were drawn, over the rate of the rules; the share that somebody outside
of it audits first, over what is theirs by weight; and the rounds that it led, over its weight. The second
table has what a crowd of identities that took part for some rounds gets beside five founders. The third
compares the ways of drawing that were thought of, in a model: claims are drawn by independent chance, and
whoever may choose between some beacons takes the one that draws the fewest of its claims.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.draws.game import Game, Tally, crowd_shares
from recipes.command import plain_errors
from recipes.formats.files import write_atomic

_PENALTY_ROUNDS = 32  # in which a peer that held a claim back is no elector, in a scheme that was not taken


@dataclass(frozen=True)
class Case:
    """A coalition of some peers; `vested` are everybody's mean claims of vested credit, its own first."""

    name: str
    members: int
    others: int
    rate: float
    vested: tuple[int, ...]
    honestly: bool

    @property
    def share(self) -> float:
        """The coalition's share of all weight."""
        if not self.vested:
            return self.members / (self.members + self.others)
        weights = [1 + amount for amount in self.vested]
        return sum(weights[: self.members]) / sum(weights)

    @property
    def others_first(self) -> float:
        """The chance that somebody outside audits a member's claim first, if it is drawn: by weight."""
        weights = [1 + amount for amount in self.vested] or [1] * (self.members + self.others)
        total, ours = sum(weights), weights[: self.members]
        return sum((total - sum(ours)) / (total - own) for own in ours) / self.members


@dataclass(frozen=True)
class Result:
    """A case and what it came to, with five standard errors of the first ratio."""

    case: Case
    tally: Tally
    drawn: float  # over the rate
    five_errors: float
    by_others: float  # over the rate and the others' share
    led: float  # over the coalition's weight
    seconds: float


def cases(rates: Sequence[float]) -> Iterator[Case]:
    """Yield what is played, at each of these rates of audits."""
    for rate in rates:
        for honestly in (True, False):
            yield Case("1 of 4", 1, 3, rate, (), honestly)
            yield Case("1 of 20", 1, 19, rate, (10,) * 20, honestly)
            yield Case("3 of 20", 3, 17, rate, (10,) * 20, honestly)
            yield Case("5 of 20, a quarter", 5, 15, rate, (10,) * 20, honestly)
            yield Case("16 of 64, a quarter", 16, 48, rate, (10,) * 64, honestly)


def play(case: Case, claims: int) -> Result:
    """Play a case until the coalition had so many claims."""
    began = time.monotonic()
    game = Game(members=case.members, others=case.others, rate=case.rate, vested=case.vested)
    tally = game.play(math.ceil(claims / case.members), honestly=case.honestly)
    drawn = tally.drawn / tally.claims / case.rate
    return Result(
        case=case,
        tally=tally,
        drawn=drawn,
        five_errors=5 * math.sqrt((1 - case.rate) / case.rate / tally.claims),
        by_others=tally.drawn_by_others / tally.claims / case.rate / case.others_first,
        led=tally.led / tally.rounds / case.share,
        seconds=time.monotonic() - began,
    )


def modelled(choices: int, claims: int, rate: float, *, share_of_rounds: float = 1.0) -> float:
    """Return the share of claims drawn, over the rate, where a coalition chooses between so many beacons.

    Args:
        choices: beacons to choose from.
        claims: of the coalition, in a round.
        rate: of audits.
        share_of_rounds: in which it may choose.
    """
    chance = np.random.default_rng(1)
    drawn = chance.binomial(claims, rate, size=(20_000, choices)).min(axis=1).mean() / claims
    return float(share_of_rounds * drawn / rate + 1 - share_of_rounds)


def schemes(rate: float) -> list[tuple[str, float, float, float]]:
    """Return for each way of drawing what one of 4, 5 of 20 and 16 of 64 make of it, in the model."""
    found = []
    sizes = ((1, 4), (5, 20), (16, 64))
    most = 1024  # choices: more make no difference that this model shows
    row = []
    for one, total in sizes:
        orders = min(most, math.factorial(total))
        row.append(modelled(orders, one, rate, share_of_rounds=one / total))
    found.append(("one beacon, in the order that the leader chose", *row))
    row = [modelled(min(most, 2**one), one, rate) for one, _ in sizes]
    found.append(("one beacon, sorted; whoever holds back pays nothing", *row))
    row = []
    for one, _ in sizes:
        rounds = min(1.0, one / _PENALTY_ROUNDS)
        row.append(modelled(1 + one, one, rate, share_of_rounds=rounds))
    found.append(("the same, and no elector for 32 rounds after that", *row))
    return [(name, one, five, sixteen) for name, one, five, sixteen in found]  # type: ignore[misc]


def table(results: Sequence[Result]) -> Table:
    """Return the results as a table."""
    made = Table(title="Draws of a coalition's claims, and its leads, over what the rules say")
    titles = ("coalition", "rate", "plays", "claims", "drawn", "± 5 errors", "first by others", "led")
    for title in (*titles, "held back, left out"):
        made.add_column(title, justify="left" if title in ("coalition", "plays") else "right")
    for one in results:
        made.add_row(
            one.case.name,
            f"{one.case.rate:.1%}",
            "honestly" if one.case.honestly else "to win",
            f"{one.tally.claims:,}",
            f"{one.drawn:.3f}",
            f"{one.five_errors:.3f}",
            f"{one.by_others:.3f}",
            f"{one.led:.3f}",
            f"{one.tally.held_back / one.tally.rounds:.3f}, {one.tally.left_out / one.tally.rounds:.3f}",
        )
    return made


def main(
    claims: Annotated[int, typer.Option(min=100, help="Of a coalition, in each case.")] = 25_000,
    rates: Annotated[
        str, typer.Option(help="Of audits: a newcomer's, and an established peer's, separated by commas.")
    ] = "0.15,0.035",
    only: Annotated[str, typer.Option(help="Only cases whose name has this in it.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Cases at once.")] = 2,
    out: Annotated[Path, typer.Option(help="Where to write the results as JSON.")] = Path(
        "results/draws.json"
    ),
) -> None:
    """Play coalitions against the draws of audits and leaders."""
    console = Console(highlight=False, width=150)
    with plain_errors():
        at_rates = [float(rate) for rate in rates.split(",")]
        wanted = [case for case in cases(at_rates) if only in case.name]
        results = []
        with ProcessPoolExecutor(jobs) as pool:
            for result in pool.map(play, wanted, [claims] * len(wanted)):
                console.print(
                    f"{result.case.name} at {result.case.rate:.1%}, "
                    f"{'honestly' if result.case.honestly else 'to win'}: drawn {result.drawn:.3f}, "
                    f"first by others {result.by_others:.3f}, led {result.led:.3f} ({result.seconds:.0f} s)"
                )
                results.append(result)
        console.print(table(results))
        crowd = crowd_shares(rounds=400)
        made = Table(title="5 founders, and 295 identities without vested credit, that take turns in rosters")
        for title in (
            "",
            "of the weight",
            "of the leads",
            "first auditors of founders' claims",
            "two of three",
        ):
            made.add_column(title, justify="right")
        made.add_row("identities", *(f"{value:.1%}" for value in crowd.values()))
        console.print(made)
        compared = schemes(at_rates[0])
        made = Table(title=f"Ways of drawing, in a model: drawn over the rate of {at_rates[0]:.0%}")
        for title in ("", "1 of 4", "5 of 20", "16 of 64"):
            made.add_column(title, justify="right")
        for name, *values in compared:
            made.add_row(name, *(f"{value:.2f}" for value in values))
        console.print(made)
        content = {"cases": [asdict(one) for one in results], "crowd": crowd, "schemes": compared}
        write_atomic(out, json.dumps(content, indent=1).encode())
        console.print(f"Wrote {out}.")


if __name__ == "__main__":
    typer.run(main)
