"""The sparse codec: what it keeps, how few bits it takes, and what it refuses."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from peers.codec.chunk_writer import Kept, write_chunks
from peers.codec.interface import EncodedChunks, SparseChunks
from peers.codec.levels import MAGNITUDE_UNITS, MAGNITUDES, UNIT_EXPONENT
from peers.codec.sparse_codec import SparseCodec
from recipes.errors import MessageError

CONTRIBUTION = SparseCodec(keep=64, level_bits=1)
REDUCED = SparseCodec(keep=256, level_bits=3)
CODECS = [
    CONTRIBUTION,
    REDUCED,
    SparseCodec(1, 0),
    SparseCodec(3, 4),
    SparseCodec(100, 2),
    SparseCodec(4096, 1),
]


def gaussian(chunks: int, *, seed: int = 0, scale: float = 1e-3) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((chunks, 4096)) * scale).astype(np.float32)


def heavy_tailed(chunks: int, *, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_t(3, (chunks, 4096)) * 1e-3).astype(np.float32)


def sparse(chunks: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Chunks with none, one, two, ... values."""
    rng = np.random.default_rng(seed)
    values = np.zeros((chunks, 4096), dtype=np.float32)
    for count, chunk in enumerate(values):
        chunk[rng.choice(4096, size=count, replace=False)] = rng.standard_normal(count)
    return values


def largest(values: NDArray[np.float32], keep: int) -> NDArray[np.bool_]:
    order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :keep]
    kept = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(kept, order, True, axis=1)
    return kept & (np.abs(values) >= 2.0**-29)


def decode_slowly(codec: SparseCodec, data: bytes) -> tuple[list[float], bytes]:
    """Decode one chunk bit by bit, as chunk_layout.py describes it; return its values and the rest."""
    bits = [(byte >> bit) & 1 for byte in data for bit in range(8)]
    at = 0

    def take(width: int) -> int:
        nonlocal at
        at += width
        return sum(bit << place for place, bit in enumerate(bits[at - width : at]))

    count = left = codec.keep if take(1) else take((codec.keep - 1).bit_length())
    values = [0.0] * 4096
    if count:
        codes, members = [take(8)], []
        for _ in range(2**codec.level_bits - 1):
            if left:
                members.append(take((left - 1).bit_length()) + 1)
                left -= members[-1]
        members += [left] if left else []
        steps = [take(2) for _ in members[1:]]
        most = [0.962 * (4096 - n) / (n + 1) for n in members]
        low_bits = [max(b for b in range(12) if b == 0 or 2**b <= gap) for gap in most]
        records = [[(take(1), take(b)) for _ in range(n)] for n, b in zip(members, low_bits, strict=True)]

        def zeros() -> int:
            run = 0
            while not take(1):
                run += 1
            return run

        for step in steps:
            codes.append(codes[-1] + (zeros() << 2) + step + 1)
        for code, b, level in zip(codes, low_bits, records, strict=True):
            index = -1
            for sign, low in level:
                index += (zeros() << b) + low + 1
                assert values[index] == 0.0
                mantissa = round(2 ** (23 + code % 8 / 8))
                values[index] = math.ldexp(-mantissa if sign else mantissa, code // 8 - 28 - 23)
    return values, data[(at + 7) // 8 :]


def round_trip(codec: SparseCodec, values: NDArray[np.float32]) -> NDArray[np.float32]:
    encoded = codec.encode(values)
    return codec.decode(codec.split(encoded.data, chunks=len(values))).dense()


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize(
    "values", [gaussian(5), heavy_tailed(5), sparse(9)], ids=["gaussian", "heavy", "sparse"]
)
def test_exactly_the_largest_values_survive_with_their_signs(
    codec: SparseCodec, values: NDArray[np.float32]
) -> None:
    decoded = round_trip(codec, values)
    np.testing.assert_array_equal(np.sign(decoded), np.sign(values) * largest(values, codec.keep))


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_the_bits_are_laid_out_as_described(codec: SparseCodec) -> None:
    values = np.concatenate((heavy_tailed(2), sparse(5)))
    encoded = codec.encode(values)
    rest = encoded.data
    for row in codec.decode(encoded).dense():
        decoded, rest = decode_slowly(codec, rest)
        assert decoded == row.tolist()
    assert rest == b""


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_splitting_finds_the_chunks_that_encoding_made(codec: SparseCodec) -> None:
    encoded = codec.encode(np.concatenate((gaussian(140), sparse(70))))
    split = codec.split(encoded.data, chunks=210)
    np.testing.assert_array_equal(split.offsets, encoded.offsets)
    assert max(len(encoded[chunk]) for chunk in range(len(encoded))) <= codec.max_chunk_bytes


def test_of_equal_magnitudes_those_with_the_lower_index_are_kept() -> None:
    values = np.full((1, 4096), -0.5, dtype=np.float32)
    values[0, 4000] = 0.75
    decoded = SparseCodec(keep=10, level_bits=1).decode(SparseCodec(keep=10, level_bits=1).encode(values))
    assert decoded.positions.tolist() == [*range(9), 4000]


def test_magnitudes_on_the_scale_come_back_exactly() -> None:
    values = np.zeros((1, 4096), dtype=np.float32)
    values[0, ::300] = MAGNITUDES[100]
    values[0, 1::300] = -MAGNITUDES[137]
    np.testing.assert_array_equal(round_trip(CONTRIBUTION, values), values)


@pytest.mark.parametrize("codec", [CONTRIBUTION, REDUCED], ids=str)
def test_a_chunk_without_values_takes_one_or_two_bytes(codec: SparseCodec) -> None:
    encoded = codec.encode(np.zeros((3, 4096), dtype=np.float32))
    assert len(encoded.data) <= 3 * 2
    assert codec.decode(codec.split(encoded.data, chunks=3)).positions.size == 0


def test_values_too_small_for_the_scale_count_as_zero_and_too_large_ones_are_cut() -> None:
    values = np.zeros((1, 4096), dtype=np.float32)
    values[0, :3] = [2.0**-30, 1e-42, -1e30]
    decoded = CONTRIBUTION.decode(CONTRIBUTION.encode(values))
    assert decoded.positions.tolist() == [2]
    assert decoded.values[0] == -MAGNITUDES[-1]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    values = gaussian(2)
    values[1, 17] = value
    with pytest.raises(ValueError, match="infinite or not a number"):
        CONTRIBUTION.encode(values)


@pytest.mark.parametrize(
    "values", [np.zeros(4096, np.float32), np.zeros((1, 4095), np.float32), np.zeros((1, 4096))], ids=str
)
def test_arrays_of_another_shape_or_type_are_refused(values: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match=r"float32 of shape \(chunks, 4096\)"):
        CONTRIBUTION.encode(values)


@pytest.mark.parametrize(("keep", "level_bits"), [(0, 1), (4097, 1), (64, -1), (64, 5)])
def test_a_codec_outside_its_bounds_cannot_be_made(keep: int, level_bits: int) -> None:
    with pytest.raises(ValueError, match="must be from"):
        SparseCodec(keep, level_bits)


@pytest.mark.parametrize(
    ("codec", "values", "bits", "error"),
    [
        (CONTRIBUTION, gaussian(200), 0.150, 0.006),
        (CONTRIBUTION, heavy_tailed(200), 0.146, 0.07),
        (REDUCED, gaussian(200), 0.575, 0.0012),
        (REDUCED, heavy_tailed(200), 0.565, 0.009),
    ],
    ids=["contribution-gaussian", "contribution-heavy", "reduced-gaussian", "reduced-heavy"],
)
def test_bits_a_parameter_and_quantisation_error_stay_within_bounds(
    codec: SparseCodec, values: NDArray[np.float32], bits: float, error: float
) -> None:
    kept = values * largest(values, codec.keep)
    lost = np.square(kept - round_trip(codec, values), dtype=np.float64).sum()
    assert 8 * len(codec.encode(values).data) / values.size <= bits
    assert lost / np.square(kept, dtype=np.float64).sum() <= error


def test_levels_fit_nearly_as_well_as_the_best_possible_ones() -> None:
    values = heavy_tailed(30)
    magnitudes = np.sort(np.abs(values[largest(values, 64)]).reshape(30, 64).astype(np.float64), axis=1)
    best = 0.0
    for row in magnitudes:  # the best two levels are the means on either side of the best split
        splits = [((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum()
                  for low, high in ((row[:at], row[at:]) for at in range(1, 64))]  # fmt: skip
        best += min(splits)
    decoded = round_trip(CONTRIBUTION, values)
    lost = np.square(values * largest(values, 64) - decoded, dtype=np.float64).sum()
    assert lost <= 1.1 * best


def test_the_scale_is_exact_and_has_eight_codes_an_octave() -> None:
    assert [math.ldexp(units, UNIT_EXPONENT) for units in MAGNITUDE_UNITS] == MAGNITUDES.tolist()
    assert (MAGNITUDES[8:] == 2 * MAGNITUDES[:-8]).all()
    np.testing.assert_allclose(np.log2(MAGNITUDES.astype(np.float64)), np.arange(256) / 8 - 28, atol=1e-7)


def test_the_bytes_are_the_same_on_every_machine() -> None:
    # Written down once; a change of these hashes is a change of the format, and needs a new version of it.
    ramp = ((np.arange(6 * 4096, dtype=np.uint32) * np.uint32(2654435761)) >> np.uint32(8)).astype(np.float32)
    values = (ramp.reshape(6, 4096) - np.float32(2**23)) * np.float32(2.0**-30)
    values[3] *= values[3]
    values[4, 40:] = 0
    values[5] = 0
    hashes = [hashlib.sha256(codec.encode(values).data).hexdigest()[:16] for codec in (CONTRIBUTION, REDUCED)]
    assert hashes == ["f96695de67803313", "336fbde5f0ed00a6"]


@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_chunk_is_encoded_the_same_in_any_company(split: int, seed: int) -> None:
    values = np.concatenate((gaussian(200, seed=seed), sparse(201, seed=seed)))
    whole = REDUCED.encode(values)
    parts = EncodedChunks.join([REDUCED.encode(values[:split]), REDUCED.encode(values[split:])])
    assert parts.data == whole.data
    np.testing.assert_array_equal(parts.offsets, whole.offsets)


@given(
    codec=st.builds(SparseCodec, st.integers(1, 4096), st.integers(0, 4)),
    counts=st.lists(st.integers(0, 4096), min_size=1, max_size=4),
    magnitude=st.integers(-40, 10),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_every_codec_returns_the_signs_and_places_of_what_it_kept(
    codec: SparseCodec, counts: list[int], magnitude: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = np.zeros((len(counts), 4096), dtype=np.float32)
    for count, chunk in zip(counts, values, strict=True):
        chunk[rng.choice(4096, size=count, replace=False)] = np.ldexp(rng.standard_normal(count), magnitude)
    decoded = round_trip(codec, values)
    np.testing.assert_array_equal(np.sign(decoded), np.sign(values) * largest(values, codec.keep))
    assert max(np.diff(codec.encode(values).offsets)) <= codec.max_chunk_bytes


def encoded_again(codec: SparseCodec, decoded: SparseChunks) -> bytes:
    """The bytes of exactly these values: every magnitude of a chunk becomes a level of its own."""
    places = np.searchsorted(decoded.positions, 4096 * np.arange(decoded.chunks + 1))
    parts = []
    for first, end in pairwise(places.tolist()):
        magnitudes = np.abs(decoded.values[first:end])
        levels = np.unique(magnitudes)
        of_level = [np.flatnonzero(magnitudes == level) for level in levels]
        order = np.concatenate([np.empty(0, np.int64), *of_level])
        padding = (1 << codec.level_bits) - levels.size
        kept = Kept(
            codes=np.append(np.searchsorted(MAGNITUDES, levels), np.zeros(padding, np.int64))[None],
            members=np.array([*map(len, of_level), *[0] * padding])[None],
            indices=decoded.positions[first:end][order] & 4095,
            signs=(decoded.values[first:end][order] < 0).astype(np.int64),
        )
        parts.append(write_chunks(kept, keep=codec.keep)[0])
    return b"".join(parts)


@given(
    st.sampled_from([*CODECS, SparseCodec(2, 1), SparseCodec(4, 2)]),
    st.binary(max_size=300) | st.binary(max_size=24),
    st.integers(0, 5),
)
@settings(max_examples=400, deadline=None)
def test_arbitrary_bytes_are_refused_or_the_only_encoding_of_what_they_mean(
    codec: SparseCodec, data: bytes, chunks: int
) -> None:
    try:
        decoded = codec.decode(codec.split(data, chunks=chunks))
    except MessageError:
        return
    assert (np.diff(decoded.positions) > 0).all()
    assert decoded.positions.size == 0 or 0 <= decoded.positions[0] <= decoded.positions[-1] < chunks * 4096
    assert encoded_again(codec, decoded) == data


@given(st.sampled_from(CODECS[:5]), st.data())
@settings(max_examples=300, deadline=None)
def test_a_frame_damaged_anywhere_is_refused_or_means_something_else(
    codec: SparseCodec, data: st.DataObject
) -> None:
    frame = bytearray(codec.encode(np.concatenate((gaussian(2), sparse(3)))).data)
    original = codec.decode(codec.split(bytes(frame), chunks=5))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << (bit % 8)
    try:
        damaged = codec.decode(codec.split(bytes(frame), chunks=5))
    except MessageError:
        return
    assert not np.array_equal(damaged.dense(), original.dense())
    assert encoded_again(codec, damaged) == bytes(frame)


@given(st.sampled_from(CODECS), st.data())
@settings(max_examples=100, deadline=None)
def test_a_frame_cut_short_anywhere_is_refused(codec: SparseCodec, data: st.DataObject) -> None:
    frame = codec.encode(np.concatenate((sparse(4), gaussian(1)))).data
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(MessageError):
        codec.split(frame[:cut], chunks=5)


def test_bytes_after_the_last_chunk_are_refused() -> None:
    data = CONTRIBUTION.encode(gaussian(2)).data
    with pytest.raises(MessageError, match="1 bytes follow the last of 2"):
        CONTRIBUTION.split(data + b"\x00", chunks=2)


def test_ones_in_the_padding_are_refused() -> None:
    codec = SparseCodec(keep=1, level_bits=0)
    data = codec.encode(np.eye(1, 4096, dtype=np.float32)).data  # 1 + 8 + 1 + 10 + 1 of 24 bits
    for bit in (21, 22, 23):
        padded = (int.from_bytes(data, "little") | 1 << bit).to_bytes(3, "little")
        with pytest.raises(MessageError, match="padded with ones"):
            codec.split(padded, chunks=1)


def test_an_index_beyond_the_chunk_is_refused() -> None:
    values = np.zeros((1, 4096), dtype=np.float32)
    values[0, [4094, 4095]] = 1.0
    codec = SparseCodec(
        keep=2, level_bits=0
    )  # 1 + 8 bits, two records of sign and 10 bits, then the unary part
    content = int.from_bytes(codec.encode(values).data, "little")
    beyond = (content + (1 << (9 + 11 + 1))).to_bytes(len(codec.encode(values).data), "little")
    with pytest.raises(MessageError, match="Chunk 0 holds an index beyond 4095"):
        codec.decode(codec.split(beyond, chunks=1))


def test_an_index_on_two_levels_is_refused() -> None:
    values = np.zeros((1, 4096), dtype=np.float32)
    values[0, [7, 8]] = [1.0, 2.0]
    # full, code, members, step, and the first record, of a sign and 11 bits: 1 + 8 + 1 + 2 + 12
    codec = SparseCodec(keep=2, level_bits=1)
    content = int.from_bytes(codec.encode(values).data, "little")
    twice = (content - (1 << (12 + 11 + 1))).to_bytes(len(codec.encode(values).data), "little")
    with pytest.raises(MessageError, match="Chunk 0 holds an index twice"):
        codec.decode(codec.split(twice, chunks=1))


def test_levels_beyond_the_scale_are_refused() -> None:
    values = np.zeros((1, 4096), dtype=np.float32)
    values[0, [7, 8]] = MAGNITUDES[[253, 255]]
    codec = SparseCodec(keep=2, level_bits=1)
    data = codec.encode(values).data
    content = int.from_bytes(data, "little")
    assert (content >> 1) & 0xFF == 253
    beyond = (content + (1 << 1)).to_bytes(len(data), "little")
    with pytest.raises(MessageError, match="Chunk 0 has levels beyond the scale"):
        codec.decode(codec.split(beyond, chunks=1))


def test_a_level_of_more_values_than_are_left_is_refused() -> None:
    codec = SparseCodec(
        keep=3, level_bits=1
    )  # a full chunk's first level has 1 to 3 values, in two bits less one
    with pytest.raises(MessageError, match="Chunk 0 has a level of 4 values where 3 are left"):
        codec.split((1 | 3 << 9).to_bytes(40, "little"), chunks=1)


def test_a_full_count_written_out_is_refused() -> None:
    for count in (100, 127):
        with pytest.raises(MessageError, match="at most 99 are allowed"):
            SparseCodec(keep=100, level_bits=0).split((count << 1).to_bytes(400, "little"), chunks=1)


def test_a_chunk_of_one_magnitude_takes_no_bits_for_its_other_levels() -> None:
    values = np.zeros((1, 4096), dtype=np.float32)
    values[0, ::64] = 0.5
    sizes = [len(SparseCodec(keep=64, level_bits=bits).encode(values).data) for bits in (0, 4)]
    assert sizes[1] <= sizes[0] + 1  # six bits say that all 64 values are on one level
