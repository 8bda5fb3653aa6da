"""Real peers over any links: a swarm of `trainer.join` processes, watched until enough rounds are done.

    with Swarm(places, publication, folder, window=20, fetch=True, tell=print) as swarm:
        first = swarm.gather()
        swarm.follow(first, rounds)
        figures = ... swarm.logs, first, rounds ...

A place says where a peer's process runs: in a network namespace (bad_links.py), or on loopback.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.harness.bad_links import PORT, Host
from benchmarks.harness.router import DEVICE
from recipes.errors import NetworkError, UnreachableError
from recipes.locate import locate_recipe
from recipes.publication import Publication
from recipes.publish import publish
from trainer.demo.peer import DemoPeer, free_port, launch

_LOOK_SECONDS = 0.2
_WORDS = 1000  # characters of a peer's log that an error shows
_TEXT_BYTES = 1_000_000
_FETCH_SECONDS = 180.0  # in which a newcomer must have made some progress
_STALL_SECONDS = 90.0  # beyond two windows, in which every peer must have adopted another block
_JOIN_ATTEMPTS = 5  # of a peer that ends because nobody answers it
_JOIN_SECONDS = 600.0  # within which all must train; the least for 4 peers at 1 Mbit/s is about 200
_JOIN_WINDOWS = 12  # in which some round must count everybody, once all train


@dataclass(frozen=True)
class Place:
    """Where a peer's process runs and listens; `prefix` stands before the words that start it."""

    address: str
    port: int
    interface: str
    prefix: tuple[str, ...] = ()


def places_on(hosts: Sequence[Host]) -> list[Place]:
    """Return a place in each host's namespace."""
    return [Place(host.address, PORT, DEVICE, host.prefix) for host in hosts]


def places_on_loopback(count: int) -> list[Place]:
    """Return so many places on this machine's loopback, each with a port of its own."""
    return [Place("127.0.0.1", free_port(), "lo") for _ in range(count)]


def peers_at(
    places: Sequence[Place], publication: Publication, folder: Path, *, supplied: int
) -> list[DemoPeer]:
    """Return a peer for each place, none started yet; the first one is the publisher's, and all meet there.

    Args:
        places: where they run.
        publication: the run.
        folder: for the peers' home folders.
        supplied: how many of the first ones have the publication's folder; the others get it from the swarm.
    """
    peers: list[DemoPeer] = []
    for number, place in enumerate(places, 1):
        peers.append(
            DemoPeer(
                f"peer-{number}",
                folder,
                run=str(publication.folder) if number <= supplied else publication.run_id,
                port=place.port,
                address=peers[0].address if peers else None,
                host=place.address,
                launched_by=partial(launch, prefix=place.prefix),
            )
        )
    return peers


class Swarm:
    """Peers on links, from their start until enough rounds are done."""

    def __init__(
        self,
        places: Sequence[Place],
        publication: Publication,
        folder: Path,
        *,
        window: float,
        fetch: bool,
        tell: Callable[[str], None],
    ) -> None:
        """Prepare a peer for each place, the first one the publisher's.

        Args:
            places: where they run.
            publication: the run.
            folder: for the peers' home folders.
            window: the recipe's, in seconds.
            fetch: whether newcomers get the data and first weights over their lines, or have the folder.
            tell: is told of progress.
        """
        self.peers = peers_at(places, publication, folder, supplied=1 if fetch else len(places))
        self._training: list[DemoPeer] = []
        self._window, self.tell = window, tell

    @property
    def logs(self) -> list[list[dict[str, Any]]]:
        """Each peer's events so far."""
        return [peer.reported for peer in self.peers]

    @property
    def attempts(self) -> int:
        """Starts of a peer so far."""
        return sum(peer.lives for peer in self.peers)

    def __enter__(self) -> Swarm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self.peers:
            peer.kill()

    def gather(self) -> int:
        """Start the peers, and return the first round that counts all of them, once all have adopted it.

        Raises:
            NetworkError: that does not come about, or a peer ended.
        """
        began = time.monotonic()
        publisher, *rest = self.peers
        publisher.start(validate=False)
        while publisher.tally.state != "training":
            self._look()
            _check(began + _FETCH_SECONDS, "The publisher's peer did not begin to train.")
        self._training.append(publisher)
        for peer in rest:
            peer.start(validate=False)
        heard, since = 0, time.monotonic()
        while waiting := [peer for peer in rest if peer not in self._training]:
            self._look()
            for peer in waiting:
                if any(event["event"] == "WindowStarted" for event in peer.reported):
                    self._training.append(peer)
                    self.tell(f"  {peer.name} trains, {time.monotonic() - began:.0f} s after the start")
            if (reports := sum(len(peer.reported) for peer in rest)) != heard:
                heard, since = reports, time.monotonic()
            names = ", ".join(peer.name for peer in waiting)
            _check(
                since + _FETCH_SECONDS,
                f"For {_FETCH_SECONDS:g} s, nothing was heard from {names}, which cannot train yet.",
            )
            _check(
                began + _JOIN_SECONDS,
                f"After {_JOIN_SECONDS:g} s, {names} cannot train yet. The last words of {waiting[0].name}:\n"
                f"{waiting[0].log.read_text(errors='replace')[-_WORDS:]}",
            )
        since = time.monotonic()
        while not (everyone := set.intersection(*(peer.tally.counted_rounds for peer in self.peers))):
            self._look()
            within = _JOIN_WINDOWS * self._window
            counted = sum(len(peer.tally.counted_rounds) > 0 for peer in self.peers)
            _check(
                since + within,
                f"No round counted everybody within {within:g} s; {counted} of {len(self.peers)} peers were "
                f"counted in any, and the newest is round {max(peer.tally.round for peer in self.peers)}.",
            )
        return min(everyone)

    def follow(self, first: int, rounds: int) -> None:
        """Wait until all have adopted `rounds` blocks after `first`, telling of each.

        Raises:
            NetworkError: that does not come about, or a peer ended.
        """
        within = 2 * self._window + _STALL_SECONDS
        done, since = first, time.monotonic()
        while done < first + rounds:
            self._look()
            if all(peer.tally.round > done for peer in self.peers):
                done += 1
                counted = sum(done in peer.tally.counted_rounds for peer in self.peers)
                self.tell(f"  round {done}: {counted} counted, {time.monotonic() - since:.1f} s")
                since = time.monotonic()
            behind = ", ".join(peer.name for peer in self.peers if peer.tally.round <= done)
            _check(
                since + within, f"Within {within:g} s, the block of round {done + 1} did not reach {behind}."
            )

    def _look(self) -> None:
        """Read what the peers report; one that gave up before it trained is started again, as it asks for."""
        time.sleep(_LOOK_SECONDS)
        for peer in self.peers:
            peer.look()
            if not peer.lives or peer.running:
                continue
            words = peer.log.read_text(errors="replace")[-_WORDS:]
            if peer.returncode != UnreachableError.exit_code or peer in self._training:
                raise NetworkError(f"{peer.name} ended by itself. Its last words:\n{words}")
            if peer.lives > _JOIN_ATTEMPTS:
                raise NetworkError(f"{peer.name} could not join in {peer.lives} attempts. It said:\n{words}")
            self.tell(f"  {peer.name} gave up joining, and is started again")
            peer.start(validate=False, address=self.peers[0].address)


def _check(deadline: float, sentence: str) -> None:
    if time.monotonic() > deadline:
        raise NetworkError(sentence)


def publish_changed(home: Path, changes: Mapping[str, str]) -> Publication:
    """Publish `stdlib-tiny` on a part of the standard library, with other values of some of its keys.

    Args:
        home: of all peers; it is made.
        changes: what stands for each key's value, as TOML. A key must be in the recipe, whatever its section.
    """
    home.mkdir(parents=True)
    text = home / "text.py"
    files = sorted(Path(json.__file__).parents[1].glob("*.py"))
    text.write_bytes(b"\n".join(file.read_bytes() for file in files)[:_TEXT_BYTES])
    template = home / "recipe.toml"
    content = locate_recipe("stdlib-tiny").read_text()
    for key, value in changes.items():
        content = re.sub(rf"(?m)^{key} = .*", f"{key} = {value}", content)
    template.write_text(content)
    return publish(template, [str(text)], home / "run", home=home / "peer-1", tell=lambda _: None)
