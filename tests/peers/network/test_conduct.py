"""Who sends what no honest peer sends is banned for a while, and no honest peer ever comes near a limit."""

from __future__ import annotations

import pytest
from rounds import keys_of

from peers.network.peer_scores import (
    ALLOWANCES,
    CLEAN_SLATE_SECONDS,
    LONGEST_BAN_SECONDS,
    STRIKES,
    Allowance,
    Conduct,
    counts_as,
)
from peers.network.token_bucket import Rate
from peers.protocol.messages import KINDS, MAX_SEGMENTS
from recipes.errors import MessageError, Offence
from recipes.keys.keys import PeerId

PEER, OTHER = (key.peer_id for key in keys_of(2))
CALLS_PER_SECOND = 1000  # more than a peer can make: 440 were measured on loopback


def strike(conduct: Conduct, times: int, *, now: float, offence: Offence = Offence.MALFORMED) -> list[float]:
    return [conduct.strike(PEER, offence, now) for _ in range(times)]


def test_the_tenth_strike_within_a_minute_brings_a_ban_of_two_minutes() -> None:
    conduct = Conduct()
    bans = [conduct.strike(PEER, Offence.FALSE, now=6.0 * number) for number in range(STRIKES)]
    assert bans == [0.0] * (STRIKES - 1) + [120.0]
    assert conduct.banned_seconds(PEER, 54.0) == 120.0
    assert conduct.banned_seconds(PEER, 173.9) == pytest.approx(0.1)
    assert conduct.banned_seconds(PEER, 174.0) == 0.0
    assert conduct.banned_seconds(OTHER, 54.0) == 0.0


def test_one_strike_a_minute_is_forgiven_for_ever() -> None:
    conduct = Conduct()
    strike(conduct, STRIKES - 2, now=0.0)
    assert not any(conduct.strike(PEER, Offence.FALSE, now=60.0 * number) for number in range(1, 1000))


def test_each_further_ban_is_twice_as_long_up_to_an_hour() -> None:
    conduct, now, bans = Conduct(), 0.0, []
    for _ in range(40):
        bans.append(max(strike(conduct, STRIKES, now=now)))
        now += bans[-1] + 1
    assert bans[:5] == [120.0, 240.0, 480.0, 960.0, 1920.0]
    assert set(bans[5:]) == {LONGEST_BAN_SECONDS}


def test_after_six_hours_without_a_strike_the_slate_is_clean() -> None:
    conduct = Conduct()
    assert max(strike(conduct, STRIKES, now=0.0)) == 120.0
    assert max(strike(conduct, STRIKES, now=CLEAN_SLATE_SECONDS)) == 240.0
    assert max(strike(conduct, STRIKES, now=2 * CLEAN_SLATE_SECONDS + 1)) == 120.0


def test_streams_that_were_open_when_the_ban_came_do_not_make_it_longer() -> None:
    conduct = Conduct()
    strike(conduct, STRIKES, now=0.0)
    assert strike(conduct, STRIKES + 5, now=1.0) == [0.0] * (STRIKES + 5)
    assert conduct.banned_seconds(PEER, 1.0) == 119.0


def test_requests_beyond_the_burst_are_refused_until_the_rate_refills_it() -> None:
    conduct = Conduct(allowances={"echo": Allowance(Rate(2, 3))})
    assert [conduct.admits(PEER, "echo", 0, now=0.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert conduct.admits(OTHER, "echo", 0, now=0.0)
    assert [conduct.admits(PEER, "echo", 0, now=0.5) for _ in range(2)] == [True, False]
    assert [conduct.admits(PEER, "echo", 0, now=1000.0) for _ in range(4)] == [True] * 3 + [False]


def test_bytes_are_limited_apart_from_requests() -> None:
    conduct = Conduct(allowances={"block": Allowance(Rate(100, 100), Rate(10, 1000))})
    assert conduct.admits(PEER, "block", 900, now=0.0)
    assert not conduct.admits(PEER, "block", 200, now=0.0)
    assert conduct.admits(PEER, "block", 100, now=0.0)
    assert conduct.admits(PEER, "block", 200, now=20.0)


def test_only_who_goes_on_and_on_beyond_its_rate_is_banned() -> None:
    conduct = Conduct()
    bans = strike(conduct, 145, now=0.0, offence=Offence.TOO_MANY)
    assert not any(bans[:144])
    assert bans[144] == 120.0


def test_memory_is_bounded_and_bans_are_forgotten_last() -> None:
    conduct = Conduct(most_peers=4)
    strike(conduct, STRIKES, now=0.0)
    crowd = [PeerId(f"peer {number}") for number in range(100)]
    for peer in crowd:
        conduct.strike(peer, Offence.FORGED, now=1.0)
    assert conduct.statistics(2.0).remembered == 4
    assert conduct.statistics(2.0).banned == (PEER,)
    for peer in crowd:  # even if all are banned
        for _ in range(STRIKES):
            conduct.strike(peer, Offence.FORGED, now=3.0)
    assert conduct.statistics(3.0).remembered == 4
    assert conduct.banned_seconds(PEER, 3.0) == 0.0  # its ban would have ended first


def test_the_statistics_say_who_is_banned_and_count_by_reason_and_do_not_change() -> None:
    conduct = Conduct()
    conduct.strike(OTHER, Offence.FORGED, now=0.0)
    strike(conduct, STRIKES, now=0.0)
    assert conduct.turns_away(PEER, 1.0)
    assert not conduct.turns_away(OTHER, 1.0)
    before = conduct.statistics(1.0)
    strike(conduct, 3, now=500.0)
    assert before.offences == {Offence.FORGED: 1, Offence.MALFORMED: STRIKES}
    assert (before.turned_away, before.banned, before.remembered) == (1, (PEER,), 2)
    assert conduct.statistics(500.0).banned == ()
    assert conduct.offences(PEER) == {"malformed": STRIKES + 3}


def test_what_is_refused_inside_counts_unless_it_names_an_offence_itself() -> None:
    for named, counted in ((None, Offence.MALFORMED), (Offence.FORGED, Offence.FORGED)):
        with pytest.raises(MessageError) as caught, counts_as(Offence.MALFORMED):
            raise MessageError("no", offence=named)
        assert caught.value.offence is counted


# ---------------------------------------------------------------- honest peers


def honest_round(*, peers: int, segments: int) -> dict[str, int]:
    """The most requests that one peer sends another in a round, by kind."""
    to_reduce = min(segments, -(-2 * segments // peers))  # at most 2/R of the segments, as first or as backup
    return {
        **dict.fromkeys(("ready", "claim", "roster", "block", "cosignature"), 4),
        **dict.fromkeys(("head", "blocks"), 4),
        "segment": 2 * min(segments, 2 * to_reduce),  # to a reducer that is a backup, too; each tried twice
        "reduction": min(segments, 2 * to_reduce),
        "receipt": min(segments, 2 * to_reduce),
        "missing": 2,
        "reduced": min(segments, 2 * to_reduce),
        "check": 64,
    }


@pytest.mark.parametrize("segments", [1, 16, MAX_SEGMENTS])
@pytest.mark.parametrize("peers", [2, 4, 16, 64])
def test_no_honest_peer_comes_near_a_limit_on_requests(peers: int, segments: int) -> None:
    """A hundred rounds as fast as calls can follow each other, each kind in one burst."""
    conduct, now = Conduct(), 0.0
    calls = honest_round(peers=peers, segments=segments)
    least = {kind: allowance.requests.burst for kind, allowance in ALLOWANCES.items()}
    for _ in range(100):
        began = now
        for kind, count in calls.items():
            for _ in range(count):
                now += 1 / CALLS_PER_SECOND
                assert conduct.admits(PEER, kind, 0, now)
            left = conduct._records[PEER].requests[kind][0].left(now)
            least[kind] = min(least[kind], left)
        now = max(now, began + 1.0)  # the shortest window
    assert {kind: left for kind, left in least.items() if left < ALLOWANCES[kind].requests.burst / 2} == {}


def test_no_honest_peer_comes_near_a_limit_on_bytes() -> None:
    """The largest messages of a swarm of 64 with 1024 segments, whose rounds take four seconds at least."""
    conduct = Conduct()
    for round_number in range(200):
        for kind, (_, limit) in KINDS.items():
            messages = 64 if kind in ("reduction", "receipt") else 1
            for _ in range(messages):
                assert conduct.admits(PEER, kind, limit, now=4.0 * round_number)
    for kind, (_, limit) in KINDS.items():
        weighed = ALLOWANCES[kind].bytes
        assert weighed is None or weighed.burst >= 8 * limit


def test_pieces_at_two_gigabits_a_second_are_never_refused() -> None:
    conduct = Conduct()
    for kind in ("piece", "data"):
        assert all(conduct.admits(PEER, kind, 13, now=number / 238) for number in range(10_000))


def test_every_kind_that_a_peer_serves_has_an_allowance() -> None:
    assert KINDS.keys() <= ALLOWANCES.keys()
