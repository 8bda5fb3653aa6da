"""Which rules a run goes by: three quarters of the electors' weight lock one in, and it stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from rounds import elected

from peers.protocol.chance.say import UNIT, Say
from peers.protocol.messages import Claim
from peers.protocol.upgrades import MAX_RULES, THIS_BUILD, is_in_force, lock_in
from recipes.keys.keys import PeerId


def locked(
    rules: dict[str, int], signals: Sequence[Sequence[str]], weights: Sequence[int] | None = None
) -> dict[str, int]:
    """The rules after electors named these: all weigh the same, unless weights are given."""
    names = [PeerId(f"peer {number}") for number in range(len(signals))]
    weighing = dict(zip(names, weights or [UNIT] * len(names), strict=True))
    return lock_in(rules, dict(zip(names, signals, strict=True)), weighing, in_force_from=40)


@pytest.mark.parametrize(
    ("named", "electors", "agreed"), [(3, 4, True), (2, 4, False), (2, 3, False), (1, 1, True)]
)
def test_three_quarters_of_the_electors_lock_a_rule_in(named: int, electors: int, agreed: bool) -> None:
    signals = [("a-rule",)] * named + [()] * (electors - named)
    assert ("a-rule" in locked({}, signals)) is agreed


@pytest.mark.parametrize(("heavy", "agreed"), [(8, False), (9, True), (10, True)])
def test_weight_locks_a_rule_in_not_heads(heavy: int, agreed: bool) -> None:
    assert ("a-rule" in locked({}, [("a-rule",), (), (), ()], [heavy, 1, 1, 1])) is agreed
    crowd: list[Sequence[str]] = [(), ("a-rule",), ("a-rule",), ("a-rule",)]
    assert "a-rule" not in locked({}, crowd, [heavy, 1, 1, 1])


def test_without_electors_nothing_is_locked_in() -> None:
    assert locked({}, []) == {}


def test_a_rule_stays_whatever_is_named_later() -> None:
    assert locked({"a-rule": 7}, [(), (), ()]) == {"a-rule": 7}
    assert locked({"a-rule": 7}, [("a-rule",)]) == {"a-rule": 7}


def test_a_name_that_one_elector_repeats_counts_once() -> None:
    assert locked({}, [("a", "a", "a"), (), ()]) == {}


def test_no_more_rules_than_a_run_may_have_are_locked_in() -> None:
    full = {f"rule-{number}": 1 for number in range(MAX_RULES)}
    assert locked(full, [("one-more",)]) == full


def test_a_rule_is_in_force_from_its_round_on() -> None:
    rules = {"a-rule": 7}
    assert [is_in_force(rules, "a-rule", number) for number in (6, 7, 8)] == [False, True, True]
    assert not is_in_force(rules, "another", 8)
    assert not is_in_force(None, "a-rule", 8)


def test_a_chain_in_which_nobody_signals_has_the_counters_of_before() -> None:
    _, head = elected(4)
    assert head.counters.rules is None
    assert b'"rules"' not in head.counters.canonical()
    assert b'"signals"' not in head.counters.canonical()


def test_the_chain_locks_in_what_electors_name_in_included_claims() -> None:
    swarm, head = elected(4)
    claims = [swarm.claim(key, head, signals=("a-rule",)) for key in swarm.keys]
    link = swarm.grow(head, swarm.keys, roster=swarm.roster(claims, head))
    assert link.counters.rules == {"a-rule": link.round + 1 + swarm.rules.upgrade_rounds}


@pytest.mark.parametrize(("heavy", "agreed"), [(8, False), (9, True)])
def test_the_chain_weighs_signals_by_the_say_of_the_electors_at_the_block_below(
    heavy: int, agreed: bool
) -> None:
    swarm, head = elected(4)
    one, *others = swarm.keys
    weights = {key.peer_id: 1 for key in others} | {one.peer_id: heavy}
    swarm.chain.links[head.hash] = head = replace(head, say=Say(weights, frozenset(weights)))
    signals = [("a-rule",), *[("another-rule",)] * len(others)]
    claims = [swarm.claim(key, head, signals=named) for key, named in zip(swarm.keys, signals, strict=True)]
    link = swarm.grow(head, swarm.keys, roster=swarm.roster(claims, head))
    assert set(link.counters.rules or {}) == ({"a-rule"} if agreed else set())


def test_this_build_knows_what_it_signals() -> None:
    assert set(THIS_BUILD.signals) <= THIS_BUILD.knows
    assert "signals" in Claim.model_fields
    assert not set(dict(THIS_BUILD.adds)) & set(Claim.model_fields)
