"""How far a replay lies from a claim, in numbers that honest noise moves little and cheats move much."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from peers.audit.comparing import FARTHEST, OpenedChunks, chunk_gap, sample_chunks, trace_gap
from peers.codec.interface import SparseChunks
from peers.codec.sparse_codec import SparseCodec
from peers.exchange.error_feedback import from_bfloat16, take_out, to_bfloat16
from recipes.layout import CHUNK_VALUES

CODEC = SparseCodec(keep=64, level_bits=1)
DECAY = 0.95
CHUNKS = 6
Values = NDArray[np.float32]


def _normal(seed: int) -> Values:
    return np.random.default_rng(seed).standard_normal((CHUNKS, CHUNK_VALUES), dtype=np.float32)


DELTA = _normal(1) * np.float32(1e-3)
BEFORE = to_bfloat16(_normal(2).reshape(-1) * np.float32(5e-3)).reshape(DELTA.shape)
RETURNED = np.where(_normal(3) > 2, np.float32(0.01), np.float32(0))


def _opened(delta: Values, *, codec: SparseCodec = CODEC) -> OpenedChunks:
    """Contribute as a peer does, and open everything."""
    wanted = (from_bfloat16(BEFORE) + RETURNED) * np.float32(DECAY) + delta
    encoded, after = take_out(wanted.reshape(-1), codec=codec)
    return OpenedChunks(
        before=BEFORE, returned=RETURNED, after=after.reshape(DELTA.shape), sent=codec.decode(encoded)
    )


def _moved(opened: OpenedChunks, sent: SparseChunks) -> OpenedChunks:
    """Send something else, with an E that hides it: the sum of both stays what it was."""
    wanted = from_bfloat16(opened.after) + opened.sent.dense()
    after = to_bfloat16((wanted - sent.dense()).reshape(-1)).reshape(wanted.shape)
    return replace(opened, after=after, sent=sent)


def test_equal_traces_are_no_distance_apart() -> None:
    assert trace_gap([2.0, 1.5, 1.0], [2.0, 1.5]).worst == 0


def test_differences_are_relative_to_the_replay_and_the_worst_is_told_beside_the_mean() -> None:
    gap = trace_gap([2.0, 1.1, 9.9], [2.0, 1.0])
    assert (gap.mean, gap.worst) == pytest.approx((0.05, 0.1))


@pytest.mark.parametrize("claimed", [[2.0], [2.0, math.nan], [2.0, math.inf], []])
def test_a_loss_that_is_missing_or_no_number_is_infinitely_far_from_one(claimed: list[float]) -> None:
    assert trace_gap(claimed, [2.0, 1.0]).mean == math.inf


def test_a_step_that_failed_for_both_agrees_and_one_that_failed_for_the_auditor_alone_does_not() -> None:
    assert trace_gap([2.0, math.nan], [2.0, math.inf]).worst == 0
    assert trace_gap([2.0, 1.0], [2.0, math.nan]).worst == math.inf


def test_the_same_work_differs_only_by_the_rounding_of_error_feedback() -> None:
    gap = chunk_gap(_opened(DELTA), DELTA, codec=CODEC, decay=DECAY)
    assert gap.sound
    assert gap.dropped == 0
    assert gap.direction < 1e-3
    assert gap.length < 1e-3


@pytest.mark.parametrize(("level_bits", "keep"), [(0, 1), (1, 64), (3, 256), (4, 4096)])
def test_every_codec_finds_its_own_work_sound(level_bits: int, keep: int) -> None:
    codec = SparseCodec(keep=keep, level_bits=level_bits)
    for scale in (1.0, 1e-3, 3.0):
        opened = _opened(DELTA * np.float32(scale), codec=codec)
        assert chunk_gap(opened, DELTA, codec=codec, decay=DECAY).sound


def test_honest_work_is_sound_however_its_values_are_spread() -> None:
    draw = np.random.default_rng(3)
    for number in range(200):
        values = draw.standard_normal(DELTA.shape)
        if number % 2:
            values = np.copysign(np.exp(2 * values), draw.standard_normal(values.shape))
        delta = values.astype(np.float32)
        assert chunk_gap(_opened(delta), delta, codec=CODEC, decay=DECAY).sound, number


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
def test_a_short_window_agrees_however_much_error_feedback_holds(scale: float) -> None:
    delta = DELTA * np.float32(scale)  # down to a five-hundredth of E
    gap = chunk_gap(_opened(delta), delta, codec=CODEC, decay=DECAY)
    assert gap.sound
    assert gap.direction < 1e-3
    assert gap.length < 2e-3


def test_values_that_are_all_alike_are_sound_too() -> None:
    delta = np.sign(DELTA) * np.float32(1e-2)
    assert chunk_gap(_opened(delta), delta, codec=CODEC, decay=DECAY).sound


def test_chunks_of_zeros_agree_with_a_replay_of_zeros() -> None:
    nothing = np.zeros_like(DELTA)
    sent = SparseChunks(CHUNKS, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    zero = np.zeros(DELTA.shape, dtype=np.uint16)
    gap = chunk_gap(OpenedChunks(zero, nothing, zero, sent), nothing, codec=CODEC, decay=DECAY)
    assert (gap.sound, gap.dropped, gap.direction, gap.length) == (True, 0, 0, 0)


@pytest.mark.parametrize(("factor", "length"), [(2.0, 1.0), (0.5, 0.5), (-1.0, 2.0), (0.0, 1.0)])
def test_a_scaled_pseudo_gradient_shows_in_its_length(factor: float, length: float) -> None:
    gap = chunk_gap(_opened(DELTA * np.float32(factor)), DELTA, codec=CODEC, decay=DECAY)
    assert gap.sound
    assert gap.length == pytest.approx(length, abs=0.05)  # E is five times as large here, and rounded


def test_another_pseudo_gradient_shows_in_its_direction_and_its_places() -> None:
    other = chunk_gap(_opened(_normal(4) * np.float32(1e-2)), DELTA, codec=CODEC, decay=DECAY)
    assert other.direction > 0.9
    assert other.dropped > 0.3


def test_a_little_noise_shows_a_little() -> None:
    noisy = DELTA + _normal(5) * np.float32(1e-5)
    gap = chunk_gap(_opened(noisy), DELTA, codec=CODEC, decay=DECAY)
    assert 0 < gap.dropped < 0.05
    assert gap.direction < 2e-3


def _inflated(wanted: Values) -> SparseChunks:
    sent = CODEC.decode(CODEC.encode(wanted))
    return replace(sent, values=sent.values * np.float32(1.19))


def _only_the_largest_half(wanted: Values) -> SparseChunks:
    half = SparseCodec(keep=CODEC.keep // 2, level_bits=CODEC.level_bits)
    return half.decode(half.encode(wanted))


def _without_the_largest(wanted: Values) -> SparseChunks:
    rest = wanted.copy()
    rest[0, np.abs(rest[0]).argmax()] = 0
    return CODEC.decode(CODEC.encode(rest))


@pytest.mark.parametrize("send", [_inflated, _only_the_largest_half, _without_the_largest])
def test_a_contribution_that_the_codec_would_not_make_is_unsound_though_the_sums_are_right(
    send: Callable[[Values], SparseChunks],
) -> None:
    opened = _opened(DELTA)
    wanted = from_bfloat16(opened.after) + opened.sent.dense()
    changed = chunk_gap(_moved(opened, send(wanted)), DELTA, codec=CODEC, decay=DECAY)
    assert not changed.sound
    assert changed.direction < 1e-3


@pytest.mark.parametrize("name", ["before", "after"])
@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80, 0xFF80])
def test_opened_values_that_are_no_numbers_are_as_far_off_as_can_be(name: str, bits: int) -> None:
    opened = _opened(DELTA)
    poisoned = getattr(opened, name).copy()
    poisoned[0, 0] = bits
    changed = replace(opened, **{name: poisoned})
    assert chunk_gap(changed, DELTA, codec=CODEC, decay=DECAY) == FARTHEST


def test_sampled_chunks_are_copies_in_the_order_asked_for() -> None:
    flat = np.arange(3 * CHUNK_VALUES, dtype=np.float32)
    sampled = sample_chunks(flat, [2, 0])
    assert sampled[:, 0].tolist() == [2.0 * CHUNK_VALUES, 0.0]
    sampled[0, 0] = -1
    assert flat.min() == 0
