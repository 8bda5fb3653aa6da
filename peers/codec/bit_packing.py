"""Fields of a few bits at any bit position of a byte string, for whole arrays of fields at once.

Bits are numbered from the least significant bit of the first byte, and a field's least significant bit
comes first: bit i of a byte string is `(data[i >> 3] >> (i & 7)) & 1`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FIELD_BITS = 17  # with up to 7 bits of misalignment, a field lies within 3 bytes
_SPAN_BYTES = 3
_LOOKAHEAD_BYTES = 4  # the level of an empty chunk is read too, beyond the end, and ignored


def pack_fields(positions: NDArray[np.int64], values: NDArray[np.int64], *, size: int) -> NDArray[np.uint8]:
    """Return `size` bytes that hold each of `values` at its bit position, and zeros elsewhere.

    Args:
        positions: first bit of each field, any shape.
        values: the fields, not negative, each at most FIELD_BITS wide; the fields must not overlap.
        size: bytes in the result; every field must fit.
    """
    first_byte = positions >> 3
    shifted = values << (positions & 7)
    # Fields that share a byte have no bit in common, so that their sum is their union. The sum of all that
    # begin in one byte stays below 2**25, which the float64 sums of bincount hold exactly.
    total = np.bincount(first_byte, weights=shifted, minlength=size).astype(np.uint32)
    packed = np.zeros(size + _SPAN_BYTES, dtype=np.uint8)
    for byte in range(_SPAN_BYTES):
        packed[byte : byte + total.size] |= (total >> np.uint32(8 * byte)).astype(np.uint8)
    return packed[:size]


def pack_ones(positions: NDArray[np.int64], *, size: int) -> NDArray[np.uint8]:
    """Return `size` bytes that hold ones at these bit positions, and zeros elsewhere."""
    bits = np.zeros(8 * size, dtype=np.uint8)
    bits[positions] = 1
    return np.packbits(bits, bitorder="little")


def words_of(data: bytes) -> NDArray[np.uint32]:
    """Return, for each byte of `data` and 4 zeros after it, the byte and the next two as one number.

    `read_fields` reads fields from these numbers.
    """
    padded = np.zeros(len(data) + _LOOKAHEAD_BYTES + _SPAN_BYTES - 1, dtype=np.uint32)
    padded[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    words: NDArray[np.uint32] = padded[:-2] | (padded[1:-1] << np.uint32(8)) | (padded[2:] << np.uint32(16))
    return words


def read_fields(
    words: NDArray[np.uint32], positions: NDArray[np.int64], widths: NDArray[np.int64] | int
) -> NDArray[np.int64]:
    """Return the fields of `widths` bits, at most FIELD_BITS, at bit `positions` of the bytes.

    `words` are `words_of` the bytes.
    """
    fields: NDArray[np.int64] = words[positions >> 3].astype(np.int64)
    fields >>= positions & 7
    fields &= (np.int64(1) << widths) - 1
    return fields
