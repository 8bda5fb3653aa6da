"""p2pd starts or says why not, and never outlives whoever started it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peers.network.p2pd.process import Daemon, DaemonSettings
from peers.network.p2pd.sockets import SocketFolder, remove_abandoned
from recipes.errors import NetworkError
from recipes.keys.keys import load_or_create_key

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
STARTER = """
import asyncio, sys
from pathlib import Path
from peers.network.p2pd.process import Daemon, DaemonSettings

async def main():
    daemon = await Daemon.start(DaemonSettings(Path(sys.argv[1]), ("/ip4/127.0.0.1/tcp/0",)))
    print(daemon.process_id, daemon.folder.path, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    path = tmp_path / "identity.key"
    load_or_create_key(path)
    return path


def wait_for_end(process_id: int) -> None:
    """Wait until the process is gone, also if it is not our child."""
    try:
        handle = os.pidfd_open(process_id)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([handle], [], [], 10)
    os.close(handle)
    assert ended, f"process {process_id} still runs"


async def test_it_takes_requests_once_started_and_leaves_nothing_behind_once_stopped(key_path: Path) -> None:
    daemon = await Daemon.start(DaemonSettings(key_path, LOOPBACK))
    assert daemon.folder.control_socket.is_socket()
    assert daemon.folder.path.stat().st_mode & 0o077 == 0
    await daemon.stop()
    wait_for_end(daemon.process_id)
    assert not daemon.folder.path.exists()
    assert not daemon.died.is_set()  # it did not end by itself
    await daemon.stop()


async def test_what_p2pd_says_about_a_failed_start_is_passed_on(tmp_path: Path) -> None:
    damaged = tmp_path / "identity.key"
    damaged.write_bytes(b"damaged")
    with pytest.raises(NetworkError, match=r"p2pd: .* proto: cannot parse"):
        await Daemon.start(DaemonSettings(damaged, LOOPBACK))


async def test_an_address_that_this_machine_does_not_have_is_named(key_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"Cannot listen on /ip4/192\.0\.2\.1/tcp/0: Cannot assign"):
        await Daemon.start(DaemonSettings(key_path, ("/ip4/192.0.2.1/tcp/0",)))


async def test_a_second_daemon_on_the_same_port_is_refused(key_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"/ip4/127.0.0.1/tcp/{probe.getsockname()[1]}"
    daemon = await Daemon.start(DaemonSettings(key_path, (place,)))
    try:
        with pytest.raises(NetworkError, match="Address already in use"):
            await Daemon.start(DaemonSettings(key_path, (place,)))
    finally:
        await daemon.stop()


async def test_its_death_is_noticed(key_path: Path) -> None:
    daemon = await Daemon.start(DaemonSettings(key_path, LOOPBACK))
    os.kill(daemon.process_id, signal.SIGKILL)
    await asyncio.wait_for(daemon.died.wait(), 10)
    assert "Peer ID" in daemon.last_words()
    await daemon.stop()


@contextmanager
def starter_and_daemon(key_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """Start a Python that starts a daemon; yield it, the daemon's process id and its sockets' folder."""
    command = [sys.executable, "-c", STARTER, str(key_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        daemon_id, folder = starter.stdout.readline().split()
        try:
            yield starter, int(daemon_id), Path(folder)
        finally:
            starter.kill()
            starter.wait()
            remove_abandoned()


def test_it_dies_with_whoever_started_it_even_by_sigkill(key_path: Path) -> None:
    with starter_and_daemon(key_path) as (starter, daemon_id, _):
        os.kill(daemon_id, 0)  # it runs
        starter.send_signal(signal.SIGKILL)
        wait_for_end(daemon_id)


def test_ctrl_c_in_the_terminal_does_not_reach_it(key_path: Path) -> None:
    with starter_and_daemon(key_path) as (starter, daemon_id, _):
        assert os.getpgid(daemon_id) != os.getpgid(starter.pid)  # a terminal signals its process group


# ------------------------------------------------------------ where its sockets lie


async def test_what_a_killed_peer_left_is_gone_once_another_has_started(key_path: Path) -> None:
    with starter_and_daemon(key_path) as (starter, daemon_id, folder):
        assert folder.is_dir()
        starter.kill()
        starter.wait()
        wait_for_end(daemon_id)
        assert (folder / "control.sock").exists()
        daemon = await Daemon.start(DaemonSettings(key_path, LOOPBACK))
        assert not folder.exists()
        assert daemon.folder.control_socket.is_socket()
        await daemon.stop()


def test_folders_in_use_and_what_only_looks_like_one_stay(tmp_path: Path) -> None:
    used = SocketFolder(root=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    foreign = tmp_path / "manyhands-home"
    for folder in (elsewhere, foreign):
        folder.mkdir()
    (foreign / "lock").touch()
    (elsewhere / "p2pd.lock").touch()
    (tmp_path / "manyhands-link").symlink_to(elsewhere)
    (tmp_path / "manyhands-file").touch()
    before = sorted(tmp_path.rglob("*"))
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    used.remove()
    assert not used.path.exists()
    used.remove()


def test_of_an_abandoned_folder_nothing_is_deleted_that_does_not_belong_there(tmp_path: Path) -> None:
    folder = tmp_path / "manyhands-abandoned"
    folder.mkdir()
    for name in ("p2pd.lock", "control.sock", "thesis.txt"):
        (folder / name).touch()
    remove_abandoned(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
