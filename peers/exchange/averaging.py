"""Averaging one segment of many contributions, chunk by chunk and bit for bit.

The parts of the average, their order and their coefficients follow from the roster alone, and every
float operation stands by itself (a float32 product, then a float32 sum, in roster order). So a reducer's
result can be recomputed by anyone, for any one chunk, and must agree in every bit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from peers.codec.interface import Codec, EncodedChunks
from peers.codec.segment import SegmentFrame
from peers.protocol.messages import Roster
from recipes.errors import MessageError
from recipes.keys.keys import PeerId
from recipes.layout import CHUNK_VALUES

# A smaller coefficient adds nothing that an encoded average would show. Leaving it out keeps every product
# and sum clear of subnormal numbers, which some processors and settings flush to zero (`Codec` has bounds).
_SMALLEST_COEFFICIENT = 2.0**-64

NEWCOMERS_SHARE = 0.1  # of the weight in one average, all newcomers together


def newcomers_in(roster: Roster, established: Collection[PeerId]) -> frozenset[int]:
    """Return the places in a roster of the claimants that are not established; none, if no claimant is.

    A thousand new identities cost nothing. So newcomers have no say in how long a contribution may be, and
    together hold at most `NEWCOMERS_SHARE` of the weight.

    Args:
        roster: the round's roster.
        established: the peers whose word counts after the block below it (`Say.established`).
    """
    places = [place for place, claim in enumerate(roster.claims) if claim.body.peer not in established]
    return frozenset(places) if len(places) < len(roster.claims) else frozenset()


def weights_of(slots: Sequence[int], newcomers: Sequence[bool]) -> list[float]:
    """Return the weight of each part of an average: its slots, those of newcomers scaled to their share.

    Args:
        slots: that each part used.
        newcomers: whether each part is a newcomer's.
    """
    new = sum(count for count, is_new in zip(slots, newcomers, strict=True) if is_new)
    known = sum(slots) - new
    most = known * NEWCOMERS_SHARE / (1.0 - NEWCOMERS_SHARE)
    scale = most / new if 0 < most < new else 1.0
    return [count * scale if is_new else float(count) for count, is_new in zip(slots, newcomers, strict=True)]


def clip_bound(
    claimed_norms: Sequence[float], *, clip_factor: float, newcomers: Collection[int] = ()
) -> float:
    """Return the norm to which contributions to one segment are clipped.

    That is `clip_factor` times the median of the norms above zero; of an even number of norms, the median is
    the mean of the middle two. Without any norm above zero the bound is zero.

    Args:
        claimed_norms: the segment's norm in each claim of the roster. Order does not matter.
        clip_factor: how many medians are still fine.
        newcomers: the places of the claims whose norms are left out.

    Raises:
        ValueError: a norm is negative, infinite, or not a number.
    """
    if any(not 0.0 <= norm < math.inf for norm in claimed_norms):
        raise ValueError("a claimed norm is negative, infinite, or not a number")
    # A contribution of nothing to this segment does not bound the others.
    heard = [norm for place, norm in enumerate(claimed_norms) if norm > 0.0 and place not in newcomers]
    return clip_factor * statistics.median(heard) if heard else 0.0


def clip_factors(
    claimed_norms: Sequence[float], *, clip_factor: float, newcomers: Collection[int] = ()
) -> list[float]:
    """Return the factor, at most 1, that brings each contribution within `clip_bound`, in the order given.

    Raises:
        ValueError: as `clip_bound`.
    """
    bound = clip_bound(claimed_norms, clip_factor=clip_factor, newcomers=newcomers)
    return [1.0 if norm <= bound else bound / norm for norm in claimed_norms]


def exceeds_bound(reduced: SegmentFrame, bound: float) -> bool:
    """Whether a reduced segment is longer than any average of contributions within `bound` can be.

    An average of vectors within a bound is within it; only encoding can lengthen it.
    """
    return reduced.norm() > bound * reduced.codec.max_norm_growth


def reduce_segment(
    frames: Sequence[SegmentFrame],
    weights: Sequence[float],
    factors: Sequence[float],
    *,
    out_codec: Codec,
) -> SegmentFrame:
    """Average one segment of several contributions and encode the result.

    Args:
        frames: the contributions' frames that arrived, in roster order, all with the same number of chunks.
        weights: the weight of each, not negative and not all zero; only their ratios matter.
        factors: clip factor of each.
        out_codec: codec of the average.

    Raises:
        ValueError: nothing to average, or the sequences do not belong together.
    """
    encoded = [out_codec.encode(average) for average in averages(frames, weights, factors)]
    return SegmentFrame(codec=out_codec, encoded=EncodedChunks.join(encoded))


def averages(
    frames: Sequence[SegmentFrame], weights: Sequence[float], factors: Sequence[float]
) -> Iterator[NDArray[np.float32]]:
    """Average one segment of several contributions, some chunks at a time: float32 of shape (chunks, 4096).

    Args:
        frames: as for `reduce_segment`.
        weights: likewise.
        factors: likewise.

    Raises:
        ValueError: as `reduce_segment`.
    """
    coefficients = _coefficients(weights, factors)
    if len(frames) != len(coefficients) or len({len(frame.encoded) for frame in frames}) != 1:
        raise ValueError("each contribution needs one weight, one factor, and equally many chunks")
    for batch in zip(*(frame.codec.decode_batches(frame.encoded) for frame in frames), strict=True):
        average = np.zeros((batch[0].chunks, CHUNK_VALUES), dtype=np.float32)
        flat = average.reshape(-1)
        for part, coefficient in zip(batch, coefficients, strict=True):
            flat[part.positions] += part.values * coefficient  # no position occurs twice
        yield average


def reduce_chunk(
    contents: Sequence[bytes],
    weights: Sequence[float],
    factors: Sequence[float],
    *,
    codec: Codec,
    out_codec: Codec,
) -> bytes:
    """Return the bytes that `reduce_segment` gives for one chunk, from that chunk of each contribution.

    Args:
        contents: the encoded chunk of each contribution, in roster order, of any content.
        weights: as for `reduce_segment`.
        factors: as for `reduce_segment`.
        codec: codec of the contributions.
        out_codec: codec of the reduced segment.

    Raises:
        MessageError: an encoded chunk is malformed; the message counts contributions from 0.
        ValueError: as `reduce_segment`.
    """
    frames = []
    for place, content in enumerate(contents):
        try:
            frame = SegmentFrame(codec=codec, encoded=codec.split(content, chunks=1))
            frame.norm()  # decodes, and so finds what splitting cannot
        except MessageError as error:
            raise MessageError(f"Contribution {place}: {error}") from error
        frames.append(frame)
    return reduce_segment(frames, weights, factors, out_codec=out_codec).encoded.data


def _coefficients(weights: Sequence[float], factors: Sequence[float]) -> list[np.float32]:
    if len(weights) != len(factors):
        raise ValueError(f"{len(weights)} weights for {len(factors)} clip factors")
    if any(not 0.0 <= value < math.inf for value in (*weights, *factors)):
        raise ValueError("a weight or clip factor is negative, infinite, or not a number")
    total = math.fsum(weights)
    if total <= 0.0:
        raise ValueError("there is nothing to average: all weights are zero")
    exact = [weight / total * factor for weight, factor in zip(weights, factors, strict=True)]
    return [np.float32(value if value >= _SMALLEST_COEFFICIENT else 0.0) for value in exact]
