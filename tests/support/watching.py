"""A run that is watched, for tests: a chain of the builders of rounds, and the page over a real socket."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from credit_rounds import verdict
from ledgers import ground
from rounds import Swarm

from monitoring.http.hosts import Hosts
from monitoring.http.server import Server
from monitoring.metrics.swarm_metrics import swarm_registry
from monitoring.swarm.archive import Archive
from monitoring.swarm.block_times import Seen
from monitoring.swarm.loss_store import Measured
from monitoring.swarm.view import Picture, RunPicture
from monitoring.swarm.watch import SwarmWatch
from monitoring.web.app import Site
from monitoring.web.live import Live
from peers.chain.link import Link
from peers.credit.rules import MILLION
from peers.protocol.messages import Block, Pace, Signed, sign
from recipes.keys.keys import SigningKey

START = 1_800_000_000.0
ROUND_SECONDS = 20.0
WINDOW_SECONDS = 15.0
PARAMETERS = 100_000


def run_picture(swarm: Swarm, **other: Any) -> RunPicture:
    """What a recipe might say of the run of the builders."""
    fields: dict[str, Any] = {
        "run": swarm.rules.run,
        "name": "count",
        "description": "Learns to count.",
        "parameters": PARAMETERS,
        "goal_tokens": 1_000_000,
        "window_seconds": WINDOW_SECONDS,
        "overlaps": False,
        "flops_per_token": 10**15,
        "facts": (("model", "a small one"), ("data", "numbers in words")),
        "join": f"python -m trainer.join {swarm.rules.run} --peer /ip4/192.0.2.1/tcp/31330/p2p/Q",
    }
    return RunPicture(**{**fields, **other})


@dataclass
class Watched:
    """A swarm, and somebody who watches it: blocks come one every `ROUND_SECONDS`."""

    swarm: Swarm
    watch: SwarmWatch
    now: float = START
    links: list[Link] = field(default_factory=list)

    @property
    def head(self) -> Link:
        return self.links[-1] if self.links else self.swarm.genesis

    def see(self, link: Link) -> None:
        """Let a block that the swarm has made be seen."""
        assert link.block is not None
        self.now += ROUND_SECONDS
        self.watch.take([link.block], seen_at=self.now)
        self.links.append(link)

    def grow(self, members: Sequence[SigningKey], rounds: int = 1, **other: Any) -> Link:
        """Write rounds of `members` and see each."""
        for _ in range(rounds):
            self.see(self.swarm.grow(self.head, members, **other))
        return self.head

    def expel(self, number: int) -> Link:
        """See rounds of everybody until auditors have failed a claim of that peer (`audited`)."""
        swarm, peer = self.swarm, self.swarm.keys[number].peer_id
        while not self.head.accounts.expelled_until(peer):
            words = [
                sign(swarm.by_id[one.auditor], verdict(audit, one.auditor, "fail"))
                for audit in self.head.accounts.audits
                for one in audit.hearing
                if audit.work.peer == peer and audit.open and one.word is None
            ]
            self.grow(swarm.keys, verdicts=tuple(words))
        return self.head

    def picture(self, **other: Any) -> Picture:
        """What is known a second after the newest block."""
        fields: dict[str, Any] = {"now": self.now + 1, "heard_at": self.now}
        return self.watch.picture(**{**fields, **other})


def watched(peers: int = 4, *, path: Path | None = None, audited: bool = False, **other: Any) -> Watched:
    """A swarm without a block, and somebody who watches it.

    If `audited`, each claim is audited, and its credit is in escrow for longer than that takes.
    """
    swarm = Swarm(peers)
    rules = replace(swarm.credit, protocol=replace(swarm.rules, window_seconds=WINDOW_SECONDS))
    swarm.play_by(replace(rules, newcomer_rate=MILLION, escrow_rounds=8) if audited else rules)
    swarm.pace = Pace(compute_ms=round(1000 * WINDOW_SECONDS))
    watch = SwarmWatch(
        run_picture(swarm, **other),
        ground(swarm),
        swarm.fresh_chain(),
        archive=Archive(path),
        measured=Measured(None),
        seen=Seen(None),
    )
    return Watched(swarm, watch)


def blocks(links: Sequence[Link]) -> list[Signed[Block]]:
    """The blocks of some links."""
    return [link.block for link in links if link.block is not None]


class OpenPage:
    """The page of a run as it is served."""

    def __init__(self, live: Live, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.live = live
        self.port = port
        self._loop = loop

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, picture: Picture) -> None:
        """Hand a new picture on."""
        self._loop.call_soon_threadsafe(self.live.publish, picture)

    def get(self, path: str, *, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Return status, headers in lower case, and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def send(self, content: bytes) -> bytes:
        """Return all that is answered to some bytes, up to the end of the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer


@contextmanager
def open_page(
    run: Watched, *, most_followers: int = 8, hosts: Hosts | None = None, **other: Any
) -> Iterator[OpenPage]:
    """Serve the page of a run on a port of its own, in a thread, until the block ends."""
    live = Live(run.picture(), most_followers=most_followers)
    registry = swarm_registry(lambda: live.picture, version="1.2.3")
    site = Site(live, run.watch.archive, registry, timed=run.watch.timed, **other)
    door = socket.create_server(("127.0.0.1", 0))
    server = Server(site.app(), hosts)
    started = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        started.set()
        await server.serve(sockets=[door])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait()
    try:
        yield OpenPage(live, door.getsockname()[1], loops[0])
    finally:
        loops[0].call_soon_threadsafe(live.close)
        server.should_exit = True
        thread.join()
        door.close()
