"""A thousand newcomers with claims of absurd size move the weights by no more than the newcomers' share.

And the chain not at all: who leads, who elects and what is final is up to those whom it knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from bench import Bench
from exchange import FORM, SEGMENTS, contribution
from hostile import HUGE
from numpy.typing import NDArray
from rounds import Swarm, elected, keys_of, name

from peers.chain.link import Link
from peers.chain.validation import roster_fault
from peers.codec.segment import SegmentFrame, contribution_root
from peers.consensus.effects import Effect, Received, Send
from peers.exchange.averaging import NEWCOMERS_SHARE, clip_bound, clip_factors, newcomers_in, weights_of
from peers.exchange.segment_store import ExchangeStore
from peers.protocol.messages import MAX_PEERS, Claim, Pace, Ready, Roster, Signed, SlotRange, sign
from peers.simulation.invariants import _bounds
from recipes.density import Density, DensitySchedule
from recipes.keys.keys import PeerId, SigningKey
from recipes.slots import total

THOUSAND = 1000
USUAL = Pace(claims_late_ms=300, transfer_ms=2000, reply_ms=100)
DAY = Pace(claims_late_ms=86_400_000, transfer_ms=86_400_000, reply_ms=86_400_000)


def absurd(swarm: Swarm, key: SigningKey, parent: Link, number: int) -> Signed[Claim]:
    """A newcomer's claim with one absurd thing or another in it; every fifth has only its pace of a day."""
    norms = (1e308,) * swarm.rules.segments
    sizes: Sequence[dict[str, object]] = (
        {},
        {"norms": norms},
        {"contribution_bytes": HUGE, "steps": HUGE},
        {"slots": ((HUGE, 1),)},
        {"slots": ((0, HUGE),), "norms": norms},
    )
    body = swarm.claim(key, parent, pace=DAY).body
    return sign(key, body.model_copy(update=sizes[number % 5]))


# ---------------------------------------------------------------- the chain


KNOWN = 11  # with as many, more claims fit together than a roster holds


def leading_bench(strangers: int) -> Bench:
    """The engine of the peer whose turn to lead it is."""
    other = Bench(peers=KNOWN, strangers=0)
    first = other.swarm.by_id[other.swarm.order(other.head)[0]]
    return Bench(peers=KNOWN, strangers=strangers, me=other.swarm.keys.index(first))


def rosters_sent(effects: Sequence[Effect]) -> list[Signed[Roster]]:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send)
        and isinstance(effect.message, Signed)
        and isinstance(effect.message.body, Roster)
    ]


def test_the_leaders_roster_holds_everybody_known_and_its_memory_is_bounded() -> None:
    bench = leading_bench(THOUSAND)
    for number, stranger in enumerate(bench.strangers):
        ready = Ready(round=bench.head.round + 1, parent=bench.head.hash)
        for message in (ready, absurd(bench.swarm, stranger, bench.head, number)):
            bench.take(Received(stranger.peer_id, message), after=0.0)
    for key in bench.others:
        bench.receive(key, bench.swarm.claim(key, bench.head))
    effects = bench.finish_window()
    effects += bench.tick(after=bench.engine.deadlines.grace)
    roster = rosters_sent(effects)[0]
    rostered = {claim.body.peer for claim in roster.body.claims}
    assert {key.peer_id for key in bench.swarm.keys} < rostered
    assert len(rostered) == MAX_PEERS
    assert roster_fault(bench.swarm.chain, roster.body, bench.head) is None
    for what, length, most in _bounds(bench.engine, bench.swarm.rules):
        assert length <= most, what


def stand_on(bench: Bench, established: Iterable[PeerId]) -> None:
    """Let the word of just these count above all others'."""
    current = bench.engine.context.round
    say = replace(current.parent.say, established=frozenset(established))
    current.parent = replace(current.parent, say=say)


def apart(bench: Bench, count: int) -> list[SigningKey]:
    """Strangers that drew lanes of their own."""
    lanes: dict[tuple[SlotRange, ...], SigningKey] = {}
    for key in bench.strangers:
        lanes.setdefault(bench.head.counters.slots_for(key.peer_id, bench.swarm.rules), key)
    return list(lanes.values())[:count]


def test_a_crowd_takes_no_place_from_those_whose_word_counts() -> None:
    bench = leading_bench(THOUSAND)
    worked = apart(bench, 20)[-5:]
    stand_on(bench, [key.peer_id for key in worked])
    for key in [*bench.others, *bench.strangers]:
        bench.receive(key, bench.swarm.claim(key, bench.head))
    effects = bench.finish_window()
    effects += bench.tick(after=bench.engine.deadlines.grace)
    [roster] = {signed.hash: signed for signed in rosters_sent(effects)}.values()
    rostered = {claim.body.peer for claim in roster.body.claims}
    assert len(rostered) == MAX_PEERS
    assert {key.peer_id for key in worked} <= rostered


def test_a_full_roster_that_omits_two_whose_word_counts_for_others_is_not_co_signed() -> None:
    bench = leading_bench(THOUSAND)
    strangers = apart(bench, MAX_PEERS)
    worked, crowd = strangers[:3], [*bench.others, *strangers[3:]]
    assert len(crowd) > MAX_PEERS
    for key in [*worked, *crowd]:
        bench.receive(key, bench.swarm.claim(key, bench.head))

    def refused(*listed: SigningKey) -> bool:
        others = crowd[: MAX_PEERS - len(listed)]
        claims = [bench.swarm.claim(key, bench.head) for key in (*listed, *others)]
        roster = bench.swarm.roster(claims, bench.head, key=bench.swarm.keys[0]).body
        return bench.engine.allreduce.leaves_out_too_many(roster, until=bench.now)

    assert not refused()  # nobody's word counts yet for more than another's
    stand_on(bench, [key.peer_id for key in worked])
    assert not refused(*worked)
    assert not refused(*worked[:2])  # messages cross
    assert refused(*worked[:1])
    assert refused()


def test_of_newcomers_that_drew_one_lane_a_lot_chooses_that_nobody_else_could_know() -> None:
    """Names cost nothing: by name, or by what the chain shows, lanes would go to whoever tries most."""
    bench = leading_bench(100)
    lanes: dict[tuple[SlotRange, ...], list[PeerId]] = {}
    for stranger in bench.strangers:
        claim = bench.swarm.claim(stranger, bench.head)
        lanes.setdefault(claim.body.slots, []).append(stranger.peer_id)
        bench.receive(stranger, claim)
    effects = bench.finish_window()
    effects += bench.tick(after=bench.engine.deadlines.grace)
    rostered = {claim.body.peer for claim in rosters_sent(effects)[0].body.claims}
    own = bench.engine.own_claim
    assert own is not None
    assert own.body.preimage is not None
    lots = {key.peer_id: name(f"lane/{own.body.preimage}/{key.peer_id}") for key in bench.strangers}
    contested = [drawn for drawn in lanes.values() if len(drawn) > 1]
    assert len(contested) > 10
    chosen = [rostered.intersection(drawn) for drawn in contested]
    assert chosen == [{min(drawn, key=lambda peer: lots[peer])} for drawn in contested]
    assert chosen != [{min(drawn)} for drawn in contested]


def with_newcomers(swarm: Swarm, parent: Link, newcomers: Sequence[SigningKey]) -> Link:
    """A round of everybody known and of as many newcomers as drew different lanes, co-signed by the known."""
    claims = [swarm.claim(key, parent, pace=USUAL) for key in swarm.keys]
    lanes = set()
    for number, key in enumerate(newcomers):
        claim = absurd(swarm, key, parent, number % 3)  # the other two are refused
        if claim.body.slots not in lanes and len(claims) < MAX_PEERS:
            lanes.add(claim.body.slots)
            claims.append(claim)
    words = swarm.chain.admissible_cosignatures(parent)
    leader = swarm.by_id[swarm.order(parent)[0]]
    roster = swarm.roster(claims, parent, key=leader)
    link = swarm.add(swarm.block(parent, (), roster=roster, cosignatures=tuple(words)))
    for key in swarm.keys:
        swarm.chain.add_cosignature(swarm.cosign(key, link))
    return link


def test_leaders_electors_and_what_is_final_are_as_without_them() -> None:
    """Deadlines alone do follow newcomers, where most claims are theirs: as far as the recipe's bounds."""
    swarm, start = elected(6)
    quiet = swarm.grow(start, swarm.keys, 12)
    quiet_final = swarm.chain.link(swarm.chain.final).round
    loud_swarm, loud = elected(6)
    strangers = keys_of(THOUSAND, seed="stranger")
    loud_swarm.by_id |= {key.peer_id: key for key in strangers}
    for number in range(12):  # each round has other newcomers: none stays long enough to become an elector
        loud = with_newcomers(loud_swarm, loud, strangers[number * 83 : (number + 1) * 83])
        assert loud.block is not None
        assert len(loud.block.body.roster.body.claims) > 2 * len(loud_swarm.keys)
    chain, known = loud_swarm.chain, {key.peer_id for key in loud_swarm.keys}
    assert chain.electors_at(loud.hash) == swarm.chain.electors_at(quiet.hash) == known
    assert loud_swarm.order(loud)[: len(known)] == [peer for peer in loud_swarm.order(loud) if peer in known]
    assert loud.finality.electorate.members == known
    assert (chain.link(chain.final).round, chain.link(chain.justified).round) == (quiet_final, loud.round)
    assert chain.final == loud.parent
    rules, deadlines = loud_swarm.rules, loud.counters.deadlines
    assert deadlines.grace <= rules.grace.most
    assert deadlines.transfer <= rules.transfer.most
    assert deadlines.leader <= rules.leader.most


# ---------------------------------------------------------------- the weights

HONEST, NEW = 8, 56
EVERYTHING = Density(keep=16, level_bits=1, reduced_keep=4096, reduced_level_bits=4)
EXACT = replace(FORM, densities=DensitySchedule(EVERYTHING))  # keeps every position of an average


@dataclass(frozen=True)
class Average:
    """What `ExchangeStore.reduce` came to, beside the exact average of the same parts; a segment each."""

    stored: list[NDArray[np.float64]]
    exact: list[NDArray[np.float64]]
    bounds: list[float]

    def rounding(self, segment: int) -> float:
        """What the codec of averages changed, in L2 norm."""
        return norm(self.stored[segment] - self.exact[segment])


def norm(values: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(values))


def average(
    folder: Path, contributions: Sequence[tuple[SegmentFrame, ...]], *, capped: bool = True
) -> Average:
    """Average contributions as a reducer does; those beyond the first `HONEST` are by newcomers."""
    swarm = Swarm(len(contributions), segments=SEGMENTS)
    by_key = zip(swarm.keys, contributions, strict=True)
    authors = sorted(by_key, key=lambda author: author[0].peer_id)  # as the roster lists them
    claims = [
        swarm.claim(
            key,
            swarm.genesis,
            contribution=contribution_root([frame.root() for frame in frames]).hex(),
            norms=tuple(frame.norm() for frame in frames),
        )
        for key, frames in authors
    ]
    roster = swarm.roster(claims, swarm.genesis)
    established = {key.peer_id for key in swarm.keys[:HONEST]}
    newcomers = newcomers_in(roster.body, established) if capped else frozenset[int]()
    store = ExchangeStore(folder, EXACT)
    store.begin(roster, tokens=0, newcomers=newcomers)
    places = range(len(claims))
    slots = [total(claim.body.slots) for claim in claims]
    weights = np.array(weights_of(slots, [place in newcomers for place in places]))
    found = Average([], [], [])
    for segment in range(SEGMENTS):
        for claim, (_, frames) in zip(claims, authors, strict=True):
            store.hold(claim.body.contribution, frames)
            store.take_push(claim.body.peer, store.push_content(claim.body, segment, roster.hash))
        root, _ = store.reduce(roster.hash, segment, places)
        norms = [claim.body.norms[segment] for claim in claims]
        factors = clip_factors(norms, clip_factor=EXACT.clip_factor, newcomers=newcomers)
        parts = [dense(frames[segment]) for _, frames in authors]
        coefficients = weights / weights.sum() * np.array(factors)
        found.stored.append(dense(store.read_reduced(root, tokens=0)))
        found.exact.append(np.tensordot(coefficients, np.stack(parts), axes=1))
        found.bounds.append(clip_bound(norms, clip_factor=EXACT.clip_factor, newcomers=newcomers))
    return found


def dense(frame: SegmentFrame) -> NDArray[np.float64]:
    return frame.decode().dense().astype(np.float64)


def as_large_as_can_be(values: NDArray[np.float64]) -> SegmentFrame:
    """A segment in the direction of some values, every kept one of the largest magnitude that there is."""
    return SegmentFrame.encode((1e9 * values).astype(np.float32), codec=EXACT.at(0).codec)


@pytest.mark.parametrize("aim", ["anywhere", "against the others"])
def test_newcomers_move_an_average_by_no_more_than_their_share_of_it_and_of_the_clip_bound(
    tmp_path: Path, aim: str
) -> None:
    """Let A be the average of the honest parts alone, N that of the newcomers' clipped ones, s their share.

    With both, the average is (1 - s) A + s N. Every clipped part is at most as long as the bound B, so N is,
    and |(1 - s) A + s N - A| = s |N - A| <= s (B + |A|), in L2 norm, for each segment. B and the clipping of
    honest parts go by honest norms alone, so they are the same with and without newcomers. Stored averages
    are rounded by their codec: what that changes, on both sides, comes on top.
    """
    honest = [contribution(number, scale=0.01, form=EXACT) for number in range(HONEST)]
    alone = average(tmp_path / "alone", honest)
    direction = contribution(99) if aim == "anywhere" else ()
    loud = tuple(
        as_large_as_can_be(dense(direction[segment]) if direction else -alone.exact[segment])
        for segment in range(SEGMENTS)
    )
    crowd = [*honest, *[loud] * NEW]
    capped = average(tmp_path / "capped", crowd)
    uncapped = average(tmp_path / "uncapped", crowd, capped=False)
    assert capped.bounds == alone.bounds
    for segment in range(SEGMENTS):
        assert loud[segment].norm() > 100 * alone.bounds[segment]
        length = norm(alone.exact[segment])
        most = NEWCOMERS_SHARE * (alone.bounds[segment] + length)
        assert alone.rounding(segment) < 0.1 * length
        assert capped.rounding(segment) < 0.1 * norm(capped.exact[segment])
        slack = alone.rounding(segment) + capped.rounding(segment)
        moved = norm(capped.stored[segment] - alone.stored[segment])
        assert most / 2 < moved <= most + slack
        assert norm(uncapped.stored[segment] - alone.stored[segment]) > 100 * (most + slack)
