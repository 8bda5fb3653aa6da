"""The bigram yardstick: its probabilities, and that slicing a long text changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import publish_tiny

import trainer.bigram
from recipes.corpus import TokenArray
from trainer.bigram import Bigram, bigram_loss, fit

VOCABULARY = 5


def _fit(*slices: list[int]) -> Bigram:
    return fit([np.array(tokens, dtype=np.int64) for tokens in slices], vocabulary=VOCABULARY)


def _probability(bigram: Bigram, first: int, second: int) -> float:
    return float(np.exp(-bigram.loss([np.array([first, second], dtype=np.int64)])))


@given(st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=60))
def test_what_may_follow_a_token_adds_up_to_one(tokens: list[int]) -> None:
    bigram = _fit(tokens)
    for first in range(VOCABULARY):
        total = sum(_probability(bigram, first, second) for second in range(VOCABULARY))
        assert total == pytest.approx(1)


def test_probabilities_are_those_of_witten_and_bell() -> None:
    bigram = _fit([0, 1, 0, 1, 0, 2])
    # After 0 came 1 twice and 2 once: two followers. Of five second tokens, 1 came twice.
    share_of_1 = (2 + 1) / (5 + VOCABULARY)
    assert _probability(bigram, 0, 1) == pytest.approx((2 + 2 * share_of_1) / (3 + 2))


def test_a_token_that_nothing_followed_leaves_it_to_the_others_share() -> None:
    bigram = _fit([0, 1, 0, 2])
    assert _probability(bigram, 4, 0) == pytest.approx((1 + 1) / (3 + VOCABULARY))


def test_counts_of_several_slices_add_up() -> None:
    whole, cut = _fit([0, 1, 2, 1, 2, 3]), _fit([0, 1, 2], [2, 1, 2, 3])
    assert whole.pairs.tolist() == cut.pairs.tolist()
    assert whole.counts.tolist() == cut.counts.tolist()


def test_a_corpus_read_in_slices_gives_the_loss_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = publish_tiny(tmp_path)
    train, validation = (TokenArray(run.data, run.manifest, part) for part in ("train", "validation"))
    whole = bigram_loss(train, validation, vocabulary=257)
    monkeypatch.setattr(trainer.bigram, "_SLICE_TOKENS", 101)
    assert bigram_loss(train, validation, vocabulary=257) == pytest.approx(whole)
    assert 0.5 < whole < 2  # counting in words is far from random, and not quite known from one letter
