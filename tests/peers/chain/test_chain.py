"""The chain: what makes a block valid, and what may be forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rounds import GENESIS_DIGEST, Swarm, cosign, credited, elected, fork, keys_of, name

from peers.chain.fork_choice import best_head
from peers.chain.link import Link
from peers.chain.validation import EXCLUDED, block_fault, roster_fault
from peers.protocol.assignment import missed_reducers
from peers.protocol.messages import MAX_COSIGNATURES, Block, Roster, Signed
from peers.protocol.rules import ELECTOR_MINIMUM, ELECTOR_WINDOW
from recipes.keys.keys import SigningKey
from recipes.slots import total

# ---------------------------------------------------------------- rosters

RosterCase = Callable[[Swarm, Link], tuple[Signed[Roster], str]]


def foreign_place(swarm: Swarm, parent: Link) -> tuple[Signed[Roster], str]:
    claims = [swarm.claim(key, parent) for key in swarm.keys]
    return swarm.roster(claims, parent, round=parent.round + 2), "another place in the chain"


def foreign_parent(swarm: Swarm, parent: Link) -> tuple[Signed[Roster], str]:
    claims = [swarm.claim(key, parent) for key in swarm.keys]
    return swarm.roster(claims, parent, parent=name("elsewhere")), "another place in the chain"


def peer_twice(swarm: Swarm, parent: Link) -> tuple[Signed[Roster], str]:
    claims = [swarm.claim(swarm.keys[0], parent, slots=count) for count in (1, 2)]
    return swarm.roster(claims, parent), "lists a peer twice"


def claim_from_elsewhere(swarm: Swarm, parent: Link) -> tuple[Signed[Roster], str]:
    claims = [
        swarm.claim(swarm.keys[0], parent),
        swarm.claim(swarm.keys[1], parent, parent=name("elsewhere")),
    ]
    return swarm.roster(claims, parent), "starts from another block"


def claim_at_fault(swarm: Swarm, parent: Link) -> tuple[Signed[Roster], str]:
    claims = [swarm.claim(swarm.keys[0], parent), swarm.claim(swarm.keys[1], parent, slots=0)]
    return swarm.roster(claims, parent), f"{swarm.keys[1].peer_id}: no work"


def claims_out_of_order(swarm: Swarm, parent: Link) -> tuple[Signed[Roster], str]:
    claims = sorted((swarm.claim(key, parent) for key in swarm.keys), key=lambda claim: claim.body.peer)
    turned = (claims[1], claims[0], *claims[2:])
    return swarm.roster(claims, parent, claims=turned), "not in the order of their peers' names"


@pytest.mark.parametrize(
    "case",
    [foreign_place, foreign_parent, peer_twice, claim_from_elsewhere, claim_at_fault, claims_out_of_order],
)
def test_a_roster_at_fault_is_refused_with_its_reason(case: RosterCase) -> None:
    swarm = Swarm(3)
    parent = swarm.grow(swarm.genesis, swarm.keys)
    roster, reason = case(swarm, parent)
    assert reason in (roster_fault(swarm.chain, roster.body, parent) or "")
    block = swarm.block(parent, (), roster=roster)
    assert reason in (block_fault(swarm.chain, block.body) or "")


@pytest.mark.parametrize("gone", ["expelled", "retired"])
def test_nothing_is_led_by_whom_the_chain_excludes(gone: str) -> None:
    """A peer that is not ranked leads after all others: so without a rule of its own, it would in the end."""
    swarm, head = elected()
    leader, other, *rest = swarm.keys
    if gone == "expelled":
        head = credited(swarm.chain, head, expelled={leader.peer_id: head.round + 20})
    else:
        successor = keys_of(1, seed="successor")[0]
        head = swarm.grow(head, [other, *rest], rotations=(swarm.rotation(leader, successor),))
    assert leader.peer_id not in swarm.order(head)
    claims = [swarm.claim(key, head) for key in (other, *rest)]
    roster = swarm.roster(claims, head, key=leader)
    assert roster_fault(swarm.chain, roster.body, head) == EXCLUDED
    assert block_fault(swarm.chain, swarm.block(head, (), roster=roster).body) == EXCLUDED
    good = swarm.roster(claims, head)
    last = len(swarm.order(head))
    taken_over = swarm.block(head, (), roster=good, key=leader, attempt=last)
    assert block_fault(swarm.chain, taken_over.body) == EXCLUDED
    assert block_fault(swarm.chain, swarm.block(head, (), roster=good).body) is None


def test_an_expulsion_ends_with_its_last_round() -> None:
    swarm, head = elected()
    expelled, *others = swarm.keys
    head = credited(swarm.chain, head, expelled={expelled.peer_id: head.round + 2})
    for _ in range(2):
        assert expelled.peer_id in head.say.out
        claims = [swarm.claim(key, head) for key in swarm.keys]
        assert "expelled until" in (roster_fault(swarm.chain, swarm.roster(claims, head).body, head) or "")
        head = swarm.grow(head, others)
    assert head.say.out == frozenset()
    assert expelled.peer_id in swarm.chain.electors_at(head.hash)
    swarm.grow(head, swarm.keys)


def test_two_newcomers_in_one_lane_cannot_both_be_rostered() -> None:
    swarm = Swarm(1)
    lanes: dict[Any, SigningKey] = {}
    for key in keys_of(200, seed="newcomer"):
        slots = swarm.genesis.counters.slots_for(key.peer_id, swarm.rules)
        if slots in lanes:
            both = [lanes[slots], key]
            break
        lanes[slots] = key
    swarm.by_id.update({key.peer_id: key for key in both})
    claims = [swarm.claim(key, swarm.genesis) for key in both]
    roster = swarm.roster(claims, swarm.genesis)
    assert roster_fault(swarm.chain, roster.body, swarm.genesis) == "two claims used the same slots"


# ---------------------------------------------------------------- blocks


def test_a_good_block_has_no_fault() -> None:
    swarm, head = elected()
    assert block_fault(swarm.chain, swarm.block(head, swarm.keys, cosigners=swarm.keys).body) is None


def changed_block(swarm: Swarm, parent: Link, **other: Any) -> Block:
    return swarm.block(parent, swarm.keys, cosigners=swarm.keys, **other).body


def test_a_block_of_another_round_is_refused() -> None:
    swarm, head = elected(3)
    assert block_fault(swarm.chain, changed_block(swarm, head, round=head.round + 2)) == "wrong round"


def test_a_leader_has_the_attempt_of_its_rank_alone() -> None:
    """Otherwise anybody could make block after block before their leaders speak."""
    swarm, head = elected()
    order = swarm.order(head)
    claims = [swarm.claim(key, head) for key in swarm.keys]
    for rank, peer in enumerate(order):
        roster = swarm.roster(claims, head, key=swarm.by_id[peer])
        assert roster.body.attempt == rank
        assert block_fault(swarm.chain, swarm.block(head, (), roster=roster).body) is None
        for turn in (1, 2):  # after all others'
            again = rank + turn * len(order)
            late = swarm.block(head, (), roster=roster, key=swarm.by_id[peer], attempt=again)
            assert block_fault(swarm.chain, late.body) is None
        for wrong in {0, 1, rank + 1, len(order) + rank + 1} - {rank, rank + len(order)}:
            roster = swarm.roster(claims, head, key=swarm.by_id[peer], attempt=wrong)
            fault = block_fault(swarm.chain, swarm.block(head, (), roster=roster).body)
            assert fault == "an attempt that is not its leader's"


def test_who_has_no_rank_leads_after_all_who_have_one() -> None:
    swarm, head = elected(3)
    stranger = SigningKey(bytes(32))
    swarm.by_id[stranger.peer_id] = stranger
    claims = [swarm.claim(stranger, head)]
    late = swarm.block(head, (), roster=swarm.roster(claims, head))
    assert late.body.attempt == len(swarm.order(head))
    assert block_fault(swarm.chain, late.body) is None
    early = swarm.block(head, (), roster=swarm.roster(claims, head, attempt=0))
    assert block_fault(swarm.chain, early.body) == "an attempt that is not its leader's"


def test_a_successor_goes_on_from_the_roster_of_a_leader_before_it() -> None:
    swarm, head = elected()
    first, second, third = swarm.order(head)[:3]
    claims = [swarm.claim(key, head) for key in swarm.keys]
    roster = swarm.roster(claims, head, key=swarm.by_id[second])
    successor = swarm.block(head, (), roster=roster, key=swarm.by_id[third], attempt=2)
    assert block_fault(swarm.chain, successor.body) is None
    predecessor = swarm.block(head, (), roster=roster, key=swarm.by_id[first], attempt=0)
    assert block_fault(swarm.chain, predecessor.body) == "an attempt before its own roster's"


def reductions_changed(**other: Any) -> Callable[[Swarm, Link, Signed[Roster]], tuple[Any, ...]]:
    def change(swarm: Swarm, parent: Link, roster: Signed[Roster]) -> tuple[Any, ...]:
        return (swarm.reduction(roster, 0, parent, **other), swarm.reduction(roster, 1, parent))

    return change


def by_an_outsider(swarm: Swarm, parent: Link, roster: Signed[Roster]) -> tuple[Any, ...]:
    asked = {
        swarm.reduction(roster, 0, parent).body.peer,
        swarm.reduction(roster, 0, parent, backup=True).body.peer,
    }
    other = next(key.peer_id for key in swarm.keys if key.peer_id not in asked)
    return (swarm.reduction(roster, 0, parent, peer=other), None)


REDUCTION_FAULTS = {
    "wrong number of segments": lambda swarm, parent, roster: (swarm.reduction(roster, 0, parent),),
    "segment 0: a reduction of something else": reductions_changed(segment=1),
    "segment 0: a reduction of something else ": reductions_changed(roster=name("another roster")),
    "segment 0: reduced by a peer that was not asked to": by_an_outsider,
    "segment 0: a malformed list of parts": reductions_changed(included=()),
    "segment 0: a malformed list of parts ": reductions_changed(included=(1, 0)),
    "segment 0: a malformed list of parts  ": reductions_changed(included=(1, 1)),
    "segment 0: a part from outside the roster": reductions_changed(included=(0, 5)),
    "segment 0: a part from outside the roster ": reductions_changed(included=(2**53 - 1,)),
}


@pytest.mark.parametrize("reason", REDUCTION_FAULTS)
def test_a_block_with_reductions_at_fault_is_refused_with_its_reason(reason: str) -> None:
    swarm, head = elected()
    roster = swarm.roster([swarm.claim(key, head) for key in swarm.keys], head)
    reductions = REDUCTION_FAULTS[reason](swarm, head, roster)
    block = swarm.block(head, (), roster=roster, reductions=reductions)
    assert block_fault(swarm.chain, block.body) == reason.rstrip()


def test_empty_segments_and_those_of_a_backup_are_fine() -> None:
    swarm, head = elected()
    roster = swarm.roster([swarm.claim(key, head) for key in swarm.keys], head)
    backup = swarm.reduction(roster, 1, head, backup=True)
    words = tuple(swarm.missing(key, roster, (0,)) for key in swarm.keys[:2])
    block = swarm.block(head, (), roster=roster, reductions=(None, backup), missing=words)
    assert block_fault(swarm.chain, block.body) is None
    missed = missed_reducers(block.body, head.counters, head.say, swarm.rules)
    assert missed == {swarm.reduction(roster, segment, head).body.peer for segment in (0, 1)}
    after = swarm.add(block)
    assert {peer for peer, standing in after.counters.peers.items() if standing.misses} == missed


def test_co_signatures_of_another_block_twice_or_by_outsiders_are_refused() -> None:
    swarm, head = elected(4)
    outsider = SigningKey(bytes(32))
    before = swarm.chain.link(head.parent)
    cases = {
        "co-signatures twice or from outsiders": [
            [swarm.cosign(swarm.keys[0], head)] * 2,
            [swarm.cosign(outsider, head)],
        ],
        "co-signatures of another block": [[swarm.cosign(swarm.keys[0], before)]],
    }
    for reason, lists in cases.items():
        for signatures in lists:
            block = changed_block(swarm, head, cosignatures=tuple(signatures))
            assert block_fault(swarm.chain, block) == reason


def test_the_largest_group_of_electors_decides_which_digest_is_right() -> None:
    swarm, head = elected(5)
    right, wrong = swarm.digests[head.hash], name("a leader's own idea")
    signatures = [swarm.cosign(key, head) for key in swarm.keys[:3]]
    signatures += [swarm.cosign(key, head, state=wrong) for key in swarm.keys[3:]]
    assert swarm.chain.agreed_digest(head, signatures) == right
    for claimed, reason in ((right, None), (wrong, "another digest than its co-signatures agree on")):
        block = changed_block(swarm, head, cosignatures=tuple(signatures), digest_before=claimed)
        assert block_fault(swarm.chain, block) == reason


def test_weight_decides_which_digest_is_right_not_heads() -> None:
    swarm, head = elected(5)
    heavy, *others = swarm.keys
    vested = {heavy.peer_id: 9} | {key.peer_id: 1 for key in others}
    head = credited(swarm.chain, head, vested=vested)
    link = swarm.grow(head, swarm.keys, cosigned=False)
    signatures = [swarm.cosign(heavy, link)]
    signatures += [swarm.cosign(key, link, state=name("another")) for key in others]
    assert swarm.chain.agreed_digest(link, signatures) == swarm.digests[link.hash]
    assert swarm.chain.agreed_digest(link, signatures[1:]) == name("another")


def test_the_weightiest_co_signatures_come_first() -> None:
    """A block has room for so many only: it has to carry those that make a quorum."""
    swarm, head = elected(5)
    vested = {key.peer_id: number for number, key in enumerate(swarm.keys)}
    head = credited(swarm.chain, head, vested=vested)
    link = swarm.grow(head, swarm.keys[1:], cosigned=False)
    cosign(swarm, link, swarm.keys)
    carried = [signed.body.peer for signed in swarm.chain.admissible_cosignatures(link)]
    assert carried[:4] == [key.peer_id for key in reversed(swarm.keys[1:])]


def test_the_word_of_electors_on_a_digest_outweighs_that_of_newcomers() -> None:
    swarm, head = elected(3)
    newcomers = keys_of(5, seed="newcomer")
    swarm.by_id.update({key.peer_id: key for key in newcomers})
    link = swarm.grow(head, [swarm.keys[0], *newcomers], cosigned=False)
    signatures = [swarm.cosign(key, link, state=name("theirs")) for key in newcomers]
    assert swarm.chain.agreed_digest(link, signatures) == name("theirs")
    signatures.append(swarm.cosign(swarm.keys[0], link))
    assert swarm.chain.agreed_digest(link, signatures) == swarm.digests[link.hash]


def test_the_first_block_starts_from_the_recipes_state() -> None:
    swarm = Swarm(2)
    for digest_before, fits in ((GENESIS_DIGEST, True), (name("another state"), False)):
        block = swarm.block(swarm.genesis, swarm.keys, digest_before=digest_before)
        assert (block_fault(swarm.chain, block.body) is None) == fits


def test_a_block_carries_at_most_so_many_co_signatures_the_electors_first() -> None:
    """Many peers that take turns can all be electors: more than one block has room for."""
    swarm = Swarm(1)
    link = swarm.genesis
    everybody: list[SigningKey] = []
    for group in range(ELECTOR_WINDOW // ELECTOR_MINIMUM - 1):
        lanes: dict[Any, SigningKey] = {}
        for key in keys_of(64, seed=f"group {group}"):
            lanes.setdefault(link.counters.slots_for(key.peer_id, swarm.rules), key)
        members = list(lanes.values())
        swarm.by_id.update({key.peer_id: key for key in members})
        everybody += members
        link = swarm.grow(link, members, ELECTOR_MINIMUM, cosigned=False)
    newcomer = SigningKey(bytes(32))
    swarm.by_id[newcomer.peer_id] = newcomer
    link = swarm.grow(link, [everybody[0], newcomer], cosigned=False)
    cosign(swarm, link, [newcomer, *everybody])
    assert len(swarm.chain.cosignatures(link.hash)) > MAX_COSIGNATURES
    admissible = swarm.chain.admissible_cosignatures(link)
    assert len(admissible) == MAX_COSIGNATURES
    assert newcomer.peer_id not in {signed.body.peer for signed in admissible}
    block = swarm.block(link, [everybody[0]], cosignatures=tuple(admissible))
    assert block_fault(swarm.chain, block.body) is None


# ---------------------------------------------------------------- forgetting


def test_forgetting_old_rounds_keeps_the_final_branch_and_what_grows_on_it() -> None:
    swarm, head = elected(4)
    old_side = fork(swarm, head, swarm.keys[:1])[0]
    link = swarm.grow(head, swarm.keys, 6)
    side = fork(swarm, link, swarm.keys[:3], swarm.keys[:2])
    chain = swarm.chain
    chain.prune(below_round=link.round - 2)
    assert chain.link(chain.root).round == link.round - 2
    assert old_side.hash not in chain
    assert head.hash not in chain
    assert chain.final == link.parent
    assert {found.hash for found in chain.after(link.round)} == {found.hash for found in side}
    assert chain.is_final(link.parent)
    assert len(chain.cosignatures(link.hash)) == 4
    assert chain.path(chain.root, side[0].hash) is not None
    assert chain.common_ancestor(side[0].hash, side[1].hash) == link.hash


def test_the_chain_goes_on_after_forgetting() -> None:
    swarm, head = elected(4)
    link = swarm.grow(head, swarm.keys, 3)
    final = swarm.chain.link(swarm.chain.final)
    swarm.chain.prune(below_round=final.round)
    assert swarm.chain.root == final.hash
    assert best_head(swarm.chain, link.hash) == link.hash
    tip = swarm.grow(link, swarm.keys, 3)
    assert swarm.chain.final == tip.parent
    swarm.chain.prune(below_round=final.round - 1)  # nothing is left down there
    assert swarm.chain.root == final.hash


def test_what_a_chain_holds_is_bounded_if_old_rounds_are_forgotten() -> None:
    swarm, link = elected(3)
    sizes = []
    for _ in range(30):
        fork(swarm, link, swarm.keys[:1])
        link = swarm.grow(link, swarm.keys)
        swarm.chain.prune(below_round=link.round - 5)
        sizes.append(sum(map(len, (swarm.chain.links, swarm.chain._finals, swarm.chain._cosignatures))))
    assert max(sizes[10:]) == sizes[10]


def test_a_path_leads_only_upwards_from_an_ancestor() -> None:
    swarm, head = elected(3)
    tip = swarm.grow(head, swarm.keys, 2)
    path = swarm.chain.path(head.hash, tip.hash)
    assert path is not None
    assert [link.round for link in path] == [head.round + 1, head.round + 2]
    assert swarm.chain.path(tip.hash, head.hash) is None
    assert swarm.chain.path(tip.hash, tip.hash) == []


def test_the_state_after_a_block_is_what_its_co_signers_say() -> None:
    swarm, head = elected(3)
    link = swarm.grow(head, swarm.keys, cosigned=False)
    assert swarm.chain.digest_after(link.hash) is None
    cosign(swarm, link, swarm.keys[:1])
    assert swarm.chain.digest_after(link.hash) == swarm.digests[link.hash]
    assert swarm.chain.digest_after(swarm.genesis.hash) == GENESIS_DIGEST


def test_a_round_counts_only_the_slots_of_those_it_includes() -> None:
    swarm, head = elected(3)
    link = swarm.grow(head, swarm.keys)
    assert link.block is not None
    used = sum(total(claim.body.slots) for claim in link.block.body.roster.body.claims)
    assert link.counters.tokens - head.counters.tokens == used * swarm.rules.tokens_per_slot
