"""A real swarm whose early rounds are denser: processes on loopback that agree bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from live_swarm import ROUNDS_RECIPE, Swarm

from peers.state.block_store import CHAIN_FILE, ChainStore
from recipes.home import run_folder

TOTAL_TOKENS = 60_000
DENSER = ROUNDS_RECIPE.replace("total_tokens = 100_000", f"total_tokens = {TOTAL_TOKENS}") + (
    "\n[exchange]\nkeep = 32\nreduced_keep = 64\nearly = [[0.1, 16], [0.3, 4]]\n"
)


@pytest.mark.timeout(300)
def test_peers_and_a_newcomer_agree_across_the_turns_of_density(tmp_path: Path) -> None:
    swarm = Swarm(tmp_path, volunteers=2, recipe=DENSER)
    try:
        first, second, newcomer = swarm.peers
        for peer in (first, second):
            peer.start(validate=False)
        swarm.until(lambda: bool(sizes := first.tally.contribution_bytes) and 4 * min(sizes) < max(sizes))
        newcomer.start(validate=False)  # replays what was denser, or fetches a state that came of it
        swarm.until_counted(swarm.peers, rounds=2)
        swarm.until_agreed()
        assert swarm.contradictions() == []
        assert {len(digests) for digests in swarm.digests().values()} == {1}
        run = swarm.publication.run_id
        blocks = ChainStore(run_folder(first.home, run) / CHAIN_FILE).blocks(run=run)
        sizes = [
            (block.body.round, claim.body.contribution_bytes)
            for block in blocks
            for claim in block.body.roster.body.claims
        ]
        densest, thinnest = max(size for _, size in sizes), min(size for _, size in sizes)
        assert densest > 6 * thinnest
        assert min(sizes)[1] > 4 * max(sizes)[1]  # of the first round, and of the last
    finally:
        swarm.end()
