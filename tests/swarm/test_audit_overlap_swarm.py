"""A real swarm audits windows that began before their blocks: where they started is made again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from audited_swarm import EVERYTHING_AUDITED, audited_swarm, decided, ledger
from live_swarm import Swarm

from peers.state.block_store import CHAIN_FILE, ChainStore
from recipes.home import run_folder

EAGER = EVERYTHING_AUDITED.replace("[round]", '[round]\noverlap = "eager"')
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with audited_swarm(tmp_path_factory.mktemp("swarm"), recipe=EAGER) as running:
        for peer in running.peers:
            peer.start(validate=peer is running.peers[0])
        yield running


@pytest.mark.timeout(400)
def test_windows_ahead_of_their_blocks_pass_with_their_chunks(swarm: Swarm) -> None:
    swarm.until(lambda: all(len(decided(swarm, peer, "pass")) >= 3 for peer in range(3)))
    run = swarm.publication.run_id
    store = ChainStore(run_folder(swarm.peers[0].home, run) / CHAIN_FILE, read_only=True)
    blocks = [signed.body for signed in store.blocks(run=run)]
    store.close()
    ahead = {claim.hash for block in blocks for claim in block.roster.body.claims if claim.body.ahead}
    _, words = ledger(swarm)
    assert {word.reason for word in words} <= {"agrees", "not opened"}
    passed = [word for word in words if word.outcome == "pass" and word.claim in ahead]
    assert any(word.kept == 1.0 for word in passed)
    swarm.until_agreed()
    assert swarm.contradictions() == []
