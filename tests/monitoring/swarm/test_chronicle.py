"""What the chain tells of peers and rounds."""

from __future__ import annotations

from typing import Any

from rounds import keys_of
from watching import Watched, watched

from monitoring.swarm.peer_picture import Cuts, PeerPicture
from peers.protocol.messages import Block, sign


def peer_of(run: Watched, number: int) -> PeerPicture:
    found = run.picture().peer(run.swarm.keys[number].peer_id)
    assert found is not None
    return found


def see_block(run: Watched, members: list[int], **changes: Any) -> None:
    """See a block whose body differs from what it would be."""
    swarm = run.swarm
    made = swarm.block(run.head, [swarm.keys[number] for number in members])
    if "reductions" in changes:
        changes["reductions"] = tuple(changes["reductions"](made.body.reductions))
        changes["missing"] = swarm.words(made.body.roster, changes["reductions"], run.head)
    body = Block(**{**dict(made.body), **changes})
    run.see(swarm.add(sign(swarm.by_id[body.peer], body)))


def without_part(run: Watched, reductions: Any, place: int) -> Any:
    """Reductions that leave one contribution out."""
    for signed in reductions:
        body = signed.body
        left = tuple(index for index in body.included if index != place)
        yield sign(run.swarm.by_id[body.peer], body.model_copy(update={"included": left}))


def test_a_round_with_everybody_in_every_segment_is_complete() -> None:
    run = watched()
    run.grow(run.swarm.keys, 3)
    totals = run.picture().totals
    assert totals.results == {"complete": 3}
    assert (totals.counted, totals.missed) == (12, 0)
    assert totals.tokens == run.head.counters.tokens > 0


def test_a_round_that_leaves_a_segment_empty_is_short_and_one_without_any_is_empty() -> None:
    run = watched()
    run.grow(run.swarm.keys)
    see_block(run, [0, 1, 2, 3], reductions=lambda made: (None, *made[1:]))
    see_block(run, [0, 1, 2, 3], reductions=lambda made: (None for _ in made))
    assert run.picture().totals.results == {"complete": 1, "short": 1, "empty": 1}
    assert run.picture().rounds[0].empty_segments == run.swarm.rules.segments


def test_a_contribution_in_no_average_has_missed() -> None:
    run = watched()
    run.grow(run.swarm.keys)
    see_block(run, [0, 1, 2, 3], reductions=lambda made: without_part(run, made, 1))
    last = run.links[-1].block
    assert last is not None
    loser = last.body.roster.body.claims[1].body.peer
    totals = run.picture().totals
    assert (totals.counted, totals.missed) == (7, 1)
    found = run.picture().peer(loser)
    assert found is not None
    assert (found.cuts, found.record.missed_rounds) == (Cuts(1, 2), 1)
    assert totals.claimed > totals.credited


def test_who_is_away_for_a_round_or_two_has_missed_their_cuts() -> None:
    run = watched()
    run.grow(run.swarm.keys, 2)
    run.grow(run.swarm.keys[:3], 2)
    assert peer_of(run, 3).cuts == Cuts(2, 2)  # it may have left
    run.grow(run.swarm.keys)
    assert peer_of(run, 3).cuts == Cuts(3, 5)
    assert run.picture().totals.joins == 4


def test_who_is_away_for_four_rounds_has_left_and_joins_again() -> None:
    run = watched()
    run.grow(run.swarm.keys, 2)
    run.grow(run.swarm.keys[:3], 3)
    assert (run.picture().totals.leaves, peer_of(run, 3).state) == ({}, "training")
    run.grow(run.swarm.keys[:3])
    assert (run.picture().totals.leaves, peer_of(run, 3).state) == ({"finished": 1}, "quiet")
    run.grow(run.swarm.keys)
    assert (run.picture().totals.joins, peer_of(run, 3).state) == (5, "training")
    assert peer_of(run, 3).record.missed_rounds == 0


def test_who_leaves_something_undone_has_not_finished() -> None:
    run = watched()
    run.grow(run.swarm.keys)
    see_block(run, [0, 1, 2, 3], reductions=lambda made: (None, *made[1:]))  # nobody's is whole
    run.grow(run.swarm.keys[:2], 4)
    assert run.picture().totals.leaves == {"unfinished": 2}


def test_who_is_expelled_and_stays_away_has_left_for_that() -> None:
    run = watched(5, audited=True)
    run.expel(3)
    assert run.picture().totals.expulsions == 1
    run.grow([key for key in run.swarm.keys if key is not run.swarm.keys[3]], 4)
    assert run.picture().totals.leaves == {"expelled": 1}
    assert peer_of(run, 3).account.expelled_until > run.head.round


def test_who_goes_on_under_another_key_has_left_for_that_and_joined_again() -> None:
    run = watched()
    run.grow(run.swarm.keys, 2)
    new = keys_of(1, seed="new key")[0]
    run.swarm.by_id[new.peer_id] = new
    run.grow(run.swarm.keys, rotations=(run.swarm.rotation(run.swarm.keys[3], new),))
    run.grow([*run.swarm.keys[:3], new], 4)
    totals = run.picture().totals
    assert (totals.leaves, totals.joins) == ({"rotated": 1}, 5)


def test_after_32_rounds_without_it_a_peer_is_gone() -> None:
    run = watched()
    run.grow(run.swarm.keys)
    run.grow(run.swarm.keys[:3], 31)
    assert peer_of(run, 3).state == "quiet"
    run.grow(run.swarm.keys[:3])
    assert peer_of(run, 3).state == "gone"
    assert peer_of(run, 3).cuts.tried == 0


def test_a_cosignature_of_another_state_is_a_disagreement() -> None:
    run = watched()
    swarm = run.swarm
    run.grow(swarm.keys, 2, cosigned=False)
    words = [swarm.cosign(key, run.head) for key in swarm.keys[:3]]
    words.append(swarm.cosign(swarm.keys[3], run.head, state="ab" * 32))
    words.sort(key=lambda signed: signed.body.peer)
    run.see(swarm.add(swarm.block(run.head, swarm.keys, cosignatures=tuple(words))))
    assert run.picture().totals.disagreements == 1
    assert run.picture().rounds[0].disagreeing == 1


def test_work_adds_up_to_what_the_ledger_says() -> None:
    run = watched()
    run.grow(run.swarm.keys, 4)
    picture = run.picture()
    assert picture.totals.credited == sum(peer.pending + peer.account.vested for peer in picture.peers)
    assert picture.totals.claimed == picture.totals.credited == picture.totals.tokens * 10**15
