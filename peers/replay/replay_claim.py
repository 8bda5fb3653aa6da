"""Replay of one claim from public data, by anybody who wants to check it.

It goes the way of an auditor (peers/audit/auditor.py), without a peer and without a network:

    1. hold what the author opened against the claim      opening_source.py
    2. make the state from which the window started       past_state.py, start_weights.py
    3. replay all steps in the claim's precision          trainer/replay.py
    4. compare, and judge by the recipe's thresholds      credit/comparing.py, credit/judging.py

A claim commits to its losses and contribution by hashes, so without an opening there is nothing to compare
with, but for one case: after a reset the error feedback is zero, and contribution and feedback follow from
the window alone. Where they come out with the same hashes, the claim holds, whatever thresholds say.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from peers.audit.comparing import ChunkGap, TraceGap, chunk_gap, sample_chunks, trace_gap
from peers.audit.judging import Judgement, Thresholds, judge, thresholds_of
from peers.audit.opening_check import Opened
from peers.codec.segment import contribution_root
from peers.exchange.error_feedback import ErrorFeedback
from peers.replay.claim_search import FoundClaim
from peers.replay.opening_source import ShownOpening, check_of, find_opening
from peers.replay.run_data import RunData
from peers.training.interface import (
    Numerics,
    Progress,
    Replay,
    ReplayOrder,
    ReplaySource,
    SharedBuffer,
    find_replay_source,
    precision_of,
)
from peers.training.start_weights import StartWeights
from recipes.errors import DataError, MessageError, ReplayError, StateError


class Tell(Protocol):
    """Is told what is being done, in a few words; `passing`: the next line of that kind comes soon."""

    def __call__(self, words: str, *, passing: bool = False) -> None: ...


_WHERE_OPENINGS_ARE = (
    "Authors open their claims to the auditors whom the chain asks. Ask one of those, or the author, for the "
    "file (opened/ROUND.CLAIM.opening in its run folder), and name it with --opening."
)


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """The result of a claim's replay.

    Attributes:
        numerics: what it was computed in.
        losses: of its steps.
        opening: where the opening was found, in words; None if there is none.
        trace: how far the opened losses lie from it; None without an opening.
        chunks: how far the opened chunks do; None if none were opened.
        opened_chunks: how many those are.
        thresholds: of the claim's numeric class; None if it is not calibrated.
        judgement: by these, or by the hashes that came out.
        not_compared: what could not be compared and why, a sentence each.
    """

    numerics: Numerics
    losses: tuple[float, ...]
    opening: str | None
    trace: TraceGap | None
    chunks: ChunkGap | None
    opened_chunks: int
    thresholds: Thresholds | None
    judgement: Judgement
    not_compared: tuple[str, ...]


def replay_claim(
    found: FoundClaim, data: RunData, *, opening: Path | None, device: str | None, tell: Tell
) -> Replayed:
    """Replay a claim, and compare.

    Args:
        found: the claim, in an export that was verified.
        data: of its run.
        opening: a file of what its author opened; by default, one in the run's folder.
        device: in the words of `trainer.join --device`; by default the claim's kind, if it is here.
        tell: told of what is done.

    Raises:
        ReplayError: something that it takes is missing here.
        DataError: the claim says that it started from another state than the chain's; or the opening is none
            of it.
        PlatformError: there is no such device, or no trainer.
        ModelError: the model does not fit the device.
        StorageError: the disk refuses.
    """
    claim, case = found.claim.body, found.case(chunks=data.layout.chunks)
    if claim.start_digest != found.state_said:
        raise DataError(
            f"The claim says that the state after round {claim.round - 1} was {claim.start_digest}, and the "
            f"chain, that it was {found.state_said}.",
            remedy="The claim does not hold.",
        )
    numerics = choose_numerics(data, claim.numeric_class, device=device, source=find_replay_source())
    shown = find_opening(case, data, file=opening)
    if shown is None and not claim.feedback_reset:
        raise ReplayError(
            f"There is nothing to compare a replay with: what the author of {found.claim.hash} opened is not "
            f"in {data.folder}.",
            remedy=_WHERE_OPENINGS_ARE,
        )
    try:
        opened = shown.check(data) if shown is not None else None
        tell("reading the run's text")
        replayer = find_replay_source().open_replayer(data.recipe, data.text(), found.run, numerics=numerics)
        with tempfile.TemporaryDirectory(prefix="manyhands-replay-") as scratch:
            tell(f"making the state after round {found.way.round} again")
            order = ReplayOrder(
                number=0,
                weights=_start(found, shown, data, Path(scratch)),
                slots=claim.slots,
                tokens_before=case.start.counters.tokens,
            )
            replay = replayer.replay(order, progress=_progress(found.steps, tell))
            return _compare(found, replay, data, numerics, shown, opened, Path(scratch))
    except StateError as error:
        raise ReplayError(
            f"The claim of round {claim.round} cannot be replayed here: {error.args[0]}",
            remedy="Peers keep states and reduced segments for some rounds, and longer while an audit needs "
            "them. Replay a newer claim, or name with --run a folder of the run that still has them.",
        ) from error


def choose_numerics(
    data: RunData, numeric_class: str, *, device: str | None, source: ReplaySource
) -> Numerics:
    """Return what to compute a claim of a numeric class in: its precision, on its kind of device if possible.

    Raises:
        ReplayError: this machine has no such precision.
        PlatformError: there is no such device.
    """
    precision = precision_of(numeric_class)
    here = source.numerics_here(data.recipe, wanted=[device] if device is not None else [])
    fitting = [numerics for numerics in here if numerics.precision == precision]
    alike = [numerics for numerics in fitting if numerics.numeric_class == numeric_class]
    if not fitting:
        raise ReplayError(
            f"The claim was computed as {numeric_class}, and this machine cannot compute in that precision.",
            remedy="Name another device with --device, or replay it on another machine.",
        )
    return (alike or fitting)[0]


def _start(found: FoundClaim, shown: ShownOpening | None, data: RunData, scratch: Path) -> SharedBuffer:
    """Return the weights from which the window started; they stay as long as `scratch` does.

    Raises:
        StateError: the state cannot be made again.
        ReplayError: the window started from a contribution that is not here.
        DataError: the one that was opened is another one.
    """
    past = data.past_state(scratch)
    weights = past.make(found.way)
    if not (found.claim.body.ahead and data.recipe.round.overlap == "eager"):
        return SharedBuffer(weights, past.weights_file)
    if shown is None or not shown.start:
        raise ReplayError(
            "The window began ahead of its block, from its author's last contribution, which is not here.",
            remedy=_WHERE_OPENINGS_ARE,
        )
    try:
        frames, share = check_of(shown.case, data).start(shown.start)
    except MessageError as error:
        raise shown.refused(error) from error
    starts = StartWeights(scratch, layout=data.layout, learning_rate=data.recipe.outer.learning_rate)
    return starts.make(weights, frames=frames, share=share)


def _compare(
    found: FoundClaim,
    replay: Replay,
    data: RunData,
    numerics: Numerics,
    shown: ShownOpening | None,
    opened: Opened | None,
    scratch: Path,
) -> Replayed:
    """Hold a replay against what was opened, or against the claim's own hashes.

    Raises:
        ReplayError: the replay gave no numbers; or there is no opening, and other hashes came out.
    """
    delta = replay.delta
    if delta is None or not np.isfinite(delta).all():
        raise ReplayError(
            "The replay gave NaN or infinity, so there is nothing to compare.",
            remedy="Replay it with --device cpu. If that gives the same, the claim itself may be at fault.",
        )
    thresholds = thresholds_of(data.recipe, found.claim.body.numeric_class)
    if shown is None or opened is None:
        trace, gap, case = None, None, found.case(chunks=data.layout.chunks)
        judgement = _judge_by_hashes(found, delta, data, scratch)
    else:
        trace, gap, case = trace_gap(opened.losses, replay.losses), None, shown.case
        if opened.chunks is not None:
            gap = chunk_gap(
                opened.chunks,
                sample_chunks(delta, case.places),
                codec=check_of(case, data).opening_form.codec,
                decay=data.recipe.exchange.feedback_decay,
            )
        judgement = judge(trace, gap, thresholds)
    return Replayed(
        numerics=numerics,
        losses=replay.losses,
        opening=shown.where if shown is not None else None,
        trace=trace,
        chunks=gap,
        opened_chunks=len(case.places) if gap is not None else 0,
        thresholds=thresholds,
        judgement=judgement,
        not_compared=tuple(_not_compared(found, shown, gap)),
    )


def _judge_by_hashes(
    found: FoundClaim, delta: NDArray[np.float32], data: RunData, scratch: Path
) -> Judgement:
    """Judge a claim after a reset by the contribution that its window gives, and by what that leaves out.

    Raises:
        ReplayError: they have other hashes than the claim's, which honest work on another machine has, too.
    """
    claim = found.claim.body
    feedback = ErrorFeedback(
        scratch / "feedback",
        layout=data.layout,
        decay=data.recipe.exchange.feedback_decay,
        expected_root=None,
    )
    codec = data.form.at(found.bare.parent.counters.tokens).codec
    frames = feedback.compress(delta, codec=codec, returned={})
    roots = (contribution_root([frame.root() for frame in frames]).hex(), feedback.root().hex())
    if roots == (claim.contribution, claim.feedback):
        return Judgement("pass", "agrees")
    raise ReplayError(
        "Without an opening, a claim is confirmed only where the same hashes come out. Others did, as they "
        "may from honest work on another kind of processor.",
        remedy=_WHERE_OPENINGS_ARE,
    )


def _not_compared(found: FoundClaim, shown: ShownOpening | None, gap: ChunkGap | None) -> Sequence[str]:
    if shown is None:
        return ["The losses are not compared: no opening of them is here."]
    if gap is not None:
        return []
    if not found.drawable:
        why = "the export ends before the block that draws which chunks are opened"
    elif found.drawn is None:
        why = "the claim was not drawn for an audit, so none are opened"
    elif found.drawn.steps < found.steps:
        why = f"the audit drew {found.drawn.steps:,} of {found.steps:,} steps, so none are opened"
    elif not shown.case.whole:
        why = "what the author kept of them is not here"
    else:
        why = "the author made no claim in the round before, so what came back to its feedback is not known"
    return [f"The contribution is not compared: {why}. The claim is judged by its losses alone."]


def _progress(steps: int, tell: Tell) -> Callable[[Progress], None]:
    def told(progress: Progress) -> None:
        words = f"replayed {progress.steps:,} of {steps:,} steps, loss {progress.loss:.4f}"
        tell(words, passing=True)

    return told
