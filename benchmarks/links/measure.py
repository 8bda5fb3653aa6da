"""Measuring one cell: a swarm of our peers, or as many processes of a rival in the same places."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.bad_links import BadLinks, path_line
from benchmarks.harness.shaped_swarm import Place, Swarm, places_on, places_on_loopback
from benchmarks.links.figures import ALONE, Count, Link, Speed, speed_between, speed_of_rounds
from benchmarks.links.work import Assignment
from recipes.errors import NetworkError
from recipes.publication import Publication

Tell = Callable[[str], None]
SentBytes = Callable[[], Sequence[int]]
"""Returns the bytes of IP packets that each peer has sent so far; none where nobody counts them."""

_SEED = 1
_LOOK_SECONDS = 0.2
_WORDS = 1000  # characters of a process's log that an error shows
_READY_SECONDS = 180.0  # within which all rivals must have imported, built and met
_WARM_SECONDS = 5.0
_EXCHANGE_SECONDS = 300.0  # within which every rival must complete one more exchange
_EXCHANGES = 2  # that a measured span has at least
_REPOSITORY = Path(__file__).parents[2]
_SERVE = "from benchmarks.links.rivals import serve; serve()"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What holds for all cells."""

    peers: int
    window_seconds: float
    rounds: int  # of ours, measured
    warm_up_rounds: int  # before them, after the first one that counts everybody
    seconds: float  # of a rival's span, at least
    delay_ms: float  # one way
    loss: float  # share of the packets, each way
    congestion: str


def measure_ours(
    link: Link, publication: Publication, folder: Path, *, conditions: Conditions, tell: Tell
) -> Speed:
    """Return the speed of our peers on a link. Everybody has data and first weights beforehand.

    Raises:
        NetworkError: they did not complete their rounds.
    """
    with (
        network(link, conditions) as (places, sent),
        Swarm(places, publication, folder, window=conditions.window_seconds, fetch=False, tell=tell) as swarm,
    ):
        first = swarm.gather()
        tell(f"  round {first} counts all {conditions.peers} peers")
        swarm.follow(first, conditions.warm_up_rounds)
        first += conditions.warm_up_rounds
        before = sent()
        swarm.follow(first, conditions.rounds)
        return with_sent_bytes(speed_of_rounds(swarm.logs, first, conditions.rounds), before, sent())


def measure_rival(
    arm: str,
    link: Link,
    publication: Publication,
    folder: Path,
    *,
    conditions: Conditions,
    hivemind: dict[str, Any],
    tell: Tell,
) -> Speed:
    """Return the speed of a rival on a link.

    Args:
        arm: a key of `links_rivals.ARMS`.
        link: between all processes.
        publication: whose model and data they train.
        folder: is made, for what they write.
        conditions: likewise for all.
        hivemind: the values of `links_hivemind.Settings`, where the arm needs them.
        tell: is told of progress.

    Raises:
        NetworkError: a process ended by itself, or an exchange took too long.
    """
    folder.mkdir(parents=True)
    with network(link, conditions) as (places, sent):
        assignments = [
            Assignment(
                arm=arm,
                number=number,
                peers=len(places),
                publication=str(publication.folder),
                folder=str(folder),
                address=place.address,
                port=place.port,
                interface=place.interface,
                store=f"tcp://{places[0].address}:{places[0].port}",
                hivemind=hivemind,
            )
            for number, place in enumerate(places)
        ]
        with _Processes(assignments, places) as processes:
            processes.wait_until_ready()
            processes.proceed(_WARM_SECONDS, exchanges=1)
            tell(f"  all have begun; measuring {conditions.seconds:g} s or {_EXCHANGES} exchanges")
            before, sent_before = processes.counts(), sent()
            processes.proceed(conditions.seconds, exchanges=_EXCHANGES)
            return with_sent_bytes(speed_between(before, processes.counts()), sent_before, sent())


@contextmanager
def network(link: Link, conditions: Conditions) -> Iterator[tuple[list[Place], SentBytes]]:
    """Make a link's places: namespaces where it has a rate, loopback where it has none."""
    if link.megabits is None:
        yield places_on_loopback(conditions.peers), list
        return
    line = path_line(link.megabits, link.megabits, delay_ms=conditions.delay_ms, loss=conditions.loss)
    with BadLinks([line] * conditions.peers, seed=_SEED, congestion=conditions.congestion) as links:
        yield places_on(links.hosts), lambda: [lane.bytes for lane in links.statistics().up]


def with_sent_bytes(speed: Speed, before: Sequence[int], after: Sequence[int]) -> Speed:
    """Return the speed with what a peer sent on the wire in its span; unchanged where nobody counted that."""
    if not before:
        return speed
    sent = sum(after) - sum(before)
    return replace(
        speed,
        sent_bytes_per_second=sent / len(before) / speed.span_seconds,
        sent_bytes_per_token=sent / (speed.tokens_per_second * speed.span_seconds),
    )


class _Processes:
    """A rival's processes, for the length of a `with` block."""

    def __init__(self, assignments: Sequence[Assignment], places: Sequence[Place]) -> None:
        self._assignments, self._places = assignments, places
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Processes:
        for assignment, place in zip(self._assignments, self._places, strict=True):
            command = [*place.prefix, sys.executable, "-c", _SERVE, json.dumps(asdict(assignment))]
            with self._log(assignment).open("wb") as log:
                # A session of its own, so that what it forks can be ended with it.
                process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    cwd=_REPOSITORY,
                    start_new_session=True,
                )
            self._running.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            os.killpg(process.pid, signal.SIGKILL)  # it is not reaped yet, so its number is still its own
            process.wait()

    def wait_until_ready(self) -> None:
        """Wait until all are, and let them begin."""
        deadline = time.monotonic() + _READY_SECONDS
        while waiting := [a.number for a in self._assignments if not a.ready.exists()]:
            self._look(deadline, f"Processes {waiting} were not ready within {_READY_SECONDS:g} s.")
        self._assignments[0].go.touch()

    def proceed(self, seconds: float, *, exchanges: int) -> None:
        """Wait until so many seconds have passed, and each process has since completed so many exchanges.

        The end of an exchange ends it, so that a span holds whole ones.
        """
        began, done = time.monotonic(), 0
        while done < exchanges or time.monotonic() < began + seconds:
            seen = self._progress()
            deadline = time.monotonic() + _EXCHANGE_SECONDS
            while any(now <= then for now, then in zip(self._progress(), seen, strict=True)):
                self._look(deadline, f"Not all completed an exchange within {_EXCHANGE_SECONDS:g} s.")
            done += 1

    def counts(self) -> list[Count]:
        """Return the newest count of each process."""
        return [last_count(assignment.counts) for assignment in self._assignments]

    def _progress(self) -> list[float]:
        """Return each process's exchanges so far; its tokens stand for them where all train alone."""
        alone = self._assignments[0].arm == ALONE
        return [count.tokens if alone else count.exchanges for count in self.counts()]

    def _look(self, deadline: float, sentence: str) -> None:
        time.sleep(_LOOK_SECONDS)
        for assignment, process in zip(self._assignments, self._running, strict=True):
            # Not poll(): that would reap it, and its number could become another's before __exit__.
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                raise NetworkError(f"Process {assignment.number} ended.\n{self._words(assignment)}")
        if time.monotonic() > deadline:
            raise NetworkError(f"{sentence}\n{self._words(self._assignments[0])}")

    def _log(self, assignment: Assignment) -> Path:
        return Path(assignment.folder) / f"log-{assignment.number}.txt"

    def _words(self, assignment: Assignment) -> str:
        words = self._log(assignment).read_text(errors="replace")[-_WORDS:]
        return f"The last words of process {assignment.number}:\n{words}"


def last_count(path: Path) -> Count:
    """Return the newest count in a file that is being written; zeros before the first."""
    content = path.read_bytes() if path.exists() else b""
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    if not lines:
        return Count(at=0.0, tokens=0, computing_seconds=0.0, exchanges=0.0)
    return Count(**json.loads(lines[-1]))
