"""Fields of a few bits at any bit position of a byte string, for whole arrays of fields at once.

Bits are numbered from the least significant bit of the first byte, and a field's least significant bit
comes first: bit i of a byte string is `(data[i >> 3] >> (i & 7)) & 1`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FIELD_BITS = 17  # with up to 7 bits of misalignment, a field lies within 3 bytes
_SPAN_BYTES = 3


def pack_fields(positions: NDArray[np.int64], values: NDArray[np.int64], *, size: int) -> bytes:
    """Return `size` bytes that hold each of `values` at its bit position, and zeros elsewhere.

    Args:
        positions: first bit of each field, any shape.
        values: the fields, not negative, each at most FIELD_BITS wide; the fields must not overlap.
        size: bytes in the result; every field must fit.
    """
    first_byte = positions >> 3
    shifted = values << (positions & 7)
    # Fields that share a byte have no bit in common, so that their sum is their union. It stays below 256,
    # which the float64 sums of bincount hold exactly.
    total = np.zeros(size + _SPAN_BYTES, dtype=np.float64)
    for byte in range(_SPAN_BYTES):
        parts = (shifted >> (8 * byte)) & 0xFF
        total[byte:] += np.bincount(first_byte, weights=parts, minlength=total.size - byte)
    return total[:size].astype(np.uint8).tobytes()


def read_fields(
    data: NDArray[np.uint8], positions: NDArray[np.int64], widths: NDArray[np.int64] | int
) -> NDArray[np.int64]:
    """Return the fields of `widths` bits (at most FIELD_BITS) at bit `positions` of `data`.

    `data` must go on for 2 bytes after the byte in which the last field starts.
    """
    first_byte = positions >> 3
    word = data[first_byte].astype(np.int64)
    for byte in range(1, _SPAN_BYTES):
        word |= data[first_byte + byte].astype(np.int64) << (8 * byte)
    fields: NDArray[np.int64] = (word >> (positions & 7)) & ((np.int64(1) << widths) - 1)
    return fields
