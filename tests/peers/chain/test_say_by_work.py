"""Work has a say, and names do not: quorums, leaders and what follows when those who worked leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from rounds import Swarm, cosign

from peers.chain.chain import Chain
from peers.chain.finality import begin
from peers.chain.link import Link
from peers.credit.accounts import Accounts
from peers.credit.electors import say_after
from peers.credit.escrow import Account
from peers.credit.ledger import Ledger
from peers.protocol.rules import ELECTOR_MINIMUM, ELECTOR_WINDOW
from recipes.keys.keys import SigningKey

MEAN_CLAIM = 10**24


class Worked(Swarm):
    """A swarm whose first peers have vested credit from the beginning, and in which all elect at `head`."""

    def __init__(self, vested: Sequence[int], *, crowd: int) -> None:
        """Begin.

        Args:
            vested: mean claims of each founder.
            crowd: identities without vested credit, that take turns in rosters.
        """
        self.vested = vested
        super().__init__(len(vested) + crowd, segments=1)
        self.founders, self.crowd = self.keys[: len(vested)], self.keys[len(vested) :]
        self.head = self.genesis
        while not self._all_elect():
            self.head = self.round(self.founders)

    def fresh_chain(self) -> Chain:
        chain = super().fresh_chain()
        peers = {
            key.peer_id: Account(joined=0, vested=amount * MEAN_CLAIM)
            for key, amount in zip(self.keys, self.vested, strict=False)
        }
        ledger = Ledger(Accounts(peers=peers, claims=1000, claimed=1000 * MEAN_CLAIM))
        root = chain.link(chain.root)
        say = say_after(root.counters, ledger.accounts, self.rules)
        chain.links[root.hash] = replace(root, ledger=ledger, say=say, finality=begin(root.hash, 0, say))
        return chain

    def round(self, founders: Sequence[SigningKey], *, cosigners: Sequence[SigningKey] | None = None) -> Link:
        """A round of some founders and of those of the crowd whose turn it is; all of them co-sign."""
        members = [*founders, *self._turn()]
        known = self.chain.admissible_cosignatures(self.head)
        self.head = self.add(self.block(self.head, self._apart(members), cosignatures=tuple(known)))
        cosign(self, self.head, members if cosigners is None else cosigners)
        return self.head

    def _turn(self) -> list[SigningKey]:
        at_once = 24
        start = self.head.round * at_once % max(1, len(self.crowd))
        return [*self.crowd, *self.crowd][start : start + min(at_once, len(self.crowd))]

    def _apart(self, members: Sequence[SigningKey]) -> list[SigningKey]:
        """Those members whose slots are their own: newcomers may draw the same lane."""
        found, taken = [], set()
        for key in members:
            slots = self.head.counters.slots_for(key.peer_id, self.rules)
            if slots not in taken:
                taken.add(slots)
                found.append(key)
        return found

    def _all_elect(self) -> bool:
        return {*map(frozenset, self.head.finality.electorate.terms)} == {frozenset(self.by_id)}


@pytest.fixture(scope="module")
def many() -> Worked:
    return Worked([30, *[20] * 9], crowd=60)


def heaviest(swarm: Worked, count: int) -> list[SigningKey]:
    return swarm.founders[:count]


def test_a_crowd_of_names_has_a_tenth_of_the_weight_and_of_the_leads() -> None:
    swarm = Worked([50] * 5, crowd=100)
    names = [key.peer_id for key in swarm.crowd]
    assert 10 * swarm.head.say.of(names) <= swarm.head.say.total
    led = 0
    for _ in range(60):
        led += swarm.round(swarm.founders).leaders[0] in names
    assert led <= 12  # 6 are expected: more than 12 come once in a hundred


def test_a_quorum_takes_three_quarters_of_the_weight_whoever_else_co_signs() -> None:
    swarm = Worked([50] * 5, crowd=40)
    before = swarm.chain.final
    for _ in range(4):
        swarm.round(swarm.founders, cosigners=[*swarm.founders[:3], *swarm.crowd])
    assert swarm.chain.final == before
    for _ in range(3):
        swarm.round(swarm.founders, cosigners=swarm.founders[:4])  # 72% of the weight
    assert swarm.chain.final == before
    for _ in range(3):
        swarm.round(swarm.founders, cosigners=[*swarm.founders[:4], *swarm.crowd])  # 82%
    assert swarm.chain.link(swarm.chain.final).round >= swarm.head.round - 2


def test_where_ten_worked_blocks_are_final_within_three_rounds_without_the_two_heaviest(
    many: Worked,
) -> None:
    left = [key for key in many.founders if key not in heaviest(many, 2)]
    for _ in range(3):
        many.round(left, cosigners=[*left, *many.crowd])
    assert many.chain.link(many.chain.final).round >= many.head.round - 2


def test_without_the_three_heaviest_none_is_final_until_time_settles_it(many: Worked) -> None:
    left = [key for key in many.founders if key not in heaviest(many, 3)]
    before = many.chain.final
    last = many.head.round
    while many.head.round < last + ELECTOR_WINDOW:
        many.round(left, cosigners=[*left, *many.crowd])
        assert many.chain.link(many.chain.final).round <= last
    assert before in many.chain
    many.chain.settle(many.head.hash)  # at the latest 4 D rounds after the last final block
    for _ in range(3):
        many.round(left, cosigners=[*left, *many.crowd])
    assert many.chain.link(many.chain.final).round >= many.head.round - 2


def test_a_run_whose_founders_all_left_goes_on_by_those_who_stayed() -> None:
    swarm = Worked([50] * 3, crowd=12)
    for _ in range(ELECTOR_WINDOW - ELECTOR_MINIMUM + 1):
        swarm.round([])
    names = {key.peer_id for key in swarm.crowd}
    assert swarm.head.say.weights.keys() == swarm.head.say.established == names
    swarm.chain.settle(swarm.head.hash)
    for _ in range(3):
        swarm.round([])
    assert swarm.chain.link(swarm.chain.final).round >= swarm.head.round - 2
