"""What a volunteer sees: one line of state with what comes next, and above it what happened.

On a terminal the line is alive; elsewhere only the happenings are printed, a line each.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from peers.protocol.events import (
    Banned,
    BlockAdopted,
    Diverged,
    Event,
    Fetching,
    Notice,
    Refused,
    Rewound,
    Validated,
    Waiting,
    WindowFinished,
    WindowGoesOn,
    WindowSpoilt,
    WindowStarted,
    as_json_line,
)
from peers.protocol.round_reasons import REFUSED_NAMES
from recipes.errors import StorageError
from trainer.repeats import Repeats

if TYPE_CHECKING:
    from peers.consensus.engine import RoundEngine
    from peers.network.traffic import TrafficMeter

_NEXT = {
    "syncing": "looking for the swarm's head",
    "training": "training",
    "claimed": "claimed, then the roster",
    "exchanging": "exchanging, then the block",
    "applying": "applying, then training",
}


class Screen:
    """Listens to events, prints what a volunteer wants to know, and keeps the event log if asked to."""

    def __init__(self, *, events: Path | None = None) -> None:
        # Strangers choose some of the words: nothing in them is markup.
        self._console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._live: Live | None = None
        self._log = _open_log(events) if events is not None else None
        self._began = time.monotonic()
        self._traffic: TrafficMeter | None = None
        self._engine: RoundEngine | None = None
        self._window: tuple[float, float] = (0.0, 0.0)  # began, seconds
        self._fetching = ""
        self._loss = float("nan")
        self._counted: dict[int, int] = {}  # tokens of the windows that counted, by round
        self._alone: set[int] = set()  # those of them in which others were missing
        self._window_tokens: dict[int, int] = {}  # by round
        self._repeats = Repeats()

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._line, console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        for sentence in self._repeats.rest():
            self.say(sentence)
        if self._counted:
            alone = f" In {len(self._alone)} of them you were alone: they count if nobody went on elsewhere."
            self.say(
                f"You contributed to {len(self._counted)} rounds, {self._tokens:,} tokens."
                f"{alone if self._alone else ''} Thank you."
            )
        if self._log is not None:
            with contextlib.suppress(OSError):  # told already, when it could not be written
                self._log.close()

    def say(self, sentence: str) -> None:
        """Print a sentence above the line of state."""
        self._console.print(sentence)
        sys.stdout.flush()

    def connected(self, peer_id: str, run_id: str, addresses: Sequence[str], traffic: TrafficMeter) -> None:
        """Say who and where this peer is."""
        self._traffic = traffic
        self.say(f"You are {peer_id}.")
        self.say(f"Others join with\n    python -m trainer.join {run_id} --peer {addresses[0]}")

    def watch(self, engine: RoundEngine) -> None:
        """Show the engine's phase from now on."""
        self._engine = engine

    def listen(self, event: Event) -> None:
        """Take in an event."""
        if self._log is not None:
            moved = self._traffic.statistics() if self._traffic is not None else None
            line = as_json_line(
                event,
                seconds=time.monotonic() - self._began,
                sent=moved.sent if moved is not None else {},
                received=moved.received if moved is not None else {},
            )
            try:
                self._log.write(line + "\n")
                self._log.flush()
            except OSError as error:
                raise _log_refused(Path(self._log.name), error) from error
        sentence = self._sentence(event)
        self._remember(event)
        for shown in self._repeats.pass_on(event, sentence, now=time.monotonic()):
            self.say(shown)

    @property
    def _tokens(self) -> int:
        return sum(self._counted.values())

    def _remember(self, event: Event) -> None:
        match event:
            case WindowStarted(seconds=seconds) | WindowGoesOn(seconds=seconds):
                self._window = (time.monotonic(), seconds)
            case WindowFinished(round=number, tokens=tokens, loss=loss):
                self._loss, self._window_tokens[number] = loss, tokens
            case Rewound(to_round=last):
                self._counted = {n: tokens for n, tokens in self._counted.items() if n <= last}
                self._alone = {n for n in self._alone if n <= last}
            case BlockAdopted(round=number, counted_segments=counted):
                if counted:
                    self._counted[number] = self._window_tokens.get(number, 0)
                if counted and event.gone:
                    self._alone.add(number)
                self._window_tokens = {n: t for n, t in self._window_tokens.items() if n > number}
            case Fetching(what, done, total):
                self._fetching = f"fetching {what}: {done} of {total} pieces" if done < total else ""
            case _:
                pass

    def _sentence(self, event: Event) -> str:
        match event:
            case BlockAdopted():
                yours = "your work counted" if event.counted_segments else "your work did not count"
                if event.gone and event.counted_segments:
                    yours = f"yours alone, without the {event.gone} others of before"
                seconds = ", ".join(f"{phase} {value:.1f} s" for phase, value in event.phases.items())
                return (
                    f"Round {event.round}: {event.claims} contributions, {yours}, "
                    f"{event.tokens:,} tokens so far{', ' + seconds if seconds else ''}. "
                    f"State {event.digest[:12]}."
                )
            case Validated(round_number, loss):
                return f"Validation loss after round {round_number}: {loss:.4f} nats a token."
            case Waiting(round_number):
                return f"Not training in round {round_number}: {event.sentence}."
            case WindowSpoilt(round_number, reason, in_a_row, most):
                return (
                    f"The window of round {round_number} is not claimed: {reason}. "
                    f"This is {in_a_row} in a row; after {most}, this peer stops. "
                    "If it happens again, try `--device cpu`."
                )
            case Refused(peer, kind, fault, which):
                what = f"{REFUSED_NAMES[kind]}{f' ({which})' if which else ''}"
                return f"Refused {what} from {peer[-8:]}: {fault.rstrip('.')}."
            case Banned(peer, seconds, reasons):
                counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
                return f"Peer {peer[-8:]} is left alone for {seconds / 60:.0f} min. It sent: {counts}."
            case Rewound(round_number, to_round):
                undone = [n for n in self._counted if n > to_round]
                lost = f" {len(undone)} rounds of yours there do not count." if undone else ""
                return (
                    f"Another branch has more electors: back from round {round_number} to {to_round}.{lost}"
                )
            case Diverged(round_number, pieces):
                return (
                    f"This peer's state after round {round_number} differed from the others'. "
                    f"Fetched {pieces} pieces again; going on."
                )
            case Notice(text):
                return text
            case Fetching(what, done, total) if done == total and total:
                return f"Fetched {what}: {total} pieces, all verified."
            case _:
                return ""

    def _line(self) -> RenderableType:
        return Text(self._state_of_affairs(), style="bold", no_wrap=True, overflow="ellipsis")

    def _state_of_affairs(self) -> str:
        if self._engine is None:
            return self._fetching or "Connecting ..."
        engine = self._engine
        phase = engine.phase.value
        doing = self._fetching or _NEXT[phase]
        if phase == "training" and not self._fetching:
            left = self._window[0] + self._window[1] - time.monotonic()
            doing = (
                f"training, {max(0.0, left):.0f} s left, then claim"
                if engine.round.window.training
                else "waiting"
            )
        elif engine.ahead is not None and not self._fetching:
            doing += ", while the next window runs"
        sent, received = self._traffic_bytes()
        parts = [
            f"Round {engine.chain.link(engine.head).round + 1}: {doing}",
            f"{len(self._counted)} rounds, {short_count(self._tokens)} tokens",
            f"loss {self._loss:.2f}" if self._loss == self._loss else "",
            f"{len(engine.acquaintances) + 1} peers",
            f"up {sent / 1e6:.1f}, down {received / 1e6:.1f} MB",
        ]
        return " | ".join(part for part in parts if part)

    def _traffic_bytes(self) -> tuple[int, int]:
        if self._traffic is None:
            return 0, 0
        statistics = self._traffic.statistics()
        return statistics.sent_bytes, statistics.received_bytes


def short_count(count: int) -> str:
    """Return a count in at most four digits: 950, 12.3k, 4.5M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _open_log(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise _log_refused(path, error) from error


def _log_refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot write the events to {path}: {error.strerror}.",
        remedy="Free some space, or name another file with --events.",
    )
