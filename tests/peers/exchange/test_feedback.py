"""Error feedback: nothing that a contribution leaves out is forgotten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pseudo_gradients import DECAY, LAYOUT, SEGMENTS, close, delta, dense

from peers.codec.sparse_codec import SparseCodec
from peers.exchange.error_feedback import ErrorFeedback, Returned, from_bfloat16, to_bfloat16
from recipes.formats import blake3_tree

CODEC = SparseCodec(keep=64, level_bits=1)


def feedback(folder: Path, expected_root: bytes | None = None) -> ErrorFeedback:
    return ErrorFeedback(folder, layout=LAYOUT, decay=DECAY, expected_root=expected_root)


def all_values(of: ErrorFeedback) -> NDArray[np.float32]:
    return np.concatenate([of.values(segment) for segment in range(SEGMENTS)])


def test_what_a_contribution_leaves_out_is_sent_later(tmp_path: Path) -> None:
    kept = feedback(tmp_path)
    first = dense(kept.compress(delta(1), codec=CODEC, returned={}))
    assert close(all_values(kept), delta(1) - first)
    before = all_values(kept)
    second = dense(kept.compress(delta(2), codec=CODEC, returned={}))
    assert close(all_values(kept), np.float32(DECAY) * before + delta(2) - second)
    untouched = np.zeros(LAYOUT.padded, dtype=np.float32)
    assert np.count_nonzero(dense(kept.compress(untouched, codec=CODEC, returned={}))) == 64 * LAYOUT.chunks


def test_what_is_returned_is_discounted_like_the_rest(tmp_path: Path) -> None:
    kept = feedback(tmp_path)
    part = Returned(np.array([5, 4096], dtype=np.int64), np.array([0.5, -0.25], dtype=np.float32))
    sent = dense(kept.compress(delta(1), codec=CODEC, returned={1: [part, part]}))
    expected = delta(1)
    expected[LAYOUT.segment_slice(1)][[5, 4096]] += np.float32(DECAY) * np.array(
        [1.0, -0.5], dtype=np.float32
    )
    assert close(all_values(kept), expected - sent)


def test_the_root_is_that_of_the_files_chunks(tmp_path: Path) -> None:
    kept = feedback(tmp_path)
    kept.compress(delta(1), codec=CODEC, returned={})
    content = (tmp_path / "feedback.bf16").read_bytes()
    assert len(content) == 2 * LAYOUT.padded
    leaves = [blake3_tree.leaf_hash(content[start : start + 8192]) for start in range(0, len(content), 8192)]
    assert kept.root() == blake3_tree.root(leaves)


def test_feedback_carries_over_to_the_next_process(tmp_path: Path) -> None:
    kept = feedback(tmp_path)
    assert kept.reset
    kept.compress(delta(1), codec=CODEC, returned={})
    assert not kept.reset
    again = feedback(tmp_path, kept.root())
    assert not again.reset
    np.testing.assert_array_equal(all_values(again), all_values(kept))


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "missing"])
def test_damaged_feedback_starts_again_from_zero_and_says_so(tmp_path: Path, damage: str) -> None:
    kept = feedback(tmp_path)
    kept.compress(delta(1), codec=CODEC, returned={})
    path = tmp_path / "feedback.bf16"
    content = bytearray(path.read_bytes())
    content[10_001] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(content if damage == "a flipped bit" else content[:-1])
    again = feedback(tmp_path, kept.root())
    assert again.reset
    assert not all_values(again).any()
    assert again.root() == blake3_tree.root([blake3_tree.leaf_hash(bytes(8192))] * LAYOUT.chunks)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_a_pseudo_gradient_that_makes_no_sense_is_refused_and_changes_nothing(
    tmp_path: Path, value: float
) -> None:
    kept = feedback(tmp_path)
    kept.compress(delta(1), codec=CODEC, returned={})
    before = kept.root()
    broken = delta(2)
    broken[-200] = value
    with pytest.raises(ValueError, match="pseudo-gradient"):
        kept.compress(broken, codec=CODEC, returned={})
    with pytest.raises(ValueError, match="expected float32"):
        kept.compress(delta(2)[:-1], codec=CODEC, returned={})
    assert feedback(tmp_path, before).root() == kept.root() == before


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1))
def test_bfloat16_is_rounded_to_nearest_even(values: list[float]) -> None:
    floats = np.array(values, dtype=np.float32)
    floats[np.abs(floats) < 2.0**-64] = 0.0
    expected = torch.from_numpy(floats).to(torch.bfloat16).to(torch.float32).numpy()
    rounded = from_bfloat16(to_bfloat16(floats))
    np.testing.assert_array_equal(rounded, expected)


def test_bfloat16_ties_go_to_even() -> None:
    ties = np.array([0x3F808000, 0x3F818000, 0xBF808000], dtype=np.uint32).view(np.float32)
    assert to_bfloat16(ties).tolist() == [0x3F80, 0x3F82, 0xBF80]


def test_values_that_no_codec_would_keep_fade_to_zero() -> None:
    tiny = np.array([2.0**-65, -(2.0**-100), 1e-40, 2.0**-64], dtype=np.float32)
    assert to_bfloat16(tiny).tolist() == [0, 0, 0, (127 - 64) << 7]
