"""What one peer measures of its swarm, and says in its next claim."""

from __future__ import annotations

from peers.consensus.measurements import Measures
from peers.protocol.messages import Pace
from recipes.keys.keys import PeerId

ADA, BO = PeerId("ada"), PeerId("bo")


def test_who_measured_nothing_says_nothing() -> None:
    assert Measures().take_pace() == Pace()


def test_how_long_the_trainer_computed_is_told_with_the_claim_that_it_computed_for() -> None:
    measures = Measures()
    assert measures.take_pace(compute_seconds=12.3456) == Pace(compute_ms=12_346)
    assert measures.take_pace(compute_seconds=10.0**9).compute_ms == 86_400_000


def test_transfers_are_told_by_the_slowest_but_a_tenth() -> None:
    measures = Measures()
    for number, seconds in enumerate([1.0, 2.0, 60.0]):
        measures.transfer_began(number, 10.0)
        measures.transfer_ended(number, 10.0 + seconds)
    assert measures.take_pace().transfer_ms == 60_000


def test_a_transfer_asked_for_twice_began_the_first_time_and_ends_once() -> None:
    measures = Measures()
    measures.transfer_began("segment", 0.0)
    measures.transfer_began("segment", 5.0)
    measures.transfer_ended("segment", 6.0)
    measures.transfer_ended("segment", 60.0)
    measures.transfer_ended("never began", 60.0)
    assert measures.take_pace().transfer_ms == 6000


def test_a_transfer_whose_other_side_is_gone_tells_nothing() -> None:
    measures = Measures()
    measures.transfer_began("segment", 0.0)
    measures.transfer_failed("segment")
    measures.transfer_ended("segment", 9.0)
    measures.exchange_over(99.0, allowed=1.0)
    assert measures.take_pace().transfer_ms is None


def test_a_transfer_that_never_ended_counts_with_its_time_so_far_if_that_was_too_long() -> None:
    """Otherwise a line too slow for the deadline would never be heard of."""
    measures = Measures()
    measures.transfer_began("slow", 0.0)
    measures.transfer_began("just begun", 19.0)
    measures.exchange_over(20.0, allowed=12.0)
    measures.transfer_ended("slow", 50.0)  # of a round that is over
    assert measures.take_pace().transfer_ms == 20_000


def test_an_answer_is_timed_from_the_newest_question_to_that_peer() -> None:
    measures = Measures()
    measures.answered(ADA, 1.0)  # nobody asked
    measures.asked(ADA, 1.0)
    measures.asked(BO, 1.0)
    measures.asked(ADA, 3.0)
    measures.answered(ADA, 3.25)
    measures.answered(ADA, 9.0)
    assert measures.take_pace().reply_ms == 250


def test_answers_are_remembered_over_claims_and_the_oldest_forgotten() -> None:
    measures = Measures()
    for seconds in [9.0] * 16 + [0.5] * 16:
        measures.asked(ADA, 0.0)
        measures.answered(ADA, seconds)
    assert measures.take_pace().reply_ms == 500
    assert measures.take_pace().reply_ms == 500


def test_a_question_that_nobody_answered_before_the_claim_is_forgotten() -> None:
    measures = Measures()
    measures.asked(ADA, 0.0)
    measures.take_pace()
    measures.answered(ADA, 500.0)
    assert measures.take_pace().reply_ms is None


def test_lateness_is_told_by_its_ninth_decile_and_a_claim_in_time_is_not_late() -> None:
    measures = Measures()
    for seconds in [-5.0, *range(1, 10)]:
        measures.claim_came(seconds)
    assert measures.take_pace().claims_late_ms == 8000
    measures.claim_came(-1.0)
    assert measures.take_pace().claims_late_ms == 0


def test_each_claim_tells_of_what_was_measured_since_the_one_before() -> None:
    measures = Measures()
    measures.claim_came(1.0)
    measures.transfer_began("segment", 0.0)
    measures.transfer_ended("segment", 1.0)
    measures.take_pace()
    assert measures.take_pace() == Pace()


def test_what_is_said_may_be_said_and_what_is_kept_is_bounded() -> None:
    measures = Measures()
    for number in range(5000):
        measures.transfer_began(number, 10.0)
        measures.transfer_ended(number, 10.0**9)
        measures.claim_came(10.0**9)
    measures.asked(ADA, 10.0)
    measures.answered(ADA, 0.0)  # a clock that was set back
    assert len(measures._late) == len(measures._transferred) < 5000
    assert measures.take_pace() == Pace(claims_late_ms=86_400_000, transfer_ms=86_400_000, reply_ms=0)
