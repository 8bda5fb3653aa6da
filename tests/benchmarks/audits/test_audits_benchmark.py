"""The benchmark of audits: formula, drawn lifetimes and the real code tell the same story."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks.audits.__main__ import arms, main
from benchmarks.audits.model import Hazard, audit_cost, caught, closed_form, drawn_lifetimes
from benchmarks.audits.swarm import STEPS, TRUSTED, Conduct, LightSwarm, Outcomes, credit_rules

RULES = credit_rules(escrow_rounds=80)


@pytest.mark.parametrize(
    ("hazard", "passes"),
    [
        (Hazard(0.8, 0.2), TRUSTED),
        (Hazard(0.28, 0.72), TRUSTED),
        (Hazard(0.8, 0.2, expelled=True), TRUSTED),
        (Hazard(1.0, 0.0, probation=False), TRUSTED),
        (Hazard(1.0, 0.0, probation=False), 0),
        (Hazard(1.0, 1.0, as_auditor=True), TRUSTED),
    ],
)
def test_the_formula_agrees_with_drawn_lifetimes(hazard: Hazard, passes: int) -> None:
    drawn = drawn_lifetimes(hazard, lifetimes=20_000, rounds=160, passes=passes, rules=RULES, seed=3).mean()
    assert closed_form(hazard, rounds=160, passes=passes, rules=RULES) == pytest.approx(drawn, abs=0.015)


def test_accomplices_lower_the_chance_of_being_caught_and_repeated_audits_raise_it() -> None:
    alone = caught(detection=0.8, accomplices=0, repeat=0)
    covered = caught(detection=0.8, accomplices=0.1, repeat=0)
    assert alone == 0.8
    assert covered == pytest.approx(0.8 * 0.9 * 0.99)
    assert covered < caught(detection=0.8, accomplices=0.1, repeat=0.1) < alone


def test_audits_cost_less_than_a_twentieth_where_peers_are_established() -> None:
    assert audit_cost(passes=TRUSTED, steps=STEPS, rules=RULES) < 0.05
    assert audit_cost(passes=0, steps=STEPS, rules=RULES) < 0.2


def play(conduct: Conduct, *, cheats: int = 2, peers: int = 12, passes: int = 0) -> Outcomes:
    swarm = LightSwarm(
        seed=5, peers=peers, cheats=cheats, conduct=conduct, detection=0.95, passes=passes, rules=RULES
    )
    return swarm.run(100)


def test_in_an_honest_swarm_nobody_loses_anything() -> None:
    outcomes = play(Conduct(), cheats=0)
    assert outcomes.fails == outcomes.false_fails == 0
    assert outcomes.vested_by_honest > 20  # of 100 rounds, 80 are in escrow


@pytest.mark.parametrize(
    "conduct",
    [
        Conduct(cheats=True),
        Conduct(cheats=True, opens=False),
        Conduct(cheats=True, returns=True),
        Conduct(accuses=True),
    ],
)
def test_newcomers_who_cheat_vest_nothing_and_cost_the_honest_nothing(conduct: Conduct) -> None:
    outcomes = play(conduct)
    assert max(outcomes.vested_by_cheats) == 0
    assert outcomes.vested_by_honest > 18


def test_a_tenth_who_accuse_together_take_little_that_a_dispute_does_not_bring_back() -> None:
    outcomes = play(Conduct(accuses=True, covers=True), cheats=3, peers=21)
    assert outcomes.false_fails > 0
    assert max(outcomes.vested_by_cheats) == 0
    assert outcomes.vested_by_honest > 16


def test_every_kind_of_cheat_is_measured_in_both_standings() -> None:
    names = {(arm.name, arm.standing) for arm in arms(RULES)}
    assert {name for name, _ in names} >= {"saves work", "silent when drawn", "accuses falsely"}
    assert {standing for _, standing in names} == {"newcomers", "established"}


def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    app = Typer()
    app.command()(main)
    out = tmp_path / "audits.json"
    options = ["--runs", "2", "--lifetimes", "10", "--escrow", "6", "--out", str(out)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_bytes())
    assert len(written["arms"]) == len(arms(credit_rules(escrow_rounds=6)))
    assert all(0 <= arm["audit_cost"] < 1 for arm in written["arms"])
