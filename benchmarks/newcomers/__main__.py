"""Newcomers to a run some hours old: how soon each is counted, and what it fetches for that.

    python -m benchmarks.newcomers --rounds 600
    python -m benchmarks.newcomers --rounds 80 --volunteers 3

All are real processes on this machine, on loopback. A publisher makes a chain of many short rounds, of which
old snapshots and reduced segments are long gone. With `--volunteers`, others train with it: again and again,
one is cut off (its p2pd stands still) until it has made three rounds alone, so that branches are made and
left, and one is killed and started again. Then five newcomers come at once. Last comes one more, while most
of those whom it finds are liars who name heads that they cannot deliver (boasters.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from peers.state.block_store import CHAIN_FILE, ChainStore
from recipes.command import plain_errors
from recipes.errors import NetworkError
from recipes.formats.files import write_atomic
from recipes.home import run_folder
from recipes.publication import Publication
from recipes.publish import publish
from trainer.demo.peer import DemoPeer, free_port

RECIPE = """
version = 1

[run]
name = "newcomers"
license = "Apache-2.0"
description = "A Llama of 30,000 parameters, of which a round takes a second."

[model]
architecture = "LlamaForCausalLM"
seed = 7

[model.config]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 64
max_position_embeddings = 64
tie_word_embeddings = true

[tokenizer]
vocab_size = 257

[data]
sequence_length = 32
validation_fraction = 0.2

[inner]
optimizer = "adamw"
learning_rate = 1e-2
batch_slots = 4
ramp_steps = 2

[schedule]
warmup_tokens = 0
total_tokens = 10_000_000

[round]
window_seconds = {window}
grace_seconds = [0.2, 3]
transfer_seconds = [1, 8]
leader_seconds = [1, 4]
segments = 4
newcomer_slots = 64
newcomer_lanes = 16
snapshot_interval = 4
"""
LIMIT_SECONDS = 300.0  # for a newcomer to be counted
_LOOK_SECONDS = 0.25
_CUT_EVERY_ROUNDS = 12  # is one cut off
_ALONE_ROUNDS = 3  # until it is heard again


@dataclass(frozen=True)
class Arrival:
    """How one newcomer came in; `counted_after` is None if it did not, within the limit."""

    name: str
    among_liars: int
    chain_rounds: int
    chain_bytes: int  # of the branch that is followed, when it was counted
    counted_after: float | None  # seconds since its command was started
    block_bytes: int  # received in answers with blocks, until then
    snapshot_bytes: int
    snapshot_size: int  # of one snapshot's arrays
    lines: int  # printed
    first_round: int  # that counted it
    claims: int  # in that round
    alone: int  # rounds that it made by itself, beside the run
    banned: int  # bans, by anybody


@dataclass(frozen=True)
class Outcome:
    """All that was measured."""

    arrivals: tuple[Arrival, ...]
    blocks_left: int  # of branches that nobody follows, on the disks of those who were there before
    bans: int


class Rehearsal:
    """The run and its processes."""

    def __init__(self, folder: Path, *, volunteers: int, window: int, tell: Callable[[str], None]) -> None:
        self._folder, self._tell = folder, tell
        text = folder / "text"
        text.mkdir(parents=True)
        for number in range(20):
            (text / f"{number}.txt").write_text("\n".join(str(n**2) for n in range(number, 6000, 20)))
        template = folder / "recipe.toml"
        template.write_text(RECIPE.format(window=window))
        self.publication: Publication = publish(
            template, [str(text)], folder / "run", home=folder / "publisher", tell=lambda _: None
        )
        self.window = window
        self.publisher = self._peer("publisher", run=str(self.publication.folder), address=None)
        self.volunteers = [self._peer(f"volunteer-{number + 1}") for number in range(volunteers)]
        self._all = [self.publisher, *self.volunteers]

    def _peer(self, name: str, *, run: str | None = None, address: str | None = "publisher") -> DemoPeer:
        known = self.publisher.address if address else None
        run = run or self.publication.run_id
        return DemoPeer(name, self._folder, run=run, port=free_port(), address=known)

    def grow(self, rounds: int) -> None:
        """Let the publisher and the volunteers make so many rounds.

        Raises:
            NetworkError: they do not come so far.
        """
        for peer in (self.publisher, *self.volunteers):
            peer.start(validate=False)
            self._until(lambda peer=peer: bool(peer.tally.counted_rounds), f"{peer.name} is counted")  # type: ignore[misc]
        killed, said = False, 0
        while self.publisher.tally.round < rounds:
            start = self.publisher.tally.round
            if self.volunteers:
                alone = self.volunteers[(start // _CUT_EVERY_ROUNDS) % len(self.volunteers)]
                with _cut_off(alone):
                    last = alone.tally.round + _ALONE_ROUNDS
                    self._until(lambda: alone.tally.round >= last, f"{alone.name} goes on alone")  # noqa: B023
            if self.volunteers and not killed and start > rounds / 2:
                killed = True
                self.volunteers[0].kill()
                self.volunteers[0].start(validate=False)
            goal = min(rounds, start + _CUT_EVERY_ROUNDS)
            self._until(lambda: self._round() >= goal, "rounds go on")  # noqa: B023
            if self._round() >= said + 100:
                said = self._round()
                self._tell(f"  round {said} of {rounds}")

    def arrive(self, count: int, *, liars: int = 0) -> list[Arrival]:
        """Start newcomers, all at once; return how each came in. They are gone afterwards."""
        suffix = "-among-liars" if liars else ""
        newcomers = [self._peer(f"newcomer-{number + 1}{suffix}") for number in range(count)]
        self._all += newcomers
        began = time.monotonic()
        for peer in newcomers:
            peer.start(validate=False)
        found: dict[str, Arrival] = {}
        while len(found) < count and time.monotonic() < began + LIMIT_SECONDS:
            time.sleep(_LOOK_SECONDS)
            self._look()
            for peer in newcomers:
                event = next(
                    (e for e in peer.reported if e["event"] == "BlockAdopted" and _with_others(e)), None
                )
                if peer.name not in found and event is not None:
                    found[peer.name] = self._arrival(peer, event, liars=liars)
                    self._tell(f"  {peer.name} is counted after {found[peer.name].counted_after:.1f} s")
        for peer in newcomers:
            found.setdefault(peer.name, self._arrival(peer, None, liars=liars))
            peer.kill()
        return [found[peer.name] for peer in newcomers]

    def _arrival(self, peer: DemoPeer, event: dict[str, Any] | None, *, liars: int) -> Arrival:
        received = event["received"] if event is not None else peer.tally.received
        rounds, size, _ = self._chain(self.publisher)
        return Arrival(
            name=peer.name,
            among_liars=liars,
            chain_rounds=rounds,
            chain_bytes=size,
            counted_after=event["at_seconds"] if event is not None else None,
            block_bytes=received.get("blocks", 0),
            snapshot_bytes=received.get("snapshot", 0),
            snapshot_size=self._snapshot_size(),
            lines=len(peer.log.read_text(errors="replace").splitlines()),
            first_round=event["round"] if event is not None else 0,
            claims=event["claims"] if event is not None else 0,
            alone=sum(_alone(e) for e in peer.reported),
            banned=self.bans(),
        )

    def bans(self) -> int:
        """Return how often anybody banned anybody who is no liar."""
        honest = {peer.peer_id for peer in self._all}
        told = [event for peer in self._all for event in peer.reported if event["event"] == "Banned"]
        return sum(event["peer"] in honest for event in told)

    def left_blocks(self) -> int:
        """Return how many blocks of branches that were left lie on peers' disks."""
        return sum(self._chain(peer)[2] for peer in (self.publisher, *self.volunteers))

    def _chain(self, peer: DemoPeer) -> tuple[int, int, int]:
        """Return rounds and bytes of the branch that a peer follows, and how many other blocks it has."""
        folder = run_folder(peer.home, self.publication.run_id)
        store = ChainStore(folder / CHAIN_FILE, read_only=True)
        try:
            given = store.contents(after_round=0, most_bytes=1 << 40)
            everything = sum(1 for _ in store.blocks(run=self.publication.run_id))
        finally:
            store.close()
        return len(given), sum(map(len, given)), everything - len(given)

    def _snapshot_size(self) -> int:
        folder = run_folder(self.publisher.home, self.publication.run_id) / "snapshots"
        return max(sum(path.stat().st_size for path in one.glob("*.f32")) for one in folder.iterdir())

    def _round(self) -> int:
        return self.publisher.tally.round

    def _until(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not reached():
            self._look()
            if time.monotonic() > deadline or not self.publisher.running:
                words = "\n".join(
                    f"{peer.name}: {peer.log.read_text()[-800:]}" for peer in self._all if peer.lives
                )
                raise NetworkError(f"Waited in vain until {what}. The logs end so:\n{words}")
            time.sleep(_LOOK_SECONDS)

    def _look(self) -> None:
        for peer in self._all:
            if peer.lives:
                peer.look()

    @contextmanager
    def liars(self, count: int) -> Iterator[None]:
        """Let so many liars be about, who name heads that they cannot deliver."""
        command = [sys.executable, "-m", "benchmarks.newcomers.boasters", self.publication.run_id]
        command += [self.publisher.address, str(count), str(self._folder / "liars")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            for line in process.stdout or ():
                if line.startswith("ready"):
                    break
            yield
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def end(self) -> None:
        """End all processes."""
        for peer in self._all:
            if peer.lives:
                peer.kill()


def rehearse(
    folder: Path,
    *,
    rounds: int,
    newcomers: int,
    volunteers: int,
    liars: int,
    window: int = 1,
    tell: Callable[[str], None],
) -> Outcome:
    """Make a long run in `folder`, let newcomers come, and return how that went."""
    rehearsal = Rehearsal(folder, volunteers=volunteers, window=window, tell=tell)
    try:
        tell(f"A chain of {rounds} rounds is made by {volunteers + 1} peers.")
        rehearsal.grow(rounds)
        tell(f"{newcomers} newcomers come at once.")
        arrivals = rehearsal.arrive(newcomers)
        if liars:
            tell(f"One comes among {liars} liars and {volunteers + 1} honest peers.")
            with rehearsal.liars(liars):
                arrivals += rehearsal.arrive(1, liars=liars)
        return Outcome(tuple(arrivals), rehearsal.left_blocks(), rehearsal.bans())
    finally:
        rehearsal.end()


@contextmanager
def _cut_off(peer: DemoPeer) -> Iterator[None]:
    """Let a peer reach nobody, and be reached by nobody, while it goes on."""
    daemons = peer.daemons
    for pid in daemons:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)


def _with_others(event: dict[str, Any]) -> bool:
    return bool(event["counted_segments"] > 0 and event["claims"] > 1)


def _alone(event: dict[str, Any]) -> bool:
    return bool(event["event"] == "BlockAdopted" and event["counted_segments"] and event["claims"] == 1)


def table_of(arrivals: Sequence[Arrival]) -> Table:
    """Return a table, a line a newcomer."""
    table = Table(title="Newcomers")
    for title in ("who", "liars", "rounds", "counted after", "chain", "state", "lines", "bans"):
        table.add_column(title, justify="left" if title == "who" else "right")
    for one in arrivals:
        table.add_row(
            one.name,
            str(one.among_liars),
            str(one.chain_rounds),
            f"{one.counted_after:.1f} s" if one.counted_after is not None else "never",
            f"{one.block_bytes / max(one.chain_bytes, 1):.2f} of {one.chain_bytes / 1e6:.2f} MB",
            f"{one.snapshot_bytes / max(one.snapshot_size, 1):.2f} of {one.snapshot_size / 1e6:.2f} MB",
            str(one.lines),
            str(one.banned),
        )
    return table


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds before anybody comes.")] = 600,
    newcomers: Annotated[int, typer.Option(min=1, help="Who come at once.")] = 5,
    volunteers: Annotated[
        int, typer.Option(min=0, help="Who train with the publisher, and make branches.")
    ] = 0,
    liars: Annotated[int, typer.Option(min=0, help="Who name heads that they cannot deliver; 0: none.")] = 7,
    window: Annotated[int, typer.Option(min=1, help="Seconds of training a round.")] = 1,
    folder: Annotated[
        Path | None, typer.Option(help="For everything; it stays. By default a temporary one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON, too.")] = None,
) -> None:
    """Measure how newcomers enter a long run."""
    with plain_errors():
        place = folder or Path(tempfile.mkdtemp(prefix="newcomers."))
        try:
            outcome = rehearse(
                place,
                rounds=rounds,
                newcomers=newcomers,
                volunteers=volunteers,
                liars=liars,
                window=window,
                tell=lambda sentence: print(sentence, flush=True),
            )
        finally:
            if folder is None:
                shutil.rmtree(place, ignore_errors=True)
        Console(width=120).print(table_of(outcome.arrivals))
        print(
            f"{outcome.blocks_left} blocks of branches that were left; {outcome.bans} bans of honest peers."
        )
        if out is not None:
            write_atomic(out, json.dumps(asdict(outcome), indent=2).encode())


if __name__ == "__main__":
    typer.run(main)
