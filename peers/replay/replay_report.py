"""The report on a replayed claim: a few lines, a table of measures and thresholds, and the judgement."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from peers.audit.judging import Limit
from peers.protocol.reasons import VERDICT_SENTENCES
from peers.replay.claim_search import FoundClaim
from peers.replay.replay_claim import Replayed, Tell
from recipes.errors import DataError, ReplayError
from recipes.slots import total

_SECONDS_BETWEEN = 5.0  # before a passing line
_UNIT = 8  # of a hash that is shown in short

_UNDECIDED = {
    "between the thresholds": "Ask somebody else to replay it, on another kind of processor.",
    "thresholds not calibrated": "The run's owner measures them with `python -m peers.calibrate`.",
}


def teller(*, now: Callable[[], float] = time.monotonic) -> Tell:
    """Return what tells on stderr how far a replay is: not each passing line, where steps are quick."""
    started = now()
    last = float("-inf")

    def tell(words: str, *, passing: bool = False) -> None:
        nonlocal last
        if passing and now() - last < _SECONDS_BETWEEN:
            return
        last = now()
        print(f"{last - started:7.1f} s  {words}", file=sys.stderr, flush=True)

    return tell


def show_claim(console: Console, found: FoundClaim) -> None:
    """Say which claim it is, and what the chain says of it."""
    claim = found.claim.body
    console.print(f"\nclaim     {found.claim.hash}")
    console.print(f"peer      {claim.peer}")
    console.print(
        f"round     {claim.round:,}: {found.steps:,} steps on {total(claim.slots):,} slots, "
        f"claimed as {claim.numeric_class}",
        markup=False,
    )
    console.print(f"audit     {'; '.join(_audit_words(found))}")


def show_replay(console: Console, found: FoundClaim, done: Replayed) -> None:
    """Print the report on a claim's replay."""
    way = found.way
    console.print(f"start     the state after round {way.round:,}, digest {way.digest}, as in the chain")
    numerics = done.numerics
    console.print(
        f"replay    {len(done.losses):,} steps in {numerics.precision} on {numerics.device} "
        f"({numerics.numeric_class}), loss {done.losses[0]:.4f} at first and {done.losses[-1]:.4f} at last"
    )
    if done.opening is not None:
        console.print(
            f"opening   from {done.opening}: it has the hashes that the claim commits to", markup=False
        )
    console.print()
    console.print(_table(done))
    for sentence in done.not_compared:
        console.print(sentence)


def conclude(done: Replayed) -> str:
    """Return the sentence that ends a report of a claim that holds.

    Raises:
        DataError: the claim does not hold.
        ReplayError: that cannot be told.
    """
    judgement = done.judgement
    if done.trace is None:
        return "The claim holds: its contribution and error feedback came out with the hashes that it claims."
    sentence = VERDICT_SENTENCES[judgement.reason]
    if judgement.outcome == "pass":
        return f"The claim holds. {sentence}"
    if judgement.outcome == "fail":
        raise DataError(
            f"The claim does not hold: {judgement.reason}. {sentence}",
            remedy="Its author did other work than it claims. Keep the opening: it shows that to anybody.",
        )
    raise ReplayError(
        f"Whether the claim holds cannot be told: {judgement.reason}. {sentence}",
        remedy=_UNDECIDED[judgement.reason],
    )


def _audit_words(found: FoundClaim) -> Iterator[str]:
    if not found.drawable:
        yield "the export ends before the block that could draw it"
        return
    if found.drawn is None:
        yield "not drawn"
        return
    yield f"drawn in round {found.drawn.round:,}, for {found.drawn.steps:,} steps"
    for said in found.said:
        yield f"{said.auditor[-_UNIT:]} said {said.outcome} ({said.reason})"
    for decided in found.decided:
        yield f"decided in round {decided.round:,}: {decided.decision}"


def _table(done: Replayed) -> Table:
    table = Table("measure", "found", "agrees up to", "fails above", "outcome", box=None)
    if done.trace is None:
        table.add_row("hash of the contribution", "the same", "", "", "pass")
        table.add_row("hash of the error feedback", "the same", "", "", "pass")
        return table
    limits, trace, chunks = done.thresholds, done.trace, done.chunks
    table.add_row("loss, mean gap", *_beside(trace.mean, limits.loss_mean if limits else None))
    table.add_row("loss, worst gap", *_beside(trace.worst, limits.loss_worst if limits else None))
    if chunks is None:
        return table
    table.add_row("direction", *_beside(chunks.direction, limits.direction if limits else None))
    table.add_row("length", *_beside(chunks.length, limits.length if limits else None))
    table.add_row("places dropped", *_beside(chunks.dropped, limits.dropped if limits else None))
    found, outcome = ("sound", "pass") if chunks.sound else ("not sound", "fail")
    table.add_row(f"codec, {done.opened_chunks:,} chunks", found, "", "", outcome if limits else "")
    return table


def _beside(value: float, limit: Limit | None) -> tuple[str, str, str, str]:
    """Return a measure, its two limits, and the outcome, as a table has them."""
    if limit is None:
        return f"{value:.2g}", "not measured", "not measured", ""
    return f"{value:.2g}", f"{limit.agrees:g}", f"{limit.fails:g}", limit.outcome(value)
