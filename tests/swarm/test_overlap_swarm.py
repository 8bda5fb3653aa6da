"""A real swarm whose windows overlap the exchange: processes on loopback that agree bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_swarm import ROUNDS_RECIPE, Swarm

from peers.state.block_store import CHAIN_FILE, ChainStore
from recipes.home import run_folder
from trainer.demo.peer import DemoPeer

EAGER = ROUNDS_RECIPE.replace("[round]", '[round]\noverlap = "eager"')


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    running = Swarm(tmp_path_factory.mktemp("swarm"), volunteers=2, recipe=EAGER)
    try:
        for peer in running.peers:
            peer.start(validate=peer is running.peers[0])
        yield running
    finally:
        running.end()


def places(peer: DemoPeer, kind: str) -> dict[int, int]:
    """Where among a peer's events one of a kind stands, by the round that it is about."""
    found: dict[int, int] = {}
    for place, event in enumerate(peer.reported):
        if event["event"] == kind:
            found.setdefault(event["round"], place)
    return found


def overlapping(peer: DemoPeer) -> list[int]:
    """The rounds that counted and whose window began before the round before was even exchanged."""
    started, rosters, adopted, claimed = (
        places(peer, kind) for kind in ("WindowStarted", "RosterAccepted", "BlockAdopted", "Claimed")
    )
    return [
        number
        for number in sorted(peer.tally.counted_rounds)
        if number - 1 in rosters
        and number in claimed
        and started[number] < rosters[number - 1] < adopted[number - 1] < claimed[number]
    ]


# The tests below are one story, in this order.


@pytest.mark.timeout(300)
def test_windows_begin_before_the_round_before_is_exchanged_and_count_after_its_block(swarm: Swarm) -> None:
    swarm.until_counted(swarm.peers, rounds=5)
    for peer in swarm.peers:
        assert len(overlapping(peer)) >= 3


@pytest.mark.timeout(300)
def test_who_is_killed_in_its_window_trains_afresh_and_overlaps_again(swarm: Swarm) -> None:
    victim = swarm.peers[2]
    swarm.look()
    seen = len(victim.reported)
    victim.kill()
    victim.start(validate=False, address=swarm.somebody_else(victim).address)
    newest = max(overlapping(victim))
    swarm.until(lambda: len(victim.reported) > seen and max(overlapping(victim)) > newest + 2)


@pytest.mark.timeout(300)
def test_all_states_agree_and_claims_say_that_their_windows_ran_ahead(swarm: Swarm) -> None:
    swarm.until_agreed()
    assert swarm.contradictions() == []
    assert {len(digests) for digests in swarm.digests().values()} == {1}
    run = swarm.publication.run_id
    blocks = ChainStore(run_folder(swarm.peers[0].home, run) / CHAIN_FILE).blocks(run=run)
    claims = [claim.body for block in blocks for claim in block.body.roster.body.claims]
    by_hash = {claim.hash: claim.body.round for block in blocks for claim in block.body.roster.body.claims}
    ahead = [claim for claim in claims if claim.ahead]
    assert len(ahead) > 6
    assert {claim.round for claim in claims if not claim.ahead} >= {1}
    assert all(by_hash.get(claim.predecessor or "", claim.round - 1) == claim.round - 1 for claim in ahead)


@pytest.mark.timeout(300)
def test_the_trainer_says_how_long_it_computed_and_how_long_it_stood_still(swarm: Swarm) -> None:
    finished = [event for event in swarm.peers[0].reported if event["event"] == "WindowFinished"]
    assert all(event["seconds"] > 0 and event["waited"] >= 0 for event in finished)
    validated = [event["round"] for event in swarm.peers[0].reported if event["event"] == "Validated"]
    assert validated == sorted(set(validated))
    assert len(validated) >= 5
