"""A real swarm: processes that train over the network on loopback, lose members, and agree bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_swarm import Swarm

from recipes.formats.files import write_atomic
from recipes.home import run_folder
from trainer.demo.peer import DemoPeer


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    running = Swarm(tmp_path_factory.mktemp("swarm"), volunteers=4)
    try:
        for peer in running.peers[:4]:
            peer.start(validate=False)
        yield running
    finally:
        running.end()


# The tests below are one story, in this order.


@pytest.mark.timeout(300)
def test_volunteers_that_know_only_the_run_id_and_a_bootstrap_peer_are_counted(swarm: Swarm) -> None:
    swarm.until_counted(swarm.peers[:4])
    assert all(peer.tally.sent.get("segments", 0) > 0 for peer in swarm.peers[:4])


@pytest.mark.timeout(300)
def test_a_newcomer_drops_lying_peers_and_is_counted(swarm: Swarm) -> None:
    liars, newcomer = swarm.peers[1:4], swarm.peers[4]
    for liar in liars:
        for piece in (run_folder(liar.home, swarm.publication.run_id) / "data").iterdir():
            write_atomic(piece, bytes(len(piece.read_bytes())))
    newcomer.start(validate=False)
    swarm.until_counted([newcomer])
    refused = [event for event in newcomer.reported if event["event"] == "Refused"]
    dropped = {event["peer"] for event in refused if event["kind"] == "data"}
    assert dropped
    assert dropped <= {liar.peer_id for liar in liars}


@pytest.mark.timeout(300)
def test_the_run_survives_its_bootstrap_peer(swarm: Swarm) -> None:
    swarm.bootstrap.kill()
    swarm.until_counted(swarm.peers, rounds=2)


@pytest.mark.timeout(300)
def test_a_peer_whose_network_daemon_is_killed_goes_on_in_the_same_life(swarm: Swarm) -> None:
    victim = swarm.peers[2]
    lives = victim.lives
    assert network_daemons(victim)
    for daemon in network_daemons(victim):
        os.kill(daemon, signal.SIGKILL)
    swarm.until(lambda: any("another one runs now" in text for text in notices(victim)))
    swarm.until_counted([victim], rounds=2)
    assert victim.running
    assert victim.lives == lives


def network_daemons(peer: DemoPeer) -> list[int]:
    """Return the process ids of a peer's p2pd."""
    assert peer._process is not None
    children = Path(f"/proc/{peer._process.pid}/task/{peer._process.pid}/children").read_text().split()
    return [int(child) for child in children if b"p2pd" in Path(f"/proc/{child}/cmdline").read_bytes()]


def notices(peer: DemoPeer) -> list[str]:
    return [event["text"] for event in peer.reported if event["event"] == "Notice"]


@pytest.mark.timeout(300)
def test_the_run_survives_its_publisher_who_comes_back_and_counts_again(swarm: Swarm) -> None:
    publisher, others = swarm.peers[0], swarm.peers[1:]
    publisher.kill()
    swarm.until_counted(others, rounds=2)
    publisher.start(validate=False)
    swarm.until_counted([publisher])


@pytest.mark.timeout(300)
def test_the_run_survives_its_leader_who_comes_back_and_counts_again(swarm: Swarm) -> None:
    leader = swarm.last_leader()
    leader.kill()
    swarm.until_counted([peer for peer in swarm.peers if peer is not leader], rounds=2)
    leader.start(validate=False)
    swarm.until_counted([leader])


@pytest.mark.timeout(300)
def test_a_peer_whose_state_was_changed_on_disk_heals_and_counts_again(swarm: Swarm) -> None:
    victim = swarm.peers[2]
    victim.kill()
    folder = run_folder(victim.home, swarm.publication.run_id)
    for name in ("state/weights.f32", "contributions/feedback.bf16", "peers.json"):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (folder / name).write_bytes(content)
    pieces = sorted((folder / "data").iterdir())
    pieces[0].write_bytes(pieces[0].read_bytes()[:-1])
    victim.start(validate=False, address=swarm.peers[1].address)
    swarm.until_counted([victim])


@pytest.mark.timeout(300)
def test_one_interrupt_finishes_the_round_and_a_second_process_in_the_same_home_is_refused(
    swarm: Swarm,
) -> None:
    leaver = swarm.peers[3]
    again = subprocess.run(
        [sys.executable, "-m", "trainer.join", swarm.publication.run_id, "--home", str(leaver.home)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 8
    assert "already works in" in again.stderr
    counted_before = max(leaver.tally.counted_rounds)
    swarm.until(lambda: leaver.tally.state == "training")
    leaver.leave()
    swarm.until(lambda: not leaver.running)
    leaver.look()
    assert leaver.returncode == 0
    assert max(leaver.tally.counted_rounds) > counted_before


@pytest.mark.timeout(300)
def test_no_two_peers_ever_held_different_states_after_a_round(swarm: Swarm) -> None:
    digests = swarm.digests()
    assert len(digests) >= 8
    assert all(len(values) == 1 for values in digests.values()), json.dumps(
        {number: sorted(values) for number, values in digests.items()}
    )


@pytest.mark.timeout(300)
def test_a_peer_whose_state_changes_under_it_says_so_fetches_what_differs_and_counts_again(
    swarm: Swarm,
) -> None:
    victim = swarm.peers[1]
    weights = run_folder(victim.home, swarm.publication.run_id) / "state" / "weights.f32"
    with weights.open("r+b") as stream:  # the file that the running process has mapped
        stream.seek(4000)
        stream.write(b"\x00\x00\x80\x3f" * 50)
    swarm.until(lambda: any(event["event"] == "Diverged" for event in victim.reported))
    swarm.until_counted([victim])
    newest = victim.tally.round
    others = {peer.tally.digests[newest] for peer in swarm.peers if newest in peer.tally.digests}
    assert len(others) == 1
