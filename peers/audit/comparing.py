"""How far a replay lies from a claim: by its loss trace, and by the chunks that its author opened.

Honest work differs a little between kinds of processors, in precision and in the order of sums, and those
differences grow with the steps. So only one thing here is a yes or no, whether chunks follow from the codec:
all else is a number, and peers/audit/judging.py holds it against thresholds that were measured.

An opening may hold anything. Shapes are the caller's to check; values need not be finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peers.codec.interface import Codec, SparseChunks
from peers.exchange.error_feedback import from_bfloat16
from recipes.layout import CHUNK_VALUES

_ROUNDING = 2.0**-8 * (1 + 2.0**-10)
"""By how much of its size rounding to bfloat16 moves a value of E at most."""


@dataclass(frozen=True)
class TraceGap:
    """Relative differences between two loss traces, |claimed - replayed| / |replayed|, at least 0.

    Attributes:
        mean: over the steps replayed.
        worst: of the step that differs most.
    """

    mean: float
    worst: float


@dataclass(frozen=True, eq=False)
class OpenedChunks:
    """Some opened chunks of a contribution and of its error feedback.

    Attributes:
        before: E before the round, the bits of bfloat16, shape (chunks, 4096).
        returned: the values that came back to E in that round, float32, same shape, by the chain.
        after: E after the round, as `before`.
        sent: the contribution's values in these chunks.
    """

    before: NDArray[np.uint16]
    returned: NDArray[np.float32]
    after: NDArray[np.uint16]
    sent: SparseChunks


@dataclass(frozen=True)
class ChunkGap:
    """Differences between a pseudo-gradient as opened chunks imply it, and as a replay gives it.

    Attributes:
        sound: whether the codec, given the opened E + contribution, returns the contribution.
        dropped: share of the contribution's places that the codec does not choose after the replay, 0 to 1.
        direction: 1 less the cosine between the two, over all chunks together: 0 to 2.
        length: |<opened, replayed> / <replayed, replayed> - 1|: 1 for nothing, 2 for the opposite.
    """

    sound: bool
    dropped: float
    direction: float
    length: float


FARTHEST = ChunkGap(sound=False, dropped=1.0, direction=2.0, length=math.inf)


def trace_gap(claimed: Sequence[float], replayed: Sequence[float]) -> TraceGap:
    """Compare the first steps of a claimed loss trace with those that were replayed, at least one.

    A loss that is not finite agrees with nothing but one that is not finite either; a missing one, with none.
    """
    gaps = [_relative_gap(theirs, ours) for theirs, ours in zip(claimed, replayed, strict=False)]
    gaps += [math.inf] * (len(replayed) - len(gaps))
    return TraceGap(mean=sum(gaps) / len(gaps), worst=max(gaps))


def chunk_gap(opened: OpenedChunks, replayed: NDArray[np.float32], *, codec: Codec, decay: float) -> ChunkGap:
    """Solve the equation of error_feedback.py for the pseudo-gradient, and compare it with a replay's.

    E = decay x (E + returned) + pseudo-gradient - contribution; so what the contribution was made from is
    E + contribution, up to the rounding of E, and the pseudo-gradient is that less decay x (E + returned).
    Of all that E may have been rounded from, what comes nearest to the replay is compared: after a short
    window E holds far more than the window gave, and its rounding alone can be a tenth of that.

    Args:
        opened: the opened chunks.
        replayed: the replay's pseudo-gradient in these chunks, float32, shape (chunks, 4096).
        codec: what that round's contributions are encoded with.
        decay: the recipe's `exchange.feedback_decay`.
    """
    carried = (from_bfloat16(opened.before) + opened.returned) * np.float32(decay)
    wanted = from_bfloat16(opened.after) + opened.sent.dense()
    # A stranger may send NaN or infinity: neither may reach the codec.
    if not (np.isfinite(carried).all() and np.isfinite(wanted).all()):
        return FARTHEST
    unsure = np.abs(from_bfloat16(opened.after)) * np.float32(_ROUNDING)
    made = wanted.astype(np.float64) - carried
    made = np.clip(replayed, made - unsure, made + unsure)  # the one that the replay is nearest to
    direction, length = _angle_and_length(made, replayed.astype(np.float64))
    chosen = codec.decode(codec.encode(carried + replayed)).positions
    return ChunkGap(
        # What is left of a value far below its level is rounded by more than the value's own last digit.
        sound=codec.could_have_kept(opened.sent, wanted, unsure),
        dropped=1.0 - _share_in_common(opened.sent.positions, chosen),
        direction=direction,
        length=length,
    )


def _relative_gap(theirs: float, ours: float) -> float:
    if not (math.isfinite(theirs) and math.isfinite(ours)):
        return 0.0 if math.isfinite(theirs) == math.isfinite(ours) else math.inf
    if theirs == ours:
        return 0.0
    return abs(theirs - ours) / abs(ours) if ours else math.inf


def _angle_and_length(opened: NDArray[np.float64], replayed: NDArray[np.float64]) -> tuple[float, float]:
    """Return 1 less the cosine between two arrays, and how far one's length along the other is from 1."""
    product = float(np.vdot(opened, replayed))
    squared = float(np.vdot(replayed, replayed))
    norms = math.sqrt(float(np.vdot(opened, opened)) * squared)
    if not norms:  # nothing against nothing agrees, nothing against something does not
        same = not opened.any() and not replayed.any()
        return (0.0, 0.0) if same else (1.0, 1.0)
    return max(0.0, 1.0 - product / norms), abs(product / squared - 1.0)


def _share_in_common(theirs: NDArray[np.int64], ours: NDArray[np.int64]) -> float:
    """Return the share of the longer list of places that stands in both; 1 if both are empty."""
    longer = max(theirs.size, ours.size)
    return np.intersect1d(theirs, ours, assume_unique=True).size / longer if longer else 1.0


def sample_chunks(values: NDArray[np.float32], chunks: Sequence[int]) -> NDArray[np.float32]:
    """Return a copy of some chunks of a flat vector of shape (padded,): float32 of shape (chunks, 4096)."""
    return values.reshape(-1, CHUNK_VALUES)[list(chunks)]
