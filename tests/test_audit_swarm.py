"""A real swarm that audits: honest peers pass, one that trains on other data fails and loses its credit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_swarm import ROUNDS_RECIPE, Swarm

from peers.credit.entries import Entry
from peers.ledger.derive import derive, ground_of
from peers.protocol.verdicts import Verdict
from peers.state.block_store import CHAIN_FILE, ChainStore
from recipes.home import run_folder
from recipes.publication import load_signed_recipe

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

[verification.thresholds.cpu-bf16]
loss_mean = [4e-3, 7e-3]
loss_worst = [5e-2, 1e-1]
dropped = [0.2, 0.4]
direction = [0.02, 0.2]
length = [0.03, 0.2]
"""
)  # a busy machine may find bfloat16 the faster one


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{here.parent}:{here}")
        folder = tmp_path_factory.mktemp("swarm")
        running = Swarm(folder, volunteers=2, recipe=EVERYTHING_AUDITED, liar=True)
        try:
            for peer in running.peers:
                peer.start(validate=False)
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


# The tests below are one story, in this order.


@pytest.mark.timeout(300)
def test_honest_peers_pass_and_a_liar_fails_by_two_auditors(swarm: Swarm) -> None:
    swarm.until(lambda: all(len(decided(swarm, peer, "pass")) >= 2 for peer in (0, 1)))
    swarm.until(lambda: bool(decided(swarm, 2, "fail")))
    assert len(set(decided(swarm, 2, "fail")[0]["auditors"])) >= 2
    assert not decided(swarm, 2, "pass")
    assert not decided(swarm, 0, "fail") + decided(swarm, 1, "fail")


@pytest.mark.timeout(300)
def test_what_the_liar_had_pending_is_forfeited_and_nobody_elses(swarm: Swarm) -> None:
    liar = swarm.peers[2].peer_id
    entries, words = ledger(swarm)
    forfeited = [entry for entry in entries if entry.kind == "forfeit"]
    assert {entry.peer for entry in forfeited} == {liar}
    assert sum(entry.amount for entry in forfeited) > 0
    against = {word.claim for word in words if word.outcome == "fail"}
    claims = {entry.claim: entry.peer for entry in entries if entry.kind == "claim"}
    assert {claims[claim] for claim in against} == {liar}


@pytest.mark.timeout(300)
def test_whole_windows_were_checked_chunk_by_chunk(swarm: Swarm) -> None:
    _, words = ledger(swarm)
    assert any(word.kept == 1.0 and word.outcome == "pass" for word in words)


@pytest.mark.timeout(300)
def test_nothing_was_lost_on_the_way_to_a_verdict(swarm: Swarm) -> None:
    _, words = ledger(swarm)
    reasons = {word.reason for word in words}
    assert reasons <= {"agrees", "loss trace differs"}, reasons
    swarm.until_agreed()
    assert swarm.contradictions() == []
