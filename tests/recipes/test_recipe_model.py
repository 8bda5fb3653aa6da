"""The recipe's model, its flat vector, and the first weights of a run."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from places import SAMPLES

from recipes.demands import estimate
from recipes.density import Density
from recipes.errors import ModelError
from recipes.formats.blake3_tree import leaf_hash, root
from recipes.genesis import GENESIS_WEIGHTS, weights_root, write_genesis
from recipes.layout import CHUNK_VALUES, PIECE_BYTES, lay_out, layout_of
from recipes.model import build_model, flatten_into, load_flat
from recipes.schema.recipe import Recipe, parse_recipe
from recipes.schema.sections import Architecture

TINY = (SAMPLES / "tiny.toml").read_bytes()


def tiny(right: bytes = b"", wrong: bytes = b"") -> Recipe:
    return parse_recipe(TINY.replace(right, wrong) if right else TINY, name="tiny.toml")


def flat(model: torch.nn.Module, size: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    out = np.full(size, np.nan, dtype=np.float32)
    flatten_into(model, out)
    return out


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_allowed_architecture_builds_the_class_of_that_name(architecture: Architecture) -> None:
    model = build_model(tiny(b"LlamaForCausalLM", architecture.encode()), meta=True)
    assert type(model).__name__ == architecture


def test_the_layout_counts_tied_weights_once_and_pads_to_whole_segments() -> None:
    layout = layout_of(tiny())
    assert layout.size == 257 * 16 + 4 * 16 * 16 + 3 * 16 * 24 + 3 * 16  # embedding, attention, MLP, norms
    assert layout.chunks == 3
    assert layout.padded == 3 * CHUNK_VALUES
    assert [layout.segment_slice(i) for i in range(3)] == [
        slice(i * CHUNK_VALUES, (i + 1) * CHUNK_VALUES) for i in range(3)
    ]
    with pytest.raises(IndexError):
        layout.segment_slice(3)


def test_spans_follow_each_other_without_gaps() -> None:
    layout = layout_of(tiny())
    ends = [span.offset + span.count for span in layout.spans]
    assert [span.offset for span in layout.spans] == [0, *ends[:-1]]
    assert ends[-1] == layout.size


@pytest.mark.parametrize(
    ("size", "segments", "chunks"), [(1, 1, 1), (4096, 1, 1), (4097, 1, 2), (4097, 8, 8)]
)
def test_chunks_are_a_multiple_of_the_segments(size: int, segments: int, chunks: int) -> None:
    assert lay_out([("w", (size,))], segments=segments).chunks == chunks


def test_a_model_that_differs_from_the_recipes_genesis_is_refused() -> None:
    recipe = tiny()
    genesis = recipe.model_validate({**recipe.model_dump(), "genesis": GENESIS | {"parameters": 99}})
    with pytest.raises(ModelError, match="recipe says 99"):
        layout_of(genesis)


GENESIS = {
    "manifest": "a" * 64,
    "tokenizer": "b" * 64,
    "weights_root": "c" * 64,
    "electors": ("12D3KooWNVz7xWYvti4Q73dk3Y4TkupgVoo4SKTgN2XmvFm3VG26",),
    "created": "2026-01-31",
}


def test_weights_survive_the_way_to_the_flat_vector_and_back() -> None:
    layout = layout_of(tiny())
    model = build_model(tiny())
    weights = flat(model, layout.padded)
    assert not weights[layout.size :].any()
    other = build_model(tiny(b"seed = 7", b"seed = 8"))
    assert not np.array_equal(flat(other, layout.padded), weights)
    weights.setflags(write=False)
    load_flat(other, weights)
    assert np.array_equal(flat(other, layout.padded), weights)
    tokens = torch.arange(8).reshape(1, 8)
    assert torch.equal(model(input_ids=tokens).logits, other(input_ids=tokens).logits)


def test_a_vector_that_is_too_short_is_refused() -> None:
    model = build_model(tiny())
    with pytest.raises(ModelError, match="does not fit"):
        flatten_into(model, np.empty(100, dtype=np.float32))
    with pytest.raises(ModelError, match="ends before"):
        load_flat(model, np.zeros(100, dtype=np.float32))


def test_building_a_model_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build_model(tiny())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"hidden_sise = 16", "did you mean `hidden_size`"),
        (b"hidden_size = 15", "not a multiple"),
        (b"hidden_size = 'wide'", "expected int"),
        (b"hidden_size = 16\nvocab_size = 9", "not for the recipe to set"),
        (b"hidden_size = 16\nhidden_act = 'nothing'", "Cannot build"),
        (b"hidden_size = 16\nauto_map = 'evil.py'", "no such field"),
    ],
)
def test_a_configuration_that_is_no_model_is_refused_with_its_reason(wrong: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        layout_of(tiny(b"hidden_size = 16", wrong))


def test_the_first_weights_are_written_as_the_flat_vector_and_named_by_their_root(tmp_path: Path) -> None:
    recipe = tiny(b"hidden_size = 16", b"hidden_size = 512")  # more than one piece
    written_root = write_genesis(recipe, tmp_path)
    content = (tmp_path / GENESIS_WEIGHTS).read_bytes()
    layout = layout_of(recipe)
    assert np.array_equal(np.frombuffer(content, "<f4"), flat(build_model(recipe), layout.padded))
    pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]
    assert len(pieces) > 1
    assert (
        written_root
        == root([leaf_hash(piece) for piece in pieces])
        == weights_root(tmp_path / GENESIS_WEIGHTS)
    )


def test_the_same_seed_gives_the_same_first_weights(tmp_path: Path) -> None:
    assert write_genesis(tiny(), tmp_path / "a") == write_genesis(tiny(), tmp_path / "b")
    assert write_genesis(tiny(b"seed = 7", b"seed = 8"), tmp_path / "c") != write_genesis(
        tiny(), tmp_path / "a"
    )


def test_the_estimated_bits_are_those_of_the_design() -> None:
    density = Density(keep=64, level_bits=1, reduced_keep=128, reduced_level_bits=1)
    assert density.contribution_bits == pytest.approx(0.152, abs=0.003)
    assert density.reduced_bits == pytest.approx(0.26, abs=0.02)


def test_momentum_and_eight_bit_moments_change_what_a_recipe_asks_for() -> None:
    plain = estimate(tiny(), parameters=10**9, data_bytes=0)
    momentum = estimate(
        tiny(b"[round]", b"[outer]\nmomentum = 0.5\n[round]"), parameters=10**9, data_bytes=10**6
    )
    small = estimate(
        tiny(b"learning_rate", b'optimizer = "adamw8bit"\nlearning_rate'), parameters=10**9, data_bytes=0
    )
    assert momentum.disk - plain.disk == 16 * 10**9 + 10**6  # the state and three snapshots, and the data
    assert plain.memory - small.memory == 6 * 10**9
    assert plain.upload_per_day == pytest.approx(7 / 8 * (plain.contribution + plain.reduced) * 8640)
