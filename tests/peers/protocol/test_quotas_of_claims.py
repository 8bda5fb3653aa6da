"""What the counters allow a claim to say."""

from __future__ import annotations

import pytest
from rounds import Swarm, name

from peers.chain.link import Link
from peers.protocol.counters import quota_or_preimage_fault
from peers.protocol.messages import Claim
from recipes.slots import merge


def second_round() -> tuple[Swarm, Link]:
    swarm = Swarm(2)
    return swarm, swarm.grow(swarm.genesis, swarm.keys)


def fault(swarm: Swarm, parent: Link, number: int = 0, **other: object) -> str | None:
    claim: Claim = swarm.claim(swarm.keys[number], parent, **other).body  # type: ignore[arg-type]
    return quota_or_preimage_fault(claim, parent.counters, swarm.rules)


def test_a_claim_within_its_quota_stands() -> None:
    swarm, parent = second_round()
    assert fault(swarm, parent) is None
    assert fault(swarm, parent, slots=1) is None


def test_a_claim_for_another_round_is_refused() -> None:
    swarm, parent = second_round()
    assert fault(swarm, parent, round=3) == "wrong round"


def test_a_claim_without_a_norm_for_each_segment_is_refused() -> None:
    swarm, parent = second_round()
    assert fault(swarm, parent, norms=(1.0,)) == "wrong number of segments"


def test_a_claim_of_no_work_is_refused() -> None:
    """Its weight would be zero, and nobody can average parts that weigh nothing."""
    swarm, parent = second_round()
    assert fault(swarm, parent, slots=0) == "no work behind it"


@pytest.mark.parametrize("how", ["one more", "another's", "from the middle", "twice", "an empty range"])
def test_a_claim_to_other_slots_than_its_quota_is_refused(how: str) -> None:
    swarm, parent = second_round()
    mine, other = (parent.counters.peers[key.peer_id].quota for key in swarm.keys)
    ((start, count),) = merge(mine)
    used = {
        "one more": ((start, count + 1),),
        "another's": other,
        "from the middle": ((start + 1, count - 1),),
        "twice": ((start, 2), (start, 2)),
        "an empty range": ((start, count), (start + count, 0)),
    }
    claim = swarm.claim(swarm.keys[0], parent).body.model_copy(update={"slots": used[how]})
    assert quota_or_preimage_fault(claim, parent.counters, swarm.rules) == "slots beyond its quota"


def test_a_window_ahead_of_its_block_needs_a_run_with_overlap_and_a_claim_that_it_stands_on() -> None:
    swarm, parent = second_round()
    nowhere = "a window ahead of its block, where there is none"
    assert fault(swarm, parent, ahead=True, predecessor=name("the claim before")) == nowhere
    swarm = Swarm(2, overlap="delayed")
    parent = swarm.grow(swarm.genesis, swarm.keys)
    assert fault(swarm, parent, ahead=True) == nowhere
    assert fault(swarm, parent, ahead=True, predecessor=name("the claim before")) is None
