"""The two swarms of benchmarks.join, each with a newcomer that comes late, and what is seen of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from benchmarks.bad_links import BadLinks, Host
from benchmarks.join_figures import (
    COUNTED,
    FIRST_PACKET,
    Course,
    Event,
    Moment,
    Seen,
    hivemind_stages,
    our_stages,
    period,
)
from benchmarks.join_settings import (
    PORT,
    VETERANS,
    HivemindSettings,
    JoinSettings,
    hivemind_settings,
)
from benchmarks.router import Line
from recipes.errors import NetworkError
from recipes.home import run_folder
from recipes.publication import Publication
from recipes.recipe import published
from trainer.demo_peer import DemoPeer, launch

_SEED = 1
_LOOK_SECONDS = 0.1
_WORDS = 1500  # characters of a peer's log that an error shows
_SETTLE_WINDOWS = 30  # in which the veterans must have come as far as is needed
_SETTLE_SECONDS = 300.0  # beyond those: processes start slowly on few cores
_HIVEMIND_EPOCHS = 3  # that each veteran must have averaged with others before the newcomer comes
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


class HivemindPeer:
    """A process of benchmarks.hivemind_peer in a host's namespace."""

    def __init__(self, name: str, host: Host, settings: HivemindSettings) -> None:
        self.name = name
        self.reported: list[dict[str, Any]] = []
        self.log = settings.events.with_suffix(".log")
        self._events = settings.events
        self._read = 0
        content = TypeAdapter(HivemindSettings).dump_json(settings).decode()
        program = "from benchmarks.hivemind_peer import live; live()"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*host.prefix, sys.executable, "-c", program, content],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process.poll() is None

    def look(self) -> None:
        """Read what its process has reported since the last look."""
        if not self._events.exists():
            return
        with self._events.open("rb") as stream:
            stream.seek(self._read)
            content = stream.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._read += len(complete)
        self.reported += [json.loads(line) for line in complete.splitlines()]

    def kill(self) -> None:
        """End its process; those that it forked end with the namespace."""
        self._process.kill()
        self._process.wait()

    def first(self, kind: str) -> dict[str, Any] | None:
        """Return its first event of that kind."""
        return next((event for event in self.reported if event["event"] == kind), None)


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


def measure_ours(
    publication: Publication, folder: Path, settings: JoinSettings, *, congestion: str, tell: Tell
) -> list[Course]:
    """Return the course of a newcomer with nothing, and of one that has the data beforehand.

    Raises:
        NetworkError: the veterans do not get to train, or a process ended.
    """
    with BadLinks(lines_of(settings, newcomers=2), seed=_SEED, congestion=congestion) as links:
        peers: list[DemoPeer] = []
        for host in links.hosts:
            veteran = host.number < VETERANS
            peers.append(
                DemoPeer(
                    f"peer-{host.number + 1}",
                    folder,
                    run=str(publication.folder) if veteran else publication.run_id,
                    port=PORT,
                    address=peers[0].address if peers else None,
                    host=host.address,
                    launched_by=partial(launch, prefix=host.prefix),
                )
            )
        veterans, (bare, supplied) = peers[:VETERANS], peers[VETERANS:]
        with killed_after(peers):
            _settle_ours(veterans, publication, settings, tell)
            courses = []
            for name, newcomer in (("ours", bare), ("ours, data there", supplied)):
                if newcomer is supplied:
                    _supply(newcomer, publication)
                began = time.monotonic()
                newcomer.start(validate=False)
                seen = _watch(newcomer, veterans, links, peers.index(newcomer), began, settings, our_stages)
                newcomer.kill()
                snapshots = {
                    event["what"]
                    for _, event in seen
                    if event["event"] == "Fetching" and event["what"] != "data"
                }
                courses.append(
                    Course(
                        name=name,
                        stages=our_stages(seen),
                        period_seconds=period(veterans[0].reported, "BlockAdopted"),
                        loads=len(snapshots),
                        limit_seconds=settings.limit_seconds,
                    )
                )
                _tell_course(courses[-1], tell)
            return courses


def measure_hivemind(
    publication: Publication, folder: Path, settings: JoinSettings, *, congestion: str, tell: Tell
) -> Course:
    """Return the course of a newcomer that loads hivemind's state.

    Raises:
        NetworkError: the veterans do not get to train, or a process ended.
    """
    make_settings = partial(
        hivemind_settings,
        settings,
        publication=publication.folder,
        batch=publication.recipe.inner.batch_slots,
        parameters=published(publication.recipe).parameters,
    )
    folder.mkdir(parents=True)
    peers: list[HivemindPeer] = []
    with (
        BadLinks(lines_of(settings, newcomers=1), seed=_SEED, congestion=congestion) as links,
        killed_after(peers),
    ):

        def start(host: Host, addresses: tuple[str, ...]) -> HivemindPeer:
            number = host.number + 1
            peer = HivemindPeer(
                f"hivemind peer {number}",
                host,
                make_settings(
                    events=folder / f"hivemind-{number}.jsonl",
                    host=host.address,
                    peers=addresses,
                    newcomer=host.number == VETERANS,
                ),
            )
            peers.append(peer)
            return peer

        *hosts, last = links.hosts
        first = start(hosts[0], ())
        _wait(
            lambda: first.first("Connected") is not None, peers, settings, "hivemind's first peer is not up"
        )
        addresses = tuple((first.first("Connected") or {})["addresses"])
        for host in hosts[1:]:
            start(host, addresses)
        veterans = list(peers)
        _wait(lambda: _settled(veterans), peers, settings, "hivemind's peers did not average together")
        tell("  hivemind: the veterans average; the newcomer starts")
        began = time.monotonic()
        newcomer = start(last, addresses)

        def stages(seen: list[Seen]) -> dict[str, Moment]:
            return hivemind_stages(seen, peer=(newcomer.first("Connected") or {"peer": ""})["peer"])

        seen = _watch(newcomer, veterans, links, VETERANS, began, settings, stages)
        course = Course(
            name="hivemind",
            stages=stages(seen),
            period_seconds=period(veterans[0].reported, "EpochBegan"),
            loads=sum(event["event"] == "Loaded" for _, event in seen),
            limit_seconds=settings.limit_seconds,
        )
        _tell_course(course, tell)
        return course


@contextmanager
def killed_after(peers: list[Any]) -> Iterator[None]:
    """End all peers' processes after the block, also those that were started in it."""
    try:
        yield
    finally:
        for peer in peers:
            peer.kill()


def _settle_ours(
    veterans: list[DemoPeer], publication: Publication, settings: JoinSettings, tell: Tell
) -> None:
    """Start the veterans, and wait until all are counted and blocks came after a snapshot."""
    first, *rest = veterans
    first.start(validate=False)
    _wait(lambda: first.tally.state == "training", veterans[:1], settings, "the publisher does not train")
    for peer in rest:
        peer.start(validate=False)
    after = publication.recipe.round.snapshot_interval + 1

    def settled() -> bool:
        everyone = set.intersection(*(peer.tally.counted_rounds for peer in veterans))
        return bool(everyone) and min(peer.tally.round for peer in veterans) >= after

    _wait(settled, veterans, settings, "no round counted all veterans")
    tell(f"  ours: the veterans stand at round {first.tally.round}; the newcomer starts")


def _settled(veterans: list[HivemindPeer]) -> bool:
    """Say whether each veteran has averaged with others often enough."""
    return all(
        sum(event["event"] == "Averaged" and len(event["members"]) > 1 for event in peer.reported)
        >= _HIVEMIND_EPOCHS
        for peer in veterans
    )


def _supply(newcomer: DemoPeer, publication: Publication) -> None:
    """Give a peer recipe, tokenizer, manifest and data, but no weights."""
    shutil.copytree(
        publication.folder,
        run_folder(newcomer.home, publication.run_id),
        ignore=shutil.ignore_patterns("snapshots"),
        dirs_exist_ok=True,
    )


def _watch(
    newcomer: Told,
    veterans: list[Any],
    links: BadLinks,
    number: int,
    began: float,
    settings: JoinSettings,
    stages_of: Callable[[list[Seen]], dict[str, Moment]],
) -> list[Seen]:
    """Return all that is seen of a newcomer until it is counted, or the limit is over."""
    seen: list[Seen] = []
    while time.monotonic() < began + settings.limit_seconds:
        time.sleep(_LOOK_SECONDS)
        _look([newcomer, *veterans])
        router = links.statistics()
        moment = Moment(
            seconds=time.monotonic() - began,
            up_bytes=router.up[number].bytes,
            down_bytes=router.down[number].bytes,
        )
        if moment.up_bytes and not seen:
            seen.append((moment, FIRST_PACKET))
        fresh: list[Event] = list(newcomer.reported[_told(seen) :])
        seen += [(moment, event) for event in fresh]
        if fresh and COUNTED in stages_of(seen):
            break
    return seen


def _told(seen: list[Seen]) -> int:
    return sum(event is not FIRST_PACKET for _, event in seen)


def _wait(reached: Callable[[], bool], peers: list[Any], settings: JoinSettings, otherwise: str) -> None:
    deadline = time.monotonic() + _SETTLE_WINDOWS * settings.window_seconds + _SETTLE_SECONDS
    while not reached():
        time.sleep(_LOOK_SECONDS)
        _look(peers)
        if time.monotonic() > deadline:
            words = "\n".join(_last_words(peer) for peer in peers)
            raise NetworkError(f"In {_SETTLE_WINDOWS} windows, {otherwise}. The last words:\n{words}")


def _look(peers: list[Any]) -> None:
    for peer in peers:
        peer.look()
        if not peer.running:
            raise NetworkError(f"{peer.name} ended by itself. {_last_words(peer)}")


def _last_words(peer: Told) -> str:
    return f"{peer.name} ({peer.log}): {peer.log.read_text(errors='replace')[-_WORDS:]}"


def _tell_course(course: Course, tell: Tell) -> None:
    reached = ", ".join(f"{stage} {moment.seconds:.1f} s" for stage, moment in course.stages.items())
    tell(f"  {course.name}: {reached}")
