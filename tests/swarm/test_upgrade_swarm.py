"""A real swarm whose peers are upgraded in turn to a later build, from one checkout to another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from live_swarm import Swarm
from next_build import LEAD_ROUNDS, checkout, launched_from

from peers.credit.rules import credit_rules
from peers.protocol.rules import Rules
from peers.state.block_store import CHAIN_FILE, ChainStore, load_chain
from peers.state.genesis import start_digest
from recipes.errors import OutdatedError
from recipes.home import run_folder
from recipes.layout import layout_of
from trainer.demo.peer import DemoPeer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """This build, and a later one."""
    folder = tmp_path_factory.mktemp("builds")
    return checkout(folder / "this", later=False), checkout(folder / "later", later=True)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, builds: tuple[Path, Path]) -> Iterator[Swarm]:
    running = Swarm(tmp_path_factory.mktemp("swarm"), volunteers=4, launched_by=launched_from(builds[0]))
    try:
        for peer in running.peers:
            peer.start(validate=False)
        yield running
    finally:
        running.end()


def rules_in(swarm: Swarm, peer: DemoPeer) -> dict[str, int]:
    """The rules after the newest block on a peer's disk, each with its first round in force."""
    recipe, run = swarm.publication.recipe, swarm.publication.run_id
    rules = replace(Rules.of(recipe, run), upgrade_lead=LEAD_ROUNDS)
    with closing(ChainStore(run_folder(peer.home, run) / CHAIN_FILE)) as store:
        credit = credit_rules(recipe, rules)
        chain = load_chain(store, credit, genesis_digest=start_digest(recipe, rules, layout_of(recipe)))
    newest = max(chain.links.values(), key=lambda link: link.round)
    return dict(newest.counters.rules or {})


def upgrade(swarm: Swarm, peer: DemoPeer, build: Path) -> None:
    """Start a peer that has ended again, from another checkout."""
    peer.launch_by(launched_from(build))
    peer.start(validate=False, address=swarm.somebody_else(peer).address)


# The tests below are one story, in this order.


@pytest.mark.timeout(600)
def test_a_run_outlives_the_upgrade_of_its_peers_one_by_one(swarm: Swarm, builds: tuple[Path, Path]) -> None:
    swarm.until_counted(swarm.peers, rounds=4)
    for peer in swarm.peers[:-1]:
        peer.leave()
        swarm.until_ended(peer)
        upgrade(swarm, peer, builds[1])
        swarm.until_counted([peer])
    adopted = {
        event["round"] for peer in swarm.peers for event in peer.reported if event["event"] == "BlockAdopted"
    }
    assert adopted == set(range(1, max(adopted) + 1))
    assert swarm.contradictions() == []
    assert not [e for peer in swarm.peers for e in peer.reported if e["event"] == "Banned"]


@pytest.mark.timeout(600)
def test_a_peer_that_was_not_upgraded_is_told_in_time_stops_and_goes_on_with_the_later_build(
    swarm: Swarm, builds: tuple[Path, Path]
) -> None:
    behind = swarm.peers[-1]
    swarm.until_ended(behind)
    assert behind.returncode == OutdatedError.exit_code
    told = [event["text"] for event in behind.reported if event["event"] == "Notice"]
    [warning] = [text for text in told if "does not know (trial)" in text]
    assert "Install a newer build" in warning
    assert "Install a newer build of Manyhands" in behind.log.read_text()[-600:]
    upgrade(swarm, behind, builds[1])
    swarm.until_counted(swarm.peers)
    assert swarm.contradictions() == []


@pytest.mark.timeout(60)
def test_the_later_builds_rule_is_in_force_from_the_same_round_everywhere(swarm: Swarm) -> None:
    for peer in swarm.peers:
        peer.kill()
    found = [rules_in(swarm, peer) for peer in swarm.peers]
    assert found == [found[0]] * len(found)
    assert found[0]["trial"] <= min(peer.tally.round for peer in swarm.peers)
