"""Averaging a segment: clipping, exact arithmetic, and the recomputation of one chunk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from places import IMPORTING
from rounds import Swarm

from peers.codec.segment import SegmentFrame
from peers.codec.sparse_codec import SparseCodec
from peers.exchange.averaging import (
    clip_bound,
    clip_factors,
    exceeds_bound,
    newcomers_in,
    reduce_chunk,
    reduce_segment,
    weights_of,
)
from recipes.errors import MessageError

IN = SparseCodec(keep=64, level_bits=1)
OUT = SparseCodec(keep=256, level_bits=3)


def frame(seed: int, *, chunks: int = 3, scale: float = 1e-3, codec: SparseCodec = IN) -> SegmentFrame:
    rng = np.random.default_rng(seed)
    return SegmentFrame.encode((rng.standard_normal((chunks, 4096)) * scale).astype(np.float32), codec=codec)


def averaged_slowly(
    frames: Sequence[SegmentFrame], weights: Sequence[float], factors: Sequence[float]
) -> NDArray[np.float32]:
    """The average by single float32 operations in plain Python, in roster order."""
    chunks = len(frames[0].encoded)
    sums: list[np.float32] = [np.float32(0.0)] * (chunks * 4096)
    for part, weight, factor in zip(frames, weights, factors, strict=True):
        coefficient = np.float32(weight / sum(weights) * factor)
        decoded = part.decode()
        for position, value in zip(decoded.positions.tolist(), decoded.values, strict=True):
            product = np.float32(value * coefficient)
            sums[position] = np.float32(sums[position] + product)
    return np.array(sums, dtype=np.float32).reshape(chunks, 4096)


@pytest.mark.parametrize("peers", [1, 2, 7])
def test_the_average_is_exactly_that_of_single_float32_operations(peers: int) -> None:
    frames = [frame(seed) for seed in range(peers)]
    weights = [1000.0 + 17 * place for place in range(peers)]
    factors = [1.0 / (1 + place % 3) for place in range(peers)]
    expected = SegmentFrame.encode(averaged_slowly(frames, weights, factors), codec=OUT)
    assert reduce_segment(frames, weights, factors, out_codec=OUT).to_bytes() == expected.to_bytes()


def test_values_are_summed_in_roster_order_and_in_float32() -> None:
    # In float32, 8 swallows 2**-24: what is left of the sum tells in which order it was taken.
    large, small = (np.eye(1, 4096, dtype=np.float32) * np.float32(value) for value in (8.0, 2.0**-24))
    frames = [SegmentFrame.encode(values, codec=IN) for values in (large, small, -large, -large)]
    weights, factors = [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]
    swallowed = reduce_segment(frames, weights, factors, out_codec=OUT)
    assert swallowed.decode().values.tolist() == []
    in_time = [frames[0], frames[2], frames[1], frames[3]]
    assert reduce_segment(in_time, weights, factors, out_codec=OUT).decode().values.tolist() == [2.0**-26]


def test_any_chunk_can_be_recomputed_alone() -> None:
    frames = [frame(seed, chunks=150) for seed in range(4)]
    weights, factors = [1.0, 2.0, 3.0, 4.0], [1.0, 0.5, 1.0, 0.25]
    reduced = reduce_segment(frames, weights, factors, out_codec=OUT)
    for chunk in (0, 1, 127, 128, 149):
        contents = [part.encoded[chunk] for part in frames]
        alone = reduce_chunk(contents, weights, factors, codec=IN, out_codec=OUT)
        assert alone == reduced.encoded[chunk]


def test_a_contribution_alone_passes_unchanged_if_it_may_keep_all_its_values() -> None:
    alone = frame(3)
    reduced = reduce_segment([alone], [12345.0], [1.0], out_codec=OUT)
    np.testing.assert_array_equal(reduced.decode().dense(), alone.decode().dense())


def test_only_the_ratios_of_the_weights_matter() -> None:
    frames = [frame(seed) for seed in range(3)]
    once = reduce_segment(frames, [1, 2, 5], [1.0] * 3, out_codec=OUT)
    thousandfold = reduce_segment(frames, [1024, 2048, 5120], [1.0] * 3, out_codec=OUT)
    assert once.to_bytes() == thousandfold.to_bytes()


def test_a_contribution_without_weight_leaves_no_trace() -> None:
    frames = [frame(seed) for seed in range(3)]
    with_it = reduce_segment(frames, [1.0, 0.0, 3.0], [1.0] * 3, out_codec=OUT)
    without = reduce_segment([frames[0], frames[2]], [1.0, 3.0], [1.0] * 2, out_codec=OUT)
    assert with_it.to_bytes() == without.to_bytes()


def test_opposite_contributions_cancel_to_an_empty_segment() -> None:
    values = np.random.default_rng(0).standard_normal((2, 4096)).astype(np.float32)
    both = [SegmentFrame.encode(sign * values, codec=IN) for sign in (np.float32(1), np.float32(-1))]
    reduced = reduce_segment(both, [1.0, 1.0], [1.0, 1.0], out_codec=OUT)
    assert reduced.norm() == 0.0


@pytest.mark.parametrize(
    ("weights", "factors", "complaint"),
    [
        ([0.0, 0.0], [1.0, 1.0], "all weights are zero"),
        ([1.0, -1.0], [1.0, 1.0], "negative"),
        ([1.0, float("nan")], [1.0, 1.0], "not a number"),
        ([1.0, 1.0], [1.0, float("inf")], "infinite"),
        ([1.0, 1.0], [1.0], "2 weights for 1 clip factors"),
        ([1.0], [1.0], "one weight"),
    ],
)
def test_weights_and_factors_that_make_no_sense_are_refused(
    weights: list[float], factors: list[float], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        reduce_segment([frame(0), frame(1)], weights, factors, out_codec=OUT)


def test_contributions_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many chunks"):
        reduce_segment([frame(0), frame(1, chunks=4)], [1.0, 1.0], [1.0, 1.0], out_codec=OUT)


@pytest.mark.parametrize("damage", [b"", b"\x01", bytes(5)])
def test_a_malformed_chunk_is_refused_with_its_place_in_the_roster(damage: bytes) -> None:
    contents = [frame(0).encoded[0], damage]
    with pytest.raises(MessageError, match="Contribution 1: "):
        reduce_chunk(contents, [1.0, 1.0], [1.0, 1.0], codec=IN, out_codec=OUT)


def test_norms_are_clipped_to_twice_their_median() -> None:
    assert clip_factors([1.0, 2.0, 3.0, 40.0, 1.5], clip_factor=2.0) == [1.0, 1.0, 1.0, 0.1, 1.0]


def test_of_an_even_number_of_norms_the_median_is_the_mean_of_the_middle_two() -> None:
    assert clip_bound([1.0, 9.0, 3.0, 2.0], clip_factor=2.0) == 5.0


def test_silent_contributions_do_not_silence_the_others() -> None:
    assert clip_factors([0.0, 0.0, 0.0, 2.0, 2.0], clip_factor=2.0) == [1.0] * 5
    assert clip_factors([0.0, 0.0], clip_factor=2.0) == [1.0, 1.0]
    assert clip_factors([], clip_factor=2.0) == []


@pytest.mark.parametrize("norm", [-1.0, float("nan"), float("inf")])
def test_norms_that_make_no_sense_are_refused(norm: float) -> None:
    with pytest.raises(ValueError, match="claimed norm"):
        clip_factors([1.0, norm], clip_factor=2.0)


@given(st.lists(st.floats(0.0, 1e6), max_size=20), st.floats(1.0, 10.0))
@settings(deadline=None)
def test_no_clipped_norm_exceeds_the_bound(norms: list[float], clip_factor: float) -> None:
    bound = clip_bound(norms, clip_factor=clip_factor)
    factors = clip_factors(norms, clip_factor=clip_factor)
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    most = bound * (1 + 1e-12) + 1e-300  # below that, factors are too small for all of their digits
    assert all(norm * factor <= most for norm, factor in zip(norms, factors, strict=True))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_an_honest_reduction_never_exceeds_the_clip_bound(seed: int, peers: int) -> None:
    rng = np.random.default_rng(seed)
    frames = [frame(int(rng.integers(1 << 30)), scale=float(10 ** rng.uniform(-5, 0))) for _ in range(peers)]
    norms = [part.norm() for part in frames]
    factors = clip_factors(norms, clip_factor=2.0)
    reduced = reduce_segment(frames, rng.integers(1, 1000, peers).tolist(), factors, out_codec=OUT)
    assert not exceeds_bound(reduced, clip_bound(norms, clip_factor=2.0))


def test_a_reduction_beyond_the_clip_bound_shows() -> None:
    assert exceeds_bound(frame(0), 0.9 * frame(0).norm())
    assert exceeds_bound(frame(0), 0.0)


def reduction_hash() -> str:
    frames = [frame(seed, chunks=140) for seed in range(5)]
    reduced = reduce_segment(frames, [3, 1, 4, 1, 5], [1.0, 0.3, 1.0, 0.7, 1.0], out_codec=OUT)
    return hashlib.sha256(reduced.to_bytes() + repr(reduced.norm()).encode()).hexdigest()


@pytest.mark.parametrize("disabled", ["AVX512F AVX512CD AVX512_SKX AVX512_ICL AVX2 FMA3", "AVX512_SKX"])
def test_the_result_does_not_depend_on_the_processors_vector_instructions(disabled: str) -> None:
    script = "from test_reduction import reduction_hash; print(reduction_hash())"
    plain = subprocess.run(
        # Without -W, NumPy warns of each named feature that this processor does not have anyway.
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled, "PYTHONPATH": IMPORTING},
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert plain.stdout.strip() == reduction_hash()


# ------------------------------------------------------------ newcomers


def test_those_not_established_are_newcomers_unless_nobody_is() -> None:
    swarm = Swarm(4)
    roster = swarm.roster([swarm.claim(key, swarm.genesis) for key in swarm.keys], swarm.genesis).body
    peers = [signed.body.peer for signed in roster.claims]
    assert newcomers_in(roster, {peers[1], peers[3]}) == {0, 2}
    assert newcomers_in(roster, peers) == newcomers_in(roster, ()) == frozenset()


@pytest.mark.parametrize("slots", [[4, 5, 10], [4, 5, 1, 10, 300]])
def test_all_newcomers_together_weigh_a_tenth_of_an_average_by_their_slots(slots: list[int]) -> None:
    weights = weights_of(slots, [place >= 2 for place in range(len(slots))])
    assert weights[:2] == [4.0, 5.0]
    assert sum(weights[2:]) / sum(weights) == pytest.approx(0.1)
    assert [weight / weights[2] for weight in weights[2:]] == pytest.approx(
        [count / slots[2] for count in slots[2:]]
    )


def test_newcomers_who_did_less_than_a_tenth_weigh_what_they_did() -> None:
    assert weights_of([40, 50, 9], [False, False, True]) == [40.0, 50.0, 9.0]
    assert weights_of([40, 50], [True, True]) == [40.0, 50.0]
