"""What the codec benchmark computes from what it measures, and the packing that it compares with."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from exchange import FORM, contribution

from benchmarks.codec.__main__ import main
from benchmarks.codec.figures import Record, content_bits, spread
from benchmarks.codec.rivals import MeasuredCodec, Ours, SparseLoCo
from benchmarks.harness.peak_memory import peak_bytes_beyond
from peers.codec.segment import contribution_root
from peers.codec.sparse_codec import SparseCodec
from peers.exchange.segment_store import ExchangeStore
from peers.network.framing import request_head_bytes
from recipes.formats.blake3_tree import HASH_BYTES

VALUES = np.random.default_rng(0).standard_normal((130, 4096)).astype(np.float32)
SPARSE: list[MeasuredCodec] = [Ours(SparseCodec(64, 1)), SparseLoCo(index_bits=12), SparseLoCo(index_bits=16)]


def test_the_bound_counts_places_magnitudes_and_signs() -> None:
    chunk = np.zeros((1, 4096), dtype=np.float32)
    chunk[0, [7, 99]] = [0.5, -0.5]
    assert content_bits(chunk) == pytest.approx(math.log2(math.comb(4096, 2)) + 2)
    chunk[0, 5] = 0.25
    assert content_bits(chunk) == pytest.approx(math.log2(math.comb(4096, 2) * 4094) + 3)


def test_no_codec_is_below_the_bound_of_what_it_decodes_to() -> None:
    for codec in SPARSE:
        encoded = codec.encode(VALUES)
        bound = content_bits(codec.dense(codec.decode(encoded, 130), 130))
        assert bound < 8 * sum(map(len, encoded))


@pytest.mark.parametrize("codec", SPARSE, ids=lambda codec: codec.name)
def test_each_sparse_codec_keeps_the_same_values_with_their_signs(codec: MeasuredCodec) -> None:
    dense = codec.dense(codec.decode(codec.encode(VALUES), 130), 130)
    kept = Ours(SparseCodec(64, 1))
    expected = kept.dense(kept.decode(kept.encode(VALUES), 130), 130)
    np.testing.assert_array_equal(np.sign(dense), np.sign(expected))


def test_sparseloco_takes_its_published_bits() -> None:
    bits = [
        8 * sum(map(len, SparseLoCo(index_bits=width).encode(VALUES))) / VALUES.size for width in (12, 16)
    ]
    assert bits == pytest.approx([64 * 14 / 4096, 64 * 18 / 4096], rel=2e-3)


def test_what_surrounds_a_segment_grows_with_its_path() -> None:
    codec = Ours(SparseCodec(64, 1))
    assert codec.header_bytes(16) == codec.header_bytes(1) + 4 * HASH_BYTES


def test_what_surrounds_a_segment_is_what_a_push_carries(tmp_path: Path) -> None:
    frames = contribution(seed=0)
    root = contribution_root([frame.root() for frame in frames])
    store = ExchangeStore(tmp_path, FORM)
    store.hold(root.hex(), frames)
    claim = SimpleNamespace(contribution=root.hex())
    pushed = store.push_content(claim, 0, bytes(32).hex())  # type: ignore[arg-type]
    surrounding = request_head_bytes("segment") + len(pushed) - len(frames[0].encoded.data)
    density = FORM.densities.at(0)
    ours = Ours(SparseCodec(density.keep, density.level_bits))
    assert ours.header_bytes(FORM.segments) == surrounding


@pytest.mark.parametrize("heavy_tailed", [False, True], ids=["gaussian", "heavy-tailed"])
def test_a_contribution_takes_at_most_0_152_bits_a_parameter_on_the_wire(heavy_tailed: bool) -> None:
    rng, codec = np.random.default_rng(1), Ours(SparseCodec(64, 1))
    values = rng.standard_t(3, VALUES.shape) if heavy_tailed else rng.standard_normal(VALUES.shape)
    chunks = sum(map(len, codec.encode((1e-3 * values).astype(np.float32)))) / values.size
    segments, parameters = 16, 100_000_000
    assert 8 * (chunks + codec.header_bytes(segments) * segments / parameters) <= 0.152


@pytest.mark.slow
def test_the_command_writes_figures_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "codec.json"
    main(blocks=1, only="ours, 64", values="Gaussian", out=out)
    (row,) = json.loads(out.read_bytes())["rows"]
    assert row["bound_bits"] < row["bits"] < 0.152
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_codec_that_does_not_exist_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no codec like 'theirs'"):
        main(only="theirs", out=tmp_path / "codec.json")


def test_bits_and_errors_add_up_over_blocks() -> None:
    record = Record("a", "b", header_bits=0.01, parameters=8000, encoded_bytes=100, lost=1.0, energy=4.0)
    record.encode_seconds, record.decode_seconds, record.sizes = (
        [1.0, 2.0],
        [0.5, 0.5],
        [4_000_000, 4_000_000],
    )
    summary = record.summary(1e9)
    assert (summary["bits"], summary["error"], summary["error_of_kept"]) == (0.11, 0.25, None)
    assert summary["encode_seconds_for_model"] == pytest.approx(1e9 / 3e6)


def test_the_spread_is_between_the_quartiles() -> None:
    assert spread([3.0]) == (3.0, 3.0)
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == (2.0, 4.0)


def test_memory_that_was_held_for_a_moment_is_counted() -> None:
    def hold() -> list[bytes]:
        np.ones(50_000_000, dtype=np.uint8).sum()
        return [bytes(10)]

    peak = peak_bytes_beyond(hold)
    assert peak is None or peak > 45_000_000
