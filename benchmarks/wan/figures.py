"""What rounds over bad links came to, from the peers' event logs and the router's counts, and its tables."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.router import RouterStatistics
from recipes.errors import NetworkError

PHASES = ("train", "roster", "exchange", "block")

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Moved:
    """What the network had done by one moment."""

    router: RouterStatistics
    retransmitted: tuple[int, ...]  # TCP segments, by peer


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A value over rounds or peers."""

    mean: float
    deviation: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        listed = list(values)
        return cls(
            mean=statistics.fmean(listed),
            deviation=statistics.pstdev(listed),
            least=min(listed),
            most=max(listed),
        )


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The measured rounds of one swarm. Bytes are a peer's in a round; phases are in seconds."""

    peers: int
    rounds: int
    attempts: int  # starts that it took until all had joined
    phases: dict[str, Spread]  # over rounds, each the mean of its peers
    round_seconds: Spread  # over rounds
    shares: dict[str, float]  # of a round's time, by phase
    claimed: int  # contributions
    counted: int  # contributions of which the block counts something
    counted_segments: float  # share of the segments of all contributions claimed
    sent: dict[str, int]  # by purpose
    received: dict[str, int]
    wire_up_bytes: Spread  # over peers, IP packets with all that TCP and libp2p add
    wire_down_bytes: Spread
    packets: float  # up, a peer and round
    lost: float  # packets by chance, on both lines, a peer and round
    overflowed: float  # packets that met a full queue
    retransmitted: float  # TCP segments
    identical: bool  # every peer adopted every round, with the same digest
    late_ms: tuple[float, float]  # the router's packets behind their time: mean since its start, worst


def figures_of(
    logs: Sequence[Sequence[Event]],
    first: int,
    rounds: int,
    *,
    segments: int,
    before: Moved,
    after: Moved,
    attempts: int,
) -> Figures:
    """Return the figures of the rounds after `first`, up to `first + rounds`.

    Args:
        logs: each peer's events; each has adopted block `first`.
        first: the round that was adopted when `before` was read.
        rounds: how many were measured; `after` was read when the last was adopted.
        segments: of one contribution.
        before: the network's counts.
        after: likewise.
        attempts: starts of a peer until all had joined.

    Raises:
        NetworkError: no peer went through any of these rounds from beginning to end.
    """
    numbers = range(first + 1, first + rounds + 1)
    blocks = [_latest(log, "BlockAdopted") for log in logs]
    by_round = [means for number in numbers if (means := _mean_phases(blocks, number))]
    if not by_round:
        raise NetworkError("No peer went through one of these rounds from beginning to end.")
    phases = {name: Spread.of(each[name] for each in by_round) for name in PHASES}
    total = sum(phase.mean for phase in phases.values())
    claims = [_latest(log, "Claimed") for log in logs]
    claimed = sum(number in claim for claim in claims for number in numbers)
    counted = [block[number]["counted_segments"] for block in blocks for number in numbers if number in block]
    per = len(logs) * rounds
    up = list(zip(before.router.up, after.router.up, strict=True))
    lanes = list(zip(_lanes(before.router), _lanes(after.router), strict=True))
    return Figures(
        peers=len(logs),
        rounds=rounds,
        attempts=attempts,
        phases=phases,
        round_seconds=Spread.of(sum(each.values()) for each in by_round),
        shares={name: phase.mean / total for name, phase in phases.items()},
        claimed=claimed,
        counted=sum(count > 0 for count in counted),
        counted_segments=sum(counted) / max(1, claimed * segments),
        sent=_by_purpose(blocks, "sent", first, rounds),
        received=_by_purpose(blocks, "received", first, rounds),
        wire_up_bytes=_wire(before.router.up, after.router.up, rounds),
        wire_down_bytes=_wire(before.router.down, after.router.down, rounds),
        packets=sum(b.packets - a.packets for a, b in up) / per,
        lost=sum(b.lost - a.lost for a, b in lanes) / per,
        overflowed=sum(b.overflowed - a.overflowed for a, b in lanes) / per,
        retransmitted=(sum(after.retransmitted) - sum(before.retransmitted)) / per,
        identical=all(_is_identical(blocks, number) for number in numbers),
        late_ms=(1000 * after.router.mean_late_seconds, 1000 * after.router.worst_late_seconds),
    )


def show(console: Console, figures: Figures) -> None:
    """Print the figures of one swarm."""
    table = Table(title=f"{figures.peers} peers, {figures.rounds} rounds: seconds of a round")
    for column in ("phase", "mean", "deviation", "least", "most", "share"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    rows = {**figures.phases, "round": figures.round_seconds}
    for name, spread in rows.items():
        values = (spread.mean, spread.deviation, spread.least, spread.most)
        table.add_row(name, *(f"{value:.2f}" for value in values), f"{figures.shares.get(name, 1.0):.1%}")
    console.print(table)
    share = figures.counted / max(1, figures.claimed)
    console.print(
        f"Contributions: {figures.claimed} claimed, {figures.counted} counted ({share:.1%}), "
        f"and {figures.counted_segments:.1%} of their segments."
    )
    if figures.attempts > figures.peers:
        console.print(f"Joining took {figures.attempts} starts: some found nobody who answered, and ended.")
    console.print("Bytes of a peer in a round, mean (least to most):")
    for way, spread, ours in (
        ("up", figures.wire_up_bytes, figures.sent),
        ("down", figures.wire_down_bytes, figures.received),
    ):
        purposes = ", ".join(f"{name} {size:,}" for name, size in ours.items() if size)
        console.print(
            f"  {way}: {spread.mean:,.0f} ({spread.least:,.0f} to {spread.most:,.0f}) on the wire; "
            f"{sum(ours.values()):,} ours: {purposes}"
        )
    console.print(
        f"Packets of a peer in a round: {figures.packets:.0f} sent, {figures.lost:.1f} lost by chance, "
        f"{figures.overflowed:.1f} to full queues, {figures.retransmitted:.1f} retransmitted."
    )
    console.print(f"Digests after every round: {'identical' if figures.identical else 'NOT IDENTICAL'}.")
    console.print(
        "The router's packets left {:.2f} ms late on average, {:.1f} at worst.".format(*figures.late_ms)
    )


def overview(console: Console, rows: Mapping[str, Figures | str]) -> None:
    """Print one line for each link: its figures, or why there are none."""
    table = Table(title="The same recipe over several links: seconds of a round", padding=0)
    table.add_column("link", no_wrap=True)
    for column in (*PHASES, "round", "counted", "kB up"):
        table.add_column(column, justify="right")
    for link, row in rows.items():
        short = link.rpartition(",")[0]  # the loss is the same for all
        if isinstance(row, str):
            table.add_row(short, "failed")
            continue
        table.add_row(
            short,
            *(f"{row.phases[name].mean:.1f}" for name in PHASES),
            f"{row.round_seconds.mean:.1f}",
            f"{row.counted / max(1, row.claimed):.0%}",
            f"{row.wire_up_bytes.mean / 1000:.0f}",
        )
    console.print(table)
    for link, row in rows.items():
        if isinstance(row, str):
            console.print(f"{link}: {row}")


def _latest(events: Sequence[Event], kind: str) -> dict[int, Event]:
    """Return the last event of that kind for each round."""
    return {event["round"]: event for event in events if event["event"] == kind}


def _mean_phases(blocks: Sequence[Mapping[int, Event]], number: int) -> dict[str, float]:
    """Return the mean seconds of each phase over the peers that saw all of a round; {} if none did."""
    seen = [block[number]["phases"] for block in blocks if number in block and block[number]["phases"]]
    return {name: statistics.fmean(phases[name] for phases in seen) for name in PHASES} if seen else {}


def _is_identical(blocks: Sequence[Mapping[int, Event]], number: int) -> bool:
    """Whether every peer adopted the round's block, with the same digest."""
    digests = {block[number]["digest"] if number in block else None for block in blocks}
    return len(digests) == 1 and None not in digests


def _by_purpose(blocks: Sequence[Mapping[int, Event]], way: str, first: int, rounds: int) -> dict[str, int]:
    moved: Counter[str] = Counter()
    for block in blocks:
        last = max(number for number in block if number <= first + rounds)  # a snapshot may have stepped over
        moved.update(block[last][way])
        moved.subtract(block[first][way])
    return {name: size // len(blocks) // rounds for name, size in sorted(moved.items())}


def _lanes(router: RouterStatistics) -> list[Any]:
    return [*router.up, *router.down]


def _wire(before: Sequence[Any], after: Sequence[Any], rounds: int) -> Spread:
    return Spread.of((b.bytes - a.bytes) / rounds for a, b in zip(before, after, strict=True))
