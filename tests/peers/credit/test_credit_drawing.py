"""Who is audited and by whom is drawn by hash: the same everywhere, in proportion to weight, within caps."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from credit_rounds import PEERS, RULES
from hypothesis import given
from hypothesis import strategies as st
from rounds import RUN, name

from peers.credit.entries import MOST_AUDITORS
from peers.credit.rules import MILLION
from peers.credit.sampling import (
    audit_order,
    audit_seed,
    capped_weights,
    is_drawn,
    negative_log2,
    order_by_floats,
    steps_to_replay,
    weigh,
)
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId

SEED = audit_seed(beacon=name("beacon"), run=RUN, round_number=7)
WEIGHTS = st.lists(st.integers(1, 10**6), min_size=1, max_size=40).map(
    lambda weights: {PeerId(f"peer {number}"): weight for number, weight in enumerate(weights)}
)


def test_the_seed_depends_on_beacon_run_and_round() -> None:
    others = [
        audit_seed(beacon=name("another"), run=RUN, round_number=7),
        audit_seed(beacon=name("beacon"), run=name("another run"), round_number=7),
        audit_seed(beacon=name("beacon"), run=RUN, round_number=8),
    ]
    assert len({SEED, *others}) == 4


@pytest.mark.parametrize(("rate", "share"), [(0, 0.0), (50_000, 0.05), (250_000, 0.25), (MILLION, 1.0)])
def test_a_share_of_claims_is_drawn_that_is_the_rate(rate: int, share: float) -> None:
    drawn = sum(is_drawn(SEED, name(str(number)), rate=rate) for number in range(4000))
    assert drawn / 4000 == pytest.approx(share, abs=0.02)


def test_audits_replay_whole_windows_unless_the_recipe_says_otherwise() -> None:
    rules = RULES.__class__(protocol=RULES.protocol, batch_slots=4, flops_per_token=1)
    assert {steps_to_replay(SEED, name(str(number)), 10, rules) for number in range(1000)} == {10}


def test_where_a_fifth_of_audits_replays_all_the_others_replay_any_prefix() -> None:
    rules = RULES.__class__(
        protocol=RULES.protocol, batch_slots=4, flops_per_token=1, full_replay_rate=200_000
    )
    counts = Counter(steps_to_replay(SEED, name(str(number)), 10, rules) for number in range(5000))
    assert set(counts) == set(range(1, 11))
    assert counts[10] / 5000 == pytest.approx(0.2 + 0.8 / 10, abs=0.03)
    assert counts[1] / 5000 == pytest.approx(0.8 / 10, abs=0.02)


@given(number=st.integers(0, 2**64 - 1))
def test_the_integer_logarithm_is_the_logarithm(number: int) -> None:
    assert negative_log2(number) / 2**32 == pytest.approx(64 - math.log2(number + 1), abs=1e-6)


def test_the_integer_logarithm_is_exact_where_it_can_be_and_fixed_for_all_time() -> None:
    # Another value would make peers disagree about who audits whom.
    assert [negative_log2(2**bits - 1) for bits in (0, 1, 63, 64)] == [64 << 32, 63 << 32, 1 << 32, 0]
    assert negative_log2(0x0123456789ABCDEF) == 33559934675


@given(weights=WEIGHTS, order=st.randoms(use_true_random=False))
def test_the_order_of_auditors_does_not_depend_on_the_order_of_a_dictionary(
    weights: dict[PeerId, int], order: random.Random
) -> None:
    shuffled = list(weights.items())
    order.shuffle(shuffled)
    assert audit_order(SEED, name("claim"), dict(shuffled)) == audit_order(SEED, name("claim"), weights)


@given(weights=WEIGHTS, number=st.integers(0, 10**6))
def test_the_order_is_that_of_the_integer_logarithms(weights: dict[PeerId, int], number: int) -> None:
    claim = name(str(number))
    rank = {}
    for peer, weight in capped_weights(weights).items():
        drawn = int.from_bytes(digest(SEED + f"auditor/{claim}/{peer}".encode())[:8], "big")
        rank[peer] = ((negative_log2(drawn) << 64) // weight, peer)
    expected = sorted(rank, key=lambda peer: rank[peer])[:MOST_AUDITORS]
    assert audit_order(SEED, claim, weights) == tuple(expected)


def test_floats_do_not_tell_which_of_two_comes_first_that_lie_too_close() -> None:
    one, other = PeerId("one"), PeerId("other")
    drawn, weights = {one: 2**63, other: 2**63 + 2**20}, {one: 1, other: 1}
    assert order_by_floats(drawn, weights) is None
    assert order_by_floats({**drawn, other: 2**63 + 2**40}, weights) == [other, one]


@given(weights=WEIGHTS)
def test_the_order_names_everybody_once_up_to_a_bound(weights: dict[PeerId, int]) -> None:
    auditors = audit_order(SEED, name("claim"), weights)
    assert len(set(auditors)) == len(auditors) == min(MOST_AUDITORS, len(weights))
    assert set(auditors) <= set(weights)


@given(weights=WEIGHTS)
def test_nobody_has_more_than_a_tenth_of_all_weight_or_an_even_share(weights: dict[PeerId, int]) -> None:
    capped = capped_weights(weights)
    total = sum(capped.values())
    assert max(capped.values()) * min(10, len(weights)) <= total
    assert all(1 <= capped[peer] <= weights[peer] for peer in weights)
    level = max(capped.values())
    if any(weights[peer] > capped[peer] for peer in weights):  # as high a cap as can be
        higher = sum(min(weight, level + 1) for weight in weights.values())
        assert (level + 1) * min(10, len(weights)) > higher


def test_auditors_come_first_in_proportion_to_their_weight() -> None:
    weights = {PeerId(f"peer {number}"): 1 for number in range(38)} | {PeerId("heavy"): 2}
    firsts = Counter(audit_order(SEED, name(str(number)), weights)[0] for number in range(3000))
    assert firsts[PeerId("heavy")] / 3000 == pytest.approx(2 / 40, abs=0.015)
    assert min(firsts.values()) > 0


def test_a_heavy_auditor_comes_first_no_more_than_its_cap() -> None:
    weights = {PeerId(f"peer {number}"): 1 for number in range(27)} | {PeerId("whale"): 10**9}
    firsts = Counter(audit_order(SEED, name(str(number)), weights)[0] for number in range(3000))
    assert firsts[PeerId("whale")] / 3000 == pytest.approx(0.1, abs=0.02)


def test_weight_is_one_and_vested_credit_in_whole_mean_claims() -> None:
    vested = {PEERS[0]: 299, PEERS[1]: 99}
    assert weigh(vested, PEERS[:3], mean_claim=100) == {PEERS[0]: 3, PEERS[1]: 1, PEERS[2]: 1}
    assert weigh({}, PEERS[:1], mean_claim=0) == {PEERS[0]: 1}


def test_the_audit_rate_falls_with_passes_to_a_floor_and_starts_again_at_none() -> None:
    rules = RULES.__class__(
        protocol=RULES.protocol, batch_slots=4, flops_per_token=1, calibrated=frozenset({"cpu-fp32"})
    )
    rates = [rules.audit_rate(passes=n, numeric_class="cpu-fp32") for n in (0, 9, 10, 20, 30, 10**6)]
    assert rates == [150_000, 150_000, 150_000, 75_000, 50_000, 35_000]
    assert rules.audit_rate(passes=0, numeric_class="cuda-bf16") == 35_000
