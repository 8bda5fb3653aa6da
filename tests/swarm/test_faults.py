"""A swarm whose members are hurt amid a round goes on; they come back, and all agree bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from fault_points import Faults
from live_swarm import Swarm, armed_swarm

from recipes.home import run_folder

LONGEST_ROUND_SECONDS = 60.0  # with every deadline of the recipe used up, on a busy machine

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with armed_swarm(tmp_path_factory.mktemp("faults"), volunteers=3) as running:
        running.until_counted(running.peers, rounds=5)  # so that all may lead, reduce and co-sign
        yield running


# The tests below are one story, in this order.


def test_those_killed_just_before_and_just_after_sending_their_claim_are_counted_again(swarm: Swarm) -> None:
    faults = Faults().before("send", "claim").kill().after("send", "claim").kill()
    victims = swarm.until_all_killed(swarm.arm(swarm.peers, faults))
    swarm.until_counted(victims, run_again=True)
    assert swarm.exit_codes == {-signal.SIGKILL}


def test_a_leader_killed_before_its_block_and_a_reducer_killed_after_announcing_are_counted_again(
    swarm: Swarm,
) -> None:
    faults = Faults().before("send", "block").kill().after("send", "reduction").kill()
    victims = swarm.until_all_killed(swarm.arm(swarm.peers, faults))
    swarm.until_counted(victims, run_again=True)


def test_those_killed_between_promise_and_co_signature_and_amid_an_update_of_the_weights_come_back(
    swarm: Swarm,
) -> None:
    faults = Faults().after("write", "promise").kill().after("write", "weights").kill()
    victims = swarm.until_all_killed(swarm.arm(swarm.peers, faults))
    swarm.until_counted(victims, run_again=True)


def test_a_laptop_whose_lid_was_closed_for_longer_than_the_deadlines_goes_on_by_itself(swarm: Swarm) -> None:
    sleeper = swarm.peers[1]
    sleeper.pause()
    swarm.until_counted([peer for peer in swarm.peers if peer is not sleeper], rounds=2)
    sleeper.resume()
    swarm.until_counted([sleeper])
    assert sleeper.running


def test_a_peer_whose_network_daemon_was_killed_is_counted_again(swarm: Swarm) -> None:
    victim = swarm.peers[2]
    swarm.exit_codes.clear()
    for daemon in victim.daemons:
        os.kill(daemon, signal.SIGKILL)
    swarm.until(lambda: not victim.running or bool(victim.daemons))
    swarm.until_counted([victim], run_again=True)
    assert swarm.exit_codes <= {9}  # it may also go on by itself


def test_a_full_disk_ends_a_peer_with_a_plain_word_and_it_is_counted_again_once_there_is_room(
    swarm: Swarm,
) -> None:
    victim = swarm.peers[-1]
    if swarm.disk is not None:
        swarm.disk.fill()
    else:  # without root, each write is told that there is no room
        swarm.arm([victim], Faults().before("write", "block").disk_full())
    swarm.until_ended(victim)
    assert victim.returncode == 12
    assert "Traceback" not in victim.log.read_text()
    assert "Free some space" in victim.log.read_text()
    if swarm.disk is not None:
        swarm.disk.empty()
    victim.start(validate=False)
    swarm.until_counted([victim])


def test_a_peer_whose_chain_was_damaged_on_disk_fetches_it_again(swarm: Swarm) -> None:
    victim = swarm.peers[1]
    victim.kill()
    folder = run_folder(victim.home, swarm.publication.run_id)
    with (folder / "chain.sqlite").open("r+b") as database:
        database.write(bytes(100))  # its header, of which no newer copy is at hand
    (folder / "chain.sqlite-wal").unlink(missing_ok=True)
    victim.start(validate=False)
    swarm.until_counted([victim])
    assert "The chain on disk was damaged" in victim.log.read_text()


def test_nobody_ever_held_another_state_after_a_round_and_no_round_took_for_ever(swarm: Swarm) -> None:
    swarm.until_agreed()
    assert max(swarm.seen_at) >= 20
    assert swarm.contradictions() == []
    assert swarm.longest_round() < LONGEST_ROUND_SECONDS
