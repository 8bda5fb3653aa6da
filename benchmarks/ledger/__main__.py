"""How fast a ledger is verified, and in how much memory.

    python -m benchmarks.ledger [--entries 1000000] [--peers 48] [--out results/ledger.json]

It writes the export of a synthetic run with real signatures throughout, to a temporary file, and verifies it
in a process of its own, on one core. Writing a million entries takes longer than verifying them. How long one
Ed25519 signature takes to verify there stands beside it: each claim brings two, its own and its author's
co-signature of the block before.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.ledger.chain import RECIPE, SyntheticRun
from peers.ledger.derive import Ground, Settled, derive
from peers.ledger.export import write_export
from peers.ledger.lines import Header
from peers.ledger.verify import verify_export
from recipes.command import plain_errors
from recipes.formats.files import write_atomic
from recipes.keys.keys import SigningKey
from recipes.keys.keys import verify as verify_signature

GOAL_PER_SECOND = 5000
_SIGNATURES = 1000


@dataclass(frozen=True)
class Measured:
    """One export's size, and what verifying it took: seconds of CPU, and most bytes resident at once.

    `start_bytes` of these were resident before the first line was read.
    """

    entries: int
    rounds: int
    claims: int
    peers: int
    export_bytes: int
    write_seconds: float
    verify_seconds: float
    peak_bytes: int
    start_bytes: int
    signature_seconds: float

    @property
    def per_second(self) -> float:
        """Entries verified in a second."""
        return self.entries / self.verify_seconds


def measure(*, entries: int, peers: int, folder: Path) -> Measured:
    """Write an export of at least so many entries into `folder`, and verify it."""
    run = SyntheticRun(peers)
    path = folder / "ledger.jsonl"
    began = time.process_time()
    with path.open("wb") as out:
        header = Header(
            run=run.rules.run,
            recipe=RECIPE,
            owner=run.keys[0].peer_id,
            signature=run.keys[0].sign("recipe", RECIPE.encode()).hex(),
            signer=run.keys[0].peer_id,
        )
        exported = write_export(out, _until(run, entries), header=header, key=run.keys[0])
    wrote = time.process_time() - began
    command = [sys.executable, "-m", "benchmarks.ledger", "--verify", str(path), "--peers", str(peers)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return Measured(
        entries=exported.tally.entries,
        rounds=exported.round,
        claims=exported.tally.kinds["claim"],
        peers=peers,
        export_bytes=path.stat().st_size,
        write_seconds=wrote,
        verify_seconds=told["seconds"],
        peak_bytes=told["peak_bytes"],
        start_bytes=told["start_bytes"],
        signature_seconds=told["signature_seconds"],
    )


def _until(run: SyntheticRun, entries: int) -> Iterator[Settled]:
    """Yield the run's blocks until they have led to so many entries."""
    found = 0
    for settled in derive(run.ground, run.blocks()):
        found += len(settled.entries)
        yield settled
        if found >= entries:
            return


def _verify(path: Path, ground: Ground) -> dict[str, float]:
    before = _resident()
    began = time.process_time()
    with path.open("rb") as stream:
        verify_export(stream, grounds=lambda _: ground)
    return {
        "seconds": time.process_time() - began,
        "peak_bytes": _resident(),
        "start_bytes": before,
        "signature_seconds": _signature_seconds(),
    }


def _signature_seconds() -> float:
    """Return the CPU time that verifying one signature takes, at this time on this machine."""
    key, body = SigningKey(bytes(32)), bytes(32)
    signature = key.sign("claim", body)
    began = time.process_time()
    for _ in range(_SIGNATURES):
        verify_signature(key.peer_id, "claim", body, signature)
    return (time.process_time() - began) / _SIGNATURES


def _resident() -> int:
    """Return the most bytes that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _table(measured: Measured) -> Table:
    table = Table(title="Verifying a ledger's export, one core")
    for column in (
        "entries",
        "claims",
        "rounds",
        "export MB",
        "seconds",
        "entries/s",
        "peak MB",
        "MB at start",
        "µs/signature",
    ):
        table.add_column(column, justify="right")
    table.add_row(
        f"{measured.entries:,}",
        f"{measured.claims:,}",
        f"{measured.rounds:,}",
        f"{measured.export_bytes / 1e6:.1f}",
        f"{measured.verify_seconds:.1f}",
        f"{measured.per_second:,.0f}",
        f"{measured.peak_bytes / 1e6:.0f}",
        f"{measured.start_bytes / 1e6:.0f}",
        f"{measured.signature_seconds * 1e6:.0f}",
    )
    return table


def main(
    entries: Annotated[int, typer.Option(min=1, help="Entries of the ledger, at least.")] = 1_000_000,
    peers: Annotated[int, typer.Option(min=1, max=64, help="Peers that claim in each round.")] = 48,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON, too.")] = None,
    verify: Annotated[
        Path | None, typer.Option(help="Only verify this export of a run of so many --peers.", hidden=True)
    ] = None,
) -> None:
    """Measure how fast the export of a large ledger is verified, and in how much memory."""
    if verify is not None:
        print(json.dumps(_verify(verify, SyntheticRun(peers).ground)))
        return
    with plain_errors(), tempfile.TemporaryDirectory() as folder:
        measured = measure(entries=entries, peers=peers, folder=Path(folder))
        Console(width=120).print(_table(measured))
        print(f"Goal: more than {GOAL_PER_SECOND:,} entries a second.")
        if out is not None:
            write_atomic(out, json.dumps(asdict(measured), indent=1).encode() + b"\n")


if __name__ == "__main__":
    typer.run(main)
