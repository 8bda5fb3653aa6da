"""What a person reads before any number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from watching import Watched, watched

from monitoring.swarm.peer_picture import Cuts, PeerPicture
from monitoring.swarm.view import Picture, Validation
from monitoring.web import formatting, sentences
from peers.credit.escrow import Account
from peers.protocol.messages import Pace
from recipes.keys.keys import PeerId


def losses(*values: float) -> tuple[Validation, ...]:
    return tuple(Validation(number, 1000, value, 0.0) for number, value in enumerate(values))


def training(peers: int = 4, rounds: int = 6) -> Watched:
    run = watched(peers)
    run.grow(run.swarm.keys, rounds)
    return run


def test_a_swarm_that_trains_says_so_with_the_numbers_that_matter() -> None:
    picture = replace(training().picture(), validations=losses(3.0, 2.31))
    said = sentences.of_swarm(picture)
    assert said.text == "Training. 4 peers, round 6, 75% of time computing. Loss 2.31, falling."
    assert said.mood == "good"


def test_a_swarm_without_a_block_waits_for_the_first() -> None:
    assert sentences.of_swarm(watched().picture()).text == "No round yet. The first block is still to come."


def test_a_swarm_whose_blocks_stop_has_stalled_and_not_a_moment_sooner() -> None:
    run = training()
    assert sentences.of_swarm(run.picture(now=run.now + 79)).mood == "good"
    said = sentences.of_swarm(run.picture(now=run.now + 81))
    assert said.mood == "bad"
    assert said.text == "Stalled. No block for 1 minute after round 6."


def test_few_peers_are_a_reason_to_look_closer() -> None:
    said = sentences.of_swarm(training(peers=2).picture())
    assert said.mood == "waiting"
    assert said.text.endswith("Few disks hold the state: 4 peers would be safer.")


def test_a_loss_that_is_no_number_is_said_in_words() -> None:
    said = sentences.of_swarm(replace(training().picture(), validations=losses(3.0, float("nan"))))
    assert said.mood == "bad"
    assert "the model has diverged" in said.text


def test_states_that_disagree_are_told_of() -> None:
    picture = training().picture()
    newest = replace(picture.rounds[0], disagreeing=2)
    said = sentences.of_swarm(replace(picture, rounds=(newest, *picture.rounds[1:])))
    assert said.mood == "bad"
    assert "2 co-signatures of the last 6 rounds named another state." in said.text


def test_who_watches_says_when_it_cannot() -> None:
    said = sentences.of_swarm(training().picture(trouble="No peer has answered for 90 s."))
    assert (said.mood, said.text) == ("bad", "Not watching. No peer has answered for 90 s.")


@pytest.mark.parametrize(
    ("values", "goes"),
    [
        ((3.0,), "unknown"),
        ((3.0, 2.5), "falling"),
        ((2.0, 2.0001), "level"),
        ((2.0, 2.1, 2.2, 2.3), "rising"),
        ((5.0, 4.0, 3.0, float("nan")), "falling"),
    ],
)
def test_where_the_loss_goes_follows_from_the_newest_measurements(
    values: tuple[float, ...], goes: str
) -> None:
    assert sentences.trend(losses(*values)) == goes


def one_of(picture: Picture, **changes: object) -> PeerPicture:
    return replace(picture.peers[0], **{"under_audit": False, **changes})  # type: ignore[arg-type]


def test_a_peer_that_makes_every_cut_is_healthy() -> None:
    picture = training(rounds=40).picture()
    said = sentences.of_peer(one_of(picture), picture, you=True)
    assert said.text == "Healthy. You made all of the last 32 cuts."


def test_a_peer_whose_transfers_take_long_learns_why_it_misses_cuts() -> None:
    run = watched()
    swarm = run.swarm
    for round_number in range(50):
        members = swarm.keys if round_number % 16 else swarm.keys[1:]
        claims = [
            swarm.claim(key, run.head, pace=Pace(transfer_ms=9000 if key is swarm.keys[0] else 1500), slots=8)
            for key in members
        ]
        roster = swarm.roster(claims, run.head)
        run.see(swarm.add(swarm.block(run.head, members, roster=roster)))
    picture = run.picture()
    found = picture.peer(swarm.keys[0].peer_id)
    assert found is not None
    found = replace(found, under_audit=False)
    said = sentences.of_peer(found, picture, you=True)
    assert said.text == "Healthy. Slow uplink: you made 94% of the last 32 cuts."
    assert sentences.of_peer(found, picture).text == "Healthy. Slow uplink: made 94% of the last 32 cuts."


def test_each_state_of_a_peer_has_its_words() -> None:
    picture = training(rounds=40).picture()
    record = picture.peers[0].record
    states: list[tuple[dict[str, object], str]] = [
        (
            {"state": "quiet", "record": replace(record, last_round=30)},
            "Quiet: in none of the last 10 rounds, since round 30.",
        ),
        ({"state": "gone", "record": replace(record, last_round=3)}, "Gone since round 3."),
        ({"record": replace(record, rounds=1)}, "New here: counted in 1 round so far."),
        ({"cuts": Cuts(5, 32)}, "Struggling. Made 16% of the last 32 cuts."),
        ({"convicted": True}, "Contradicted itself"),
        (
            {"account": Account(expelled={"claim": 99})},
            "Expelled up to round 99: an audit of it failed, or it contradicted itself.",
        ),
        ({"account": Account(expelled={"claim": 40})}, "Healthy."),
        ({"under_audit": True}, "Healthy. Made all of the last 32 cuts. An audit is open."),
    ]
    for changes, words in states:
        assert sentences.of_peer(one_of(picture, **changes), picture).text.startswith(words)
    looker = PeerPicture(PeerId("Q"), "observing")
    assert "looking on" in sentences.of_peer(looker, picture).text


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (26_300, "26.3 kB"), (1.07e18, "1.07 EB")],
)
def test_amounts_have_three_digits_and_a_prefix(value: float, words: str) -> None:
    assert formatting.measure(value, "B") == words


@pytest.mark.parametrize(
    ("ratio", "words"), [(1.0, "100%"), (0.999, "99%"), (0.5, "50%"), (0.001, "under 1%"), (0.0, "0%")]
)
def test_what_is_not_all_is_never_called_all(ratio: float, words: str) -> None:
    assert formatting.percent(ratio) == words
