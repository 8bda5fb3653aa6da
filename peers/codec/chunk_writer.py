"""Writes kept values as the bytes of many chunks at once. chunk_layout.py describes the bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peers.codec.bit_packing import pack_fields, pack_ones
from peers.codec.chunk_layout import CHOICE_BITS, RICE_PARAMETERS, STEP_LOW_BITS, ChunkFields
from peers.codec.levels import assign_levels, fit_levels
from recipes.layout import CHUNK_VALUES

_INDEX_BITS = CHUNK_VALUES.bit_length() - 1


@dataclass(frozen=True, eq=False)
class Kept:
    """The values that some chunks keep, sorted by chunk, level and index.

    Attributes:
        codes: int64, shape (chunks, levels): ascending over the levels of a chunk that have members.
        members: int64, shape (chunks, levels): the number of values on each level; empty levels come last.
        indices: int64, shape (values,): index within the chunk.
        signs: int64, shape (values,): 1 where the value is negative.
    """

    codes: NDArray[np.int64]
    members: NDArray[np.int64]
    indices: NDArray[np.int64]
    signs: NDArray[np.int64]

    @classmethod
    def of(cls, positions: NDArray[np.int64], bits: NDArray[np.uint32], *, chunks: int, levels: int) -> Kept:
        """Fit levels to values, and assign each value to one.

        Args:
            positions: chunk x 4096 + index, ascending, shape (values,).
            bits: the values as the bits of float32, shape (values,).
            chunks: at most 2**14.
            levels: the most levels that a chunk has.
        """
        chunk = positions >> _INDEX_BITS
        counts = np.bincount(chunk, minlength=chunks)
        filled = np.flatnonzero(counts)
        keys = bits & np.uint32(0x7FFFFFFF)
        codes = np.zeros((chunks, levels), dtype=np.int64)
        codes[filled] = fit_levels(keys, counts[filled], levels=levels)
        level = assign_levels(keys, counts[filled], codes[filled])

        members = np.bincount(chunk * levels + level, minlength=chunks * levels).reshape(chunks, levels)
        unused = members == 0
        if (unused[:, :-1] & ~unused[:, 1:]).any():
            place = np.cumsum(~unused, axis=1) - 1
            level = place[chunk, level]
            used_first = np.argsort(unused, axis=1, kind="stable")
            codes = np.take_along_axis(codes, used_first, axis=1)
            members = np.take_along_axis(members, used_first, axis=1)

        order = (chunk * levels + level) << (_INDEX_BITS + 1)
        order |= (positions & (CHUNK_VALUES - 1)) << 1
        order |= bits >> np.uint32(31)
        order.sort()
        return cls(codes, members, (order >> 1) & (CHUNK_VALUES - 1), order & 1)


def write_chunks(kept: Kept, *, keep: int) -> tuple[bytes, NDArray[np.int64]]:
    """Return the chunks' bytes, and int64 offsets of shape (chunks + 1,) at which they begin and end."""
    members = kept.members
    fields, counts = ChunkFields.of(members, keep=keep), members.sum(axis=1)
    level_members = members.reshape(-1)
    rice = RICE_PARAMETERS[level_members].repeat(level_members)
    gaps = np.diff(kept.indices, prepend=0) - 1
    ends = level_members.cumsum()
    firsts = (ends - level_members)[level_members > 0]
    gaps[firsts] = kept.indices[firsts]

    # The unary part: steps first, then gaps. A one stands after all before it, and its own zeros.
    used = members[:, 1:] > 0
    steps = np.where(used, np.diff(kept.codes, axis=1) - 1, 0)
    step_lengths = np.where(used, (steps >> STEP_LOW_BITS) + 1, 0).cumsum(axis=1)
    lengths = (gaps >> rice) + 1
    sums = np.concatenate((np.zeros(1, dtype=np.int64), lengths.cumsum()))
    chunk_ends = counts.cumsum()
    before = sums[chunk_ends - counts]
    gaps_start = fields.unary + (step_lengths[:, -1] if step_lengths.shape[1] else 0)
    sizes = (gaps_start + sums[chunk_ends] - before + 7) >> 3
    offsets = np.concatenate((np.zeros(1, dtype=np.int64), sizes.cumsum()))
    start = offsets[:-1] * 8

    ones = (start + gaps_start - before - 1).repeat(counts) + sums[1:]
    step_ones = (start + fields.unary - 1)[:, None] + step_lengths
    first_record = (start[:, None] + fields.records).reshape(-1) - (ends - level_members) * (
        record_bits := fields.record_bits.reshape(-1)
    )
    ranks = np.arange(kept.indices.size)
    record_positions = first_record.repeat(level_members) + ranks * record_bits.repeat(level_members)
    records = ((gaps & ((1 << rice) - 1)) << 1) | kept.signs

    filled = counts > 0
    told = CHOICE_BITS[counts[:, None] - (members.cumsum(axis=1) - members)[:, :-1]] > 0
    positions = (
        start,
        (start + fields.code)[filled],
        (start[:, None] + fields.members)[told],
        (start[:, None] + fields.steps)[used],
        record_positions,
    )
    contents = (
        np.where(counts == keep, 1, counts << 1),
        kept.codes[filled, 0],
        members[:, :-1][told] - 1,
        (steps & ((1 << STEP_LOW_BITS) - 1))[used],
        records,
    )
    size = int(offsets[-1])
    packed = pack_fields(np.concatenate(positions), np.concatenate(contents), size=size)
    packed |= pack_ones(np.concatenate((step_ones[used], ones)), size=size)
    return packed.tobytes(), offsets
