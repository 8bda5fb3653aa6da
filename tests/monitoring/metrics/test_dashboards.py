"""Dashboards: provisioned files whose every query parses and reads metrics that are served."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from dashboards import DASHBOARDS, panels_of, queries_of
from places import ROOT
from promtools import known_metrics, metrics_in, promtool

from monitoring import serve
from monitoring.metrics import endpoint
from monitoring.reference import METRICS

GRAFANA = ROOT / "monitoring" / "grafana"
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)


@each_dashboard
def test_every_query_parses(dashboard: Path, tmp_path: Path) -> None:
    queries = queries_of(dashboard)
    assert len(queries) > 15
    rules = [{"record": f"query:{n}", "expr": query} for n, (_, query) in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    assert "SUCCESS" in promtool("check", "rules", str(tmp_path / "rules.yml"))


@each_dashboard
def test_every_query_reads_metrics_that_are_served_and_knows_the_chosen_instance(dashboard: Path) -> None:
    for title, query in queries_of(dashboard):
        assert metrics_in(query), title
        assert metrics_in(query) <= known_metrics(), title
        assert query.count("instance=~") == query.count("{"), title


def test_every_label_that_rules_dashboards_and_runbooks_name_is_one_that_is_served() -> None:
    served = {one.name: one.labels for declared in METRICS.values() for one in declared}
    pages = [ROOT / "monitoring" / "prometheus" / "rules.yml", *DASHBOARDS]
    pages += (ROOT / "docs" / "runbooks").glob("*.md")
    named = [
        (metric, label, value)
        for page in pages
        for metric, matchers in re.findall(
            r"(manyhands_\w+?)(?:_bucket|_sum|_count)?\{([^}]*)\}", page.read_text()
        )
        for label, value in re.findall(r'(\w+)=\\?"(\w+)\\?"', matchers)
        if label != "job"
    ]
    assert len(named) > 10
    for metric, label, value in named:
        assert value in served[metric][label], f"{metric}: {label} is never {value}"


@each_dashboard
def test_panels_neither_overlap_nor_leave_the_grid_and_every_one_has_a_title(dashboard: Path) -> None:
    content = json.loads(dashboard.read_text())
    cells = Counter[tuple[int, int]]()
    for panel in content["panels"]:
        place = panel["gridPos"]
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells.update((x, y) for x in columns for y in rows)
        assert columns.stop <= 24
        assert panel["title"]
    assert max(cells.values()) == 1
    assert len({panel["id"] for panel in content["panels"]}) == len(content["panels"])


@each_dashboard
def test_panels_name_the_data_source_that_is_provisioned(dashboard: Path) -> None:
    sources = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    for panel in panels_of(dashboard):
        for target in panel["targets"]:
            assert f"uid: {target['datasource']['uid']}\n" in sources


def test_the_compose_file_mounts_folders_that_are_here() -> None:
    lines = (ROOT / "monitoring" / "compose.yml").read_text().splitlines()
    mounted = [line.split("- ./")[1].split(":")[0] for line in lines if "- ./" in line]
    assert len(mounted) == 3
    assert all((ROOT / "monitoring" / folder).is_dir() for folder in mounted)


def test_what_grafana_and_prometheus_are_told_of_each_other_and_of_the_programs_is_so() -> None:
    compose = (ROOT / "monitoring" / "compose.yml").read_text()
    mounts = dict(re.findall(r"^      - \./(\S+?):(/\S+?):ro$", compose, re.MULTILINE))
    source = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    provider = (GRAFANA / "provisioning" / "dashboards" / "manyhands.yml").read_text()
    scraped = (ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text()
    [listens] = re.findall(r"--web\.listen-address=(\S+)", compose)
    assert f"url: http://{listens}\n" in source
    assert f"path: {mounts['grafana/dashboards']}\n" in provider
    assert mounts["grafana/provisioning"] == "/etc/grafana/provisioning"  # where Grafana looks by itself
    [config] = re.findall(r"--config\.file=(\S+)", compose)
    assert config == f"{mounts['prometheus']}/prometheus.yml"
    ports = re.findall(r'targets: \["127\.0\.0\.1:(\d+)"\]', scraped)
    assert ports == [str(serve.DEFAULT_PORT), str(endpoint.DEFAULT_PORT)]


def test_nothing_that_the_compose_file_starts_listens_beyond_this_machine() -> None:
    text = (ROOT / "monitoring" / "compose.yml").read_text()
    assert "--web.listen-address=127.0.0.1:9090" in text
    assert "GF_SERVER_HTTP_ADDR: 127.0.0.1" in text
