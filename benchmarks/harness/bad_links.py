"""Bad links between real processes: a network namespace for each, joined by a router in user space.

    with BadLinks([line] * 8, seed=1, congestion="bbr") as links:
        subprocess.run([*links.hosts[0].prefix, "ping", links.hosts[1].address])

Needs root and /dev/net/tun. Namespaces, devices, processes in them and the router go with the `with` block,
and also when its process is killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from benchmarks.harness.router import (
    NAMESPACE_PREFIX,
    LaneStatistics,
    Line,
    RouterStatistics,
    address_of,
    namespace_of,
    remove_namespace,
)
from recipes.errors import NetworkError, PlatformError

TUN = Path("/dev/net/tun")
PORT = 31330  # to listen on: in a namespace of one's own, any is free
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
_NAMESPACES = Path("/run/netns")
_REPOSITORY = Path(__file__).parents[2]
_STOP_SECONDS = 30.0
_REMEDY = "Run the same command as root (`sudo -E`) on Linux with iproute2 and the kernel module tun."


@dataclass(frozen=True)
class Host:
    """One end: where it is, and what to write before a command so that it runs there."""

    number: int
    address: str
    namespace: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words that run a command in this namespace, in the same process."""
        return ("ip", "netns", "exec", self.namespace)

    def tcp_counters(self) -> dict[str, int]:
        """Return the kernel's counts for TCP in this namespace, such as RetransSegs (RFC 4022)."""
        shown = subprocess.run(
            [*self.prefix, "cat", "/proc/net/snmp"], check=True, capture_output=True, text=True
        )
        names, values = (line.split()[1:] for line in shown.stdout.splitlines() if line.startswith("Tcp:"))
        return {name: int(value) for name, value in zip(names, values, strict=True)}


class BadLinks:
    """Hosts on lines of their own, for the length of a `with` block."""

    def __init__(self, lines: Sequence[Line], *, seed: int = 0, congestion: str | None = None) -> None:
        """Prepare the links; nothing is made before the `with` block.

        Args:
            lines: one for each host.
            seed: decides which packets are lost.
            congestion: TCP's congestion control in every namespace; None: the machine's default.
        """
        self.congestion = congestion or default_congestion()
        self.hosts: tuple[Host, ...] = ()
        self._settings = {
            "lines": [asdict(line) for line in lines],
            "seed": seed,
            "congestion": self.congestion,
        }
        self._count = len(lines)
        self._router: subprocess.Popen[str] | None = None

    def __enter__(self) -> BadLinks:
        check_platform(self.congestion)
        remove_stale()
        # In a session of its own: Ctrl+C is for us, and the links stay up until our `with` block is done.
        router = subprocess.Popen(
            [sys.executable, "-c", "from benchmarks.harness.router import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_REPOSITORY,
            start_new_session=True,
        )
        self._router = router
        with ExitStack() as undo:
            undo.callback(self.close)
            said = self._ask(json.dumps(self._settings))
            if said != "ready":
                raise PlatformError(
                    f"This machine makes no links between namespaces: {said}.", remedy=_REMEDY
                )
            undo.pop_all()
        self.hosts = tuple(
            Host(number, address_of(number), namespace_of(router.pid, number))
            for number in range(self._count)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def router_process(self) -> int:
        """The router's process id; 0 if none runs."""
        return self._router.pid if self._router is not None else 0

    def statistics(self) -> RouterStatistics:
        """Return what the router did so far.

        Raises:
            NetworkError: the router has ended.
        """
        content = json.loads(self._ask("statistics"))
        up, down = (tuple(LaneStatistics(**lane) for lane in content.pop(way)) for way in ("up", "down"))
        return RouterStatistics(up=up, down=down, **content)

    def close(self) -> None:
        """End the router, and with it the namespaces and all that runs in them. Twice is harmless."""
        router, self._router = self._router, None
        if router is None:
            return
        with suppress(BrokenPipeError):
            router.communicate(timeout=_STOP_SECONDS)  # it ends at the end of its stdin
        if router.poll() is None:
            router.kill()
            router.wait()
        for number in range(self._count):
            if (_NAMESPACES / namespace_of(router.pid, number)).exists():
                remove_namespace(namespace_of(router.pid, number))

    def _ask(self, line: str) -> str:
        router = self._router
        if router is None or router.stdin is None or router.stdout is None:
            raise NetworkError("The router between the namespaces does not run.")
        with suppress(BrokenPipeError):
            router.stdin.write(line + "\n")
            router.stdin.flush()
        if answer := router.stdout.readline().strip():
            return answer
        raise NetworkError(
            "The router between the namespaces has ended.", remedy="Run the same command again."
        )


def path_line(
    up_megabits: float, down_megabits: float, *, delay_ms: float, loss: float, queue_seconds: float = 0.2
) -> Line:
    """Return the line of which two make a path of that one-way delay and loss: each has its half."""
    return Line(
        up_bits_per_second=up_megabits * 1e6,
        down_bits_per_second=down_megabits * 1e6,
        delay_seconds=delay_ms / 2000,
        loss=1 - (1 - loss) ** 0.5,
        queue_seconds=queue_seconds,
    )


def default_congestion() -> str:
    """Return the congestion control that TCP uses on this machine when nobody chooses."""
    return _CONGESTION.read_text().strip()


def check_platform(congestion: str | None = None) -> None:
    """Check that links can be made here, and that `congestion` may be set in a namespace.

    Raises:
        PlatformError: they cannot.
    """
    lacking = [
        what
        for what, there in (
            (f"root (this is user {os.geteuid()})", os.geteuid() == 0),
            (str(TUN), TUN.exists()),
            ("the command `ip`", shutil.which("ip") is not None),
        )
        if not there
    ]
    if lacking:
        raise PlatformError(f"Links between network namespaces need {' and '.join(lacking)}.", remedy=_REMEDY)
    allowed = _ALLOWED.read_text().split()
    if congestion and congestion not in allowed:
        raise PlatformError(
            f"Namespaces here cannot use the congestion control {congestion!r}, only {' or '.join(allowed)}.",
            remedy=f"Choose one of those, or allow more with `sysctl net.ipv4.{_ALLOWED.name}=...`.",
        )


def prepare(congestion: str | None) -> str:
    """Make this process ready to be a benchmark over bad links; return the congestion control to use.

    From here on SIGTERM ends it as an exception does, so that what it started goes with it.

    Args:
        congestion: TCP's congestion control; None: the machine's default.

    Raises:
        PlatformError: links cannot be made here.
    """
    check_platform(congestion)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return congestion or default_congestion()


def remove_stale() -> None:
    """Remove the namespaces of routers that were killed."""
    for path in _NAMESPACES.glob(f"{NAMESPACE_PREFIX}*-*"):
        owner = re.fullmatch(rf"{NAMESPACE_PREFIX}(\d+)-\d+", path.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            remove_namespace(path.name)
