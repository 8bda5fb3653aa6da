"""Every fault at every step of a round, in a real swarm: the whole grid, for many minutes.

What holds everywhere: the others go on, whoever was hurt is counted again at most after the same command was
run again, and all peers that adopted a round hold the same state after it.
"""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Callable, Iterator

import pytest
from fault_points import Act, Faults, Place, Point, corrupt
from live_swarm import Swarm, armed_swarm

from recipes.home import run_folder
from trainer.demo.peer import DemoPeer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IN_EVERY_ROUND = (
    "ready",
    "claim",
    "roster",
    "segment",
    "reduction",
    "reduced",
    "check",
    "block",
    "cosignature",
)
WHEN_JOINING = ("recipe", "tokenizer", "manifest", "data", "blocks", "snapshot", "piece")
IN_TRANSIT: tuple[Act, ...] = ("send", "receive")
WRITTEN = ("block", "claim", "promise", "feedback", "frame", "record", "trace", "reduced", "weights", "state")
WITH_A_SNAPSHOT = ("snapshot", "manifest", "counters", "accounts")
LONGEST_ROUND_SECONDS = 90.0  # with every deadline of the recipe used up, on a machine that does much else


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with armed_swarm(tmp_path_factory.mktemp("grid"), volunteers=4) as swarm:
        yield swarm


@pytest.fixture
def swarm(running: Swarm) -> Iterator[Swarm]:
    """Yield the swarm with everybody in it, none with orders; what must hold afterwards is checked."""
    running.arm(running.peers, Faults())
    if not all(peer.running for peer in running.peers):  # after a test that failed
        running.until_counted(running.peers, run_again=True)
    running.seen_at.clear()
    running.exit_codes.clear()
    yield running
    running.until_agreed()
    assert running.contradictions() == []
    assert running.longest_round() < LONGEST_ROUND_SECONDS


def last_words(peer: DemoPeer) -> str:
    return peer.log.read_text()[-3000:]


# ------------------------------------------------------------ killed


@pytest.mark.parametrize(
    ("act", "what"),
    [(act, what) for act in IN_TRANSIT for what in (*IN_EVERY_ROUND, "head")]
    + [("write", what) for what in (*WRITTEN, *WITH_A_SNAPSHOT)],
)
def test_peers_killed_before_and_after_any_step_of_a_round_come_back(
    swarm: Swarm, act: Act, what: str
) -> None:
    faults = Faults().before(act, what).kill().after(act, what).kill()
    victims = swarm.until_all_killed(swarm.arm(swarm.peers, faults))
    swarm.until_counted(victims, run_again=True)
    assert swarm.exit_codes == {-signal.SIGKILL}


@pytest.mark.parametrize("act", IN_TRANSIT)
@pytest.mark.parametrize("what", WHEN_JOINING)
def test_peers_killed_before_and_after_any_step_of_joining_come_back(
    swarm: Swarm, act: Act, what: str
) -> None:
    newcomer = swarm.peers[-1]
    newcomer.kill()
    swarm.until_counted(swarm.peers[:-1])
    shutil.rmtree(run_folder(newcomer.home, swarm.publication.run_id))
    faults = Faults().before(act, what).kill().after(act, what).kill()
    markers = swarm.arm(swarm.peers, faults)
    newcomer.start(validate=False, address=swarm.peers[1].address)
    victims = swarm.until_all_killed(markers)
    swarm.until_counted([*victims, newcomer], run_again=True)
    assert swarm.exit_codes <= {-signal.SIGKILL, 10}  # 10: the only one whom the newcomer knew was killed


# ------------------------------------------------------------ standing still


@pytest.mark.parametrize("what", ["claim", "roster", "segment", "reduction", "block", "cosignature"])
def test_a_peer_that_stands_still_for_longer_than_the_deadlines_goes_on(swarm: Swarm, what: str) -> None:
    victim = swarm.until_happened(swarm.arm(swarm.peers, Faults().before("send", what).stop(seconds=15)))
    swarm.until_counted([peer for peer in swarm.peers if peer is not victim])
    swarm.until_counted([victim])
    assert victim.running


# ------------------------------------------------------------ disks


@pytest.mark.parametrize(
    ("written", "refusing"),
    [(written, Place.disk_full) for written in (*WRITTEN, *WITH_A_SNAPSHOT)]
    + [(written, Place.read_only) for written in ("block", "record", "snapshot")],
)
def test_a_disk_that_refuses_ends_the_process_with_the_documented_code(
    swarm: Swarm, written: str, refusing: Callable[[Place], Faults]
) -> None:
    faults = refusing(Faults().before("write", written))
    victim = swarm.until_happened(swarm.arm(swarm.peers[1:], faults))
    swarm.until_ended(victim)
    assert victim.returncode == 12, last_words(victim)
    assert "Traceback" not in last_words(victim)
    assert "run the same command again" in last_words(victim)
    victim.start(validate=False)
    swarm.until_counted([victim])


def test_a_peer_on_a_read_only_disk_is_refused_and_joins_when_it_is_writable(swarm: Swarm) -> None:
    victim = swarm.peers[-1]
    victim.kill()
    if swarm.disk is not None:  # without root there is none, and nothing to be seen
        swarm.disk.freeze()
        try:
            victim.start(validate=False)
            swarm.until_ended(victim)
            assert victim.returncode == 12, last_words(victim)
            assert "Traceback" not in last_words(victim)
            assert "Read-only file system" in last_words(victim)
        finally:
            swarm.disk.thaw()
    victim.start(validate=False)
    swarm.until_counted([victim])


def test_a_peer_started_on_a_full_disk_is_refused_and_joins_when_there_is_room(swarm: Swarm) -> None:
    victim = swarm.peers[-1]
    victim.kill()
    if swarm.disk is not None:
        swarm.disk.fill()
        try:
            victim.start(validate=False)
            swarm.until_ended(victim)
            assert victim.returncode == 12, last_words(victim)
            assert "Traceback" not in last_words(victim)
        finally:
            swarm.disk.empty()
    victim.start(validate=False)
    swarm.until_counted([victim])


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a byte changed": lambda content: content,
    "cut in half": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
}


@pytest.mark.parametrize(
    "files",
    [
        "state/weights.f32",
        "state/state.json",
        "chain.sqlite",
        "snapshots/*/manifest.json",
        "snapshots/*/weights.f32",
        "snapshots/*/counters.json",
        "snapshots/*/accounts.json",
        "contributions/record.json",
        "contributions/feedback.bf16",
        "contributions/*/*.frame",
        "contributions/*/*.mask",
        "reduced/*/*",
        "traces/*",
        "peers.json",
        "recipe.toml",
        "recipe.sig",
        "tokenizer.json",
        "manifest.json",
        "data/*",
    ],
)
def test_peers_with_damaged_files_come_back(swarm: Swarm, files: str) -> None:
    victims = swarm.peers[2:]
    for victim, spoil in zip(victims, DAMAGE.values(), strict=True):
        victim.kill()
        folder = run_folder(victim.home, swarm.publication.run_id)
        hit = corrupt(folder, files)
        assert hit
        for path in hit:
            path.write_bytes(spoil(path.read_bytes()))
        victim.start(validate=False, address=swarm.peers[1].address)
    swarm.until_counted(victims)


def test_a_peer_whose_weights_are_changed_under_it_amid_a_round_heals(swarm: Swarm) -> None:
    faults = Faults().before("send", "claim").corrupt("runs/*/state/weights.f32")
    victim = swarm.until_happened(swarm.arm(swarm.peers, faults))
    swarm.until(lambda: any(event["event"] == "Diverged" for event in victim.reported))
    swarm.until_counted([victim])
    assert victim.running


# ------------------------------------------------------------ network, port, clock


@pytest.mark.parametrize("what", ["ready", "claim", "segment", "block"])
def test_a_peer_whose_network_daemon_dies_comes_back(swarm: Swarm, what: str) -> None:
    markers = swarm.arm(swarm.peers, Faults().before("send", what).kill_daemon())
    victim = swarm.until_happened(markers)
    swarm.until_counted([victim], run_again=True)
    assert victim.running or victim.returncode == 9


def test_a_peer_whose_port_is_taken_says_so_and_starts_when_it_is_free(swarm: Swarm) -> None:
    victim = swarm.peers[2]
    victim.kill()
    swarm.until(lambda: not is_taken(victim.port))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", victim.port))
        other.listen()
        victim.start(validate=False)
        swarm.until_ended(victim)
    assert victim.returncode == 9
    assert "Address already in use" in last_words(victim)
    victim.start(validate=False)
    swarm.until_counted([victim])


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("seconds", [3600.0, -3600.0], ids=["an hour ahead", "an hour back"])
def test_a_peer_whose_clock_jumps_goes_on(swarm: Swarm, seconds: float) -> None:
    markers = swarm.arm(swarm.peers, Faults().before("send", "claim").step_clock(seconds=seconds))
    victim = swarm.until_happened(markers)
    swarm.until_counted(swarm.peers, rounds=6)  # beyond two looks at the notice board
    assert victim.running
    victim.kill()  # and with a right clock again
    victim.start(validate=False)
    swarm.until_counted([victim])


@pytest.mark.parametrize("seconds", [3600.0, -3600.0], ids=["an hour ahead", "an hour back"])
def test_a_newcomer_with_a_wrong_clock_joins(swarm: Swarm, seconds: float) -> None:
    newcomer = swarm.peers[-1]
    newcomer.kill()
    shutil.rmtree(run_folder(newcomer.home, swarm.publication.run_id))
    point = Point("before", "send", "recipe")
    swarm.arm([newcomer], Faults().at(point).step_clock(seconds=seconds))
    newcomer.start(validate=False, address=swarm.peers[1].address)
    swarm.until_counted([newcomer])
