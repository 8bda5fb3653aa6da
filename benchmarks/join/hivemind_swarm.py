"""hivemind's swarm in benchmarks.join: three peers that train, and a newcomer that loads their state."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.harness.bad_links import BadLinks, Host
from benchmarks.join.figures import RIVAL, Course, Moment, Seen, hivemind_stages, period
from benchmarks.join.settings import VETERANS, HivemindSettings, JoinSettings, hivemind_settings
from benchmarks.join.watch import SEED, Tell, killed_after, lines_of, tell_course, wait, watch
from recipes.publication import Publication
from recipes.schema.recipe import published
from trainer.demo.peer import events_since

_EPOCHS = 3  # that each veteran must have averaged with others before the newcomer comes


class HivemindPeer:
    """A process of benchmarks.harness.hivemind_peer in a host's namespace."""

    def __init__(self, name: str, host: Host, settings: HivemindSettings) -> None:
        self.name = name
        self.reported: list[dict[str, Any]] = []
        self.log = settings.events.with_suffix(".log")
        self._events = settings.events
        self._read = 0
        content = TypeAdapter(HivemindSettings).dump_json(settings).decode()
        program = "from benchmarks.harness.hivemind_peer import live; live()"
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
        events, self._read = events_since(self._events, self._read)
        self.reported += events

    def kill(self) -> None:
        """End its process; those that it forked end with the namespace."""
        self._process.kill()
        self._process.wait()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it can be reached; none before it is up."""
        return tuple(self._connected.get("addresses", ()))

    @property
    def peer_id(self) -> str:
        """Its peer id, once it is up."""
        return str(self._connected.get("peer", ""))

    @property
    def _connected(self) -> dict[str, Any]:
        return next((event for event in self.reported if event["event"] == "Connected"), {})


@dataclass
class _Swarm:
    """hivemind's peers in the hosts of one network, in the order in which they were started."""

    publication: Publication
    folder: Path
    settings: JoinSettings
    peers: list[HivemindPeer] = field(default_factory=list)

    def start(self, host: Host, *addresses: str) -> HivemindPeer:
        """Start a peer that joins whoever is at these addresses. The last host's is the newcomer."""
        events = self.folder / f"peer-{host.number + 1}.jsonl"
        settings = hivemind_settings(
            self.settings,
            publication=self.publication.folder,
            batch=self.publication.recipe.inner.batch_slots,
            parameters=published(self.publication.recipe).parameters,
            events=events,
            host=host.address,
            peers=addresses,
            newcomer=host.number == VETERANS,
        )
        self.peers.append(HivemindPeer(events.stem, host, settings))
        return self.peers[-1]

    def start_veterans(self, hosts: Sequence[Host]) -> list[HivemindPeer]:
        """Start a peer in each host, and return them once all have averaged with others."""
        first = self.start(hosts[0])
        wait(lambda: bool(first.addresses), self.peers, self.settings, "hivemind's first peer is not up")
        veterans = [first, *(self.start(host, *first.addresses) for host in hosts[1:])]
        reason = "hivemind's peers did not average together"
        wait(lambda: _settled(veterans), self.peers, self.settings, reason)
        return veterans


def measure_hivemind(
    publication: Publication, folder: Path, settings: JoinSettings, *, congestion: str, tell: Tell
) -> Course:
    """Return the course of a newcomer that loads hivemind's state.

    Raises:
        NetworkError: the veterans do not get to train, or a process ended.
    """
    folder.mkdir(parents=True)
    swarm = _Swarm(publication, folder, settings)
    lines = lines_of(settings, newcomers=1)
    with BadLinks(lines, seed=SEED, congestion=congestion) as links, killed_after(swarm.peers):
        *hosts, last = links.hosts
        veterans = swarm.start_veterans(hosts)
        tell("  hivemind: the veterans average; the newcomer starts")
        began = time.monotonic()
        newcomer = swarm.start(last, *veterans[0].addresses)

        def stages(seen: Sequence[Seen]) -> dict[str, Moment]:
            return hivemind_stages(seen, peer=newcomer.peer_id)

        seen = watch(
            newcomer,
            others=veterans,
            links=links,
            host=last.number,
            began=began,
            limit_seconds=settings.limit_seconds,
            stages_of=stages,
        )
    course = Course(
        name=RIVAL,
        stages=stages(seen),
        period_seconds=period(veterans[0].reported, "EpochBegan"),
        loads=sum(event["event"] == "Loaded" for _, event in seen),
        limit_seconds=settings.limit_seconds,
    )
    tell_course(course, tell)
    return course


def _settled(veterans: list[HivemindPeer]) -> bool:
    """Whether each veteran has averaged with others often enough."""
    return all(
        sum(event["event"] == "Averaged" and len(event["members"]) > 1 for event in peer.reported) >= _EPOCHS
        for peer in veterans
    )
