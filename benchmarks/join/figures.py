"""How long a newcomer took to each stage, and what its line carried by then; and the table of it."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Event = Mapping[str, Any]

RIVAL = "hivemind"
ON_LINE, RECIPE, DATA, STATE, TRAINS, COUNTED = "on the line", "recipe", "data", "state", "trains", "counted"
STAGES = (ON_LINE, RECIPE, DATA, STATE, TRAINS, COUNTED)
FIRST_PACKET = {"event": "FirstPacket"}  # told by whoever watches the line


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Since the newcomer's command: time, and what its line carried, as IP packets."""

    seconds: float
    up_bytes: int
    down_bytes: int


Seen = tuple[Moment, Event]
"""What the newcomer told, and when that was seen."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """A newcomer's way to its first counted contribution."""

    name: str
    stages: dict[str, Moment]  # those that were reached
    period_seconds: float  # from one block, or average, of the others to the next: their median
    loads: int  # of the whole state: more than one if the swarm had gone on meanwhile
    limit_seconds: float  # after which nobody waited any longer

    @property
    def counted(self) -> Moment | None:
        """When a contribution of the newcomer's counted first; None if not within the limit."""
        return self.stages.get(COUNTED)


def our_stages(seen: Sequence[Seen]) -> dict[str, Moment]:
    """Return when a newcomer of ours reached each stage; what it had beforehand is left out.

    The recipe, with tokenizer and manifest, is here when data begins to be fetched; the state, when the last
    piece of a snapshot came before the first window.
    """
    stages: dict[str, Moment] = {}
    for moment, event in seen:
        match event:
            case {"event": "FirstPacket"}:
                stages.setdefault(ON_LINE, moment)
            case {"event": "Fetching", "what": "data", "done": done, "total": total}:
                stages.setdefault(RECIPE, moment)
                if done == total:
                    stages.setdefault(DATA, moment)
            case {"event": "Fetching", "done": done, "total": total} if (
                done == total and TRAINS not in stages
            ):
                stages[STATE] = moment
            case {"event": "WindowStarted"}:
                stages.setdefault(TRAINS, moment)
            case {"event": "BlockAdopted", "counted_segments": int(count)} if count:
                stages.setdefault(COUNTED, moment)
    return stages


def hivemind_stages(seen: Sequence[Seen], *, peer: str) -> dict[str, Moment]:
    """Return when a newcomer of hivemind's reached each stage.

    The state is here when it was loaded for the last time before a step was taken: hivemind loads it again if
    the swarm has gone on meanwhile. Counted is an average over at least two peers with samples of its own.
    """
    stages: dict[str, Moment] = {}
    for moment, event in seen:
        match event:
            case {"event": "FirstPacket"}:
                stages.setdefault(ON_LINE, moment)
            case {"event": "Loaded"} if COUNTED not in stages:
                stages[STATE] = moment
                stages.pop(TRAINS, None)
            case {"event": "Stepped"} if STATE in stages:
                stages.setdefault(TRAINS, moment)
            case {"event": "Averaged", "members": members, "samples": int(samples)} if samples:
                if peer in members and len(members) > 1 and STATE in stages:
                    stages.setdefault(COUNTED, moment)
    return stages


def period(events: Sequence[Event], kind: str) -> float:
    """Return the median of the seconds between events of that kind; not a number with fewer than two."""
    times = [event["at_seconds"] for event in events if event["event"] == kind]
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    return statistics.median(gaps) if gaps else float("nan")


def show(console: Console, courses: Sequence[Course]) -> None:
    """Print when each newcomer reached what, and how ours compare to the rival."""
    table = Table(title="A newcomer, since its command: seconds (MB received, sent on its line)")
    table.add_column("stage")
    for course in courses:
        table.add_column(course.name, justify="right")
    for stage in STAGES:
        table.add_row(stage, *(_cell(course.stages.get(stage)) for course in courses))
    table.add_row("period of the others", *(f"{course.period_seconds:.1f} s" for course in courses))
    table.add_row("loads of the state", *(str(course.loads) for course in courses))
    console.print(table)
    for course in courses:
        if course.counted is None:
            console.print(f"{course.name}: nothing counted within {course.limit_seconds:g} s.")
    rival = next((course for course in courses if course.name == RIVAL), None)
    for course in courses:
        if rival is not None and course is not rival and (sentence := compared(course, rival)) is not None:
            console.print(sentence)


def compared(one: Course, other: Course) -> str | None:
    """Say how much sooner `one` was counted, and with how much fewer bytes; None if it was not at all."""
    if one.counted is None:
        return None
    at_least = "" if other.counted else "at least "
    seconds = (other.counted.seconds if other.counted else other.limit_seconds) / one.counted.seconds
    sentence = f"{one.name}: counted {at_least}{seconds:.1f} times as soon as {other.name}"
    if other.counted is not None:
        sentence += f", with {_bytes(one.counted) / _bytes(other.counted):.0%} of the bytes"
    if ON_LINE in one.stages and ON_LINE in other.stages and other.counted is not None:
        since = other.counted.seconds - other.stages[ON_LINE].seconds
        times = since / (one.counted.seconds - one.stages[ON_LINE].seconds)
        sentence += f"; {times:.1f} times from the first packet on"
    return sentence + "."


def _bytes(moment: Moment) -> int:
    return moment.up_bytes + moment.down_bytes


def _cell(moment: Moment | None) -> str:
    if moment is None:
        return "-"
    return f"{moment.seconds:.1f} ({moment.down_bytes / 1e6:.2f}, {moment.up_bytes / 1e6:.2f})"
