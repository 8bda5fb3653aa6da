"""A yardstick for small models: the loss of bigram statistics, fitted on the same tokens.

A language model that does not beat it has learned no more than which token follows which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recipes.corpus import TokenArray

_SLICE_TOKENS = 1 << 20

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bigram:
    """Counts of pairs of tokens, smoothed as Witten and Bell (1991) do.

    P(b after a) = (count(a, b) + followers(a) P(b)) / (count(a) + followers(a)), where followers(a) is how
    many different tokens came after a, and P(b) = (count(b) + 1) / (tokens + vocabulary).

    Attributes:
        vocabulary: number of different tokens there could be.
        pairs: each pair seen, as a * vocabulary + b; int64, ascending.
        counts: how often each of `pairs` was seen; int64 of the same shape.
    """

    vocabulary: int
    pairs: Tokens
    counts: Tokens

    def loss(self, tokens: Iterable[Tokens]) -> float:
        """Return the mean loss in nats a token over all pairs in `tokens`, which come in slices."""
        first, second = np.divmod(self.pairs, self.vocabulary)
        before = np.bincount(first, weights=self.counts, minlength=self.vocabulary)
        after = np.bincount(second, weights=self.counts, minlength=self.vocabulary)
        followers = np.bincount(first, minlength=self.vocabulary)
        alone = (after + 1) / (after.sum() + self.vocabulary)
        surprise, total = 0.0, 0
        for slice_of_tokens in tokens:
            a, b = slice_of_tokens[:-1], slice_of_tokens[1:]
            together = self._count(a * self.vocabulary + b)
            # A token never seen before another has no followers: then the second token's share alone decides.
            weight = np.where(followers[a] == 0, 1, followers[a])
            surprise -= float(np.log((together + weight * alone[b]) / (before[a] + weight)).sum())
            total += a.size
        return surprise / total

    def _count(self, pairs: Tokens) -> Tokens:
        places = np.minimum(np.searchsorted(self.pairs, pairs), self.pairs.size - 1)
        return np.where(self.pairs[places] == pairs, self.counts[places], 0)


def fit(tokens: Iterable[Tokens], *, vocabulary: int) -> Bigram:
    """Count the pairs in `tokens`, which come in slices of at least two tokens.

    Memory grows with the number of different pairs, not with the number of tokens.
    """
    pairs, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for slice_of_tokens in tokens:
        seen, times = np.unique(slice_of_tokens[:-1] * vocabulary + slice_of_tokens[1:], return_counts=True)
        merged, places = np.unique(np.concatenate([pairs, seen]), return_inverse=True)
        sums = np.bincount(places, weights=np.concatenate([counts, times]), minlength=merged.size)
        pairs, counts = merged, sums.astype(np.int64)  # sums are exact in fp64 up to 2**53
    return Bigram(vocabulary=vocabulary, pairs=pairs, counts=counts)


def bigram_loss(train: TokenArray, validation: TokenArray, *, vocabulary: int) -> float:
    """Return the validation loss of a bigram model fitted on the training part, in nats a token."""
    return fit(_slices(train), vocabulary=vocabulary).loss(_slices(validation))


def _slices(tokens: TokenArray) -> Iterator[Tokens]:
    # Each slice repeats the last token of the one before, so that no pair is lost and none counts twice.
    for start in range(0, tokens.tokens - 1, _SLICE_TOKENS):
        yield tokens.slice(start, _SLICE_TOKENS + 1)
