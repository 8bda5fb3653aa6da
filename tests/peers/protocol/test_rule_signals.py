"""Which rules a run goes by: three quarters of the electors lock one in, and it stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rounds import elected

from peers.chain.validation import roster_fault
from peers.protocol.counters import Counters
from peers.protocol.messages import Claim
from peers.protocol.upgrades import MAX_RULES, SORTED_ROSTERS, THIS_BUILD, is_in_force, lock_in


@pytest.mark.parametrize(
    ("named", "electors", "locked"), [(3, 4, True), (2, 4, False), (2, 3, False), (1, 1, True)]
)
def test_three_quarters_of_the_electors_lock_a_rule_in(named: int, electors: int, locked: bool) -> None:
    signals = [("a-rule",)] * named + [()] * (electors - named)
    assert ("a-rule" in lock_in({}, signals, in_force_from=40)) is locked


def test_without_electors_nothing_is_locked_in() -> None:
    assert lock_in({}, [], in_force_from=40) == {}


def test_a_rule_stays_whatever_is_named_later() -> None:
    assert lock_in({"a-rule": 7}, [(), (), ()], in_force_from=40) == {"a-rule": 7}
    assert lock_in({"a-rule": 7}, [("a-rule",)], in_force_from=40) == {"a-rule": 7}


def test_a_name_that_one_elector_repeats_counts_once() -> None:
    assert lock_in({}, [("a", "a", "a"), (), ()], in_force_from=40) == {}


def test_no_more_rules_than_a_run_may_have_are_locked_in() -> None:
    full = {f"rule-{number}": 1 for number in range(MAX_RULES)}
    assert lock_in(full, [("one-more",)], in_force_from=40) == full


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
    claims = [swarm.claim(key, head, signals=(SORTED_ROSTERS,)) for key in swarm.keys]
    link = swarm.grow(head, swarm.keys, roster=swarm.roster(claims, head))
    assert link.counters.rules == {SORTED_ROSTERS: link.round + 1 + swarm.rules.upgrade_rounds}


def test_a_roster_in_another_order_is_at_fault_once_the_rule_is_in_force() -> None:
    swarm, head = elected(4)
    keys = sorted(swarm.keys, key=lambda key: key.peer_id)
    claims = [swarm.claim(key, head) for key in keys]
    in_order, turned = (swarm.roster(some, head).body for some in (claims, claims[::-1]))
    assert roster_fault(swarm.chain, turned, head) is None
    counters: Counters = head.counters.model_copy(update={"rules": {SORTED_ROSTERS: head.round + 1}})
    ruled = replace(head, counters=counters)
    assert "order" in (roster_fault(swarm.chain, turned, ruled) or "")
    assert roster_fault(swarm.chain, in_order, ruled) is None


def test_this_build_knows_what_it_signals() -> None:
    assert set(THIS_BUILD.signals) <= THIS_BUILD.knows
    assert "signals" in Claim.model_fields
    assert not set(dict(THIS_BUILD.adds)) & set(Claim.model_fields)
