"""The exchange's arithmetic goes by batches of chunks: working memory does not grow with the segment."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from peers.codec.segment import SegmentFrame
from peers.codec.sparse_codec import SparseCodec
from peers.exchange.averaging import reduce_segment
from peers.exchange.error_feedback import ErrorFeedback
from recipes.layout import lay_out

CODEC = SparseCodec(keep=64, level_bits=1)
OUT = SparseCodec(keep=256, level_bits=3)
FEW, MANY = 128, 1024  # chunks: 2 and 16 MiB of values
ROOM = 2 << 20  # for results, which do grow: 0.07 MB of encoded chunks, and their offsets and hashes


def gaussian(chunks: int) -> NDArray[np.float32]:
    return np.random.default_rng(chunks).standard_normal((chunks, 4096), dtype=np.float32) * np.float32(1e-3)


def peak(work: Callable[[], object]) -> int:
    """The most memory that `work` held at once, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", [CODEC, OUT], ids=str)
def test_encoding_takes_no_more_memory_for_more_chunks(codec: SparseCodec) -> None:
    few, many = gaussian(FEW), gaussian(MANY)
    assert peak(lambda: codec.encode(many)) <= peak(lambda: codec.encode(few)) + ROOM


def test_reducing_takes_no_more_memory_for_more_chunks() -> None:
    few, many = ([SegmentFrame.encode(gaussian(chunks), codec=CODEC)] * 4 for chunks in (FEW, MANY))
    peaks = [
        peak(lambda frames=frames: reduce_segment(frames, [1.0] * 4, [1.0] * 4, out_codec=OUT))  # type: ignore[misc]
        for frames in (few, many)
    ]
    assert peaks[1] <= peaks[0] + ROOM


def test_contributing_takes_no_more_memory_for_a_larger_segment(tmp_path: Path) -> None:
    peaks = []
    for chunks in (FEW, MANY):
        layout = lay_out([("parameters", (chunks * 4096,))], segments=1)
        feedback = ErrorFeedback(tmp_path / str(chunks), layout=layout, decay=0.95, expected_root=None)
        delta = gaussian(chunks).reshape(-1)
        peaks.append(peak(lambda: feedback.compress(delta, codec=CODEC, returned={})))  # noqa: B023
    assert peaks[1] <= peaks[0] + ROOM
