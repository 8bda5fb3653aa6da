"""Reads the values from the bytes of many chunks at once. The bytes may be of any content.

peers/codec/chunk_layout.py describes the bits. The ends of chunks are found one after the other, since each
chunk begins where the one before ends; all other fields are read for many chunks at once.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from peers.codec.bit_packing import read_fields, words_of
from peers.codec.chunk_layout import (
    CHOICE_BITS,
    RICE_PARAMETERS,
    STEP_LOW_BITS,
    ChunkFields,
    header_bits,
    longest_chunk_bytes,
)
from peers.codec.levels import CODE_BITS, CODES
from recipes.errors import MessageError
from recipes.layout import CHUNK_VALUES

_INDEX_BITS = CHUNK_VALUES.bit_length() - 1
_RECORDS_BITS: list[int] = [count * (1 + int(rice)) for count, rice in enumerate(RICE_PARAMETERS)]


def find_ends(data: bytes, *, chunks: int, keep: int, levels: int) -> NDArray[np.int64]:
    """Return where `chunks` chunks begin and end in `data`, int64 of shape (chunks + 1,).

    Raises:
        MessageError: a chunk is cut short, too long, padded with ones, or has impossible counts.
    """
    # The number of ones before each byte: a chunk's last byte is then found by bisection.
    ones_before = np.zeros(len(data) + 1, dtype=np.int64)
    np.cumsum(np.bitwise_count(np.frombuffer(data, dtype=np.uint8)), out=ones_before[1:])
    ranks = memoryview(ones_before.data)
    longest = longest_chunk_bytes(keep, levels)
    offsets = np.zeros(chunks + 1, dtype=np.int64)
    end = 0
    for chunk in range(chunks):
        end = _chunk_end(data, ranks, chunk, start=end, keep=keep, levels=levels, longest=longest)
        offsets[chunk + 1] = end
    return offsets


def read_chunks(
    data: bytes, offsets: NDArray[np.int64], *, keep: int, levels: int, first_chunk: int
) -> NDArray[np.int64]:
    """Return each value kept as ((chunk x 4096 + index) x 2 + sign) x 256 + code, int64, ascending.

    Args:
        data: the bytes of the chunks.
        offsets: where they begin and end, from `find_ends`: int64, shape (chunks + 1,).
        keep: the most values that a chunk keeps.
        levels: the most levels that a chunk has.
        first_chunk: the number of the first of them in error messages.

    Raises:
        MessageError: an index lies beyond its chunk or is there twice, or a level lies beyond the scale.
    """
    words = words_of(data)
    start = offsets[:-1] * 8
    members = _read_members(words, start, keep=keep, levels=levels)
    counts, fields = members.sum(axis=1), ChunkFields.of(members, keep=keep)
    unary_start = start + fields.unary
    # The ones of a chunk's unary part are the last before its end, since only zeros pad it.
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")
    ones = np.flatnonzero(bits.view(np.bool_))
    first_one = np.searchsorted(ones, offsets[1:] * 8) - counts - (members[:, 1:] > 0).sum(axis=1)

    codes, gaps_start, first_one = _read_codes(words, start, fields, members, unary_start, ones, first_one)
    _refuse((codes[:, -1] >= CODES) & (counts > 0), first_chunk, "has levels beyond the scale")

    level_members = members.reshape(-1)
    firsts = level_members.cumsum() - level_members
    chunk_firsts = counts.cumsum() - counts
    ranks = np.arange(int(counts.sum()))
    record_bits = fields.record_bits.reshape(-1)
    first_record = (start[:, None] + fields.records).reshape(-1) - firsts * record_bits
    widths = record_bits.repeat(level_members)
    records = read_fields(words, first_record.repeat(level_members) + ranks * widths, widths)

    # A gap's rest is the number of zeros since the one before; an index, the sum of its level's gaps so far.
    ends = ones[(first_one - chunk_firsts).repeat(counts) + ranks]
    zeros = np.diff(ends, prepend=0) - 1
    filled = counts > 0
    zeros[chunk_firsts[filled]] = ends[chunk_firsts[filled]] - gaps_start[filled]
    sums = np.concatenate((np.zeros(1, np.int64), ((zeros << (widths - 1)) + (records >> 1) + 1).cumsum()))
    indices = sums[1:] - sums[firsts].repeat(level_members) - 1
    beyond = np.zeros(counts.size, dtype=np.bool_)
    beyond[np.arange(counts.size).repeat(counts)[indices >= CHUNK_VALUES]] = True
    _refuse(beyond, first_chunk, f"holds an index beyond {CHUNK_VALUES - 1}")

    chunk_of_level = np.arange(level_members.size) // levels
    kept = ((chunk_of_level << (_INDEX_BITS + 1 + CODE_BITS)) | codes.reshape(-1)).repeat(level_members)
    kept |= (indices << (1 + CODE_BITS)) | ((records & 1) << CODE_BITS)
    kept.sort()
    twice = np.zeros(counts.size, dtype=np.bool_)
    positions = kept >> (1 + CODE_BITS)
    twice[positions[1:][np.diff(positions) == 0] >> _INDEX_BITS] = True
    _refuse(twice, first_chunk, "holds an index twice")
    return kept


def _read_codes(
    words: NDArray[np.uint32],
    start: NDArray[np.int64],
    fields: ChunkFields,
    members: NDArray[np.int64],
    unary_start: NDArray[np.int64],
    ones: NDArray[np.int64],
    first_one: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the levels' codes, and for each chunk the bit and the rank of the one that follow its steps."""
    codes = np.empty(members.shape, dtype=np.int64)
    codes[:, 0] = read_fields(words, start + fields.code, CODE_BITS)
    at, rank = unary_start.copy(), first_one.copy()
    for level in range(1, members.shape[1]):
        there = members[:, level] > 0
        low = read_fields(words, (start + fields.steps[:, level - 1])[there], STEP_LOW_BITS)
        end = ones[rank[there]]
        codes[:, level] = codes[:, level - 1]
        codes[there, level] += ((end - at[there]) << STEP_LOW_BITS) + low + 1
        at[there] = end + 1
        rank[there] += 1
    return codes, at, rank


def _read_members(
    words: NDArray[np.uint32], start: NDArray[np.int64], *, keep: int, levels: int
) -> NDArray[np.int64]:
    """Return the number of values on each level of each chunk, int64, shape (chunks, levels)."""
    headers = read_fields(words, start, header_bits(keep))
    full = headers & 1 == 1
    left = np.where(full, keep, headers >> 1)
    at = start + np.where(full, 1, header_bits(keep)) + np.where(left > 0, CODE_BITS, 0)
    members = np.empty((start.size, levels), dtype=np.int64)
    for level in range(levels - 1):
        bits = CHOICE_BITS[left]
        members[:, level] = np.where(left > 0, read_fields(words, at, bits) + 1, 0)
        at += bits
        left -= members[:, level]
    members[:, -1] = left
    return members


def _chunk_end(
    data: bytes, ones_before: memoryview, chunk: int, *, start: int, keep: int, levels: int, longest: int
) -> int:
    """Return the offset just after the chunk that starts at `start`."""
    header = int.from_bytes(data[start : start + 32], "little")
    full = header & 1
    bits = 1 if full else header_bits(keep)
    left = keep if full else (header & ((1 << bits) - 1)) >> 1
    if left >= keep and not full:
        raise MessageError(f"Chunk {chunk} has a count of {left}, and at most {keep - 1} are allowed.")
    ones, records = left, 0
    if left:
        bits += CODE_BITS
        for _ in range(levels - 1):
            choice_bits = (left - 1).bit_length()
            members = ((header >> bits) & ((1 << choice_bits) - 1)) + 1
            bits += choice_bits
            if members > left:
                raise MessageError(f"Chunk {chunk} has a level of {members} values where {left} are left.")
            records += _RECORDS_BITS[members]
            left -= members
            if not left:
                break
            ones += 1
            records += STEP_LOW_BITS
        bits += records + _RECORDS_BITS[left]
    unary_byte, bits_before = start + (bits >> 3), bits & 7
    if unary_byte + (bits_before > 0) > len(data):
        raise MessageError(f"Chunk {chunk} is cut short.")
    ones += ones_before[unary_byte]
    if bits_before:
        ones += (data[unary_byte] & ((1 << bits_before) - 1)).bit_count()
    # The chunk ends with the first byte that brings the ones to this number. A byte that brings them
    # beyond it has ones in its padding.
    search_end = min(start + longest, len(data)) + 1
    end = bisect_left(ones_before, ones, unary_byte + (bits_before > 0), search_end)
    if end == search_end or ones_before[end] != ones:
        raise MessageError(f"Chunk {chunk} is cut short, too long, or padded with ones.")
    return end


def _refuse(where: NDArray[np.bool_], first_chunk: int, what: str) -> None:
    if where.any():
        raise MessageError(f"Chunk {first_chunk + int(where.argmax())} {what}.")
