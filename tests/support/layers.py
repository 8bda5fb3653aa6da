"""The packages from the ground up."""

from __future__ import annotations

LAYERS = (
    "recipes.errors",
    "recipes.formats",
    "recipes.keys",
    "recipes.schema",
    "recipes",
    "peers.protocol",
    "peers.codec",
    "peers.network",
    "peers.credit",
    "peers.chain",
    "peers.consensus",
    "peers.state",
    "peers.exchange",
    "peers.sync",
    "peers.training",
    "peers.audit",
    "peers.ledger",
    "peers.replay",
    "peers.calibration",
    "peers.node",
    "peers.simulation",
    "peers",
    "monitoring.swarm",
    "monitoring.evaluation",
    "monitoring.sources",
    "monitoring.http",
    "monitoring.metrics",
    "monitoring.web",
    "monitoring",
    "trainer",
    "trainer.demo",
    "benchmarks",
    "tests",
)
"""Each may import from itself and from those before it, also where only the type checker looks.

A module belongs to the longest of these names that its own begins with. What `python -m` runs as one of
peers' packages is a command, and belongs to peers itself.
"""
