"""Alerts fire when they should and only then, read metrics that exist, and lead to a page that helps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT
from promtools import known_metrics, metrics_in, promtool

RULES = ROOT / "monitoring" / "prometheus" / "rules.yml"
CASES = sorted((ROOT / "tests" / "alerts").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS = re.findall(r"^      - alert: (\w+)$", RULES.read_text(), re.MULTILINE)
SECTIONS = ["What it means", "How to see the cause", "What to do"]


def test_the_rules_and_the_configuration_are_valid() -> None:
    said = promtool("check", "config", str(ROOT / "monitoring" / "prometheus" / "prometheus.yml"))
    assert "SUCCESS: 1 rule files found" in said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_alerts_are_pending_fire_and_rest_as_recorded_series_demand(case: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", str(case))


def test_every_alert_is_tried_where_it_must_fire_and_where_it_must_not() -> None:
    fires, rests = set(), set()
    for case in CASES:
        tried = re.findall(r"alertname: (\w+)\n\s+exp_alerts:( \[\])?", case.read_text())
        fires |= {name for name, nothing in tried if not nothing}
        rests |= {name for name, nothing in tried if nothing}
    assert fires == set(ALERTS)
    assert rests == set(ALERTS)


def test_rules_read_only_metrics_that_are_served() -> None:
    assert metrics_in(RULES.read_text()) - known_metrics() == set()


def test_every_alert_names_its_own_runbook_and_no_runbook_is_without_an_alert() -> None:
    named = re.findall(r"^          runbook: (\S+)$", RULES.read_text(), re.MULTILINE)
    assert named == [f"docs/runbooks/{name}.md" for name in ALERTS]
    assert {page.stem for page in RUNBOOKS.glob("*")} == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_says_what_it_means_how_to_see_the_cause_and_what_to_do(name: str) -> None:
    page = (RUNBOOKS / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == SECTIONS
    assert all(part.strip() for part in re.split(r"^#.*$", page, flags=re.MULTILINE)[2:])
    assert metrics_in(page.replace("manyhands_swarm_*", "")) - known_metrics() == set()


def test_the_page_of_metrics_lists_every_alert_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert re.findall(r"^\| \[(\w+)\]\(runbooks/", page, re.MULTILINE) == ALERTS
