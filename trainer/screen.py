"""What a volunteer sees: one line with this peer's state, and above it sentences about what happened.

On a terminal the line of state is renewed as time passes; elsewhere only the sentences are printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from monitoring.web.formatting import many
from peers.protocol.events import (
    Banned,
    BlockAdopted,
    Connected,
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
)
from peers.protocol.round_reasons import REFUSED_NAMES
from trainer.event_log import EventLog
from trainer.repeats import Repeats

if TYPE_CHECKING:
    from peers.consensus.engine import RoundEngine
    from peers.network.traffic import TrafficMeter
    from recipes.keys.keys import PeerId

_NEXT = {  # by the engine's phase; what is done while training depends on the window
    "syncing": "looking for the swarm's head",
    "claimed": "claimed, then the roster",
    "exchanging": "exchanging, then the block",
    "applying": "applying, then training",
}


@dataclass(frozen=True)
class _Window:
    """A training window that runs, or ran: when it began by the clock of `time.monotonic`, and its length."""

    round: int
    began: float
    seconds: float

    def seconds_left(self) -> float:
        return max(0.0, self.began + self.seconds - time.monotonic())


class Screen:
    """A listener that prints what a volunteer wants to know, and keeps the event log if asked for one."""

    def __init__(self, *, events: Path | None = None) -> None:
        """Begin with nothing to show.

        Args:
            events: the file of the event log, which grows at its end; None for no log.

        Raises:
            StorageError: the file cannot be written.
        """
        # Strangers choose some of the words: nothing in them is markup.
        self._console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._live: Live | None = None
        self._log = EventLog(events) if events is not None else None
        self._traffic: TrafficMeter | None = None
        self._engine: RoundEngine | None = None
        self._window: _Window | None = None  # that this peer trains in, or trained in last
        self._fetching = ""
        self._loss = float("nan")
        self._counted: dict[int, int] = {}  # tokens of the windows that counted, by round
        self._alone: set[int] = set()  # the rounds of these in which earlier contributors were missing
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
            self.say(self._thanks())
        if self._log is not None:
            self._log.close()

    def say(self, sentence: str) -> None:
        """Print a sentence above the line of state."""
        self._console.print(sentence)
        sys.stdout.flush()

    def connected(
        self, peer_id: PeerId, run_id: str, addresses: Sequence[str], traffic: TrafficMeter
    ) -> None:
        """Take in this peer's id and addresses, and show others the line to join with."""
        self._traffic = traffic
        if self._log is not None:
            self._log.count_traffic(traffic)
        self.tell(Connected(peer_id, tuple(addresses)))
        self.say(f"Your peer id is {peer_id}.")
        self.say(f"Others join with this line:\n    python -m trainer.join {run_id} --peer {addresses[0]}")

    def watch(self, engine: RoundEngine) -> None:
        """Show the engine's phase from now on."""
        self._engine = engine

    def tell(self, event: Event) -> None:
        """Take in an event.

        Raises:
            StorageError: the event log cannot be written.
        """
        if self._log is not None:
            self._log.tell(event)
        sentence = self._sentence(event)
        self._remember(event)
        for shown in self._repeats.pass_on(event, sentence, now=time.monotonic()):
            self.say(shown)

    @property
    def _tokens(self) -> int:
        return sum(self._counted.values())

    def _thanks(self) -> str:
        rounds, tokens = many(len(self._counted), "round"), many(self._tokens, "token")
        thanks = f"You contributed to {rounds}, with {tokens}."
        if self._alone:
            alone, count = (
                many(len(self._alone), "round"),
                "it counts" if len(self._alone) == 1 else "they count",
            )
            thanks += f" In {alone} you were alone: {count} if nobody went on elsewhere."
        return f"{thanks} Thank you."

    def _remember(self, event: Event) -> None:
        match event:
            case WindowStarted(number, seconds) | WindowGoesOn(number, seconds):
                self._window = _Window(number, time.monotonic(), seconds)
            case Waiting() | WindowSpoilt():
                self._window = None
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
                self._fetching = f"fetching {what}: {done} of {many(total, 'piece')}" if done < total else ""
            case _:
                pass

    def _sentence(self, event: Event) -> str:
        """Return what a volunteer reads of an event; nothing of most."""
        match event:
            case BlockAdopted():
                return self._adopted(event)
            case Validated(number, loss):
                return f"The validation loss after round {number} is {loss:.4f} nats a token."
            case Waiting(number):
                return f"This peer does not train in round {number}. {event.sentence}"
            case WindowSpoilt(number, _, in_a_row, most):
                return (
                    f"The window of round {number} gave no numbers, and nothing is claimed for it. "
                    f"{event.sentence} After {most} such windows in a row this peer stops; this is number "
                    f"{in_a_row}. If it happens again, try `--device cpu`."
                )
            case Refused(peer, kind, fault, which):
                what = f"{REFUSED_NAMES[kind]}{f' ({which})' if which else ''}"
                return f"Refused {what} from peer {peer[-8:]}: {fault.rstrip('.')}."
            case Banned(peer, seconds, reasons):
                sent = ", ".join(f"{reason} ({many(count, 'time')})" for reason, count in reasons.items())
                minutes = many(round(seconds / 60), "minute")
                return f"Peer {peer[-8:]} is left alone for {minutes}, because of what it sent: {sent}."
            case Rewound():
                return self._rewound(event)
            case Diverged(number, pieces):
                return (
                    f"This peer's state after round {number} differed from that of the others. It fetched "
                    f"{many(pieces, 'piece')} of it again, and goes on."
                )
            case Notice(text):
                return text
            case Fetching(what, done, total) if done == total and total:
                return f"Fetched {what}: {many(total, 'piece')}, each verified."
            case _:
                return ""

    def _adopted(self, event: BlockAdopted) -> str:
        yours = "your work counted" if event.counted_segments else "your work did not count"
        if event.gone and event.counted_segments:
            yours = f"yours alone, without the {many(event.gone, 'other')} of before"
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in event.phases.items())
        return (
            f"Round {event.round} is done: {many(event.claims, 'contribution')}, {yours}, "
            f"{many(event.tokens, 'token')} so far{f', {phases}' if phases else ''}. "
            f"The state is {event.digest[:12]}."
        )

    def _rewound(self, event: Rewound) -> str:
        undone = sum(number > event.to_round for number in self._counted)
        lost = f" {many(undone, 'round')} of yours there {'does' if undone == 1 else 'do'} not count."
        return (
            f"This peer goes back from round {event.round} to round {event.to_round}. {event.sentence}"
            f"{lost if undone else ''}"
        )

    def _line(self) -> RenderableType:
        return Text(self._state_of_affairs(), style="bold", no_wrap=True, overflow="ellipsis")

    def _state_of_affairs(self) -> str:
        if self._engine is None:
            return self._fetching or "Connecting ..."
        engine = self._engine
        number = engine.chain.link(engine.head).round + 1
        sent, received = self._traffic_bytes()
        parts = [
            f"Round {number}: {self._fetching or self._doing(engine, number)}",
            f"{many(len(self._counted), 'round')}, {short_count(self._tokens)} tokens",
            f"loss {self._loss:.2f}" if self._loss == self._loss else "",
            many(len(engine.acquaintances) + 1, "peer"),
            f"up {sent / 1e6:.1f}, down {received / 1e6:.1f} MB",
        ]
        return " | ".join(part for part in parts if part)

    def _doing(self, engine: RoundEngine, number: int) -> str:
        """Return what this peer does in its round, and what comes next."""
        phase = engine.phase.value
        if phase == "training":
            window = self._window
            if window is None or window.round != number:
                return "waiting"
            return f"training, {window.seconds_left():.0f} s left, then claim"
        return f"{_NEXT[phase]}, while the next window runs" if engine.ahead is not None else _NEXT[phase]

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
