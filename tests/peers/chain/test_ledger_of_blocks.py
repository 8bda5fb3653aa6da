"""The ledger and the accounts that blocks carry follow from the chain."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rounds import Swarm, copied, elected, fork, name, trunk

from peers.chain.validation import block_fault
from peers.protocol.messages import parse
from recipes.errors import MessageError
from recipes.formats.canonical import canonical_json


@pytest.mark.parametrize("change", [{"size": 3}, {"root": name("another root")}])
def test_a_block_that_says_something_else_of_the_ledger_than_the_chain_is_refused(
    change: dict[str, Any],
) -> None:
    swarm = Swarm(2)
    link = swarm.grow(swarm.genesis, swarm.keys)
    false = link.ledger.head.model_copy(update=change)
    fault = block_fault(swarm.chain, swarm.block(link, swarm.keys, ledger=false).body)
    assert fault == "another ledger than follows from the chain"


def test_a_block_with_other_accounts_than_the_chains_is_refused() -> None:
    swarm = Swarm(2)
    links = [swarm.genesis, swarm.grow(swarm.genesis, swarm.keys)]
    for link, false in ((links[1], links[0]), (links[0], links[1])):
        assert false.ledger.accounts_hash != link.ledger.accounts_hash
        other = swarm.block(link, swarm.keys, accounts=false.ledger.accounts_hash)
        assert block_fault(swarm.chain, other.body) == "other accounts than follow from the chain"
        assert block_fault(swarm.chain, swarm.block(link, swarm.keys).body) is None


def test_a_block_that_says_nothing_of_the_accounts_is_none() -> None:
    swarm = Swarm(1)
    content = swarm.block(swarm.genesis, swarm.keys).canonical()
    parse("block", content, run=swarm.rules.run)
    without = json.loads(content)
    del without["body"]["accounts"]
    with pytest.raises(MessageError, match="Field required"):
        parse("block", canonical_json(without), run=swarm.rules.run)


def test_the_ledger_after_a_block_is_the_same_in_every_chain_that_holds_it() -> None:
    swarm, head = elected(3)
    link = swarm.grow(head, swarm.keys, 12)
    other = copied(swarm, trunk(swarm, link))
    assert other.link(link.hash).ledger == link.ledger
    assert link.ledger.size == sum(len(one.ledger.entries) for one in trunk(swarm, link))
    assert link.accounts.round == link.round
    swarm.chain.prune(below_round=link.round - 3)
    later = swarm.grow(link, swarm.keys)
    other.add(swarm.chain.link(later.hash).block)  # type: ignore[arg-type]
    assert other.link(later.hash).ledger == later.ledger


def test_each_branch_has_a_ledger_of_its_own() -> None:
    swarm, head = elected(3)
    one, other = fork(swarm, head, swarm.keys[:1], swarm.keys)
    assert one.ledger.head != other.ledger.head
    assert swarm.block(one, swarm.keys).body.ledger == one.ledger.head


def test_words_that_count_for_nothing_make_no_block_invalid() -> None:
    swarm, head = elected(3)
    [claim, *_] = head.block.body.roster.body.claims  # type: ignore[union-attr]
    word = swarm.verdict(swarm.keys[0], claim, outcome="fail", reason="loss trace differs")
    link = swarm.grow(head, swarm.keys, verdicts=(word, word))
    assert "verdict" not in {entry.kind for entry in link.ledger.entries}
