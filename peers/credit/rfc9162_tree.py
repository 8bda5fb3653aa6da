"""The ledger's Merkle tree: RFC 9162 section 2.1 over SHA-256, as transparency logs use it.

A leaf hash is `SHA-256(0x00 || entry)`, a node `SHA-256(0x01 || left || right)`, and a tree of n leaves
splits at the largest power of two below n. Trees only grow at their end, so a subtree of 2^level leaves that
is full never changes: its name is (level, position), and it covers the leaves from position x 2^level on.
Proofs need the hashes of full subtrees only. All hashes are 32 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Place = tuple[int, int]
"""Level and position of a full subtree."""

Nodes = Callable[[int, int], bytes]
"""Returns the hash of the full subtree at (level, position); raises LookupError if it is not at hand."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf that holds `entry`."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """A growing tree of which only the largest full subtrees are kept: O(log n) memory."""

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """Begin with a tree of `size` leaves whose full subtrees (see `peaks`) have these hashes."""
        if len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks, not {len(peaks)}")
        self.size = size
        self._peaks = list(peaks)

    def append(self, leaf: bytes) -> list[tuple[Place, bytes]]:
        """Add a leaf hash; return the full subtrees that this completes, the leaf itself first."""
        position, current = self.size, leaf
        completed = [((0, position), current)]
        level = 0
        while position & 1:
            current = node_hash(self._peaks.pop(), current)
            position >>= 1
            level += 1
            completed.append(((level, position), current))
        self._peaks.append(current)
        self.size += 1
        return completed

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """The hashes of the tree's largest full subtrees, from the left."""
        return tuple(self._peaks)

    def root(self) -> bytes:
        """Return the root of the tree so far."""
        return _fold(self._peaks)


def peaks(first: int, end: int) -> Iterator[Place]:
    """Yield the full subtrees, largest first, that cover the leaves from `first` to before `end`.

    `first` must be a multiple of the smallest power of two that is at least their number.
    """
    while first < end:
        level = (end - first).bit_length() - 1
        yield level, first >> level
        first += 1 << level


def subtree_root(first: int, end: int, nodes: Nodes) -> bytes:
    """Return the root over the leaves from `first` to before `end`; `peaks` has the bounds.

    Raises:
        LookupError: a subtree's hash is not at hand.
    """
    return _fold([nodes(level, position) for level, position in peaks(first, end)])


def inclusion_proof(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """Return the proof that leaf `index` is in the tree of `size` leaves (RFC 9162, 2.1.3.1), lowest first.

    Raises:
        IndexError: there is no such leaf in that tree.
        LookupError: a subtree's hash is not at hand.
    """
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} of {size}")
    first, end = 0, size
    proof = []
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            proof.append(subtree_root(middle, end, nodes))
            end = middle
        else:
            proof.append(subtree_root(first, middle, nodes))
            first = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """Return the proof that the tree of `old` leaves is the beginning of that of `new` (RFC 9162, 2.1.4.1).

    Raises:
        IndexError: `old` is more than `new`.
        LookupError: a subtree's hash is not at hand.
    """
    if not 0 <= old <= new:
        raise IndexError(f"a tree of {old} leaves is no beginning of one of {new}")
    if old in (0, new):
        return []
    first, end = 0, new
    proof = []
    while end != old:
        middle = first + _split(end - first)
        if old <= middle:
            proof.append(subtree_root(middle, end, nodes))
            end = middle
        else:
            proof.append(subtree_root(first, middle, nodes))
            first = middle
    if first:  # if not, the old tree is a subtree of the new one, and its root is known
        proof.append(subtree_root(first, end, nodes))
    return proof[::-1]


def includes(root: bytes, leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that leaf hash `leaf` is at `index` of the `size` leaves under `root`.

    RFC 9162, 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    place, last = index, size - 1
    current = leaf
    for sibling in proof:
        if len(sibling) != HASH_BYTES or last == 0:
            return False
        if place & 1 or place == last:
            current = node_hash(sibling, current)
            while place and not place & 1:
                place >>= 1
                last >>= 1
        else:
            current = node_hash(current, sibling)
        place >>= 1
        last >>= 1
    return last == 0 and current == root


def consistent(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `old` leaves is the beginning of that of `new` leaves.

    RFC 9162, 2.1.4.2. The empty tree is the beginning of every other.
    """
    if not 0 <= old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path or any(len(sibling) != HASH_BYTES for sibling in path):
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place >>= 1
        last >>= 1
    before = after = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while place and not place & 1:
                place >>= 1
                last >>= 1
        else:
            after = node_hash(after, sibling)
        place >>= 1
        last >>= 1
    return last == 0 and before == old_root and after == new_root


def boundary(size: int, end: int) -> Iterator[Place]:
    """Yield the full subtrees among `end` leaves that consistency proofs from `size` leaves consist of.

    If those of every tree in between are kept as well, proofs between any two of these trees need no others.
    """
    yield from peaks(0, size)
    if size == 0:
        return
    level, position = 0, size - 1
    while position << level < end and (1 << level) <= end:
        for near in (position, position ^ 1):
            if (near + 1) << level <= end:
                yield level, near
        level += 1
        position >>= 1


def _split(count: int) -> int:
    """Return the largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _fold(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return EMPTY_ROOT
    current = hashes[-1]
    for left in reversed(hashes[:-1]):
        current = node_hash(left, current)
    return current
