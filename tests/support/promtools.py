"""Debian's Prometheus for tests: from the PATH, or where the Makefile unpacked it; else a reason to skip."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from monitoring.reference import METRICS
from trainer.demo.peer import free_port

UNPACKED = ROOT / ".venv" / "prometheus" / "usr" / "bin"
PATIENCE_SECONDS = 60.0  # this bounds a failing test, nothing is decided by it


def program(name: str) -> str:
    """Return where `prometheus` or `promtool` is; skip the test where it is not."""
    found = shutil.which(name) or shutil.which(name, path=UNPACKED)
    if found is None:
        pytest.skip(f"{name} is not here: `make prometheus` unpacks it from Debian's package")
    return found


def promtool(*arguments: str, given: bytes = b"") -> str:
    """Run promtool and return what it says; an error code fails the test."""
    done = subprocess.run([program("promtool"), *arguments], input=given, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API."""
        url = f"{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Mapping[str, Any]]:
        """Return the samples that an expression has now."""
        found: list[Mapping[str, Any]] = self.get("/api/v1/query", query=expression)["result"]
        return found


@contextmanager
def prometheus_scraping(
    jobs: Mapping[str, Sequence[str]], folder: Path, *, rules: Path
) -> Iterator[Prometheus]:
    """Run Prometheus on targets by job, with a scrape a second, and end it after the block."""
    scrapes = [
        {"job_name": job, "static_configs": [{"targets": [*targets]}]} for job, targets in jobs.items()
    ]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": scrapes,
    }
    folder.mkdir()
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log.txt").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            server = Prometheus(port)
            _await_answer(server, process, folder / "log.txt")
            yield server
        finally:
            process.terminate()


def _await_answer(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            server.get("/api/v1/status/buildinfo")
            return
        except OSError:
            continue  # it is still starting
    raise AssertionError(f"Prometheus did not start: {log.read_text()[-1500:]}")


def known_metrics() -> set[str]:
    """Return the names that a scrape has, those of histograms' parts among them."""
    names = {one.name for declared in METRICS.values() for one in declared}
    histograms = {one.name for declared in METRICS.values() for one in declared if one.kind == "histogram"}
    return names | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\bmanyhands_\w+", text))
