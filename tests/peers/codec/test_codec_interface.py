"""Whatever implements `Codec` is framed, proven, carried by the error feedback and averaged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from peers.codec.interface import Codec, EncodedChunks, Selector, SparseChunks
from peers.codec.segment import (
    ChunkProof,
    SegmentFrame,
    contribution_root,
    frame_limit,
    proof_limit,
    verify_chunk,
    with_header,
)
from peers.codec.sparse_codec import SparseCodec
from peers.exchange.averaging import exceeds_bound, reduce_chunk, reduce_segment
from peers.exchange.error_feedback import ErrorFeedback, Returned
from recipes.errors import MessageError
from recipes.layout import CHUNK_VALUES, lay_out

_CHUNK_BYTES = 2 * CHUNK_VALUES


@dataclass(frozen=True)
class HalfCodec:
    """All values of a chunk in fp16, rounded to nearest even: a dense form, which keeps everything."""

    header_fields: bytes = b"MHF\x01"
    max_chunk_bytes: int = _CHUNK_BYTES
    max_norm_growth: float = 1.0 + 2.0**-10

    def encode(self, values: NDArray[np.float32], *, select: Selector | None = None) -> EncodedChunks:
        if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] != CHUNK_VALUES:
            raise ValueError(f"expected float32 of shape (chunks, 4096), not {values.dtype} {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("cannot encode values that are infinite or not a number")
        halves = np.clip(values, -65504.0, 65504.0).astype("<f2")
        halves[halves == 0] = 0  # no negative zero: one form for each value
        return self.split(halves.tobytes(), chunks=len(values))

    def split(self, data: bytes, *, chunks: int) -> EncodedChunks:
        if len(data) != chunks * _CHUNK_BYTES:
            raise MessageError(f"{len(data)} bytes are not {chunks} chunks of {_CHUNK_BYTES} bytes.")
        return EncodedChunks(data, np.arange(chunks + 1, dtype=np.int64) * _CHUNK_BYTES)

    def decode(self, encoded: EncodedChunks) -> SparseChunks:
        halves = np.frombuffer(encoded.data, dtype="<f2")
        if not np.isfinite(halves).all() or (np.signbit(halves) & (halves == 0)).any():
            raise MessageError("A chunk holds a value that no chunk holds.")
        positions = np.flatnonzero(halves)
        return SparseChunks(len(encoded), positions, halves[positions].astype(np.float32))

    def decode_batches(self, encoded: EncodedChunks) -> Iterator[SparseChunks]:
        for chunk in range(len(encoded)):
            yield self.decode(self.split(encoded[chunk], chunks=1))

    def norm(self, encoded: EncodedChunks) -> float:
        return math.sqrt(math.fsum(value * value for value in self.decode(encoded).values.tolist()))

    def could_have_kept(
        self, kept: SparseChunks, values: NDArray[np.float32], unsure: NDArray[np.float32]
    ) -> bool:
        rounding = np.abs(values) * 2.0**-10 + 2.0**-24
        return bool((np.abs(kept.dense() - values) <= unsure + rounding).all())


CODECS: list[Codec] = [HalfCodec(), SparseCodec(keep=64, level_bits=1)]
SEGMENTS, CHUNKS = 2, 3
LAYOUT = lay_out([("weight", (SEGMENTS * CHUNKS * CHUNK_VALUES,))], segments=SEGMENTS)

each_codec = pytest.mark.parametrize("codec", CODECS, ids=["dense halves", "sparse"])


def values(seed: int = 0, *, chunks: int = CHUNKS) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((chunks, CHUNK_VALUES)) * 1e-2).astype(np.float32)


def frames_of(codec: Codec, count: int) -> list[SegmentFrame]:
    return [SegmentFrame.encode(values(seed), codec=codec) for seed in range(count)]


@each_codec
def test_a_frame_is_read_back_as_it_was_written(codec: Codec) -> None:
    (frame,) = frames_of(codec, 1)
    data = frame.to_bytes()
    assert data.startswith(codec.header_fields)
    assert len(data) <= frame_limit(codec, CHUNKS)
    parsed = SegmentFrame.parse(data, codec=codec, chunks=CHUNKS)
    assert (parsed.to_bytes(), parsed.root(), parsed.norm()) == (data, frame.root(), frame.norm())
    kept = parsed.decode().values.astype(np.float64)
    assert parsed.norm() == pytest.approx(math.sqrt(float(kept @ kept)), rel=1e-12)


@each_codec
def test_a_frame_cut_short_or_of_another_codec_is_refused(codec: Codec) -> None:
    data = frames_of(codec, 1)[0].to_bytes()
    with pytest.raises(MessageError):
        SegmentFrame.parse(data[:-1], codec=codec, chunks=CHUNKS)
    for other in CODECS:
        if other is not codec:
            with pytest.raises(MessageError):
                SegmentFrame.parse(data, codec=other, chunks=CHUNKS)
            relabelled = with_header(data, codec=other, known=[codec], chunks=CHUNKS)
            assert relabelled.startswith(other.header_fields)
            assert with_header(relabelled, codec=codec, known=[other], chunks=CHUNKS) == data
            assert with_header(data, codec=other, known=[other], chunks=CHUNKS) == data


@each_codec
def test_a_chunk_is_proven_under_the_contributions_root(codec: Codec) -> None:
    frames = frames_of(codec, SEGMENTS)
    roots = [frame.root() for frame in frames]
    sent = frames[1].prove_chunk(2, segment=1, segment_roots=roots).to_bytes()
    assert len(sent) <= proof_limit(codec)
    proof = ChunkProof.parse(sent, codec=codec)
    place = {"chunk": 2, "chunks": CHUNKS, "segments": SEGMENTS}
    assert verify_chunk(proof, root=contribution_root(roots), segment=1, **place)
    assert not verify_chunk(proof, root=contribution_root(roots), segment=0, **place)


@each_codec
def test_the_error_feedback_loses_exactly_what_was_sent(tmp_path: Path, codec: Codec) -> None:
    feedback = ErrorFeedback(tmp_path, layout=LAYOUT, decay=0.5, expected_root=None)
    delta = values(chunks=LAYOUT.chunks).reshape(-1)
    part = Returned(np.array([7, CHUNK_VALUES], dtype=np.int64), np.array([0.25, -0.5], dtype=np.float32))
    frames = feedback.compress(delta, codec=codec, returned={1: [part]})
    wanted = delta.copy()
    wanted[LAYOUT.segment_slice(1)][part.positions] += np.float32(0.5) * part.values
    sent = np.concatenate([frame.decode().dense().reshape(-1) for frame in frames])
    left = np.concatenate([feedback.values(segment) for segment in range(SEGMENTS)])
    # What is left is rounded to bfloat16, to 8 bits of significand.
    assert (np.abs(left - (wanted - sent)) <= np.abs(wanted - sent) * 2.0**-8).all()
    assert np.linalg.norm(left) < np.linalg.norm(wanted)


@each_codec
def test_contributions_are_averaged_and_any_chunk_can_be_recomputed(codec: Codec) -> None:
    frames, weights, factors = frames_of(codec, 3), [1.0, 2.0, 5.0], [1.0, 0.5, 1.0]
    reduced = reduce_segment(frames, weights, factors, out_codec=codec)
    expected = np.zeros((CHUNKS, CHUNK_VALUES), dtype=np.float32)
    for frame, weight, factor in zip(frames, weights, factors, strict=True):
        expected += frame.decode().dense() * np.float32(weight / 8.0 * factor)
    assert reduced.to_bytes() == SegmentFrame.encode(expected, codec=codec).to_bytes()
    alone = reduce_chunk(
        [frame.encoded[1] for frame in frames], weights, factors, codec=codec, out_codec=codec
    )
    assert alone == reduced.encoded[1]
    assert not exceeds_bound(reduced, max(frame.norm() for frame in frames))
    assert exceeds_bound(reduced, 0.9 * reduced.norm())


@each_codec
def test_an_auditor_tells_what_the_codec_made_from_what_it_did_not(codec: Codec) -> None:
    kept, unsure = codec.decode(codec.encode(values())), np.full((CHUNKS, CHUNK_VALUES), 1e-6, np.float32)
    assert codec.could_have_kept(kept, values(), unsure)
    assert not codec.could_have_kept(kept, values(1), unsure)


def test_a_contribution_in_one_codec_is_averaged_into_another() -> None:
    dense, sparse = CODECS
    (frame,) = frames_of(dense, 1)
    reduced = reduce_segment([frame], [1.0], [1.0], out_codec=sparse)
    assert reduced.to_bytes() == SegmentFrame.encode(frame.decode().dense(), codec=sparse).to_bytes()
