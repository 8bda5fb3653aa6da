"""Where each parameter of the model lies in the flat vector that peers exchange.

The vector is all parameters, in the order of `named_parameters()`, tied ones once, as fp32, one after
the other. It is padded with zeros to a whole number of chunks that the recipe's segments divide evenly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from recipes.errors import ModelError
from recipes.schema.recipe import Recipe, published

CHUNK_VALUES = 4096
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Span:
    """One parameter's place: values `offset` to `offset + count` of the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The shape of the flat vector: `size` values of parameters, padded to `chunks` x 4096."""

    spans: tuple[Span, ...]
    size: int
    chunks: int
    segments: int

    @property
    def padded(self) -> int:
        """Number of values with the zeros at the end: chunks x 4096."""
        return self.chunks * CHUNK_VALUES

    @property
    def chunks_per_segment(self) -> int:
        """Number of chunks in each segment."""
        return self.chunks // self.segments

    def segment_slice(self, segment: int) -> slice:
        """Return the values of `segment` (from 0) within the padded vector.

        Raises:
            IndexError: there is no such segment.
        """
        if not 0 <= segment < self.segments:
            raise IndexError(f"segment {segment} of {self.segments}")
        values = self.chunks_per_segment * CHUNK_VALUES
        return slice(segment * values, (segment + 1) * values)


def layout_of(recipe: Recipe) -> Layout:
    """Return the layout of the recipe's model, from its shapes alone: no weights are made.

    Raises:
        ModelError: the model cannot be built, or differs from the count in the recipe's genesis.
    """
    from recipes.model import build_model

    model = build_model(recipe, meta=True)
    shapes = ((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())
    layout = lay_out(shapes, segments=recipe.round.segments)
    if recipe.genesis is not None and recipe.genesis.parameters != layout.size:
        raise ModelError(
            f"The model has {layout.size} parameters here, but the recipe says {recipe.genesis.parameters}.",
            remedy="Install what constraints.txt pins: another transformers may build another model.",
        )
    return layout


def published_layout(recipe: Recipe) -> Layout:
    """Return the layout that a published recipe's genesis gives, with all parameters as one span.

    It needs no model library, whose import takes seconds. `layout_of` says whether the model fits.

    Raises:
        RecipeError: the recipe is a template.
    """
    return lay_out([("parameters", (published(recipe).parameters,))], segments=recipe.round.segments)


def lay_out(shapes: Iterable[tuple[str, tuple[int, ...]]], *, segments: int) -> Layout:
    """Return the layout of parameters with these names and shapes, in this order."""
    spans = []
    size = 0
    for name, shape in shapes:
        spans.append(Span(name=name, shape=shape, offset=size))
        size += spans[-1].count
    chunks = max(1, math.ceil(size / (CHUNK_VALUES * segments))) * segments
    return Layout(spans=tuple(spans), size=size, chunks=chunks, segments=segments)
