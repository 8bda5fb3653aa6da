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

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import Field

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
from recipes.keys.keys import PeerId
from recipes.slots import merge, subtract, take, total


class PeerRecord(Message):
    """What the chain knows of one peer that was included in one of the last blocks."""

    included: Count  # bit i: included in the block i before this one
    misses: Count  # bit i: failed to reduce a segment in the block i before this one
    best_slots: Count  # most slots used in one included claim
    quota: tuple[SlotRange, ...]  # slots for the next round
    upcoming: tuple[SlotRange, ...] = ()  # slots for the round after, where windows begin a round ahead
    nonce_commitment: Hash | None  # hash of the nonce that its next claim must reveal
    signals: tuple[RuleName, ...] | None = later()  # the rules that its newest included claim named

    @property
    def is_elector(self) -> bool:
        """Whether it was included in enough of the last blocks to lead, reduce and co-sign."""
        return self.included.bit_count() >= ELECTOR_MINIMUM


_STRANGER = PeerRecord(included=0, misses=0, best_slots=0, quota=(), nonce_commitment=None)


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

        A peer without a quota draws one of the newcomers' lanes by hash: two that draw the same lane
        collide, and the leader keeps the first.
        """
        standing = self.peers.get(peer)
        if standing is not None and standing.quota:
            return standing.quota
        return _lane(self.newcomers, peer, self.round + 1, rules)

    def slots_ahead(self, peer: PeerId, rules: Rules) -> tuple[SlotRange, ...]:
        """Return the slots that `peer` may use in the round after the next, whatever the next block holds."""
        standing = self.peers.get(peer)
        if standing is not None and standing.upcoming:
            return standing.upcoming
        return _lane(self.upcoming_newcomers, peer, self.round + 2, rules)


def initial(rules: Rules) -> Counters:
    """Return the counters at genesis."""
    region = rules.newcomer_slots * rules.newcomer_lanes
    return Counters(
        round=0,
        tokens=0,
        cursor=2 * region if rules.trains_ahead else region,
        leftovers=(),
        newcomers=((0, region),),
        upcoming_newcomers=((region, region),) if rules.trains_ahead else (),
        beacon=digest(f"genesis/{rules.run}".encode()).hex(),
        deadlines=first_deadlines(rules),
        peers={},
    )


def _lane(lanes: Sequence[SlotRange], peer: PeerId, round_number: int, rules: Rules) -> tuple[SlotRange, ...]:
    """Return the lane that a newcomer draws in a round; it depends on no block, so it is known ahead."""
    seed = f"lane/{rules.run}/{round_number}/{peer}"
    draw = int.from_bytes(digest(seed.encode())[:8], "big") % rules.newcomer_lanes
    lanes_from_there = take(lanes, draw * rules.newcomer_slots)[1]
    return take(lanes_from_there, rules.newcomer_slots)[0]


def quota_or_nonce_fault(claim: Claim, counters: Counters, rules: Rules) -> str | None:
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
    standing = counters.peers.get(claim.peer)
    owed = standing.nonce_commitment if standing is not None else None
    if owed is not None and (claim.nonce is None or digest(bytes.fromhex(claim.nonce)).hex() != owed):
        return "does not reveal the x that it committed to"
    if owed is None and claim.nonce is not None:
        return "reveals an x that it never committed to"  # a nonce chosen late would steer the beacon
    return None


def counted_segments(block: Block) -> dict[PeerId, frozenset[int]]:
    """Return, for each claimant of the block's roster, the segments in which its part is included."""
    peers = [signed.body.peer for signed in block.roster.body.claims]
    counted: list[list[int]] = [[] for _ in peers]
    for segment, reduction in enumerate(block.reductions):
        if reduction is not None:
            for place in reduction.body.included:
                counted[place].append(segment)
    return {peer: frozenset(segments) for peer, segments in zip(peers, counted, strict=True)}


def advance(before: Counters, block: Block, missed: frozenset[PeerId], rules: Rules) -> Counters:
    """Return the counters after `block`. `missed` are reducers whose segments they did not deliver."""
    counted = counted_segments(block)
    claims = {s.body.peer: s for s in block.roster.body.claims if counted[s.body.peer]}
    used = merge([slots for signed in claims.values() for slots in signed.body.slots])
    handed_out = [*before.newcomers, *(r for standing in before.peers.values() for r in standing.quota)]
    free = merge([*before.leftovers, *subtract(merge(handed_out), used)])
    cursor = before.cursor

    def fill(taken: tuple[SlotRange, ...], count: int) -> tuple[SlotRange, ...]:
        """Return slots from some of the leftover ranges, filled up from the cursor."""
        nonlocal cursor
        if missing := count - total(taken):
            taken = (*taken, (cursor, missing))
            cursor += missing
        return merge(taken)

    peers = {}
    for peer in sorted(before.peers.keys() | claims.keys()):
        old, signed = before.peers.get(peer, _STRANGER), claims.get(peer)
        best, allotted = old.best_slots, None
        if signed is not None:
            best = max(best, total(signed.body.slots))
            wish = max(rules.minimum_slots, int(best * QUOTA_GROWTH), 2)  # 1 and a half would be 1 for ever
            wish = min(wish, max(1, MOST_WINDOW_TOKENS // rules.tokens_per_slot))
            taken, rest = take(free[:QUOTA_RANGES], wish)
            free = (*rest, *free[QUOTA_RANGES:])
            allotted = fill(taken, wish)
        standing = PeerRecord(
            included=((old.included << 1) | (signed is not None)) & ((1 << ELECTOR_WINDOW) - 1),
            misses=((old.misses << 1) | (peer in missed)) & ((1 << MISS_MEMORY) - 1),
            best_slots=best,
            quota=old.upcoming if rules.trains_ahead else allotted or (),
            upcoming=allotted or () if rules.trains_ahead else (),
            nonce_commitment=signed.body.nonce_commitment if signed is not None else None,
            signals=(signed.body.signals if signed is not None else old.signals) or None,
        )
        if standing.included:  # if not, it is forgotten, after ELECTOR_WINDOW blocks of absence
            peers[peer] = standing
    # The lanes come from the longest ranges: the short ones go into quotas, a few at a time.
    region = rules.newcomer_slots * rules.newcomer_lanes
    taken = take(_longest(free, LANE_RANGES), region)[0]
    free = subtract(free, taken)
    lanes = fill(taken, region)
    electors = before.electors(rules)
    # New identities cost nothing, so newcomers have no say in how long a round waits.
    heard = [signed.body for peer, signed in claims.items() if peer in electors]
    heard = heard or [signed.body for signed in claims.values()]
    return Counters(
        round=before.round + 1,
        tokens=min(before.tokens + total(used) * rules.tokens_per_slot, 2**53 - 1),
        cursor=cursor,
        leftovers=_longest(free, MOST_LEFTOVERS),
        newcomers=before.upcoming_newcomers if rules.trains_ahead else lanes,
        upcoming_newcomers=lanes if rules.trains_ahead else (),
        beacon=_mixed(before.beacon, claims.values()),
        deadlines=next_deadlines(before.deadlines, heard, rules, rostered=len(claims)),
        peers=peers,
        rules=_rules_after(before, peers, rules),
    )


def _mixed(beacon: str, claims: Iterable[Signed[Claim]]) -> str:
    """Return the beacon after a block, with the nonces that its included claims reveal mixed in."""
    reveals = "".join(signed.body.nonce or "" for signed in claims)
    return digest(f"beacon/{beacon}/{reveals}".encode()).hex()


def _rules_after(before: Counters, peers: Mapping[PeerId, PeerRecord], rules: Rules) -> dict[str, int] | None:
    """Return the rules that are locked in after a block, by the signals of those who are electors then."""
    electors = [record for record in peers.values() if record.is_elector]
    signals = [record.signals or () for record in electors]
    in_force_from = before.round + 2 + rules.upgrade_rounds
    return lock_in(before.rules or {}, signals, in_force_from=in_force_from) or None


def _longest(ranges: Sequence[SlotRange], most: int) -> tuple[SlotRange, ...]:
    """Return the longest `most` ranges, in ascending order."""
    return tuple(sorted(sorted(ranges, key=lambda r: (-r[1], r[0]))[:most]))
