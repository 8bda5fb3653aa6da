"""A newcomer and its line, watched until a contribution of its counts: for both swarms of benchmarks.join."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from benchmarks.harness.bad_links import BadLinks
from benchmarks.harness.router import Line
from benchmarks.join.figures import COUNTED, FIRST_PACKET, Course, Moment, Seen
from benchmarks.join.settings import VETERANS, JoinSettings
from recipes.errors import NetworkError

SEED = 1  # decides which packets are lost
_LOOK_SECONDS = 0.1
_WORDS = 1500  # characters of a peer's log that an error shows
_SETTLE_WINDOWS = 30  # in which the veterans must have come as far as is needed
_SETTLE_SECONDS = 300.0  # beyond those: processes start slowly on few cores
_GATEWAY_MS = 5.0  # one way from a veteran to the middle of the network

Tell = Callable[[str], None]


class Told(Protocol):
    """A process whose events can be read; both kinds of peer are such."""

    name: str
    reported: list[dict[str, Any]]

    @property
    def log(self) -> Path: ...
    @property
    def running(self) -> bool: ...
    def look(self) -> None: ...
    def kill(self) -> None: ...


def lines_of(settings: JoinSettings, *, newcomers: int) -> list[Line]:
    """Return the veterans' lines, and after them the newcomers': all delay but a little is on these."""
    near = min(_GATEWAY_MS, settings.round_trip_ms / 4)
    fast = settings.fast_megabits * 1e6
    veteran = Line(up_bits_per_second=fast, down_bits_per_second=fast, delay_seconds=near / 1000)
    newcomer = Line(
        up_bits_per_second=settings.up_megabits * 1e6,
        down_bits_per_second=settings.down_megabits * 1e6,
        delay_seconds=(settings.round_trip_ms / 2 - near) / 1000,
        loss=settings.loss,
    )
    return [veteran] * VETERANS + [newcomer] * newcomers


@contextmanager
def killed_after(peers: Sequence[Told]) -> Iterator[None]:
    """End all peers' processes after the block, also those that were started in it."""
    try:
        yield
    finally:
        for peer in peers:
            peer.kill()


def watch(
    newcomer: Told,
    *,
    others: Sequence[Told],
    links: BadLinks,
    host: int,
    began: float,
    limit_seconds: float,
    stages_of: Callable[[Sequence[Seen]], dict[str, Moment]],
) -> list[Seen]:
    """Return all that is seen of a newcomer until it is counted, or the limit is over.

    Args:
        newcomer: was just started.
        others: must live on meanwhile.
        links: have its line.
        host: the number of its line.
        began: when its command was given, by `time.monotonic`.
        limit_seconds: after which it is given up.
        stages_of: what it has reached by what was seen so far.

    Raises:
        NetworkError: a process ended.
    """
    seen: list[Seen] = []
    while time.monotonic() < began + limit_seconds:
        time.sleep(_LOOK_SECONDS)
        look([newcomer, *others])
        router = links.statistics()
        moment = Moment(
            seconds=time.monotonic() - began,
            up_bytes=router.up[host].bytes,
            down_bytes=router.down[host].bytes,
        )
        if moment.up_bytes and not seen:
            seen.append((moment, FIRST_PACKET))
        fresh = newcomer.reported[_told(seen) :]
        seen += [(moment, event) for event in fresh]
        if fresh and COUNTED in stages_of(seen):
            break
    return seen


def _told(seen: list[Seen]) -> int:
    return sum(event is not FIRST_PACKET for _, event in seen)


def wait(reached: Callable[[], bool], peers: Sequence[Told], settings: JoinSettings, otherwise: str) -> None:
    """Look at the peers until something is `reached`.

    Raises:
        NetworkError: that takes too long, with `otherwise` as the reason, or a process ended.
    """
    deadline = time.monotonic() + _SETTLE_WINDOWS * settings.window_seconds + _SETTLE_SECONDS
    while not reached():
        time.sleep(_LOOK_SECONDS)
        look(peers)
        if time.monotonic() > deadline:
            words = "\n".join(_last_words(peer) for peer in peers)
            raise NetworkError(f"In {_SETTLE_WINDOWS} windows, {otherwise}. The last words:\n{words}")


def look(peers: Sequence[Told]) -> None:
    """Read what the peers report.

    Raises:
        NetworkError: one of them ended.
    """
    for peer in peers:
        peer.look()
        if not peer.running:
            raise NetworkError(f"{peer.name} ended by itself. {_last_words(peer)}")


def _last_words(peer: Told) -> str:
    return f"{peer.name} ({peer.log}): {peer.log.read_text(errors='replace')[-_WORDS:]}"


def tell_course(course: Course, tell: Tell) -> None:
    """Say in a line what a newcomer reached when."""
    reached = ", ".join(f"{stage} {moment.seconds:.1f} s" for stage, moment in course.stages.items())
    tell(f"  {course.name}: {reached}")
