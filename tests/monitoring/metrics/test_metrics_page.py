"""docs/metrics.md says what the code serves, under names and with help as Prometheus wants them."""

from __future__ import annotations

from typing import Any

import pytest
from places import ROOT
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from promtools import promtool

from monitoring.metrics.spec import Declared
from monitoring.metrics.volunteer_listener import VolunteerMetrics
from monitoring.metrics.volunteer_metrics import DECLARED
from monitoring.reference import LABELS, METRICS, with_tables
from peers.credit.escrow import Account
from peers.network.traffic import TrafficMeter
from peers.protocol.events import BlockAdopted, BlockFinal, Claimed, Validated, WindowFinished
from recipes.errors import RecipeError
from recipes.keys.keys import PeerId

PAGE = ROOT / "docs" / "metrics.md"
EVERY = [one for declared in METRICS.values() for one in declared]


def busy_volunteer() -> VolunteerMetrics:
    """Return the metrics of a volunteer whom everything has happened to that makes a metric appear."""
    metrics, meter = VolunteerMetrics(), TrafficMeter()
    metrics.count_traffic(meter)
    meter.count_sent("spot checks")(1000)
    metrics.follow_recipe(segments=8, window_seconds=60.0)
    leader = PeerId("12D3KooWCQ3hPXK6YR9pXuqGv5536geuXU1kndtmf2XLbCetXM2K")
    phases = {"train": 50.0, "roster": 0.25, "exchange": 4.0, "block": 0.75}
    block = BlockAdopted(7, 0, "b" * 64, "d" * 64, leader, 4, 8, 0, 123_456, phases)
    for event in (WindowFinished(7, 12, 4096, 2.5, 45.0, 5.0), Claimed(7, 9), block):
        metrics.tell(event)
    metrics.tell(BlockFinal(6, "f" * 64))
    metrics.tell(Validated(7, 2.25))
    metrics.credited(Account(vested=10))
    return metrics


def served(metrics: VolunteerMetrics) -> dict[str, Metric]:
    """Return what a scrape has, by name; of devices, only with a card."""
    families = {
        f"{one.name}_total" if one.type == "counter" else one.name: one for one in metrics.registry.collect()
    }
    return {name: one for name, one in families.items() if not name.startswith("manyhands_device_")}


def test_the_tables_of_metrics_are_those_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run `python -m monitoring.reference docs/metrics.md`"


@pytest.mark.parametrize(
    ("table", "metric", "label"),
    [
        ("contributions", "manyhands_contributions_total", "reason"),
        ("pauses", "manyhands_pauses_total", "reason"),
        ("refusals", "manyhands_refusals_total", "what"),
    ],
)
def test_every_value_of_a_label_has_a_sentence_on_the_page(table: str, metric: str, label: str) -> None:
    declared = next(one for one in DECLARED if one.name == metric)
    assert LABELS[table].keys() == set(declared.labels[label])
    for value, words in LABELS[table].items():
        assert words.endswith(".")
        assert f"| `{value}` | {words} |" in PAGE.read_text(encoding="utf-8")


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(RecipeError, match="begin volunteer"):
        with_tables("# Metrics\n")


def test_a_volunteer_serves_what_is_declared_with_type_and_help_and_nothing_else() -> None:
    families = served(busy_volunteer())
    assert {n: (f.type, f.documentation) for n, f in families.items()} == {
        d.name: (d.kind, d.help) for d in DECLARED
    }
    assert [name for name, family in families.items() if not family.samples] == []


def test_a_volunteers_labels_are_those_declared() -> None:
    families = served(busy_volunteer())
    for one in DECLARED:
        for sample in families[one.name].samples:
            labels: dict[str, Any] = {name: value for name, value in sample.labels.items() if name != "le"}
            assert set(labels) == set(one.labels)
            assert not one.only or tuple(labels[name] for name in one.labels) in one.only
            assert all(not one.labels[name] or value in one.labels[name] for name, value in labels.items())


def test_a_volunteer_has_not_many_series() -> None:
    assert sum(len(family.samples) for family in served(busy_volunteer()).values()) < 150


@pytest.mark.parametrize("one", EVERY, ids=lambda one: one.name)
def test_a_name_follows_prometheus_rules(one: Declared) -> None:
    assert one.name.startswith("manyhands_")
    assert one.name.endswith("_total") == (one.kind == "counter")
    assert one.help.endswith(".")
    assert "\n" not in one.help


def test_promtool_finds_nothing_to_say_of_a_volunteers_metrics() -> None:
    assert promtool("check", "metrics", given=generate_latest(busy_volunteer().registry)) == ""
