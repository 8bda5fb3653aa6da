"""Packets between many peers' lines, with rates, delays, losses and bounded queues: a router in user space.

`Network` is pure: a packet goes in at one moment, and comes out at another or is dropped. `serve` runs it as
a process of its own, between TUN devices in as many network namespaces; bad_links.py starts that.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import heapq
import json
import math
import os
import random
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

MTU = 1500
DEVICE = "wan"
NAMESPACE_PREFIX = "manyhands-"

_NETWORK = (198 << 24) | (18 << 16)  # 198.18.0.0/15 is set aside for benchmarks of networks (RFC 2544)
_PREFIX_BITS = 15
_LEAST_QUEUE_BYTES = 65536
_BURST = 64  # packets read from one device before the others' turn
_READ_BYTES = 2048
_DEVICE_QUEUE_PACKETS = 10_000  # in the kernel, until the router reads
_KILL_SECONDS = 5.0  # for killed processes to be gone

# From linux/if_tun.h and linux/sched.h.
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, kw_only=True)
class Line:
    """One peer's access to the network. A path crosses two: their delays add up, and either may lose."""

    up_bits_per_second: float
    down_bits_per_second: float
    delay_seconds: float  # one way, to the middle of the network
    loss: float = 0.0  # share of the packets, in each direction
    queue_seconds: float = 0.2  # of sending that may wait in each direction, but never less than 64 KiB


@dataclass(frozen=True, kw_only=True)
class LaneStatistics:
    """One direction of a line. Bytes are those of IP packets."""

    packets: int  # that the lane carried, also those lost on the way
    bytes: int
    lost: int  # packets, by chance
    overflowed: int  # packets that found the queue full, and were not carried


@dataclass(frozen=True, kw_only=True)
class RouterStatistics:
    """What the router did since its start."""

    up: tuple[LaneStatistics, ...]  # by peer
    down: tuple[LaneStatistics, ...]
    stray: int  # packets to nobody, or not of IPv4
    mean_late_seconds: float  # by how much packets left after their time
    worst_late_seconds: float  # since the last time that it was asked for
    late_share: float  # of the packets that left more than 5 ms after their time
    processor_seconds: float


class Lane:
    """One direction of a line: a queue before a bottleneck, then the way."""

    LATE_SECONDS = 0.005

    def __init__(self, *, bits_per_second: float, line: Line, chance: random.Random) -> None:
        self._seconds_per_byte = 8 / bits_per_second
        self._longest_wait = max(line.queue_seconds, _LEAST_QUEUE_BYTES * self._seconds_per_byte)
        self._delay, self._loss, self._chance = line.delay_seconds, line.loss, chance
        self._free_at = 0.0
        self._packets = self._bytes = self._lost = self._overflowed = 0

    def take(self, size: int, now: float) -> float | None:
        """Return when a packet of `size` bytes is at the far end; None if it is dropped on the way."""
        starts = max(now, self._free_at)
        if starts - now > self._longest_wait:
            self._overflowed += 1
            return None
        self._free_at = starts + size * self._seconds_per_byte
        self._packets += 1
        self._bytes += size
        if self._loss and self._chance.random() < self._loss:
            self._lost += 1
            return None
        return self._free_at + self._delay

    def statistics(self) -> LaneStatistics:
        """Return the counts so far."""
        return LaneStatistics(
            packets=self._packets, bytes=self._bytes, lost=self._lost, overflowed=self._overflowed
        )


class Network:
    """All lines: packets go up one, and down the one that their destination address names.

    `seed` decides which packets are lost; each direction of each line has its own chance.
    """

    def __init__(self, lines: Sequence[Line], *, seed: int) -> None:
        self._up, self._down = (
            [
                Lane(bits_per_second=rate, line=line, chance=random.Random(f"{seed} {number} {direction}"))
                for number, line in enumerate(lines)
                for rate in [line.up_bits_per_second if direction == "up" else line.down_bits_per_second]
            ]
            for direction in ("up", "down")
        )
        # When, a number that keeps the order among equals, whom for, what, and whether it crossed both lines.
        self._flying: list[tuple[float, int, int, bytes, bool]] = []
        self._number = 0
        self._stray = 0
        self._delivered = self._late = 0
        self._late_seconds = self._worst_late_seconds = 0.0

    @property
    def next_due(self) -> float:
        """When `due` has something to do; infinite if nothing is on its way."""
        return self._flying[0][0] if self._flying else math.inf

    def send(self, sender: int, packet: bytes, now: float) -> None:
        """Take an IPv4 packet from a peer. `now` never runs backwards, in seconds, here and in `due`."""
        receiver = int.from_bytes(packet[16:20], "big") - _NETWORK - 1
        if packet[0] >> 4 != 4 or not 0 <= receiver < len(self._down):
            self._stray += 1
            return
        arrival = self._up[sender].take(len(packet), now)
        if arrival is not None:
            self._fly(arrival, receiver, packet, crossed=False)

    def due(self, now: float) -> Iterator[tuple[int, bytes]]:
        """Yield who gets which packet by now, in the order of arrival."""
        flying = self._flying
        while flying and flying[0][0] <= now:
            at, _, receiver, packet, crossed = heapq.heappop(flying)
            if crossed:
                self._count_late(now - at)
                yield receiver, packet
            else:  # it is at the receiver's door since `at`, whenever we look
                arrival = self._down[receiver].take(len(packet), at)
                if arrival is not None:
                    self._fly(arrival, receiver, packet, crossed=True)

    def statistics(self) -> RouterStatistics:
        """Return the counts so far; the worst lateness starts anew."""
        worst, self._worst_late_seconds = self._worst_late_seconds, 0.0
        used = resource.getrusage(resource.RUSAGE_SELF)
        return RouterStatistics(
            up=tuple(lane.statistics() for lane in self._up),
            down=tuple(lane.statistics() for lane in self._down),
            stray=self._stray,
            mean_late_seconds=self._late_seconds / max(1, self._delivered),
            worst_late_seconds=worst,
            late_share=self._late / max(1, self._delivered),
            processor_seconds=used.ru_utime + used.ru_stime,
        )

    def _fly(self, at: float, receiver: int, packet: bytes, *, crossed: bool) -> None:
        self._number += 1
        heapq.heappush(self._flying, (at, self._number, receiver, packet, crossed))

    def _count_late(self, seconds: float) -> None:
        self._delivered += 1
        self._late += seconds > Lane.LATE_SECONDS
        self._late_seconds += seconds
        self._worst_late_seconds = max(self._worst_late_seconds, seconds)


def address_of(number: int) -> str:
    """Return the IPv4 address of the peer with that number, from 0."""
    value = _NETWORK + 1 + number
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))


def namespace_of(router: int, number: int) -> str:
    """Return the name of the network namespace that a router, a process id, makes for a peer."""
    return f"{NAMESPACE_PREFIX}{router}-{number}"


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Let this thread work in a network namespace; the sockets that it opens there stay there.

    Raises:
        OSError: there is no such namespace, or this process may not enter it.
    """
    with Path("/proc/thread-self/ns/net").open() as here, Path(f"/run/netns/{namespace}").open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(here.fileno())


def remove_namespace(namespace: str) -> None:
    """End every process in a namespace, and remove it; harmless if there is none."""
    deadline = time.monotonic() + _KILL_SECONDS
    while (pids := _ip("netns", "pids", namespace, check=False).split()) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.01)
    _ip("netns", "delete", namespace, check=False)


def serve() -> None:
    """Be the router's process: settings come as a line on stdin, and whoever wrote it is answered on stdout.

    The first line out is `ready`, or what went wrong; each further line in is answered by the statistics.
    The end of stdin, which also comes when the starter dies, ends the router and all that it made.
    """
    signal.signal(signal.SIGTERM, _leave)
    settings = json.loads(sys.stdin.readline())
    lines = [Line(**line) for line in settings["lines"]]
    with ExitStack() as undo:
        try:
            devices = [_make_namespace(number, settings["congestion"], undo) for number in range(len(lines))]
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            print(" ".join((said or str(error)).split()), flush=True)
            return
        _hurry()
        gc.disable()  # nothing here makes cycles
        print("ready", flush=True)
        _route(Network(lines, seed=settings["seed"]), devices)


def _hurry() -> None:
    """Run before the peers, which keep every processor busy: a late router is a wrong measurement."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)


def _leave(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one shall not disturb the clearing up
    sys.exit(128 + signal.SIGTERM)


def _route(network: Network, devices: Sequence[int]) -> None:
    """Move packets until stdin ends."""
    control = sys.stdin.fileno()
    senders = {device: number for number, device in enumerate(devices)}
    watched = [control, *devices]
    clock = time.monotonic
    while True:
        for receiver, packet in network.due(clock()):
            with suppress(BlockingIOError):
                os.write(devices[receiver], packet)
        due = network.next_due
        wait = max(0.0, due - clock()) if due < math.inf else None
        for ready in select.select(watched, [], [], wait)[0]:
            if ready != control:
                _read_burst(network, senders[ready], ready, clock())
            elif os.read(control, _READ_BYTES):
                print(json.dumps(asdict(network.statistics())), flush=True)
            else:
                return


def _read_burst(network: Network, sender: int, device: int, now: float) -> None:
    with suppress(BlockingIOError):
        for _ in range(_BURST):
            network.send(sender, os.read(device, _READ_BYTES), now)


def _make_namespace(number: int, congestion: str | None, undo: ExitStack) -> int:
    """Make a peer's namespace with loopback and a TUN device; return the device's file descriptor."""
    namespace = namespace_of(os.getpid(), number)
    undo.callback(remove_namespace, namespace)
    _ip("netns", "add", namespace)
    with inside(namespace):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        if congestion is not None:
            Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(congestion)
        with suppress(OSError):  # a kernel without IPv6 has nothing to switch off
            Path(f"/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6").write_text("1")
    _ip("-n", namespace, "link", "set", "lo", "up")
    _ip("-n", namespace, "address", "add", f"{address_of(number)}/{_PREFIX_BITS}", "dev", DEVICE)
    _ip("-n", namespace, "link", "set", DEVICE, "mtu", str(MTU), "txqueuelen", str(_DEVICE_QUEUE_PACKETS))
    _ip("-n", namespace, "link", "set", DEVICE, "up")
    return device


def _ip(*words: str, check: bool = True) -> str:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True).stdout


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"Cannot enter a network namespace: {os.strerror(number)}")
