"""The codecs of each round of a run, and how long the messages are that they make.

A round's density follows from the tokens trained on by the block below it (recipes/density.py): `at` returns
the format for them. This is the only module that chooses which `Codec` a run uses.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.codec.interface import Codec
from peers.codec.segment import SegmentFrame, frame_limit, proof_limit, with_header
from peers.codec.sparse_codec import SparseCodec
from recipes.density import Density, DensitySchedule, density_schedule
from recipes.formats.blake3_tree import HASH_BYTES
from recipes.layout import Layout
from recipes.schema.recipe import Recipe

MAX_PATH = 16  # hashes from a segment's root to its contribution's


@dataclass(frozen=True)
class RoundFormat:
    """How one round's contributions and reduced segments are encoded.

    Attributes:
        codec: of contributions.
        reduced_codec: of reduced segments.
        chunks: number of chunks in a segment.
    """

    codec: Codec
    reduced_codec: Codec
    chunks: int

    @property
    def push_limit(self) -> int:
        """Bytes of the longest pushed segment, its proof included."""
        return 2 * HASH_BYTES + 16 + MAX_PATH * HASH_BYTES + frame_limit(self.codec, self.chunks)

    @property
    def reduced_limit(self) -> int:
        """Bytes of the longest reduced segment."""
        return frame_limit(self.reduced_codec, self.chunks)

    def check_limit(self, claims: int) -> int:
        """Bytes of the longest answer to a spot check on a roster of so many claims."""
        return claims * (proof_limit(self.codec) + 4)


@dataclass(frozen=True)
class ExchangeFormat:
    """How contributions and reduced segments of a run are encoded and combined."""

    densities: DensitySchedule
    segments: int
    chunks_per_segment: int
    clip_factor: float

    def at(self, tokens: int) -> RoundFormat:
        """Return the format of the round on top of a block with these `tokens` in its counters."""
        return self._with(self.densities.at(tokens))

    @property
    def push_limit(self) -> int:
        """Bytes of the longest pushed segment of any round: a listener learns the round only afterwards."""
        return max(self._with(density).push_limit for density in self.densities.all())

    def parse_reduced(self, data: bytes, *, tokens: int) -> SegmentFrame:
        """Parse a reduced segment of the round on top of a block with these `tokens` in its counters.

        A reduced segment is named by its root, which covers the chunks and not the header. Segments of zeros
        may have the same chunks at two densities (nine or ten bits take two bytes). A peer that keeps one by
        its root serves it for the other round too, and is not to blame. So the header may be that of any
        round of the run; the chunks must be valid for this round's codec.

        Raises:
            MessageError: it is malformed, or not a segment of that round.
        """
        form = self.at(tokens)
        known = [self._with(density).reduced_codec for density in self.densities.all()]
        data = with_header(data, codec=form.reduced_codec, known=known, chunks=form.chunks)
        return SegmentFrame.parse(data, codec=form.reduced_codec, chunks=form.chunks)

    def _with(self, density: Density) -> RoundFormat:
        return RoundFormat(
            codec=contribution_codec(density),
            reduced_codec=SparseCodec(keep=density.reduced_keep, level_bits=density.reduced_level_bits),
            chunks=self.chunks_per_segment,
        )


def contribution_codec(density: Density) -> Codec:
    """Return the codec of contributions at a density."""
    return SparseCodec(keep=density.keep, level_bits=density.level_bits)


def exchange_format(recipe: Recipe, layout: Layout) -> ExchangeFormat:
    """Return how contributions and reduced segments of a recipe's run are encoded and combined."""
    return ExchangeFormat(
        densities=density_schedule(recipe),
        segments=layout.segments,
        chunks_per_segment=layout.chunks_per_segment,
        clip_factor=recipe.exchange.clip_factor,
    )
