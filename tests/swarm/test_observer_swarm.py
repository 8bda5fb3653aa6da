"""An observer in a real swarm: it knows what the peers know, measures the model, and no peer counts it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_swarm import Swarm

from recipes.home import IDENTITY_KEY, run_folder
from recipes.keys.keys import load_or_create_key
from trainer.demo.peer import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path, volunteers=2)
    try:
        swarm.peers[0].start(validate=True)
        for peer in swarm.peers[1:]:
            peer.start(validate=False)
        yield swarm
    finally:
        swarm.end()


class Observed:
    """A `monitoring.serve` process."""

    def __init__(self, folder: Path, run: str, *options: str) -> None:
        self.home = folder / "watcher"
        self.port = free_port()
        self._log = folder / "observer.txt"
        arguments = [run, "--home", str(self.home), "--observer-home", str(self.home)]
        arguments += ["--port", str(self.port), *options]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "monitoring.serve", *arguments], stdout=log, stderr=log
            )

    def api(self, path: str) -> Any:
        """What the API answers, or None while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                content = answer.read()
        except OSError:
            return None
        return json.loads(content) if path.startswith("/api/") else content

    def said(self) -> str:
        return self._log.read_text()

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


def test_an_observer_sees_what_peers_do_and_is_counted_by_none(tmp_path: Path, swarm: Swarm) -> None:
    swarm.until_counted(swarm.peers)
    observer = Observed(
        tmp_path, swarm.publication.run_id, "--peer", swarm.peers[0].address, "--validate-every", "2"
    )
    try:

        def watching() -> bool:
            assert observer.process.poll() is None, observer.said()
            found = observer.api("/api/v1/swarm")
            return bool(found) and found["loss"] is not None and found["compute_ratio"] is not None

        swarm.until(watching)
        swarm.until_counted(swarm.peers, rounds=3)
        swarm.until(lambda: observer.api("/api/v1/swarm")["round"] >= swarm.peers[0].tally.round)
        blocks = {
            event["round"]: (event["block"], event["leader"])
            for event in swarm.peers[0].reported
            if event["event"] == "BlockAdopted"
        }
        rounds = observer.api("/api/v1/rounds")["rounds"]
        seen = [one for one in rounds if one["round"] in blocks]
        assert len(seen) >= 4
        assert all((one["block"], one["leader"]) == blocks[one["round"]] for one in seen)
        names = {peer.peer_id for peer in swarm.peers}
        assert {name for one in rounds for name in one["roster"]} == names
        own = load_or_create_key(observer.home / IDENTITY_KEY).peer_id
        assert own not in {one["peer"] for one in observer.api("/api/v1/peers")["peers"]}

        curve = observer.api("/api/v1/curve")
        own_losses = dict(zip(curve["loss_rounds"], curve["losses"], strict=True))
        both = own_losses.keys() & swarm.peers[0].tally.validation.keys() - {0}
        assert both
        for number in both:  # of the same weights on the same text, by another process
            assert own_losses[number] == pytest.approx(swarm.peers[0].tally.validation[number], rel=1e-4)

        assert observer.api("/model.safetensors")
        assert b'"kind":"header"' in observer.api("/ledger.jsonl")[:200]
        assert b'manyhands_swarm_peers{state="training"} 3.0' in observer.api("/metrics")
        data = run_folder(observer.home, swarm.publication.run_id) / "data"
        validation = {piece.hash for piece in swarm.publication.manifest.validation.pieces}
        assert {piece.name for piece in data.glob("*")} == validation  # no text to train on
    finally:
        code = observer.end()
    assert code == 0
    assert "neither trains nor claims" in observer.said()
    swarm.until_counted(swarm.peers)  # and nobody misses it


def test_from_beside_a_peer_a_page_shows_the_same_and_writes_nothing_there(
    tmp_path: Path, swarm: Swarm
) -> None:
    swarm.until_counted(swarm.peers)
    folder = run_folder(swarm.peers[1].home, swarm.publication.run_id)
    observer = Observed(tmp_path, str(folder))
    try:
        swarm.until(lambda: bool(observer.api("/api/v1/swarm")))
        swarm.until_counted(swarm.peers, rounds=2)
        swarm.until(lambda: observer.api("/api/v1/swarm")["round"] >= swarm.peers[1].tally.round - 1)
        assert observer.api("/api/v1/swarm")["peers"]["training"] == 3
        assert observer.api("/api/v1/swarm")["peers"]["observing"] is None
        assert not (folder / "watched").exists()
        assert (observer.home / "watched" / swarm.publication.run_id / "seen.jsonl").exists()
    finally:
        observer.end()
