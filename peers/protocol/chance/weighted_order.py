"""Weighted chance: who comes first, the same for every machine.

Each peer has a number u that is uniform between 0 and 1, and its turn comes at -log(u) / weight: then the
chance to be the first is in proportion to the weight (Schindelhauer and Schomaker, "Weighted distributed hash
tables", 2005). These turns are the first arrivals of independent Poisson processes: the earliest of all comes
before t with the chance 1 - exp(-t x sum of the weights). So whether anybody comes in time, and who is the
first, follows from each peer's own number. All arithmetic is on whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2

from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId

_FRACTION_BITS = 32  # in a logarithm
_MANTISSA_BITS = 63
_ERROR = 1e-8  # of a logarithm and of floats: more than ten times the real one


def uniform(label: str) -> int:
    """Return a number of 64 bits that follows from a label."""
    return int.from_bytes(digest(label.encode())[:8], "big")


def negative_log2(number: int) -> int:
    """Return -log2((number + 1) / 2^64) in units of 2^-32, rounded up, for a number of 64 bits.

    Digit by digit: squaring a value between 1 and 2 doubles its logarithm, whose next binary digit is 1 when
    the square reaches 2 (Knuth, "The Art of Computer Programming", section 1.2.2, exercise 28).
    """
    value = number + 1
    whole = value.bit_length() - 1
    mantissa = value << _MANTISSA_BITS >> whole
    logarithm = whole
    for _ in range(_FRACTION_BITS):
        mantissa = mantissa * mantissa >> _MANTISSA_BITS
        digit = mantissa >> (_MANTISSA_BITS + 1)
        mantissa >>= digit
        logarithm = logarithm << 1 | digit
    return (64 << _FRACTION_BITS) - logarithm


def in_order(numbers: Mapping[PeerId, int], weights: Mapping[PeerId, int]) -> list[PeerId]:
    """Return peers in the order of their turns; of equal turns, by name.

    Args:
        numbers: each peer's number of 64 bits.
        weights: each peer's weight, above 0.
    """
    turn = {peer: (negative_log2(number) << 64) // weights[peer] for peer, number in numbers.items()}
    return sorted(turn, key=lambda peer: (turn[peer], peer))


def anybody_in_time(numbers: Mapping[PeerId, int], weights: Mapping[PeerId, int], *, millionths: int) -> bool:
    """Whether a peer's turn comes before the time within which one comes with this chance.

    Args:
        numbers: each peer's number of 64 bits.
        weights: each peer's weight, above 0.
        millionths: the chance, of a million.
    """
    if millionths >= 1_000_000 or millionths <= 0 or not numbers:
        return millionths > 0 and bool(numbers)
    sum_of_weights = sum(weights[peer] for peer in numbers)
    time = negative_log2(((1_000_000 - millionths) << 64) // 1_000_000 - 1)
    # Almost every turn is far from the time: floats tell so much on every machine.
    near = time / 2**_FRACTION_BITS / sum_of_weights
    for peer, number in numbers.items():
        weight = weights[peer]
        is_near = (64 - log2(number + 1)) / weight < near * (1 + _ERROR) + _ERROR / weight
        if is_near and negative_log2(number) * sum_of_weights <= time * weight:
            return True
    return False
