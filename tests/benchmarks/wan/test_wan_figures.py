"""The figures of rounds over bad links follow from the peers' event logs and the router's counts."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.router import LaneStatistics, RouterStatistics
from benchmarks.wan.figures import Figures, Moved, figures_of
from recipes.errors import NetworkError

SEGMENTS = 4


def adopted(
    round_number: int, *, exchange: float, counted: int, sent: int, digest: str = "d"
) -> dict[str, Any]:
    """Return a block's event: two seconds of training, one for roster and block together."""
    return {
        "event": "BlockAdopted",
        "round": round_number,
        "digest": digest,
        "counted_segments": counted,
        "phases": {"train": 2.0, "roster": 0.5, "exchange": exchange, "block": 0.5},
        "sent": {"segments": sent},
        "received": {"segments": 2 * sent},
    }


def claimed(round_number: int) -> dict[str, Any]:
    return {"event": "Claimed", "round": round_number, "contribution_bytes": 100}


def log(*, slow: float, counted: int = SEGMENTS, digest: str = "d") -> list[dict[str, Any]]:
    """Return what a peer reported of three rounds; only the last two are measured."""
    return [
        adopted(4, exchange=9.0, counted=SEGMENTS, sent=1000),
        claimed(5),
        adopted(5, exchange=1.0, counted=SEGMENTS, sent=1500),
        claimed(6),
        adopted(6, exchange=slow, counted=counted, sent=2000, digest=digest),
    ]


def moved(packets: int, *, lost: int, retransmitted: int) -> Moved:
    """Return the same counts for both lines, in both directions."""
    lanes = (LaneStatistics(packets=packets, bytes=100 * packets, lost=lost, overflowed=1),) * 2
    router = RouterStatistics(
        up=lanes,
        down=lanes,
        stray=0,
        mean_late_seconds=0.001,
        worst_late_seconds=0.002,
        late_share=0.0,
        processor_seconds=1.0,
    )
    return Moved(router=router, retransmitted=(retransmitted, retransmitted))


def figures(*logs: list[dict[str, Any]]) -> Figures:
    return figures_of(
        logs,
        4,
        2,
        segments=SEGMENTS,
        attempts=2,
        before=moved(100, lost=2, retransmitted=3),
        after=moved(140, lost=6, retransmitted=9),
    )


def test_a_phase_has_its_mean_over_peers_its_spread_over_rounds_and_its_share() -> None:
    measured = figures(log(slow=2.0), log(slow=4.0))
    exchange = measured.phases["exchange"]
    assert (exchange.mean, exchange.deviation, exchange.least, exchange.most) == (2.0, 1.0, 1.0, 3.0)
    assert (measured.round_seconds.mean, measured.round_seconds.most) == (5.0, 6.0)
    assert measured.shares == pytest.approx({"train": 0.4, "roster": 0.1, "exchange": 0.4, "block": 0.1})


def test_a_contribution_that_the_block_left_out_did_not_make_the_cut() -> None:
    measured = figures(log(slow=1.0), log(slow=1.0, counted=0))
    assert (measured.claimed, measured.counted, measured.counted_segments) == (4, 3, 0.75)


def test_bytes_are_those_of_a_peer_in_a_measured_round() -> None:
    measured = figures(log(slow=1.0), log(slow=1.0))
    assert (measured.sent, measured.received) == ({"segments": 500}, {"segments": 1000})
    assert measured.wire_up_bytes.mean == 40 * 100 / 2
    assert (measured.packets, measured.lost, measured.overflowed, measured.retransmitted) == (20, 4, 0, 3)


def test_one_other_digest_after_one_round_shows() -> None:
    assert figures(log(slow=1.0), log(slow=1.0)).identical
    assert not figures(log(slow=1.0), log(slow=1.0, digest="e")).identical


def test_a_peer_that_skipped_a_block_has_no_digest_there() -> None:
    skipped = [event for event in log(slow=1.0) if event["event"] == "Claimed" or event["round"] != 5]
    measured = figures(log(slow=1.0), skipped)
    assert not measured.identical
    assert measured.phases["exchange"].mean == 1.0


def test_rounds_that_nobody_went_through_have_no_figures() -> None:
    stepped_over = [log(slow=1.0)[0]]
    with pytest.raises(NetworkError, match="No peer went through"):
        figures(stepped_over, stepped_over)
