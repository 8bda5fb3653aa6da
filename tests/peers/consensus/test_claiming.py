"""A window that came to nothing: nothing is claimed, and nobody waits for ever because of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from bench import Bench, sent, told

from peers.consensus.effects import Effect, Leave, LeaveRequested, Train, WindowLost
from peers.consensus.round_state import Phase
from peers.protocol.events import Claimed
from peers.protocol.messages import Claim

End = Callable[[Bench], list[Effect]]


def lose_window(bench: Bench) -> list[Effect]:
    return bench.take(WindowLost(bench.head.hash), after=bench.swarm.rules.window_seconds)


def take_no_step(bench: Bench) -> list[Effect]:
    return bench.take(replace(bench.work(bench.head), steps=0), after=bench.swarm.rules.window_seconds)


@pytest.mark.parametrize("end", [lose_window, take_no_step])
def test_nothing_is_claimed_and_the_others_roster_is_followed(end: End) -> None:
    bench = Bench()
    effects = end(bench)
    assert not sent(effects, Claim)
    assert not told(effects, Claimed)
    assert bench.engine.round.window.ended_at is not None
    roster = bench.roster()
    bench.receive(bench.swarm.by_id[roster.body.peer], roster)
    assert bench.engine.phase is Phase.EXCHANGING


@pytest.mark.parametrize("end", [lose_window, take_no_step])
def test_who_is_alone_begins_the_window_anew(end: End) -> None:
    bench = Bench(peers=1, me=0)
    end(bench)
    begun: list[Train] = []
    for _ in range(20):  # alarms; each deadline is one
        effects = bench.tick(after=max(0.0, bench.engine.wake_at - bench.now))
        begun += [effect for effect in effects if isinstance(effect, Train)]
        if begun:
            break
    assert [(order.parent, bool(order.slots)) for order in begun] == [(bench.head.hash, True)]


@pytest.mark.parametrize("end", [lose_window, take_no_step])
def test_who_wants_to_leave_does_not_wait_for_a_block(end: End) -> None:
    bench = Bench()
    end(bench)
    bench.take(LeaveRequested())
    assert Leave() in bench.tick(after=bench.engine.deadlines.leader)


def test_news_of_an_earlier_window_changes_nothing() -> None:
    bench = Bench()
    bench.take(WindowLost(bench.swarm.genesis.hash))
    assert bench.engine.phase is Phase.TRAINING
    assert sent(bench.finish_window(), Claim)
