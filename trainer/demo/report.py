"""What the demo shows: the live table and curve while it runs, and the figures when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from recipes.command import printable
from trainer.demo.peer import DemoPeer
from trainer.screen import short_count

_CURVE_HEIGHT = 10
_CURVE_WIDTH = 64  # characters: it fits a terminal of 80 columns
_FP16_BYTES = 2


@dataclass(frozen=True)
class Figures:
    """The demo's result.

    Attributes:
        rounds: rounds agreed on.
        parameters: of the model.
        validation: nats per token after each round; round 0 is the untrained model.
        bigram: nats per token of a bigram model fitted on the same tokens.
        agreed: whether every survivor holds the same digest after the last round, and all before.
        export: folder of the exported model.
        sample: text that it generated.
        plot: the curve's picture.
    """

    rounds: int
    parameters: int
    validation: Mapping[int, float]
    bigram: float
    agreed: bool
    export: Path
    sample: str
    plot: Path


def live_view(peers: Sequence[DemoPeer], *, rounds: int, headline: str, page: str = "") -> RenderableType:
    """Return the screen of a running demo."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("peer", "doing", "round", "counted", "tokens", "loss", "up MB", "down MB", "state"):
        table.add_column(column, justify="left" if column in ("peer", "doing") else "right", no_wrap=True)
    for peer in peers:
        tally = peer.tally
        digest = tally.digests.get(tally.round, "")[:6]
        loss = f"{tally.loss:.3f}" if tally.loss == tally.loss else "-"
        numbers = [str(tally.round), str(len(tally.counted_rounds)), short_count(tally.tokens), loss]
        moved = [f"{sum(side.values()) / 1e6:.1f}" for side in (tally.sent, tally.received)]
        table.add_row(peer.name, tally.state, *numbers, *moved, digest)
    validation = peers[0].tally.validation
    curve = Text(curve_of(validation, until=rounds), style="cyan")
    watch = [Text(f"Watch it in a browser: {page}")] if page else []
    return Group(
        Text(headline, style="bold"),
        *watch,
        table,
        Panel(curve, title="validation loss, nats a token, by round"),
    )


def curve_of(losses: Mapping[int, float], *, until: int) -> str:
    """Return losses by round as a curve of characters, rounds 0 to `until` from left to right."""
    if not losses:
        return "\n" * _CURVE_HEIGHT
    low, high = min(losses.values()), max(losses.values())
    span = max(high - low, 1e-9)
    width = max(1, min(4, _CURVE_WIDTH // (until + 1)))
    rows = [[" "] * ((until + 1) * width) for _ in range(_CURVE_HEIGHT)]
    for number, loss in losses.items():
        row = round((high - loss) / span * (_CURVE_HEIGHT - 1))
        if number <= until:
            rows[row][number * width] = "●"
    labels = [f"{high - span * row / (_CURVE_HEIGHT - 1):7.3f} │" for row in range(_CURVE_HEIGHT)]
    axis = " " * 8 + "└" + "─" * ((until + 1) * width)
    return "\n".join([label + "".join(row) for label, row in zip(labels, rows, strict=True)] + [axis])


def as_json(peers: Sequence[DemoPeer], figures: Figures) -> dict[str, Any]:
    """Return the result as plain values, for `--json`."""
    return {
        "rounds": figures.rounds,
        "parameters": figures.parameters,
        "states_agree": figures.agreed,
        "validation_loss": {str(number): loss for number, loss in sorted(figures.validation.items())},
        "bigram_loss": figures.bigram,
        "bits_per_parameter_per_round": bits_per_parameter(peers, figures),
        "seconds_per_phase": seconds_per_phase(peers),
        "utilisation": utilisation(peers),
        "export": str(figures.export),
        "plot": str(figures.plot),
        "sample": figures.sample,
        "peers": {
            peer.peer_id: {
                "name": peer.name,
                "state_digest": peer.tally.digests.get(figures.rounds),
                "rounds": len(peer.tally.counted_rounds),
                "tokens": peer.tally.tokens,
                "steps": peer.tally.steps,
                "lives": peer.lives,
                "sent_bytes": sum(peer.tally.sent.values()),
                "received_bytes": sum(peer.tally.received.values()),
                "sent_by_purpose": peer.tally.sent,
                "received_by_purpose": peer.tally.received,
                "fp16_all_reduce_bytes_each_way": all_reduce_bytes(peer, len(peers), figures.parameters),
                "peak_memory_bytes": peer.peak_memory,
            }
            for peer in peers
        },
    }


def all_reduce_bytes(peer: DemoPeer, peers: int, parameters: int) -> int:
    """Return the bytes, each way, of a ring all-reduce in fp16 at each of the peer's steps."""
    return round(peer.tally.steps * 2 * (peers - 1) / peers * parameters * _FP16_BYTES)


def bits_per_parameter(peers: Sequence[DemoPeer], figures: Figures) -> dict[str, float]:
    """Return bits per parameter and round: of one contribution, and moved for segments each way by a peer."""
    contributions = [size for peer in peers for size in peer.tally.contribution_bytes]
    rounds = sum(len(peer.tally.phases) for peer in peers)
    sent = sum(peer.tally.sent.get("segments", 0) for peer in peers)
    received = sum(peer.tally.received.get("segments", 0) for peer in peers)
    per = 8 / figures.parameters
    return {
        "contribution": sum(contributions) / max(1, len(contributions)) * per,
        "upload": sent / max(1, rounds) * per,
        "download": received / max(1, rounds) * per,
    }


def seconds_per_phase(peers: Sequence[DemoPeer]) -> dict[str, float]:
    """Return the mean seconds of each phase of a round, over peers and rounds."""
    rounds = [phases for peer in peers for phases in peer.tally.phases]
    names = rounds[0].keys() if rounds else ()
    return {name: sum(phases.get(name, 0.0) for phases in rounds) / len(rounds) for name in names}


def utilisation(peers: Sequence[DemoPeer]) -> float:
    """Return the share of their time in which the trainers computed, from each one's first step on."""
    computed = sum(peer.tally.computed_seconds for peer in peers)
    return computed / max(computed + sum(peer.tally.waited_seconds for peer in peers), 1e-9)


def summary(peers: Sequence[DemoPeer], figures: Figures) -> RenderableType:
    """Return the figures for a person to read."""
    bits = bits_per_parameter(peers, figures)
    title = "What each peer did, and what an fp16 all-reduce at every step would have moved"
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("peer", "rounds", "tokens", "steps", "sent MB", "got MB", "fp16 MB", "state"):
        table.add_column(column, justify="left" if column == "peer" else "right", no_wrap=True)
    for peer in peers:
        tally = peer.tally
        dense = all_reduce_bytes(peer, len(peers), figures.parameters)
        moved = [f"{sum(side.values()) / 1e6:.2f}" for side in (tally.sent, tally.received)]
        numbers = [str(len(tally.counted_rounds)), f"{tally.tokens:,}", str(tally.steps)]
        digest = tally.digests.get(figures.rounds, "")[:8]
        table.add_row(peer.name, *numbers, *moved, f"{dense / 1e6:,.0f}", digest)
    losses = ", ".join(f"{number}: {loss:.3f}" for number, loss in sorted(figures.validation.items()))
    last = figures.validation.get(max(figures.validation, default=0), float("nan"))
    verdict = "below" if last < figures.bigram else "NOT below"
    agreement = "All survivors hold the same state" if figures.agreed else "THE SURVIVORS' STATES DIFFER"
    phases = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in seconds_per_phase(peers).items())
    lines = [
        f"Validation loss by round: {losses}.",
        f"It ends {verdict} that of a bigram model fitted on the same tokens: "
        f"{last:.3f} against {figures.bigram:.3f}.",
        f"{agreement} after round {figures.rounds}, bit for bit.",
        f"A contribution took {bits['contribution']:.4f} bits a parameter; with the reduced segments, a "
        f"peer sent {bits['upload']:.3f} and received {bits['download']:.3f} bits a parameter and round.",
        f"A round's mean seconds: {phases}. The trainers computed in {utilisation(peers):.0%} of their time.",
        f"Model: {figures.export}",
        f"Curve: {figures.plot}",
        f"It writes:\n{printable(figures.sample)}",
    ]
    return Group(table, Text("\n".join(lines)))


def draw_curve(figures_path: Path, validation: Mapping[int, float], *, bigram: float) -> None:
    """Write the loss curve as a PNG picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rounds = sorted(validation)
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    axes.plot(
        rounds, [validation[number] for number in rounds], marker="o", markersize=3, label="the swarm's model"
    )
    axes.axhline(bigram, linestyle="--", color="grey", label="bigram model, same tokens")
    axes.set_xlabel("round")
    axes.set_ylabel("validation loss, nats a token")
    axes.set_title("stdlib-tiny")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(figures_path)
    plt.close(figure)
