"""A swarm of real processes for tests: a bootstrap peer, a publisher and volunteers, on loopback."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from fault_points import Faults, Orders, happened
from places import ROOT, SUPPORT
from small_disk import SmallDisk, may_mount
from tiny_run import RECIPE, publish_tiny

from recipes.keys.keys import PeerId
from recipes.publication import Publication
from trainer.demo.peer import DemoPeer, Launch, free_port, launch

ORDERS = "faults.json"
PATIENCE_SECONDS = 180.0  # for anything awaited: this bounds a failing test, nothing is decided by it
ROUNDS_RECIPE = RECIPE.replace(
    "window_seconds = 1\nsegments = 2",
    "window_seconds = 2\ngrace_seconds = [0.5, 3]\ntransfer_seconds = [2, 8]\n"
    "leader_seconds = [1.5, 4]\nsegments = 4\n"
    "newcomer_slots = 64\nnewcomer_lanes = 16\nsnapshot_interval = 4",
)


class Swarm:
    """A bootstrap peer, a publisher and volunteers."""

    def __init__(
        self,
        folder: Path,
        *,
        volunteers: int,
        armed: bool = False,
        recipe: str = ROUNDS_RECIPE,
        liar: bool = False,
        launched_by: Launch = launch,
    ) -> None:
        """Publish, and start the bootstrap peer; the others are started by the test.

        Args:
            folder: for everything.
            volunteers: how many.
            armed: whether faults can be ordered for the peers with `arm`.
            recipe: what is published.
            launched_by: how the processes are started that nothing else is said of.
            liar: whether the last volunteer trains on other data than it claims (lying_join.py).
        """
        self._folder = folder
        self.disk: SmallDisk | None = None  # of the last volunteer
        self.exit_codes: set[int | None] = set()  # of processes that were run again
        self._ordered = 0
        self._again = 0  # how often a process was run again
        self._faults_in: dict[Path, int] = {}
        self.seen_at: dict[int, float] = {}  # round -> when its block was first seen adopted
        self.publication: Publication = publish_tiny(folder, recipe=recipe, home=folder / "publisher")
        port = free_port()
        command = [sys.executable, "-m", "peers.bootstrap", "--host", "127.0.0.1", "--port", str(port)]
        self.bootstrap = subprocess.Popen(
            [*command, "--home", str(folder / "bootstrap")], stdout=subprocess.PIPE, text=True
        )
        address = self._address_printed()
        runs = [str(self.publication.folder)] + [self.publication.run_id] * volunteers

        def launched(name: str) -> Launch:
            if liar and name == names[-1]:
                return partial(launch, program=("-m", "lying_join"))
            faulty = ("-m", "fault_join", str(folder / name / ORDERS))
            return partial(launch, program=faulty) if armed else launched_by

        names = ["publisher"] + [f"volunteer-{number}" for number in range(1, volunteers + 1)]
        self.peers = [
            DemoPeer(
                name,
                folder,
                run=run,
                port=free_port(),
                address=address,
                launched_by=launched(name),
            )
            for name, run in zip(names, runs, strict=True)
        ]

    def _address_printed(self) -> str:
        for line in self.bootstrap.stdout or ():
            if line.strip().startswith("/ip4/"):
                return line.strip()
        raise AssertionError("the bootstrap peer printed no address")

    def until(self, reached: Callable[[], bool]) -> None:
        """Watch the peers until `reached`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            self.look()
            if time.monotonic() > deadline:
                logs = "\n".join(f"{peer.name}:\n{peer.log.read_text()[-1500:]}" for peer in self.peers)
                raise AssertionError(f"waited in vain; the logs end so:\n{logs}")
            signal.sigtimedwait([], 0.1)

    def look(self) -> None:
        """Read what the peers reported, and note when a round was first seen to end."""
        for peer in self.peers:
            peer.look()
        self.seen_at.setdefault(max(peer.tally.round for peer in self.peers), time.monotonic())

    def longest_round(self) -> float:
        """Return the longest time from one adopted block to the next, seconds, whoever adopted them first."""
        times = [at for number, at in sorted(self.seen_at.items()) if number > 0]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def arm(self, peers: Sequence[DemoPeer], faults: Faults) -> Path:
        """Order faults, each of which happens to the first of these peers that gets there.

        Returns:
            Where to see which of them happened: see `until_happened`.
        """
        self._ordered += 1
        markers = self._folder / "happened" / str(self._ordered)
        self._faults_in[markers] = len(faults.all)
        for peer in peers:
            Orders(peer.home / ORDERS).arm(faults, markers=markers)
        return markers

    def until_happened(self, markers: Path, fault: int = 0) -> DemoPeer:
        """Wait until the ordered fault happened; return the peer that it hit."""
        self.until(lambda: fault in happened(markers))
        home = happened(markers)[fault]
        return next(peer for peer in self.peers if peer.home == home)

    def until_all_killed(self, markers: Path) -> list[DemoPeer]:
        """Wait until every ordered fault has ended a process, and run the same command again each time.

        Returns:
            Whom they hit.
        """
        wanted = self._again + self._faults_in[markers]

        def all_ended() -> bool:
            self.run_again()
            return len(happened(markers)) == self._faults_in[markers] and self._again >= wanted

        self.until(all_ended)
        homes = set(happened(markers).values())
        return [peer for peer in self.peers if peer.home in homes]

    def run_again(self) -> None:
        """Run the same command again where a process has ended; note its exit code."""
        for peer in self.peers:
            if peer.lives and not peer.running:
                peer.look()
                self._again += 1
                self.exit_codes.add(peer.returncode)
                peer.start(validate=False, address=self.somebody_else(peer).address)

    def somebody_else(self, peer: DemoPeer) -> DemoPeer:
        """Return a peer that runs, the publisher last."""
        return next(other for other in reversed(self.peers) if other is not peer and other.running)

    def until_ended(self, peer: DemoPeer) -> None:
        """Wait until the peer's process has ended."""
        self.until(lambda: not peer.running)
        peer.look()

    def until_counted(self, peers: Sequence[DemoPeer], *, rounds: int = 1, run_again: bool = False) -> None:
        """Wait until each of `peers` was counted in `rounds` rounds that no one has seen yet.

        With `run_again`, the same command is run again wherever a process ends.
        """
        self.look()
        newest = max(peer.tally.round for peer in self.peers)

        def counted() -> bool:
            if run_again:
                self.run_again()
            return all(sum(n > newest for n in peer.tally.counted_rounds) >= rounds for peer in peers)

        self.until(counted)

    def end(self) -> None:
        for peer in self.peers:
            peer.kill()
        self.bootstrap.kill()
        self.bootstrap.wait()
        if self.bootstrap.stdout is not None:
            self.bootstrap.stdout.close()

    def peer(self, peer_id: PeerId) -> DemoPeer:
        return next(peer for peer in self.peers if peer.peer_id == peer_id)

    def last_leader(self) -> DemoPeer:
        """Return the peer that led the newest round."""
        blocks = [event for event in self.peers[1].reported if event["event"] == "BlockAdopted"]
        return self.peer(blocks[-1]["leader"])

    def until_agreed(self) -> None:
        """Wait until all that run stand on the same block, with the same state."""

        def agreed() -> bool:
            running = [peer for peer in self.peers if peer.running]
            return len({peer.tally.digests.get(peer.tally.round) for peer in running}) == 1

        self.until(agreed)

    def contradictions(self) -> list[str]:
        """Say after which block states differed, and in which round two blocks were taken for final.

        Two branches may have existed for a while: that is none. Nor is a state that its peer itself found to
        differ, and fetched again.
        """
        told: dict[str, set[str]] = {}
        for peer in self.peers:
            healed = {event["round"] for event in peer.reported if event["event"] == "Diverged"}
            for event in peer.reported:
                if event["event"] == "BlockAdopted" and event["round"] not in healed:
                    told.setdefault(f"state after block {event['block']}", set()).add(event["digest"])
                elif event["event"] == "BlockFinal":
                    told.setdefault(f"final block of round {event['round']}", set()).add(event["block"])
        return [f"{what}: {sorted(values)}" for what, values in told.items() if len(values) > 1]

    def digests(self) -> dict[int, set[str]]:
        """Return the state digests that the peers reported, by round."""
        found: dict[int, set[str]] = {}
        for peer in self.peers:
            for number, digest in peer.tally.digests.items():
                found.setdefault(number, set()).add(digest)
        return found


@contextmanager
def armed_swarm(folder: Path, *, volunteers: int) -> Iterator[Swarm]:
    """Run a swarm whose peers heed faults: all are started, and counted once; in the end, all are killed.

    The runs of the last volunteer lie on a disk of their own where this process may mount one: `swarm.disk`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{SUPPORT}")
        swarm = Swarm(folder, volunteers=volunteers, armed=True)
        try:
            if may_mount(folder):
                swarm.disk = SmallDisk(swarm.peers[-1].home / "runs", mebibytes=32)
            for peer in swarm.peers:
                peer.start(validate=False)
            swarm.until_counted(swarm.peers)
            yield swarm
        finally:
            swarm.end()
            if swarm.disk is not None:
                swarm.disk.unmount()
