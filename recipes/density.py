"""How many values of each chunk a round keeps, on the way out and on the way back.

A recipe may have early rounds send more: `exchange.early` says until which share of `schedule.total_tokens`,
and how many times as much. What holds in a round follows from the tokens that the block below it has counted,
and from nothing else; so everybody who knows that block knows it, now or in a replay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from recipes.layout import CHUNK_VALUES
from recipes.schema.recipe import Recipe
from recipes.schema.sections import ExchangeSection


@dataclass(frozen=True)
class Density:
    """What of each chunk is sent in a round, and in how many bits; the fields are those of `exchange`."""

    keep: int
    level_bits: int
    reduced_keep: int
    reduced_level_bits: int

    @property
    def contribution_bits(self) -> float:
        """The expected bits a parameter of a contribution."""
        return _chunk_bits(self.keep, self.level_bits) / CHUNK_VALUES

    @property
    def reduced_bits(self) -> float:
        """The expected bits a parameter of a reduced segment."""
        return _chunk_bits(self.reduced_keep, self.reduced_level_bits) / CHUNK_VALUES

    def scaled(self, factor: float) -> Density:
        """Return the density at `factor` times the values, rounded to nearest, halves to even."""
        return replace(self, keep=round(self.keep * factor), reduced_keep=round(self.reduced_keep * factor))


@dataclass(frozen=True)
class DensitySchedule:
    """The densities of a run.

    Attributes:
        lasting: after all that is early.
        early: pairs (tokens, density), the tokens ascending: what holds while fewer have been trained on.
    """

    lasting: Density
    early: tuple[tuple[float, Density], ...] = ()

    def at(self, tokens: int) -> Density:
        """Return the density of the round on top of a block by which `tokens` were trained on."""
        return next((density for until, density in self.early if tokens < until), self.lasting)

    @property
    def densest(self) -> Density:
        """The density of which most is sent."""
        return max(self.all(), key=lambda density: density.keep + density.reduced_keep)

    def all(self) -> tuple[Density, ...]:
        """Return every density of the run, in the order of time."""
        return (*(density for _, density in self.early), self.lasting)


def lasting_density(exchange: ExchangeSection) -> Density:
    """Return the density of a recipe after all that is early."""
    return Density(
        keep=exchange.keep,
        level_bits=exchange.level_bits,
        reduced_keep=exchange.reduced_keep,
        reduced_level_bits=exchange.reduced_level_bits,
    )


def density_schedule(recipe: Recipe) -> DensitySchedule:
    """Return the densities of a recipe's run."""
    lasting = lasting_density(recipe.exchange)
    return DensitySchedule(
        lasting,
        tuple(
            (share * recipe.schedule.total_tokens, lasting.scaled(factor))
            for share, factor in recipe.exchange.early
        ),
    )


def _chunk_bits(keep: int, level_bits: int) -> float:
    """Return the expected bits of one chunk: gaps, signs, levels, the table of magnitudes, and alignment.

    It is an estimate that leans to the high side: peers/codec/chunk_layout.py has the layout itself, in which
    what a chunk takes depends on its values.

    Gaps between kept indices are nearly geometric. Golomb and Rice's code with parameter r spends
    r + 1 bits and one more for every 2**r that the gap holds (Rice 1979).
    """
    absent = 1 - keep / CHUNK_VALUES
    gap = min(r + 1 + absent ** (1 << r) / (1 - absent ** (1 << r)) for r in range(13))
    return keep * (gap + 1 + level_bits) + 8 * (1 << level_bits) + 4
