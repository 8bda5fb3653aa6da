"""The sampling of audits: which claims, which auditors, how many steps; drawn by hash, the same for all.

The seed for the claims that block r includes is the beacon after block r + 1. It mixes nonces to which the
claims of r committed and which those of r + 1 reveal, so when a peer commits to its work, nobody knows
whether it will be drawn. All arithmetic is on whole numbers, so every machine draws the same.

Auditors are ranked by weighted rendezvous hashing: each elector has a uniform number u from a hash, and those
with the lowest -log(u) / weight come first. An elector's chance to be the first is in proportion to its
weight (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import log2

from peers.credit.entries import MOST_AUDITORS
from peers.credit.rules import MILLION, CreditRules
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId

MOST_OPENED = 128  # chunks, in one audit

_FRACTION_BITS = 32  # in a logarithm
_LOGARITHM_ERROR = 4e-9  # more than ten times the error of two logarithms
_FLOAT_ERROR = 1e-12  # relative error of floats: thousands of times the real one
_MANTISSA_BITS = 63
_LARGEST_SHARE = 10  # no peer has more than a tenth of all weight, or an even share where that is more


def audit_seed(*, beacon: str, run: str, round_number: int) -> bytes:
    """Return the seed of the audits of the claims that block `round_number` included.

    Args:
        beacon: the beacon after the next block, hex.
        run: the run's id, hex.
        round_number: the claims' round.
    """
    return digest(f"audit/{beacon}/{run}/{round_number}".encode())


def is_drawn(seed: bytes, claim: str, *, rate: int) -> bool:
    """Whether a claim is audited, at a rate of `rate` in a million."""
    return _chance(seed, f"drawn/{claim}", rate)


def is_repeated(seed: bytes, claim: str, rules: CreditRules) -> bool:
    """Whether a pass takes two auditors, so that an auditor that passes anything is found out."""
    return _chance(seed, f"repeated/{claim}", rules.repeat_rate)


def steps_to_replay(seed: bytes, claim: str, steps: int, rules: CreditRules) -> int:
    """Return how many of a window's `steps` are replayed, from the first on: some, or at times all."""
    if steps <= 1 or _chance(seed, f"full/{claim}", rules.full_replay_rate):
        return steps
    return 1 + _number(seed, f"steps/{claim}") % steps


def chunks_to_open(seed: bytes, claim: str, chunks: int) -> tuple[int, ...]:
    """Return which of a model's `chunks` a full-length audit opens: at most `MOST_OPENED`, ascending."""
    if chunks <= MOST_OPENED:
        return tuple(range(chunks))
    drawn: set[int] = set()
    turn = 0
    while len(drawn) < MOST_OPENED:
        drawn.add(_number(seed, f"chunk/{claim}/{turn}") % chunks)
        turn += 1
    return tuple(sorted(drawn))


def audit_order(seed: bytes, claim: str, weights: Mapping[PeerId, int]) -> tuple[PeerId, ...]:
    """Return the auditors of a claim, the first `MOST_AUDITORS` in order.

    Args:
        seed: the seed of the round's audits.
        claim: hash of the claim's body.
        weights: weights of the electors other than the claim's author; all above 0. They are capped here.
    """
    capped = capped_weights(weights)
    start = seed + f"auditor/{claim}/".encode()
    drawn = {peer: _first_bits(start + peer.encode()) for peer in capped}
    order = order_by_floats(drawn, capped)
    if order is None:
        rank = {peer: (negative_log2(drawn[peer]) << 64) // weight for peer, weight in capped.items()}
        order = sorted(rank, key=lambda peer: (rank[peer], peer))[:MOST_AUDITORS]
    return tuple(order)


def order_by_floats(drawn: Mapping[PeerId, int], weights: Mapping[PeerId, int]) -> list[PeerId] | None:
    """Return the first auditors in order, or None if floats cannot tell which of two comes first.

    `negative_log2` is within 2^-32 of the logarithm, and floats are much nearer to it on every machine. So
    where two ranks lie further apart than that, both computations agree on their order.
    """
    if not drawn:
        return []
    near = sorted(((64 - log2(drawn[peer] + 1)) / weight, peer) for peer, weight in weights.items())
    first = near[: MOST_AUDITORS + 1]
    apart = _LOGARITHM_ERROR / min(weights.values()) + _FLOAT_ERROR * first[-1][0]
    if any(after - before <= apart for (before, _), (after, _) in pairwise(first)):
        return None
    return [peer for _, peer in first[:MOST_AUDITORS]]


def weigh(vested: Mapping[PeerId, int], electors: Iterable[PeerId], *, mean_claim: int) -> dict[PeerId, int]:
    """Return the electors' weights: 1 + vested credit, in whole units of one mean claim."""
    return {peer: 1 + vested.get(peer, 0) // max(1, mean_claim) for peer in sorted(electors)}


def capped_weights(weights: Mapping[PeerId, int]) -> dict[PeerId, int]:
    """Return the weights capped at the highest level at which no peer has more than a tenth of their sum.

    With fewer than ten peers, no peer has more than an even share: all weigh the same.
    """
    if not weights:
        return {}
    shares = min(_LARGEST_SHARE, len(weights))
    low, high = 1, max(weights.values())
    while low < high:  # all levels up to the highest one fit, since the sum is concave in the level
        level = (low + high + 1) // 2
        if shares * level <= sum(min(weight, level) for weight in weights.values()):
            low = level
        else:
            high = level - 1
    return {peer: min(weight, low) for peer, weight in weights.items()}


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


def _chance(seed: bytes, label: str, rate: int) -> bool:
    return _number(seed, label) * MILLION < rate << 64


def _number(seed: bytes, label: str) -> int:
    """Return a 64-bit number that follows from the seed and the label."""
    return _first_bits(seed + label.encode())


def _first_bits(content: bytes) -> int:
    return int.from_bytes(digest(content)[:8], "big")
