"""No honest peer can ask so much of another one that it is banned for it."""

from __future__ import annotations

import pytest

from peers.network.peer_scores import ALLOWANCES, Conduct
from peers.network.restraint import Restraint
from recipes.keys.keys import PeerId

PEER = PeerId("somebody")


@pytest.mark.parametrize("kind", sorted(ALLOWANCES))
def test_who_asks_as_fast_as_it_may_is_never_refused(kind: str) -> None:
    restraint, conduct, now = Restraint(), Conduct(), 0.0
    for _ in range(3000):
        wait = restraint.wait_seconds(PEER, kind, 1000, now, patience=60.0)
        assert wait is not None
        now += wait
        assert conduct.admits(PEER, kind, 1000, now)


def test_nor_is_who_was_started_again_in_between() -> None:
    """What it asked before is forgotten here, and not there."""
    conduct, now = Conduct(), 0.0
    for _ in range(2):
        restraint = Restraint()
        while restraint.wait_seconds(PEER, "blocks", 8, now, patience=0.0) is not None:
            assert conduct.admits(PEER, "blocks", 8, now)


def test_who_would_wait_too_long_is_told_so_and_that_costs_nothing() -> None:
    restraint = Restraint()
    asked = 0
    while restraint.wait_seconds(PEER, "snapshot", 8, 0.0, patience=0.0) is not None:
        asked += 1
    assert asked == 16
    for _ in range(1000):
        assert restraint.wait_seconds(PEER, "snapshot", 8, 0.0, patience=0.5) is None
    assert restraint.wait_seconds(PEER, "snapshot", 8, 0.0, patience=60.0) == pytest.approx(1.25)
    assert restraint.wait_seconds(PeerId("another"), "snapshot", 8, 0.0, patience=0.0) == 0.0
