"""Values to encode: drawn ones, and a pseudo-gradient of the tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.layout import CHUNK_VALUES

GAUSSIAN, STUDENT, REAL = "Gaussian", "Student t(3)", "pseudo-gradient"
_STEPS = 30
_BATCH, _LENGTH = 8, 128
_SCALE = np.float32(1e-3)


def blocks_of(kind: str, *, chunks: int, blocks: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Give blocks of float32, shape (chunks, 4096), of one kind; the pseudo-gradient is over after a few."""
    rng = np.random.default_rng(seed)
    if kind == REAL:
        values = pseudo_gradient(seed)
        for start in range(0, min(len(values), blocks * chunks), chunks):
            yield values[start : start + chunks]
        return
    for _ in range(blocks):
        if kind == GAUSSIAN:
            yield rng.standard_normal((chunks, CHUNK_VALUES), dtype=np.float32) * _SCALE
        else:
            yield rng.standard_t(3, (chunks, CHUNK_VALUES)).astype(np.float32) * _SCALE


def pseudo_gradient(seed: int) -> NDArray[np.float32]:
    """Return what 30 steps of AdamW from the first weights changed in `stdlib-tiny`, shape (chunks, 4096).

    It learns from the bytes of Python source code, as in the demo.
    """
    import torch

    from recipes.layout import layout_of
    from recipes.locate import locate_recipe
    from recipes.model import build_model, flatten_into
    from recipes.optimizers import fresh_optimizer
    from recipes.schema.recipe import parse_recipe
    from trainer.objective import next_token_loss

    recipe = parse_recipe(locate_recipe("stdlib-tiny").read_bytes(), name="stdlib-tiny")
    layout, model = layout_of(recipe), build_model(recipe)
    before, after = (np.zeros(layout.padded, dtype=np.float32) for _ in range(2))
    flatten_into(model, before)
    text = b"".join(file.read_bytes() for file in sorted(Path(np.__file__).parents[1].glob("numpy/*.py")))
    tokens = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
    inner = recipe.inner.model_copy(update={"optimizer": "adamw"})
    optimizer = fresh_optimizer(model, recipe.model_copy(update={"inner": inner}))
    rng = np.random.default_rng(seed)
    for _ in range(_STEPS):
        starts = rng.integers(0, tokens.size - _LENGTH, size=_BATCH)
        batch = np.stack([tokens[start : start + _LENGTH] for start in starts])
        next_token_loss(model, torch.from_numpy(batch)).backward()  # type: ignore[no-untyped-call]
        optimizer.step(inner.learning_rate)
        optimizer.zero_grad()
    flatten_into(model, after)
    return (before - after).reshape(-1, CHUNK_VALUES)
