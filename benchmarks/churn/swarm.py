"""One run of the churn benchmark: a swarm of real processes, some of them killed in every round."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.churn.figures import DYING_SECONDS, Death, Round, Victim, bound_seconds, draw_victims
from peers.protocol.counters import counted_segments
from peers.state.block_store import CHAIN_FILE, ChainStore
from recipes.errors import NetworkError
from recipes.home import run_folder
from recipes.publication import Publication
from recipes.publish import publish
from trainer.demo.peer import DemoPeer, Launch, free_port

RECIPE = """
version = 1

[run]
name = "churn"
license = "Apache-2.0"
description = "A Llama of 67,000 parameters, small enough for eight processes on two cores."

[model]
architecture = "LlamaForCausalLM"
seed = {seed}

[model.config]
hidden_size = 48
num_hidden_layers = 2
num_attention_heads = 4
intermediate_size = 128
max_position_embeddings = 64
tie_word_embeddings = true

[tokenizer]
vocab_size = 257

[data]
sequence_length = 64
validation_fraction = 0.05

[inner]
optimizer = "adamw"
learning_rate = 3e-3
batch_slots = 4
ramp_steps = 5

[schedule]
kind = "cosine"
warmup_tokens = 50_000
total_tokens = 5_000_000

[round]
window_seconds = 6
grace_seconds = [1, 4]
transfer_seconds = [2, 6]
leader_seconds = [1.5, 4]
segments = 4
newcomer_slots = 4096
newcomer_lanes = 256
snapshot_interval = 8

[exchange]
keep = 256
level_bits = 2
reduced_keep = 1024
reduced_level_bits = 3
"""
TEXT_BYTES = 4_000_000
STARTING = ("starting", "restarting", "fetching")  # has said nothing of a round yet in this life
LOOK_SECONDS = 0.05
START_SECONDS = 180.0  # for all processes to come up and be counted once
STALLS = 3  # bounds without a new round after which a run is given up


@dataclass(frozen=True)
class RunRecord:
    """What one run came to; `start` is (tokens, loss) after each round before the measured ones."""

    seed: int
    disturbed: bool
    peers: int
    bound_seconds: float
    start: tuple[tuple[int, float], ...]
    rounds: tuple[Round, ...]
    claimed: int
    deaths: tuple[Death, ...]
    rewinds: int
    identical: bool
    seconds: float

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(counted tokens, validation loss) after each round since the first weights."""
        return [*self.start, *((one.tokens, one.loss) for one in self.rounds)]

    @property
    def counted(self) -> float:
        """Contributions counted, in parts of one where not all segments were."""
        return sum(one.counted for one in self.rounds)

    @property
    def counted_share(self) -> float:
        """Contributions counted, of one from each peer in each round."""
        return self.counted / (self.peers * len(self.rounds))

    @property
    def past_bound(self) -> list[int]:
        """Rounds that took longer than the bound."""
        return [one.number for one in self.rounds if one.seconds > self.bound_seconds]


class Swarm:
    """A publisher, who observes and is never killed, and volunteers."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        peers: int,
        killed: int,
        rounds: int,
        launched_by: Launch,
        tell: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._seed = seed
        self._killed = killed
        self._rounds = rounds
        self._tell = tell
        self._publication = _publish(folder, seed)
        run, first = str(self._publication.folder), free_port()
        self._observer = DemoPeer(
            "publisher", folder, run=run, port=first, address=None, launched_by=launched_by
        )
        self._volunteers = [
            DemoPeer(
                f"volunteer-{number}",
                folder,
                run=self._publication.run_id,
                port=free_port(),
                address=self._observer.address,
                launched_by=launched_by,
            )
            for number in range(1, peers)
        ]
        self._peers = [self._observer, *self._volunteers]
        rules = self._publication.recipe.round
        self._window = rules.window_seconds
        self._bound = bound_seconds(rules, killed=killed)
        self._deaths: list[Death] = []
        self._waiting: list[Victim] = []  # drawn and still alive
        self._dying: dict[Victim, float] = {}  # when each of them dies
        self._drawn_for = 0

    def run(self) -> RunRecord:
        """Train until the last round, with deaths if any are wanted, and return what came of it.

        Raises:
            NetworkError: a process ended by itself, or no round was completed for too long.
        """
        began = time.monotonic()
        try:
            self._come_up()
            first = self._observer.tally.round
            last = first + self._rounds
            self._until(lambda: self._observer.tally.round >= last, self._bound, kill_until=last)
            self._until(lambda: last in self._observer.tally.validation, self._bound)
            self._until(lambda: self._common_round(last) is not None, self._bound)
        finally:
            for peer in self._peers:
                peer.kill()
        record = self._record(first, last, time.monotonic() - began)
        for peer in self._peers:  # the logs stay
            shutil.rmtree(peer.home / "runs", ignore_errors=True)
        return record

    def _come_up(self) -> None:
        self._observer.start(validate=True)
        self._until(lambda: self._observer.tally.connected, START_SECONDS)
        for peer in self._volunteers:
            peer.start(validate=False)
        self._until(lambda: all(peer.tally.counted_rounds for peer in self._peers), START_SECONDS)

    def _until(self, reached: Callable[[], bool], patience: float, *, kill_until: int = 0) -> None:
        """Watch the peers until `reached`, and kill some in every round up to `kill_until`."""
        newest, since = self._observer.tally.round, time.monotonic()
        while not reached():
            time.sleep(LOOK_SECONDS)
            for peer in self._peers:
                peer.look()
            current = self._observer.tally.round
            if current > newest:
                newest, since = current, time.monotonic()
                self._tell_round()
            if self._killed and current < kill_until:
                self._churn(current + 1)
            if time.monotonic() - since > STALLS * patience:
                self._fail(f"No round was completed for {STALLS * patience:.0f} s after round {newest}.")
            for peer in self._peers:
                if peer.lives and not peer.running:
                    tail = peer.log.read_text(errors="replace")[-2000:]
                    self._fail(
                        f"{peer.name} ended by itself, with exit code {peer.returncode}. Its last words:\n"
                        f"{tail}"
                    )

    def _fail(self, message: str) -> None:
        raise NetworkError(
            f"{self._name}: {message}",
            remedy=f"Each peer's log.txt and events.jsonl are below {self._folder}.",
        )

    @property
    def _name(self) -> str:
        return f"seed {self._seed}, {'disturbed' if self._killed else 'undisturbed'}"

    def _churn(self, number: int) -> None:
        """Kill this round's victims in their time, and start them again at once."""
        now = time.monotonic()
        if number > self._drawn_for:
            for victim in self._waiting:  # the round was over before its moment came
                self._kill(victim, self._drawn_for)
            self._drawn_for, self._dying = number, {}
            self._waiting = list(
                draw_victims(
                    self._seed,
                    number,
                    up=[peer.tally.state not in STARTING for peer in self._volunteers],
                    killed=self._killed,
                    window_seconds=self._window,
                )
            )
        last_chance = _has_reported(self._observer, "RosterAccepted", number)
        for victim in list(self._waiting):
            came = _has_reported(self._volunteers[victim.volunteer], victim.moment, number)
            if came or last_chance:
                delay = victim.delay_seconds if came else min(victim.delay_seconds, DYING_SECONDS)
                self._dying.setdefault(victim, now + delay)
            if self._dying.get(victim, math.inf) <= now:
                self._kill(victim, number)
                self._waiting.remove(victim)

    def _kill(self, victim: Victim, number: int) -> None:
        peer = self._volunteers[victim.volunteer]
        self._deaths.append(Death(number, peer.name, victim.moment, peer.tally.state))
        peer.kill()
        peer.start(validate=False)

    def _tell_round(self) -> None:
        adopted = [event for event in self._observer.reported if event["event"] == "BlockAdopted"]
        newest = adopted[-1]
        took = newest["at_seconds"] - adopted[-2]["at_seconds"] if len(adopted) > 1 else newest["at_seconds"]
        number = newest["round"]
        losses = self._observer.tally.validation
        deaths = [f"{d.peer} ({d.doing})" for d in self._deaths if d.round == number]
        self._tell(
            f"{self._name}: round {number} took {took:.1f} s, {newest['claims']} claims, "
            f"{newest['tokens']:,} tokens, loss {losses[max(losses)]:.3f}"
            + (f"; killed {', '.join(deaths)}" if deaths else "")
        )

    def _common_round(self, last: int) -> int | None:
        """Return the newest round from `last` on that every peer has adopted, or None."""
        rounds = set.intersection(*(set(peer.tally.digests) for peer in self._peers))
        return max((number for number in rounds if number >= last), default=None)

    def _identical(self, last: int) -> bool:
        """Say whether all hold the same state at the end, and no block ever led to two."""
        common = self._common_round(last)
        by_block: dict[str, set[str]] = {}
        for peer in self._peers:
            for event in _all(peer, "BlockAdopted"):
                by_block.setdefault(event["block"], set()).add(event["digest"])
        ends = {peer.tally.digests.get(common or 0) for peer in self._peers}
        return len(ends) == 1 and all(len(digests) == 1 for digests in by_block.values())

    def _record(self, first: int, last: int, seconds: float) -> RunRecord:
        counted = self._counted()
        adopted = {event["round"]: event for event in _all(self._observer, "BlockAdopted")}
        losses = self._observer.tally.validation
        start = [(0, losses[0])] if 0 in losses else []
        start += [(adopted[n]["tokens"], losses[n]) for n in sorted(adopted) if n <= first and n in losses]
        rounds = []
        before = adopted[first]
        for number in range(first + 1, last + 1):
            event = adopted.get(number)
            if event is None or number not in losses:
                continue  # the observer went past it: the next one's seconds contain it
            rounds.append(
                Round(
                    number=number,
                    seconds=event["at_seconds"] - before["at_seconds"],
                    attempt=event["attempt"],
                    counted=counted.get(event["block"], 0.0),
                    empty_segments=event["empty_segments"],
                    tokens=event["tokens"],
                    loss=losses[number],
                )
            )
            before = event
        claims = {(peer.name, e["round"]) for peer in self._peers for e in _all(peer, "Claimed")}
        return RunRecord(
            seed=self._seed,
            disturbed=self._killed > 0,
            peers=len(self._peers),
            bound_seconds=self._bound,
            start=tuple(start),
            rounds=tuple(rounds),
            claimed=sum(first < number <= last for _, number in claims),
            deaths=tuple(self._deaths),
            rewinds=sum(len(_all(peer, "Rewound")) for peer in self._peers),
            identical=self._identical(last),
            seconds=seconds,
        )

    def _counted(self) -> dict[str, float]:
        """Return for each block of the observer's chain how many contributions it counts."""
        run = self._publication.run_id
        store = ChainStore(run_folder(self._observer.home, run) / CHAIN_FILE)
        try:
            return {
                block.hash: sum(len(segments) for segments in counted_segments(block.body).values())
                / len(block.body.reductions)
                for block in store.blocks(run=run)
            }
        finally:
            store.close()


def _all(peer: DemoPeer, name: str) -> list[dict[str, Any]]:
    return [event for event in peer.reported if event["event"] == name]


def _has_reported(peer: DemoPeer, name: str, number: int) -> bool:
    return any(event["event"] == name and event["round"] == number for event in peer.reported[-64:])


def _publish(folder: Path, seed: int) -> Publication:
    """Publish the recipe on a part of the standard library."""
    folder.mkdir(parents=True)
    text = folder / "text.py"
    files: Sequence[Path] = sorted(Path(json.__file__).parents[1].glob("*.py"))
    text.write_bytes(b"\n".join(file.read_bytes() for file in files)[:TEXT_BYTES])
    template = folder / "recipe.toml"
    template.write_text(RECIPE.replace("{seed}", str(seed)))
    home = folder / "publisher"
    return publish(template, [str(text)], folder / "run", home=home, tell=lambda _: None)
