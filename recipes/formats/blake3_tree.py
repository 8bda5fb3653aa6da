"""Merkle trees over BLAKE3, shaped as in RFC 9162 section 2.1, with paths that prove one leaf.

A leaf hash is `BLAKE3(0x00 || data)`, a node `BLAKE3(0x01 || left || right)`, and a tree of n leaves
splits at the largest power of two below n. All hashes are 32 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

HASH_BYTES = 32
EMPTY_ROOT = blake3(b"").digest()


def digest(data: bytes | bytearray | memoryview) -> bytes:
    """Return the plain BLAKE3 hash of `data`, 32 bytes."""
    return blake3(data).digest()


def leaf_hash(data: bytes | bytearray | memoryview) -> bytes:
    """Return the hash of a leaf that holds `data`."""
    return blake3(b"\x00").update(data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return blake3(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf *hashes*; the empty tree's root is BLAKE3 of nothing."""
    level = list(leaves)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:  # pairing from the left and carrying the odd one up gives RFC 9162's shape
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the sibling hashes that lead from leaf `index` to the root, lowest first."""
    return paths(leaves, [index])[0]


def paths(leaves: Sequence[bytes], indexes: Sequence[int]) -> list[list[bytes]]:
    """Return `path` for each of `indexes`, at the price of one.

    Raises:
        IndexError: there is no such leaf.
    """
    if wrong := [index for index in indexes if not 0 <= index < len(leaves)]:
        raise IndexError(f"leaf {wrong[0]} of {len(leaves)}")
    found: list[list[bytes]] = [[] for _ in indexes]
    places = list(indexes)
    level = list(leaves)
    while len(level) > 1:
        for number, place in enumerate(places):
            if place ^ 1 < len(level):
                found[number].append(level[place ^ 1])
            places[number] = place // 2
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return found


def path_length(index: int, count: int) -> int:
    """Return how many hashes the path of leaf `index` among `count` leaves has."""
    length = 0
    while count > 1:
        length += index ^ 1 < count
        index //= 2
        count = (count + 1) // 2
    return length


def root_from_path(leaf: bytes, index: int, count: int, siblings: Sequence[bytes]) -> bytes | None:
    """Return the root that `siblings` lead to from leaf hash `leaf`, or None if they do not fit the shape.

    `index` is the leaf's place among `count` leaves.
    """
    if not 0 <= index < count:
        return None
    remaining = list(reversed(siblings))
    current = leaf
    while count > 1:
        if index ^ 1 < count:
            if not remaining:
                return None
            sibling = remaining.pop()
            current = node_hash(sibling, current) if index & 1 else node_hash(current, sibling)
        index //= 2
        count = (count + 1) // 2
    return None if remaining else current
