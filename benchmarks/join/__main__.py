"""From command to first counted contribution: a newcomer on a thin line, beside hivemind's state download.

    python -m benchmarks.join [--up 10] [--down 10] [--rtt 100] [--loss 0.01]
    python -m benchmarks.join --width 160 --layers 4 --window 5

Three peers on fast lines train a model of the recipe's kind, then a newcomer comes with a run id and an
address. The same model is then trained by three of hivemind's peers with AdamW, and a newcomer calls
`load_state_from_peers`. Seconds and bytes on the newcomer's line are shown stage by stage; ours also fetches
recipe and data, which hivemind leaves to others, so a second newcomer of ours has those beforehand.
Needs root.

`main` is long by its options: each is one parameter.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness.bad_links import prepare
from benchmarks.harness.shaped_swarm import publish_changed
from benchmarks.join.figures import Course, show
from benchmarks.join.hivemind_swarm import measure_hivemind
from benchmarks.join.ours import measure_ours
from benchmarks.join.settings import JoinSettings
from recipes.command import plain_errors
from recipes.formats.files import write_atomic
from recipes.schema.recipe import published

HEAD_WIDTH = 32
FEED_FORWARD = 3  # times the width, as in stdlib-tiny
OURS, HIVEMIND = "ours", "hivemind"


def main(
    up: Annotated[float, typer.Option(min=0.01, help="Mbit/s that the newcomer can send.")] = 10.0,
    down: Annotated[float, typer.Option(min=0.01, help="Mbit/s that it can receive.")] = 10.0,
    rtt: Annotated[float, typer.Option(min=0, help="Round trip between it and the others, in ms.")] = 100.0,
    loss: Annotated[float, typer.Option(min=0, max=0.9, help="Share of its packets lost, each way.")] = 0.01,
    fast: Annotated[float, typer.Option(min=0.01, help="Mbit/s of the others' lines, each way.")] = 100.0,
    congestion: Annotated[
        str | None, typer.Option(help="TCP's congestion control: bbr, reno ... By default the machine's.")
    ] = None,
    window: Annotated[float, typer.Option(min=1, help="Seconds of training in a round, for both.")] = 10.0,
    width: Annotated[
        int, typer.Option(min=32, help=f"The model's hidden size, a multiple of {HEAD_WIDTH}.")
    ] = 512,
    layers: Annotated[int, typer.Option(min=1, help="The model's layers.")] = 6,
    limit: Annotated[
        float, typer.Option(min=10, help="Seconds after which nobody waits any longer.")
    ] = 900.0,
    half_state: Annotated[
        bool, typer.Option(help="hivemind's peers send their state in fp16; its default is fp32.")
    ] = False,
    only: Annotated[str, typer.Option(help="Measure `ours` or `hivemind` alone.")] = "",
    out: Annotated[Path, typer.Option(help="Where to write the results as JSON.")] = Path(
        "results/join.json"
    ),
) -> None:
    """Measure how soon a newcomer on a thin line is counted, beside hivemind's state download."""
    console = Console(highlight=False, soft_wrap=True)
    if width % HEAD_WIDTH:
        raise typer.BadParameter(f"--width {width} is not a multiple of {HEAD_WIDTH}")
    if only not in ("", OURS, HIVEMIND):
        raise typer.BadParameter(f"--only {only} is neither {OURS} nor {HIVEMIND}")
    with plain_errors():
        congestion = prepare(congestion)
        settings = JoinSettings(
            up_megabits=up,
            down_megabits=down,
            round_trip_ms=rtt,
            loss=loss,
            fast_megabits=fast,
            window_seconds=window,
            limit_seconds=limit,
            half_state=half_state,
        )
        folder = Path(tempfile.mkdtemp(prefix="manyhands-join-"))
        changes = {
            "window_seconds": f"{window:g}",
            "hidden_size": str(width),
            "num_hidden_layers": str(layers),
            "num_attention_heads": str(width // HEAD_WIDTH),
            "intermediate_size": str(FEED_FORWARD * width),
        }
        publication = publish_changed(folder / "ours", changes)
        parameters = published(publication.recipe).parameters
        console.print(
            f"{parameters:,} parameters, windows of {window:g} s, TCP with {congestion}; the newcomer has "
            f"{down:g} Mbit/s down, {up:g} up, RTT {rtt:g} ms, {loss:.1%} loss:"
        )
        courses: list[Course] = []
        if only in ("", OURS):
            courses += measure_ours(
                publication, folder / "ours", settings, congestion=congestion, tell=console.print
            )
        if only in ("", HIVEMIND):
            courses.append(
                measure_hivemind(
                    publication, folder / "hivemind", settings, congestion=congestion, tell=console.print
                )
            )
        shutil.rmtree(folder, ignore_errors=True)  # but not with the logs of a swarm that failed
        show(console, courses)
        content = {
            "parameters": parameters,
            "congestion": congestion,
            "settings": asdict(settings),
            "courses": [asdict(course) for course in courses],
        }
        write_atomic(out, json.dumps(content, indent=1).encode())
        console.print(f"Wrote {out}.")


if __name__ == "__main__":
    typer.run(main)
