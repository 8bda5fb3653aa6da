"""Segments on the wire: framing, norms, and the paths that prove one chunk."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from peers.codec.segment import (
    ChunkProof,
    SegmentFrame,
    contribution_root,
    frame_limit,
    proof_limit,
    verify_chunk,
)
from peers.codec.sparse_codec import SparseCodec
from recipes.errors import MessageError
from recipes.formats import blake3_tree

CODEC = SparseCodec(keep=64, level_bits=1)
CHUNKS = 5
SEGMENTS = 3


def values(seed: int = 0, *, chunks: int = CHUNKS) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((chunks, 4096)) * 1e-3).astype(np.float32)


def contribution() -> list[SegmentFrame]:
    return [SegmentFrame.encode(values(segment), codec=CODEC) for segment in range(SEGMENTS)]


def test_a_frame_survives_the_wire() -> None:
    frame = SegmentFrame.encode(values(), codec=CODEC)
    parsed = SegmentFrame.parse(frame.to_bytes(), codec=CODEC, chunks=CHUNKS)
    assert parsed.to_bytes() == frame.to_bytes()
    assert parsed.root() == frame.root()
    assert parsed.norm() == frame.norm()
    np.testing.assert_array_equal(parsed.decode().dense(), frame.decode().dense())


def test_a_frame_is_no_longer_than_its_limit() -> None:
    lopsided = np.zeros((CHUNKS, 4096), dtype=np.float32)
    lopsided[:, -64:] = 1.0
    for content in (values(), lopsided):
        frame = SegmentFrame.encode(content, codec=CODEC)
        assert len(frame.to_bytes()) <= frame_limit(CODEC, CHUNKS)


@pytest.mark.parametrize(
    ("codec", "chunks"),
    [(SparseCodec(63, 1), CHUNKS), (SparseCodec(64, 2), CHUNKS), (CODEC, 4), (CODEC, 6)],
    ids=str,
)
def test_a_frame_of_another_codec_or_size_is_refused(codec: SparseCodec, chunks: int) -> None:
    data = SegmentFrame.encode(values(), codec=CODEC).to_bytes()
    with pytest.raises(MessageError):
        SegmentFrame.parse(data, codec=codec, chunks=chunks)


def test_another_version_of_the_format_is_refused() -> None:
    data = bytearray(SegmentFrame.encode(values(), codec=CODEC).to_bytes())
    data[3] = 1
    with pytest.raises(MessageError, match="not a segment of"):
        SegmentFrame.parse(bytes(data), codec=CODEC, chunks=CHUNKS)


def test_a_frame_beyond_its_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(MessageError, match="none of 5 chunks is longer"):
        SegmentFrame.parse(bytes(frame_limit(CODEC, CHUNKS) + 1), codec=CODEC, chunks=CHUNKS)


def test_parsing_finds_what_splitting_cannot() -> None:
    header = SegmentFrame.encode(np.zeros((1, 4096), dtype=np.float32), codec=CODEC).to_bytes()[:11]
    two_levels = np.zeros((1, 4096), dtype=np.float32)
    two_levels[0, :2] = [2.0**3.625, 2.0**3.875]  # two codes below the end of the scale, and at its end
    data = CODEC.encode(two_levels).data
    beyond = (int.from_bytes(data, "little") + (1 << 7)).to_bytes(len(data), "little")
    CODEC.split(beyond, chunks=1)
    with pytest.raises(MessageError, match="levels beyond the scale"):
        SegmentFrame.parse(header + beyond, codec=CODEC, chunks=1)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_after_a_true_header_are_parsed_or_refused(rest: bytes) -> None:
    header = SegmentFrame.encode(np.zeros((2, 4096), dtype=np.float32), codec=CODEC).to_bytes()[:11]
    try:
        frame = SegmentFrame.parse(header + rest, codec=CODEC, chunks=2)
    except MessageError:
        return
    assert frame.to_bytes() == header + rest


def test_the_norm_is_that_of_the_decoded_values_rounded_once() -> None:
    frame = SegmentFrame.encode(values(), codec=CODEC)
    exact = math.fsum(float(value) ** 2 for value in frame.decode().values)
    assert frame.norm() == pytest.approx(math.sqrt(exact), rel=1e-15)
    assert SegmentFrame.encode(np.zeros((2, 4096), dtype=np.float32), codec=CODEC).norm() == 0.0


def test_the_norm_does_not_depend_on_where_the_values_stand() -> None:
    frame = SegmentFrame.encode(values(chunks=300), codec=CODEC)
    mirrored = SegmentFrame.encode(np.ascontiguousarray(values(chunks=300)[::-1, ::-1]), codec=CODEC)
    assert frame.norm() == mirrored.norm()


@pytest.mark.parametrize("segment", range(SEGMENTS))
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_chunk_is_proved_by_its_path(segment: int, chunk: int) -> None:
    frames = contribution()
    roots = [frame.root() for frame in frames]
    proof = frames[segment].prove_chunk(chunk, segment=segment, segment_roots=roots)
    received = ChunkProof.parse(proof.to_bytes(), codec=CODEC)
    assert received.content == frames[segment].encoded[chunk]
    assert len(proof.to_bytes()) <= proof_limit(CODEC)
    assert verify_chunk(
        received,
        root=contribution_root(roots),
        chunk=chunk,
        chunks=CHUNKS,
        segment=segment,
        segments=SEGMENTS,
    )


@given(chunk=st.integers(0, CHUNKS), segment=st.integers(0, SEGMENTS), bit=st.integers(-1, 2000))
@settings(max_examples=100, deadline=None)
def test_a_proof_holds_only_for_its_own_content_and_place(chunk: int, segment: int, bit: int) -> None:
    frames = contribution()
    roots = [frame.root() for frame in frames]
    sent = bytearray(frames[1].prove_chunk(2, segment=1, segment_roots=roots).to_bytes())
    if bit >= 0:
        sent[bit // 8 % len(sent)] ^= 1 << bit % 8
    try:
        proof = ChunkProof.parse(bytes(sent), codec=CODEC)
    except MessageError:
        assert bit >= 0
        return
    holds = verify_chunk(
        proof, root=contribution_root(roots), chunk=chunk, chunks=CHUNKS, segment=segment, segments=SEGMENTS
    )
    assert holds == (bit < 0 and (segment, chunk) == (1, 2))


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_are_never_a_proof_of_anything(data: bytes) -> None:
    try:
        proof = ChunkProof.parse(data, codec=CODEC)
    except MessageError:
        return
    assert proof.to_bytes() == data
    assert not verify_chunk(
        proof, root=blake3_tree.EMPTY_ROOT, chunk=0, chunks=CHUNKS, segment=0, segments=SEGMENTS
    )


def test_a_proof_longer_than_any_can_be_is_refused() -> None:
    with pytest.raises(MessageError, match="longer than any can be"):
        ChunkProof.parse(bytes([0, 0]) + bytes(CODEC.max_chunk_bytes + 1), codec=CODEC)
    with pytest.raises(MessageError, match="longer than any can be"):
        ChunkProof.parse(bytes([65, 0]) + bytes(66 * 32), codec=CODEC)
