"""The queries of the dashboards, as Grafana would send them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from places import ROOT

FOLDER = ROOT / "monitoring" / "grafana" / "dashboards"
DASHBOARDS = sorted(FOLDER.glob("*.json"))


def panels_of(dashboard: Path) -> list[dict[str, Any]]:
    """Return its panels, without rows."""
    content = json.loads(dashboard.read_text())
    return [panel for panel in content["panels"] if panel["type"] != "row"]


def queries_of(dashboard: Path, *, interval: str = "5m") -> list[tuple[str, str]]:
    """Return the title of a panel and a query for each of its queries, with Grafana's variables filled in."""
    values = {"$__rate_interval": interval, "$__range": interval, "$instance": ".*"}
    found = []
    for panel in panels_of(dashboard):
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in values.items():
                expression = expression.replace(variable, value)
            found.append((panel["title"], expression))
    return found
