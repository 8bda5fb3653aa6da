"""A real swarm of which every claim is audited, and what its chain says of that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from live_swarm import ROUNDS_RECIPE, Swarm
from places import ROOT, SUPPORT

from peers.credit.entries import Entry
from peers.ledger.derive import derive, ground_of
from peers.protocol.verdicts import Verdict
from peers.state.block_store import CHAIN_FILE, ChainStore
from recipes.home import run_folder
from recipes.publication import load_signed_recipe
from trainer.demo.peer import launch

EVERYTHING_AUDITED = (
    ROUNDS_RECIPE
    + """
[verification]
newcomer_audit_rate = 1.0
full_replay_rate = 0.5

[verification.thresholds.cpu-fp32]
loss_mean = [1e-3, 5e-3]
loss_worst = [2e-3, 1e-2]
dropped = [0.1, 0.4]
direction = [0.02, 0.2]
length = [0.02, 0.2]
"""
)


@contextmanager
def audited_swarm(folder: Path, *, recipe: str = EVERYTHING_AUDITED, liar: bool = False) -> Iterator[Swarm]:
    """Run a swarm of three peers that compute alike; they are started by the test, and killed in the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{SUPPORT}")
        alike = partial(launch, program=("-m", "fp32_join"))
        running = Swarm(folder, volunteers=2, recipe=recipe, liar=liar, launched_by=alike)
        try:
            yield running
        finally:
            running.end()


def ledger(swarm: Swarm) -> tuple[list[Entry], list[Verdict]]:
    """Return the entries that follow from the publisher's blocks, and the verdicts that these carry."""
    run = swarm.publication.run_id
    folder = run_folder(swarm.peers[0].home, run)
    store = ChainStore(folder / CHAIN_FILE, read_only=True)
    blocks = list(store.blocks(run=run))
    store.close()
    words = [signed.body for block in blocks for signed in block.body.verdicts]
    settled = derive(ground_of(load_signed_recipe(folder)), blocks)
    return [entry for one in settled for entry in one.entries], words


def decided(swarm: Swarm, peer: int, decision: str) -> list[dict[str, Any]]:
    """Return the audits of a peer's claims that were decided so, as the peer itself told it."""
    told = [event for event in swarm.peers[peer].reported if event["event"] == "AuditDecided"]
    return [event for event in told if event["decision"] == decision]
