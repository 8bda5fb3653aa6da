"""Links that are as bad as they were asked to be, and leave nothing behind."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.harness import bad_links
from benchmarks.harness.bad_links import BadLinks, check_platform, default_congestion, path_line
from benchmarks.harness.router import Line, Network, address_of, inside
from benchmarks.links import __main__ as links
from benchmarks.wan import __main__ as wan
from recipes.errors import NetworkError, PlatformError

PACKET_BYTES = 1000
LINE = Line(up_bits_per_second=8e6, down_bits_per_second=16e6, delay_seconds=0.025)
"""A packet takes 1 ms up and 0.5 ms down, and a path of two such lines 50 ms besides."""

OWNER = """
import sys
from benchmarks.harness.bad_links import BadLinks
from benchmarks.harness.router import Line
line = Line(up_bits_per_second=1e7, down_bits_per_second=1e7, delay_seconds=0.01)
with BadLinks([line, line]) as links:
    print(links.router_process, *(host.namespace for host in links.hosts), flush=True)
    sys.stdin.read()
"""


def packet(receiver: int, *, size: int = PACKET_BYTES) -> bytes:
    """Return an IPv4 packet with nothing in it but the destination."""
    head = bytes([0x45]) + bytes(15) + socket.inet_aton(address_of(receiver))
    return head + bytes(size - len(head))


def arrivals(network: Network, until: float = 100.0) -> list[tuple[float, int]]:
    """Return when and where each packet comes out, looked for at the moment at which it is due."""
    found = []
    while (now := network.next_due) <= until:
        found += [(round(now, 9), receiver) for receiver, _ in network.due(now)]
    return found


def test_a_packet_is_sent_up_travels_both_delays_and_comes_down() -> None:
    network = Network([LINE, LINE], seed=0)
    network.send(0, packet(1), 5.0)
    assert arrivals(network) == [(5.0 + 0.001 + 0.050 + 0.0005, 1)]


def test_packets_of_one_sender_wait_for_each_other() -> None:
    network = Network([LINE, LINE, LINE], seed=0)
    for receiver in (1, 2, 1):
        network.send(0, packet(receiver), 0.0)
    assert arrivals(network) == [(0.0515, 1), (0.0525, 2), (0.0535, 1)]


def test_packets_to_one_receiver_wait_for_each_other() -> None:
    network = Network([LINE, LINE, LINE], seed=0)
    network.send(1, packet(0), 0.0)
    network.send(2, packet(0), 0.0)
    assert arrivals(network) == [(0.0515, 0), (0.052, 0)]


def test_both_ways_of_a_line_are_independent() -> None:
    network = Network([LINE, LINE], seed=0)
    network.send(0, packet(1), 0.0)
    network.send(1, packet(0), 0.0)
    assert arrivals(network) == [(0.0515, 1), (0.0515, 0)]


def test_a_router_that_looks_late_does_not_slow_what_follows() -> None:
    network = Network([LINE, LINE], seed=0)
    network.send(0, packet(1), 0.0)
    network.send(0, packet(1), 0.0)
    assert [receiver for receiver, _ in network.due(0.053)] == [1, 1]  # due at 51.5 and 52.5 ms
    assert network.statistics().worst_late_seconds == pytest.approx(0.0015)


def test_what_finds_the_queue_full_is_dropped_and_counted_until_there_is_room() -> None:
    slow = Line(up_bits_per_second=8e4, down_bits_per_second=8e6, delay_seconds=0.0)  # 0.1 s a packet
    network = Network([slow, slow], seed=0)
    for _ in range(80):
        network.send(0, packet(1), 0.0)
    carried = 66  # 64 KiB wait before the last that is let in
    up = network.statistics().up[0]
    assert (up.packets, up.bytes, up.overflowed) == (carried, carried * PACKET_BYTES, 80 - carried)
    network.send(0, packet(1), 0.2)
    assert network.statistics().up[0].overflowed == 80 - carried
    assert len(arrivals(network)) == carried + 1


def test_a_fast_line_has_room_for_what_it_sends_in_its_queue_s_time() -> None:
    fast = Line(up_bits_per_second=8e8, down_bits_per_second=8e8, delay_seconds=0.0, queue_seconds=0.01)
    network = Network([fast, fast], seed=0)
    for _ in range(2000):
        network.send(0, packet(1), 0.0)
    assert network.statistics().up[0].packets == pytest.approx(1000, abs=2)  # 10 us each


def test_a_full_queue_on_the_way_down_drops_what_several_sent_at_once() -> None:
    fast = Line(up_bits_per_second=1e9, down_bits_per_second=1e9, delay_seconds=0.0)
    slow = Line(up_bits_per_second=1e9, down_bits_per_second=1e5, delay_seconds=0.0)
    network = Network([slow, fast, fast], seed=0)
    for sender in (1, 2):
        for _ in range(60):
            network.send(sender, packet(0), 0.0)
    assert len(arrivals(network)) + network.statistics().down[0].overflowed == 120
    assert network.statistics().down[0].overflowed > 0


def test_the_seed_decides_which_packets_are_lost() -> None:
    def survivors(seed: int) -> list[float]:
        line = path_line(8, 8, delay_ms=10, loss=0.1)
        network = Network([line, line], seed=seed)
        for number in range(200):
            network.send(0, packet(1), float(number))
        return [at for at, _ in arrivals(network, until=1000.0)]

    assert survivors(1) == survivors(1) != survivors(2)


def test_a_path_loses_its_share_and_both_lines_count_theirs() -> None:
    line = path_line(8, 8, delay_ms=10, loss=0.1)
    network = Network([line, line], seed=3)
    for number in range(10_000):
        network.send(0, packet(1), float(number))
    delivered = len(arrivals(network, until=20_000.0))
    counted = network.statistics()
    assert 10_000 - delivered == counted.up[0].lost + counted.down[1].lost == pytest.approx(1000, rel=0.1)
    assert counted.up[0].lost == pytest.approx(counted.down[1].lost, rel=0.25)


def test_a_lost_packet_has_taken_its_time_on_the_line() -> None:
    line = Line(up_bits_per_second=8e6, down_bits_per_second=8e6, delay_seconds=0.0, loss=0.5)
    network = Network([line, line], seed=0)
    for _ in range(60):
        network.send(0, packet(1), 0.0)
    places = {round(at * 1000) for at, _ in arrivals(network)}
    assert 5 < len(places) < 30  # a quarter comes through
    assert max(places) > 45  # and no earlier than if all had


def test_packets_to_nobody_and_of_other_protocols_go_nowhere() -> None:
    network = Network([LINE, LINE], seed=0)
    network.send(0, packet(2), 0.0)
    network.send(0, b"\x60" + packet(1)[1:], 0.0)
    network.send(0, b"\x45", 0.0)
    assert arrivals(network) == []
    assert network.statistics().stray == 3


def test_addresses_go_on_past_a_byte() -> None:
    assert (address_of(0), address_of(253), address_of(300)) == ("198.18.0.1", "198.18.0.254", "198.18.1.45")


def test_a_list_of_links_is_read_as_megabits_and_round_trip() -> None:
    assert wan.links_of("1:600,100:20", loss=0.01) == [
        wan.Link(1, 1, 300, 0.01),
        wan.Link(100, 100, 10, 0.01),
    ]
    with pytest.raises(typer.BadParameter, match="'10' is not Mbit/s:RTT"):
        wan.links_of("1:600,10", loss=0.0)


@pytest.mark.parametrize("command", [wan.main, links.main])
def test_without_root_the_command_says_so_in_a_sentence(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == PlatformError.exit_code
    assert "Links between network namespaces need root (this is user 1000)" in result.stderr


def test_without_the_tun_device_the_refusal_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bad_links, "TUN", Path("/dev/net/none"))
    with pytest.raises(PlatformError, match="/dev/net/none"):
        check_platform()


def possible_here() -> bool:
    """Say whether this process may make namespaces and devices, without the code under test."""
    if os.geteuid() or not Path("/dev/net/tun").exists() or shutil.which("ip") is None:
        return False
    name = f"manyhands-test-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return made


def links_here(stack: ExitStack, lines: Sequence[Line]) -> BadLinks | None:
    """Make links; None, after a refusal that says what is needed, where that is not possible."""
    if possible_here():
        return stack.enter_context(BadLinks(lines))
    with pytest.raises(PlatformError, match="root"):
        stack.enter_context(BadLinks(lines))
    return None


def test_two_namespaces_meet_over_their_lines_or_the_refusal_is_clear() -> None:
    line = path_line(10, 10, delay_ms=20, loss=0.0)
    with ExitStack() as stack:
        links = links_here(stack, [line, line])
        if links is None:
            return
        here, there = links.hosts
        with inside(there.namespace):
            listener = stack.enter_context(socket.create_server((there.address, 5001)))
            stack.enter_context(socket.create_server(("127.0.0.1", 5001)))  # loopback is up
        with inside(here.namespace):
            asking = stack.enter_context(socket.socket())
        asking.connect((there.address, 5001))
        answering, (address, _) = listener.accept()
        stack.enter_context(answering)
        assert address == here.address
        asking.sendall(b"how far?")
        assert answering.recv(64) == b"how far?"
        left_running = subprocess.Popen([*here.prefix, "sleep", "600"])
        shown = subprocess.run(
            [*here.prefix, "cat", "/proc/sys/net/ipv4/tcp_congestion_control"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout.strip() == default_congestion() == links.congestion
        assert here.tcp_counters()["ActiveOpens"] == 1
        counted = links.statistics()
        assert counted.up[0].packets >= 3
        assert counted.up[0].bytes >= 3 * 40 + len(b"how far?")  # with the heads of IP and TCP
    assert left_running.wait(10) == -signal.SIGKILL
    assert not Path("/run/netns", here.namespace).exists()
    assert not Path("/run/netns", there.namespace).exists()


def test_nothing_is_left_when_the_owner_of_the_links_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stderr is not None
        made = owner.stdout.readline().split()
        if not made:
            assert "PlatformError" in owner.stderr.read()
            assert not possible_here()
            return
        router, *namespaces = made
        assert all(Path("/run/netns", name).exists() for name in namespaces)
        handle = os.pidfd_open(int(router))
        owner.send_signal(signal.SIGKILL)
        ended, _, _ = select.select([handle], [], [], 20)
        os.close(handle)
    assert ended
    assert not any(Path("/run/netns", name).exists() for name in namespaces)


def test_what_a_killed_router_left_is_removed_by_the_next() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    stale = f"manyhands-{ended.pid}-0"
    if possible_here():
        subprocess.run(["ip", "netns", "add", stale], check=True)
    with ExitStack() as stack:
        links_here(stack, [LINE])
        assert not Path("/run/netns", stale).exists()


def test_a_router_that_was_killed_is_told_of_and_cleared_up_after() -> None:
    with ExitStack() as stack:
        links = links_here(stack, [LINE])
        if links is None:
            return
        os.kill(links.router_process, signal.SIGKILL)
        with pytest.raises(NetworkError, match="has ended"):
            links.statistics()
        links.close()
        assert not Path("/run/netns", links.hosts[0].namespace).exists()
