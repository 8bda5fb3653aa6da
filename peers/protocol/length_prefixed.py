"""Length-prefixed byte strings: several in one, each after its length, a little-endian uint32."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from recipes.errors import MessageError, Offence

_LENGTH = struct.Struct("<I")


def join_parts(parts: Iterable[bytes]) -> bytes:
    """Return `parts` as one byte string, which `split_parts` splits again."""
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def split_parts(data: bytes, *, most: int) -> list[bytes]:
    """Return the parts of a byte string that a peer made with `join_parts`.

    Raises:
        MessageError: there are more than `most` parts, or the lengths do not fit the data.
    """
    parts: list[bytes] = []
    offset = 0
    while offset < len(data):
        if len(parts) == most or offset + _LENGTH.size > len(data):
            raise MessageError("more parts than allowed, or a torn length", offence=Offence.MALFORMED)
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if offset + length > len(data):
            raise MessageError("a part reaches beyond the end", offence=Offence.MALFORMED)
        parts.append(data[offset : offset + length])
        offset += length
    return parts
