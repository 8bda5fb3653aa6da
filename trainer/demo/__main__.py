"""A whole swarm on this machine: publish a recipe, join it, and see one real model learn.

    python -m trainer.demo [--peers 5] [--rounds 48] [--out DIR] [--json]

A publisher and volunteers run as separate processes on loopback and train `stdlib-tiny` on the source of
Python's standard library. One volunteer joins late; another is killed in mid-round and started again. A page
in the browser shows it all as it happens; the demo says where.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from recipes.command import plain_errors
from recipes.errors import NetworkError, StorageError
from recipes.home import run_folder
from recipes.publication import Publication
from recipes.publish import publish
from trainer.demo.page import DemoPage
from trainer.demo.peer import DemoPeer, free_port, launch
from trainer.demo.report import Figures, as_json, draw_curve, live_view, summary

PROMPT = "class "
SAMPLE_TOKENS = 400
TEMPERATURE = 0.8  # a small model of bytes, asked to be surer of itself, only indents
ROUND_SECONDS = 120.0  # without a new round anywhere, something is wrong
_LOOK_SECONDS = 0.5


class Demo:
    """The scenario: what each peer does in which round."""

    def __init__(self, *, peers: int, rounds: int, out: Path, console: Console) -> None:
        self.rounds = rounds
        self.out = out
        self.console = console
        self.publication = self._publish()
        run_id = self.publication.run_id
        homes, folder = out / "peers", str(self.publication.folder)
        publisher = DemoPeer("publisher", homes, run=folder, port=free_port(), address=None)
        self.volunteers = [
            DemoPeer(f"volunteer-{number}", homes, run=run_id, port=free_port(), address=publisher.address)
            for number in range(1, peers)
        ]
        self.peers = [publisher, *self.volunteers]
        self.page = DemoPage(
            published=self.publication.folder,
            home=publisher.home,
            out=out / "page",
            announce=publisher.address,
            launched_by=partial(launch, program=("-m", "monitoring.serve")),
        )
        self.headline = ""
        self._live: Live | None = None

    def _publish(self) -> Publication:
        folder = self.out / "run"
        with self.console.status("Publishing stdlib-tiny: packing Python's standard library ..."):
            from recipes.locate import locate_recipe

            return publish(
                locate_recipe("stdlib-tiny"),
                [sysconfig.get_paths()["stdlib"]],
                folder,
                home=self.out / "peers" / "publisher",
                tell=lambda sentence: self.console.print(sentence, highlight=False, soft_wrap=True),
            )

    def run(self) -> None:
        """Play the scenario until every survivor has adopted the last round."""
        latecomer, victim = self.volunteers[-1], self.volunteers[-2]
        join_round = max(1, self.rounds // 4)
        kill_round = max(1, self.rounds // 2 - 1)
        with Live(get_renderable=self._view, console=self.console, refresh_per_second=2) as self._live:
            self._start_first_peers(latecomer)
            self._until(
                lambda: self.peers[0].tally.round >= join_round,
                f"Training. A volunteer joins after round {join_round}.",
            )
            latecomer.start(validate=False)
            self._until(
                lambda: victim.tally.round >= kill_round and victim.tally.state == "training",
                f"{latecomer.name} is joining. {victim.name} will be killed in round {kill_round + 1}.",
            )
            self._pause(3.0)
            victim.kill()
            self._pause(1.0)
            victim.start(validate=False)
            self._until(
                self._finished, f"{victim.name} was killed in round {kill_round + 1} and is started again."
            )
            self.headline = "Every peer has adopted the last round. Leaving."
            for _ in range(2):
                for peer in self.peers:
                    peer.leave()
                self._pause(1.0)
            for peer in self.peers:
                peer.wait(20.0)
                peer.look()

    def _start_first_peers(self, latecomer: DemoPeer) -> None:
        self.headline = "Starting the publisher."
        self.peers[0].start(validate=True)
        self._until(lambda: self.peers[0].tally.connected, "The publisher is starting.")
        self.page.start()
        for peer in self.volunteers:
            if peer is not latecomer:
                peer.start(validate=False)

    def _finished(self) -> bool:
        validated = self.rounds in self.peers[0].tally.validation
        return validated and all(peer.tally.round >= self.rounds for peer in self.peers)

    def _until(self, reached: Callable[[], bool], headline: str) -> None:
        """Watch the peers until `reached`.

        Raises:
            NetworkError: a peer died by itself, or no round was completed for too long.
        """
        self.headline = headline
        if (
            not self.console.is_terminal
        ):  # where nothing can be drawn, it is told what is waited for, and where
            page = f" The page: {self.page.address}" if self.page.running else ""
            self.console.print(headline + page, highlight=False, soft_wrap=True)
        newest, since = -1, time.monotonic()
        while not reached():
            self._pause(_LOOK_SECONDS)
            progress = sum(peer.tally.round for peer in self.peers)
            if progress > newest:
                newest, since = progress, time.monotonic()
            if time.monotonic() - since > ROUND_SECONDS:
                raise NetworkError(
                    f"No round was completed for {ROUND_SECONDS:.0f} s.", remedy=self._where_to_look()
                )
            for peer in self.peers:
                if peer.lives and not peer.running and peer.tally.state != "killed":
                    tail = peer.log.read_text(errors="replace")[-2000:]
                    raise NetworkError(
                        f"{peer.name} ended by itself. Its last words:\n{tail}", remedy=self._where_to_look()
                    )

    def _where_to_look(self) -> str:
        return f"Each peer's log.txt and events.jsonl are below {self.out / 'peers'}."

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            for peer in self.peers:
                peer.look()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _LOOK_SECONDS))

    def _view(self):  # type: ignore[no-untyped-def]
        return live_view(self.peers, rounds=self.rounds, headline=self.headline, page=self.page.address)

    def figures(self) -> Figures:
        """Export the model, and work out what the demo shows at its end."""
        from recipes.corpus import TokenArray
        from trainer.bigram import bigram_loss
        from trainer.export import export_model
        from trainer.sample import generate

        publication, recipe = self.publication, self.publication.recipe
        with self.console.status("Exporting the model, fitting the bigram model, drawing the curve ..."):
            train, validation = (
                TokenArray(publication.data, publication.manifest, "train"),
                TokenArray(publication.data, publication.manifest, "validation"),
            )
            bigram = bigram_loss(train, validation, vocabulary=recipe.tokenizer.vocab_size)
            run = run_folder(self.peers[0].home, publication.run_id)
            exported = export_model(run, self.out / "model", force=True)
            sample = generate(
                exported.folder, prompt=PROMPT, tokens=SAMPLE_TOKENS, seed=4, temperature=TEMPERATURE
            )
            losses = {
                number: loss
                for number, loss in self.peers[0].tally.validation.items()
                if number <= self.rounds
            }
            plot = self.out / "loss.png"
            draw_curve(plot, losses, bigram=bigram)
        return Figures(
            rounds=self.rounds,
            parameters=exported.parameters,
            validation=losses,
            bigram=bigram,
            agreed=self._states_agree(),
            export=exported.folder,
            sample=sample,
            plot=plot,
        )

    def _states_agree(self) -> bool:
        """Whether all adopted the last round, and no two peers had different digests after any."""
        by_round: dict[int, set[str]] = {}
        for peer in self.peers:
            for number, digest in peer.tally.digests.items():
                by_round.setdefault(number, set()).add(digest)
        everyone = all(self.rounds in peer.tally.digests for peer in self.peers)
        return everyone and all(len(digests) == 1 for digests in by_round.values())

    def end(self) -> None:
        """End every process that still runs."""
        for peer in self.peers:
            if peer.running:
                peer.kill()
        self.page.end()


def main(
    peers: Annotated[int, typer.Option(min=3, max=16, help="Peers in all: a publisher and volunteers.")] = 5,
    rounds: Annotated[int, typer.Option(min=3, max=1000, help="Rounds to train.")] = 48,
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything that is made; by default demo/DATE-TIME here.")
    ] = None,
    as_json_line: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object, as the last line.")
    ] = False,
) -> None:
    """Train a small model with a whole swarm on this machine, and show what happened."""
    folder = out or Path("demo") / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    console = Console(stderr=as_json_line, highlight=False)
    with plain_errors():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageError(f"{folder} exists already.", remedy="Name another folder with --out.")
        demo = Demo(peers=peers, rounds=rounds, out=folder.absolute(), console=console)
        try:
            demo.run()
            figures = demo.figures()
        finally:
            with suppress(KeyboardInterrupt):
                demo.end()
        console.print(summary(demo.peers, figures))
        console.print(f"The page once more, with all that happened: {demo.page.again}", soft_wrap=True)
        if as_json_line:
            print(json.dumps(as_json(demo.peers, figures)))
        sys.exit(0 if figures.agreed else 1)


if __name__ == "__main__":
    typer.run(main)
