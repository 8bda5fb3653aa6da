"""Each peer's hash chain: one secret a round, all of them fixed by the first that is shown."""

from __future__ import annotations

from bisect import bisect
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import RUN, keys_of, name, rules

from peers.protocol.chance.hash_chain import RENEWED_FROM, HashChain, descend, is_to_be_renewed, own_chain
from peers.protocol.rules import Rules
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import SigningKey

SEED = digest(b"a seed")
KEY = keys_of(1)[0]


def hashed(seed: bytes, times: int) -> str:
    """A seed hashed so many times."""
    for _ in range(times):
        seed = digest(seed)
    return seed.hex()


@given(length=st.integers(1, 700), data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_shown_is_the_seed_hashed_as_often_as_rounds_are_left(
    length: int, data: st.DataObject
) -> None:
    rounds = data.draw(st.integers(0, length))
    assert HashChain(SEED, length).shown_after(rounds) == hashed(SEED, length - rounds)


def test_each_preimage_gives_all_that_were_shown_before_it() -> None:
    chain = HashChain(SEED, 600)
    shown = [chain.shown_after(rounds) for rounds in range(601)]
    assert len(set(shown)) == 601
    assert [descend(preimage, 1) for preimage in shown[1:]] == shown[:-1]
    assert descend(shown[600], 600) == shown[0]
    assert descend(shown[7], 0) == shown[7]


@pytest.mark.parametrize("rounds", [-1, 601, 10**6])
def test_beyond_its_ends_a_chain_has_nothing_to_show(rounds: int) -> None:
    with pytest.raises(ValueError, match="a chain of 600 has nothing to show"):
        HashChain(SEED, 600).shown_after(rounds)


def test_a_chain_follows_from_the_key_the_run_and_the_round_of_its_anchor_alone() -> None:
    def anchor(*, key: int = 0, run: str = RUN, anchored: int = 7) -> str:
        return own_chain(keys_of(2)[key], run=run, anchored=anchored, length=100).shown_after(0)

    assert anchor() == anchor()
    assert len({anchor(), anchor(key=1), anchor(run=name("another run")), anchor(anchored=8)}) == 4


def replaced_at(key: SigningKey, length: int) -> int:
    """The age at which a peer's software replaces a chain."""
    return bisect(
        range(length), False, key=lambda age: is_to_be_renewed(key.peer_id, rounds=age, length=length)
    )


@pytest.mark.parametrize("length", [4096, 2050, 2049, 2047])
def test_nobody_replaces_a_chain_before_it_may_and_not_all_in_one_round(length: int) -> None:
    ages = Counter(replaced_at(key, length) for key in keys_of(200))
    assert min(ages) * RENEWED_FROM[1] >= length * RENEWED_FROM[0]
    assert max(ages) < length
    assert max(ages.values()) <= 10


@pytest.mark.parametrize("length", [Rules.hash_chain, rules(electors=(KEY.peer_id,)).hash_chain])
def test_the_next_chain_is_old_enough_before_the_old_one_is_used_up(length: int) -> None:
    depth = rules(electors=(KEY.peer_id,)).rewind_depth
    assert all(replaced_at(key, length) + depth <= length for key in keys_of(200))
