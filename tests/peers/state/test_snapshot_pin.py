"""A snapshot stays while somebody fetches it: one, for a bounded time, whatever strangers ask for."""

from __future__ import annotations

from peers.state.snapshot_pin import IDLE_SECONDS, MOST_ROUNDS, SnapshotPin


def test_nothing_stays_that_nobody_asked_for() -> None:
    assert SnapshotPin().choose([4, 8], newest=16, now=0.0) is None


def test_what_is_being_fetched_stays_until_nobody_asks_for_it_any_more() -> None:
    pin = SnapshotPin()
    pin.requested(4, 100.0)
    assert pin.choose([4], newest=12, now=110.0) == 4
    pin.requested(4, 300.0)
    assert pin.choose([4, 8], newest=16, now=IDLE_SECONDS + 299) == 4
    assert pin.choose([4, 12], newest=20, now=IDLE_SECONDS + 301) is None


def test_however_many_are_asked_for_only_one_stays_and_the_one_that_stays_is_not_displaced() -> None:
    pin = SnapshotPin()
    pin.requested(4, 0.0)
    assert pin.choose([4], newest=12, now=1.0) == 4
    for round_number in (4, 8, 12):
        pin.requested(round_number, 2.0)
    assert pin.choose([4, 8], newest=16, now=3.0) == 4
    assert pin.choose([4, 12], newest=20, now=4.0) == 4


def test_nobody_keeps_one_for_ever_by_asking_again_and_again() -> None:
    pin = SnapshotPin()
    pin.requested(4, 0.0)
    stayed = []
    for newest in range(12, 200, 4):
        pin.requested(4, float(newest))
        stayed.append(pin.choose([4], newest=newest, now=newest + 1.0) == 4)
        if not stayed[-1]:
            break
    assert stayed.count(True) == MOST_ROUNDS // 4 + 1


def test_when_one_is_let_go_the_next_that_is_fetched_may_stay() -> None:
    pin = SnapshotPin()
    pin.requested(4, 0.0)
    pin.choose([4], newest=12, now=1.0)
    pin.requested(12, IDLE_SECONDS)
    assert pin.choose([4, 12], newest=20, now=IDLE_SECONDS + 1) == 12
