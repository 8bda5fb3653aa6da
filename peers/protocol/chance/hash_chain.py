"""Hash chains: each peer's secrets, one for each round, all fixed before the first of them is shown.

A peer hashes a seed `length` times, and puts the last hash, the *anchor*, into a claim. Each later claim
shows a *preimage*: hashed as often as rounds passed since the last one that the chain holds, it gives that
one (Lamport, "Password authentication with insecure communication", 1981; RANDAO's "hash onion"). So a peer
cannot choose what it shows in a round, and whoever missed a preimage has it from any later one.
"""

from __future__ import annotations

from functools import lru_cache

from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey

RENEWED_FROM = (1, 2)  # of its length: from there on a chain may be replaced
_MARKS_APART = 256


def descend(preimage: str, steps: int) -> str:
    """Return a preimage hashed `steps` times, hex: what the chain has for so many rounds before."""
    value = bytes.fromhex(preimage)
    for _ in range(steps):
        value = digest(value)
    return value.hex()


class HashChain:
    """One peer's chain. Every `_MARKS_APART`-th hash is kept: any other is found from the next mark."""

    def __init__(self, seed: bytes, length: int) -> None:
        """Hash the seed `length` times (3 million times a second)."""
        self._length = length
        self._marks = []
        value = seed
        for place in range(length + 1):
            if place % _MARKS_APART == 0:
                self._marks.append(value)
            value = digest(value)

    def shown_after(self, rounds: int) -> str:
        """Return what is shown so many rounds after the anchor, hex; the anchor itself after 0.

        Raises:
            ValueError: the chain is used up.
        """
        left = self._length - rounds
        if not 0 <= left <= self._length:
            raise ValueError(f"a chain of {self._length} has nothing to show after {rounds} rounds")
        return descend(self._marks[left // _MARKS_APART].hex(), left % _MARKS_APART)


@lru_cache(maxsize=64)
def _chain_of(seed: bytes, length: int) -> HashChain:
    return HashChain(seed, length)


def own_chain(key: SigningKey, *, run: str, anchored: int, length: int) -> HashChain:
    """Return the chain that a peer anchored in a round. It follows from the key, so no restart loses it."""
    return _chain_of(digest(key.sign("hash chain", f"{run}/{anchored}".encode())), length)


def is_to_be_renewed(peer: PeerId, *, rounds: int, length: int) -> bool:
    """Whether honest software replaces a chain that was anchored so many rounds ago: not all in one round."""
    least = -(-length * RENEWED_FROM[0] // RENEWED_FROM[1])
    spread = max(1, length // 8)
    return rounds >= least + int.from_bytes(digest(peer.encode())[:4], "big") % spread
