"""A real Prometheus scrapes a real swarm: every metric comes through, and every panel shows something."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from dashboards import DASHBOARDS, queries_of
from live_swarm import ROUNDS_RECIPE, Swarm
from places import ROOT
from promtools import Prometheus, prometheus_scraping, promtool

from monitoring.metrics.device_metrics import DEVICE_DECLARED, DeviceCollector
from monitoring.metrics.spec import Declared
from monitoring.reference import METRICS
from trainer.demo.page import DemoPage
from trainer.demo.peer import DemoPeer, launch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RULES = ROOT / "monitoring" / "prometheus" / "rules.yml"
DEVICES = {one.name for one in DEVICE_DECLARED}
ROUNDS = 4
PATIENCE_ROUNDS = 20
LONG_RECIPE = ROUNDS_RECIPE.replace("total_tokens = 100_000", "total_tokens = 100_000_000")
"""Its goal lies ahead, so that there is an estimate of when it is reached."""


@dataclass
class Scraped:
    """A swarm, and the Prometheus that scrapes its volunteers and its observer."""

    swarm: Swarm
    prometheus: Prometheus
    addresses: dict[str, list[str]]  # by job

    def without_data(self, queries: Mapping[str, str]) -> list[str]:
        """Let the swarm go on until all queries have data; return the names of those that never had."""
        missing = dict(queries)
        for _ in range(PATIENCE_ROUNDS):
            missing = {name: query for name, query in missing.items() if not self.prometheus.query(query)}
            if not missing:
                break
            self.swarm.until_counted(self.swarm.peers[:1])
        return sorted(missing)


def metrics_address(peer: DemoPeer) -> str | None:
    """Return where a volunteer says that its metrics are, as soon as it does."""
    said = re.search(r"Metrics: http://(\S+)/metrics", peer.log.read_text() if peer.log.exists() else "")
    return said[1] if said else None


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("scraped")
    swarm = Swarm(folder, volunteers=2, recipe=LONG_RECIPE)
    publisher = swarm.peers[0]
    page = DemoPage(
        published=swarm.publication.folder,
        home=publisher.home,
        out=folder / "page",
        announce=publisher.address,
        launched_by=partial(launch, program=("-m", "monitoring.serve")),
    )
    try:
        for peer in swarm.peers:
            peer.start(validate=peer is publisher)
        swarm.until_counted(swarm.peers)
        page.start()
        addresses = {
            "manyhands-swarm": [page.address.removeprefix("http://").rstrip("/")],
            "manyhands-volunteer": [metrics_address(peer) or "" for peer in swarm.peers],
        }
        with prometheus_scraping(addresses, folder / "prometheus", rules=RULES) as prometheus:
            swarm.until_counted(swarm.peers, rounds=ROUNDS)
            yield Scraped(swarm, prometheus, addresses)
    finally:
        page.end()
        swarm.end()


def here(name: str) -> bool:
    """Say whether a metric can be had on this machine: those of a GPU need one."""
    return name not in DEVICES or any(True for _ in DeviceCollector().collect())


def sample_of(one: Declared) -> str:
    return f"{one.name}_count" if one.kind == "histogram" else one.name


def test_every_metric_that_is_declared_comes_through(scraped: Scraped) -> None:
    wanted = {sample_of(one): sample_of(one) for table in METRICS.values() for one in table if here(one.name)}
    assert scraped.without_data(wanted) == []


@pytest.mark.parametrize(
    ("job", "table"), [("manyhands-swarm", "swarm"), ("manyhands-volunteer", "volunteer")]
)
def test_prometheus_knows_type_and_help_of_each(scraped: Scraped, job: str, table: str) -> None:
    found = scraped.prometheus.get("/api/v1/targets/metadata", match_target=f'{{job="{job}"}}')
    # Of a counter, one format that Prometheus may ask for names the family, another one the series.
    known = {one["metric"].removesuffix("_total"): (one["type"], one["help"]) for one in found}
    declared = {one.family: (one.kind, one.help) for one in METRICS[table] if here(one.name)}
    assert known == declared


def test_all_rules_are_loaded_and_evaluated_without_an_error(scraped: Scraped) -> None:
    groups = scraped.prometheus.get("/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == RULES.read_text().count("        expr:")
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"] == []


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_has_data(scraped: Scraped, dashboard: Path) -> None:
    wanted = [
        (f"{title}: {query}", query)
        for title, query in queries_of(dashboard, interval="30s")
        if all(here(name) for name in re.findall(r"manyhands_\w+", query))
    ]
    assert scraped.without_data(dict(wanted)) == []


def test_promtool_has_nothing_to_say_of_what_is_served(scraped: Scraped) -> None:
    for address in (addresses[0] for addresses in scraped.addresses.values()):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            assert promtool("check", "metrics", given=answer.read()) == ""


def test_a_swarm_is_few_series(scraped: Scraped) -> None:
    count = scraped.prometheus.query('sum by (job) (scrape_samples_scraped{job="manyhands-swarm"})')
    assert float(count[0]["value"][1]) < 100
