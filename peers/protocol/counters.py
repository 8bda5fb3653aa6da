"""Counters, the chain's own memory: a deterministic function of its blocks, part of the state digest.

Counters hold the peers that take part, the slots of the corpus that each may use next, the number of tokens
trained on, the next round's deadlines, and the beacon. Every peer computes them by itself (`advance`), so a
leader has no say in them. A newcomer checks those of a snapshot against the digest that the block's
co-signers agree on.

Slots are handed out by a cursor that only moves forward. Slots that a peer did not use, and those of a peer
that did not show up, become `leftovers`, which are handed out first: so the corpus is covered before it
repeats, and no two rostered peers or rounds share a slot. With more than `MOST_LEFTOVERS` ranges left over,
the shortest are given up.

Where windows overlap the exchange, a window begins before its block is there. Its slots are therefore handed
out one block earlier, and pass through `upcoming` on their way to `quota`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from peers.protocol.chance.hash_chain import RENEWED_FROM, HashChain, descend, is_to_be_renewed, own_chain
from peers.protocol.chance.say import Say
from peers.protocol.messages import Block, Claim, Count, Hash, Message, PeerName, Signed, SlotRange
from peers.protocol.rules import (
    ELECTOR_MINIMUM,
    ELECTOR_WINDOW,
    LANE_RANGES,
    MISS_MEMORY,
    MOST_LEFTOVERS,
    MOST_WINDOW_TOKENS,
    QUOTA_GROWTH,
    QUOTA_RANGES,
    Rules,
)
from peers.protocol.signed import later
from peers.protocol.timeouts import Deadlines, first_deadlines, next_deadlines
from peers.protocol.upgrades import RuleName, lock_in
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey
from recipes.slots import merge, subtract, take, total


class PeerRecord(Message):
    """What the chain knows of one peer that was included in one of the last blocks."""

    included: Count  # bit i: included in the block i before this one
    misses: Count  # bit i: failed to reduce a segment in the block i before this one
    best_slots: Count  # most slots used in one included claim
    quota: tuple[SlotRange, ...]  # slots for the next round
    upcoming: tuple[SlotRange, ...] = ()  # slots for the round after, where windows begin a round ahead
    preimage: Hash | None = None  # the newest one that it showed in a roster, or its anchor (hash_chain.py)
    shown: Count = 0  # the round in which it showed that
    anchored: Count = 0  # the round whose roster has its anchor
    salt: Hash | None = None  # the beacon D rounds after the anchor
    next_anchor: Hash | None = None  # of the chain that takes its place, once that has its salt
    next_anchored: Count = 0
    next_salt: Hash | None = None
    signals: tuple[RuleName, ...] | None = later()  # the rules that its newest included claim named

    @property
    def is_elector(self) -> bool:
        """Whether it was included in enough of the last blocks to lead, reduce and co-sign."""
        return self.included.bit_count() >= ELECTOR_MINIMUM

    @property
    def expected(self) -> tuple[str | None, Count, Count]:
        """What its next preimage leads to: a hash, the round of that, and the round of its anchor."""
        if self.next_salt is not None:
            return self.next_anchor, self.next_anchored, self.next_anchored
        return self.preimage, self.shown, self.anchored

    def shown_for(self, round_number: int) -> str | None:
        """Return what a chain anchored before has for this round, if shown in it or the next one; or None."""
        if self.preimage is None or self.anchored >= round_number or self.shown < round_number:
            return None
        late = self.shown - round_number
        return descend(self.preimage, late) if late < 2 else None


_STRANGER = PeerRecord(included=0, misses=0, best_slots=0, quota=())


class Counters(Message):
    """The chain's memory after a block (after genesis: `initial`)."""

    round: Count
    tokens: Count  # trained on, in included claims only
    cursor: Count  # first slot never handed out
    leftovers: tuple[SlotRange, ...]  # handed out once, and not used
    newcomers: tuple[SlotRange, ...]  # the lanes of the next round's newcomers, side by side
    upcoming_newcomers: tuple[
        SlotRange, ...
    ] = ()  # those of the round after, where windows begin a round ahead
    beacon: Hash
    earlier_beacon: Hash  # the one before
    deadlines: Deadlines  # of the next round
    peers: Annotated[dict[PeerName, PeerRecord], Field(max_length=4096)]
    rules: dict[RuleName, Count] | None = later()  # locked in, each with its first round in force

    def electors(self, rules: Rules) -> frozenset[PeerId]:
        """Return the peers that may lead, reduce and co-sign; genesis names the first ones."""
        earned = {peer for peer, record in self.peers.items() if record.is_elector}
        return frozenset(earned) if earned else frozenset(rules.electors)

    def rostered(self) -> list[PeerId]:
        """Return the peers that the last block included."""
        return [peer for peer, standing in self.peers.items() if standing.included & 1]

    def slots_for(self, peer: PeerId, rules: Rules) -> tuple[SlotRange, ...]:
        """Return the slots that `peer` may use in the next round.

        A peer without a quota draws one of the newcomers' lanes by a hash of the beacon and its name: two
        that draw the same lane collide, and the leader keeps one.
        """
        standing = self.peers.get(peer)
        if standing is not None and standing.quota:
            return standing.quota
        beacon = self.earlier_beacon if rules.trains_ahead else self.beacon
        return _lane(self.newcomers, peer, beacon, rules)

    def slots_ahead(self, peer: PeerId, rules: Rules) -> tuple[SlotRange, ...]:
        """Return the slots that `peer` may use in the round after the next, whatever the next block holds."""
        standing = self.peers.get(peer)
        if standing is not None and standing.upcoming:
            return standing.upcoming
        return _lane(self.upcoming_newcomers, peer, self.beacon, rules)


def initial(rules: Rules) -> Counters:
    """Return the counters at genesis."""
    region = rules.newcomer_slots * rules.newcomer_lanes
    beacon = digest(f"genesis/{rules.run}".encode()).hex()
    return Counters(
        round=0,
        tokens=0,
        cursor=2 * region if rules.trains_ahead else region,
        leftovers=(),
        newcomers=((0, region),),
        upcoming_newcomers=((region, region),) if rules.trains_ahead else (),
        beacon=beacon,
        earlier_beacon=beacon,
        deadlines=first_deadlines(rules),
        peers={},
    )


def _lane(lanes: Sequence[SlotRange], peer: PeerId, beacon: str, rules: Rules) -> tuple[SlotRange, ...]:
    """Return the lane that a newcomer draws by the beacon after the block that handed the lanes out."""
    seed = f"lane/{beacon}/{peer}"
    draw = int.from_bytes(digest(seed.encode())[:8], "big") % rules.newcomer_lanes
    lanes_from_there = take(lanes, draw * rules.newcomer_slots)[1]
    return take(lanes_from_there, rules.newcomer_slots)[0]


def quota_or_preimage_fault(claim: Claim, counters: Counters, rules: Rules) -> str | None:
    """Return what is wrong with a claim on top of `counters`, or None if a roster may list it."""
    if claim.round != counters.round + 1:
        return "wrong round"
    if len(claim.norms) != rules.segments:
        return "wrong number of segments"
    used = total(claim.slots)
    if not used:
        return "no work behind it"
    if claim.ahead and (not rules.trains_ahead or claim.predecessor is None):
        return "a window ahead of its block, where there is none"
    allowed = counters.slots_for(claim.peer, rules)
    if used > total(allowed) or claim.slots != take(allowed, used)[0]:
        return "slots beyond its quota"
    return _preimage_fault(claim, counters.peers.get(claim.peer), rules)


def _preimage_fault(claim: Claim, record: PeerRecord | None, rules: Rules) -> str | None:
    """Return what is wrong with what a claim shows of its author's hash chain, or None."""
    known, since, anchored = (record or _STRANGER).expected
    age = claim.round - anchored
    if known is None or age > rules.hash_chain:
        if claim.preimage is not None:
            return "shows a preimage of a chain that it never anchored, or that is used up"
        return "anchors no hash chain" if claim.anchor is None else None
    if claim.preimage is None or descend(claim.preimage, claim.round - since) != known:
        return "does not show the preimage that its hash chain has for this round"
    early = age * RENEWED_FROM[1] < rules.hash_chain * RENEWED_FROM[0]
    pending = record is not None and record.next_anchor is not None
    if claim.anchor is not None and (early or pending):
        return "anchors another hash chain before its time"
    return None


@dataclass(frozen=True)
class Shown:
    """What a claim shows of its author's hash chain."""

    preimage: str | None
    anchor: str | None


def show_next(key: SigningKey, counters: Counters, rules: Rules) -> Shown:
    """Return what a peer's claim on top of `counters` has to show of its hash chain."""
    record, number = counters.peers.get(key.peer_id, _STRANGER), counters.round + 1

    def chain(anchored: int) -> HashChain:
        return own_chain(key, run=rules.run, anchored=anchored, length=rules.hash_chain)

    known, _, anchored = record.expected
    age = number - anchored
    if known is None or age > rules.hash_chain:
        return Shown(preimage=None, anchor=chain(number).shown_after(0))
    renews = record.next_anchor is None and is_to_be_renewed(key.peer_id, rounds=age, length=rules.hash_chain)
    preimage = chain(anchored).shown_after(age)
    anchor = chain(number).shown_after(0) if renews else None
    return Shown(preimage, anchor)


def counted_segments(block: Block) -> dict[PeerId, frozenset[int]]:
    """Return, for each claimant of the block's roster, the segments in which its part is included."""
    peers = [signed.body.peer for signed in block.roster.body.claims]
    counted: list[list[int]] = [[] for _ in peers]
    for segment, reduction in enumerate(block.reductions):
        if reduction is not None:
            for place in reduction.body.included:
                counted[place].append(segment)
    return {peer: frozenset(segments) for peer, segments in zip(peers, counted, strict=True)}


@dataclass
class _Slots:
    """The slots that a block may hand out: the free ranges first, then from the cursor on."""

    free: tuple[SlotRange, ...]
    cursor: int

    def quota(self, count: int) -> tuple[SlotRange, ...]:
        """Take a peer's slots."""
        taken, rest = take(self.free[:QUOTA_RANGES], count)
        self.free = (*rest, *self.free[QUOTA_RANGES:])
        return self._filled(taken, count)

    def lanes(self, count: int) -> tuple[SlotRange, ...]:
        """Take the newcomers' from the longest ranges: the short ones go into quotas, a few at a time."""
        taken = take(_longest(self.free, LANE_RANGES), count)[0]
        self.free = subtract(self.free, taken)
        return self._filled(taken, count)

    def _filled(self, taken: tuple[SlotRange, ...], count: int) -> tuple[SlotRange, ...]:
        if missing := count - total(taken):
            taken = (*taken, (self.cursor, missing))
            self.cursor += missing
        return merge(taken)


def advance(
    before: Counters, block: Block, missed: frozenset[PeerId], say: Say, first: Sequence[PeerId], rules: Rules
) -> Counters:
    """Return the counters after a block.

    Args:
        before: the counters after the block's parent.
        block: a block that is valid on its chain.
        missed: reducers whose segments they did not deliver.
        say: who had a say after the parent.
        first: the leaders whom the chain ranked first on top of the parent (`MIXED_LEADERS`).
        rules: the rules of the run.
    """
    counted = counted_segments(block)
    rostered = {signed.body.peer: signed.body for signed in block.roster.body.claims}
    claims = {s.body.peer: s for s in block.roster.body.claims if counted[s.body.peer]}
    beacon = _mixed(before.beacon, rostered, first)
    used = merge([slots for signed in claims.values() for slots in signed.body.slots])
    handed_out = [*before.newcomers, *(r for standing in before.peers.values() for r in standing.quota)]
    free = merge([*before.leftovers, *subtract(merge(handed_out), used)])
    slots = _Slots(free, before.cursor)
    peers = {}
    for peer in sorted(before.peers.keys() | claims.keys()):
        old, signed = before.peers.get(peer, _STRANGER), claims.get(peer)
        best, allotted = old.best_slots, None
        if signed is not None:
            best = max(best, total(signed.body.slots))
            wish = max(rules.minimum_slots, int(best * QUOTA_GROWTH), 2)  # 1 and a half would be 1 for ever
            wish = min(wish, max(1, MOST_WINDOW_TOKENS // rules.tokens_per_slot))
            allotted = slots.quota(wish)
        standing = PeerRecord(
            included=((old.included << 1) | (signed is not None)) & ((1 << ELECTOR_WINDOW) - 1),
            misses=((old.misses << 1) | (peer in missed)) & ((1 << MISS_MEMORY) - 1),
            best_slots=best,
            quota=old.upcoming if rules.trains_ahead else allotted or (),
            upcoming=allotted or () if rules.trains_ahead else (),
            **_chain_after(old, rostered.get(peer), before.round + 1, beacon, rules),
            signals=(signed.body.signals if signed is not None else old.signals) or None,
        )
        if standing.included:  # if not, it is forgotten, after ELECTOR_WINDOW blocks of absence
            peers[peer] = standing
    lanes = slots.lanes(rules.newcomer_slots * rules.newcomer_lanes)
    return Counters(
        round=before.round + 1,
        tokens=min(before.tokens + total(used) * rules.tokens_per_slot, 2**53 - 1),
        cursor=slots.cursor,
        leftovers=_longest(slots.free, MOST_LEFTOVERS),
        newcomers=before.upcoming_newcomers if rules.trains_ahead else lanes,
        upcoming_newcomers=lanes if rules.trains_ahead else (),
        beacon=beacon,
        earlier_beacon=before.beacon,
        deadlines=next_deadlines(before.deadlines, _heard(claims, say), rules, rostered=len(claims)),
        peers=peers,
        rules=_rules_after(before, peers, say, rules),
    )


def _heard(claims: Mapping[PeerId, Signed[Claim]], say: Say) -> list[Claim]:
    """Return the claims by which the next deadlines go: of those whose word counts, if any.

    Identities cost nothing, so others have no say in how long a round waits.
    """
    heard = [signed.body for peer, signed in claims.items() if peer in say.established]
    return heard or [signed.body for signed in claims.values()]


def _mixed(beacon: str, rostered: Mapping[PeerId, Claim], first: Sequence[PeerId]) -> str:
    """Return the beacon after a block: what the first leaders show in its roster is mixed in.

    Only theirs: each claim more that counted here would be one more for a leader to leave out by choice.
    Whatever was averaged, in whichever order, changes nothing.
    """
    shown = (rostered[peer].preimage or "" for peer in first if peer in rostered)
    return digest("/".join(["beacon", beacon, *shown]).encode()).hex()


def _chain_after(
    old: PeerRecord, claim: Claim | None, round_number: int, beacon: str, rules: Rules
) -> dict[str, Any]:
    """Return the fields of a peer's record that tell of its hash chain, after a block."""
    names = ("preimage", "shown", "anchored", "salt", "next_anchor", "next_anchored", "next_salt")
    fields: dict[str, Any] = {name: getattr(old, name) for name in names}
    if claim is not None and claim.preimage is None:
        fields = {"preimage": claim.anchor, "shown": round_number, "anchored": round_number}
    elif claim is not None and old.next_salt is not None:
        fields = {"salt": old.next_salt, "anchored": old.next_anchored}
        fields |= {"preimage": claim.preimage, "shown": round_number}
    elif claim is not None:
        fields |= {"preimage": claim.preimage, "shown": round_number}
        if claim.anchor is not None:
            fields |= {"next_anchor": claim.anchor, "next_anchored": round_number}
    if fields["preimage"] is not None and round_number == fields["anchored"] + rules.rewind_depth:
        fields["salt"] = beacon
    if fields.get("next_anchor") and round_number == old.next_anchored + rules.rewind_depth:
        fields["next_salt"] = beacon
    return fields


def _rules_after(
    before: Counters, peers: Mapping[PeerId, PeerRecord], say: Say, rules: Rules
) -> dict[str, int] | None:
    """Return the rules that are locked in after a block, by the signals of the electors at its parent."""
    signals = {peer: peers[peer].signals or () for peer in say.weights if peer in peers}
    weights = {peer: say.weights[peer] for peer in signals}
    in_force_from = before.round + 2 + rules.upgrade_rounds
    return lock_in(before.rules or {}, signals, weights, in_force_from=in_force_from) or None


def _longest(ranges: Sequence[SlotRange], most: int) -> tuple[SlotRange, ...]:
    """Return the longest `most` ranges, in ascending order."""
    return tuple(sorted(sorted(ranges, key=lambda r: (-r[1], r[0]))[:most]))
