"""Merkle trees that Ethereum contracts verify with OpenZeppelin's `MerkleProof`, as its StandardMerkleTree.

A leaf is `keccak256(keccak256(abi.encode(address, uint256)))`, hashed twice so that no inner node passes for
one; a pair is hashed in ascending order. The tree is an array: the root first, the children of place i at
2i + 1 and 2i + 2, the leaves at the end, in descending order of their hashes (github.com/OpenZeppelin/
merkle-tree, MIT licence, format "standard-v1"). keccak256 is the hash from before SHA-3 was standardised:
hashlib's sha3_256 pads otherwise and gives other values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from Crypto.Hash import keccak

from recipes.errors import DataError

MAX_AMOUNT = 2**256 - 1
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")

Payment = tuple[str, int]
"""An address, `0x` and 40 hex digits, and an amount."""


@dataclass(frozen=True)
class StandardTree:
    """The tree over some payments.

    Attributes:
        payments: in the order given.
        nodes: the array, 32 bytes each.
        places: of each payment's leaf in the array.
    """

    payments: tuple[Payment, ...]
    nodes: tuple[bytes, ...]
    places: tuple[int, ...]

    @property
    def root(self) -> str:
        """The root as a contract holds it: `0x` and 64 hex digits."""
        return _text(self.nodes[0])

    def proof(self, number: int) -> list[str]:
        """Return the proof of payment `number`, lowest sibling first, as `MerkleProof.verify` takes it."""
        place = self.places[number]
        siblings = []
        while place:
            siblings.append(_text(self.nodes[place + 1 if place & 1 else place - 1]))
            place = (place - 1) // 2
        return siblings

    def dump(self) -> dict[str, object]:
        """Return what StandardMerkleTree.dump() gives, and its load() takes."""
        values = [
            {"value": [address, str(amount)], "treeIndex": place}
            for (address, amount), place in zip(self.payments, self.places, strict=True)
        ]
        return {
            "format": "standard-v1",
            "leafEncoding": ["address", "uint256"],
            "tree": [_text(node) for node in self.nodes],
            "values": values,
        }


def standard_tree(payments: Sequence[Payment]) -> StandardTree:
    """Return the tree over payments.

    Raises:
        ValueError: there are none, an address is malformed, or an amount is beyond 256 bits.
    """
    if not payments:
        raise ValueError("a tree needs at least one payment")
    leaves = [leaf(payment) for payment in payments]
    order = sorted(range(len(leaves)), key=lambda number: leaves[number])
    nodes = tree_array([leaves[number] for number in order])
    places = [0] * len(leaves)
    for rank, number in enumerate(order):
        places[number] = len(nodes) - 1 - rank
    return StandardTree(tuple(payments), tuple(nodes), tuple(places))


def tree_array(leaves: Sequence[bytes]) -> list[bytes]:
    """Return the array of the tree over leaf hashes in ascending order."""
    nodes = [b""] * (len(leaves) - 1) + list(reversed(leaves))
    for place in range(len(leaves) - 2, -1, -1):
        nodes[place] = _pair(nodes[2 * place + 1], nodes[2 * place + 2])
    return nodes


def leaf(payment: Payment) -> bytes:
    """Return the leaf hash of a payment: ABI-encoded, each value in a word of 32 bytes."""
    address, amount = payment
    if _ADDRESS.fullmatch(address) is None or not 0 <= amount <= MAX_AMOUNT:
        raise ValueError(f"no payment: {amount} to {address!r}")
    encoded = bytes.fromhex(address[2:]).rjust(32, b"\0") + amount.to_bytes(32, "big")
    return keccak256(keccak256(encoded))


def proves(root: str, payment: Payment, proof: Sequence[str]) -> bool:
    """Whether a contract that holds `root` takes `proof` for `payment`."""
    current = leaf(payment)
    for sibling in proof:
        current = _pair(current, bytes.fromhex(sibling[2:]))
    return _text(current) == root


def plain_address(address: str) -> str:
    """Return an address in lower case. One in mixed case is checked against its checksum (ERC-55).

    Raises:
        DataError: it is no address, or a letter of it was mistyped.
    """
    if _ADDRESS.fullmatch(address) is None:
        raise DataError(
            f"{address[:64]!r} is no address of 0x and 40 hex digits.",
            remedy="Copy it from the wallet that is to receive the payments.",
        )
    digits, lower = address[2:], address[2:].lower()
    if digits in (lower, digits.upper()):
        return "0x" + lower
    nibbles = keccak256(lower.encode()).hex()
    mixed = "".join(d.upper() if int(n, 16) > 7 else d for d, n in zip(lower, nibbles, strict=False))
    if digits != mixed:
        raise DataError(
            f"The upper and lower case of {address} does not fit: a digit of it is wrong.",
            remedy="Copy it from the wallet again.",
        )
    return "0x" + lower


def keccak256(content: bytes) -> bytes:
    """Return the Keccak-256 hash of `content`, 32 bytes."""
    return keccak.new(digest_bits=256, data=content).digest()


def _pair(one: bytes, other: bytes) -> bytes:
    return keccak256(min(one, other) + max(one, other))


def _text(node: bytes) -> str:
    return "0x" + node.hex()
