"""A claim passes, fails, or is left open by thresholds; without thresholds nobody is punished."""

from __future__ import annotations

import math

import pytest

from peers.audit.comparing import FARTHEST, ChunkGap, TraceGap
from peers.audit.judging import Judgement, Limit, Thresholds, judge

THRESHOLDS = Thresholds(
    loss_mean=Limit(0.01, 0.1),
    loss_worst=Limit(0.02, 0.2),
    dropped=Limit(0.05, 0.3),
    direction=Limit(0.01, 0.1),
    length=Limit(0.05, 0.5),
)
NEAR = TraceGap(mean=0.001, worst=0.002)
ALIKE = ChunkGap(sound=True, dropped=0.0, direction=0.0, length=0.0)


def _chunks(*, sound: bool = True, dropped: float = 0, direction: float = 0, length: float = 0) -> ChunkGap:
    return ChunkGap(sound=sound, dropped=dropped, direction=direction, length=length)


@pytest.mark.parametrize("chunks", [None, ALIKE])
def test_work_within_all_limits_passes(chunks: ChunkGap | None) -> None:
    assert judge(NEAR, chunks, THRESHOLDS) == Judgement("pass", "agrees")


@pytest.mark.parametrize(
    ("trace", "chunks", "expected"),
    [
        (TraceGap(0.05, 0.05), None, Judgement("inconclusive", "between the thresholds")),
        (TraceGap(0.005, 0.3), None, Judgement("fail", "loss trace differs")),
        (TraceGap(math.inf, math.inf), None, Judgement("fail", "loss trace differs")),
        (NEAR, _chunks(direction=0.05), Judgement("inconclusive", "between the thresholds")),
        (NEAR, _chunks(length=0.6), Judgement("fail", "sketch differs")),
        (NEAR, _chunks(dropped=0.4), Judgement("fail", "opened chunks differ")),
        (NEAR, _chunks(sound=False), Judgement("fail", "opened chunks differ")),
        (NEAR, _chunks(direction=math.nan), Judgement("fail", "sketch differs")),
        (TraceGap(0.05, 0.05), _chunks(dropped=0.4), Judgement("fail", "opened chunks differ")),
    ],
)
def test_the_measure_that_is_farthest_out_decides(
    trace: TraceGap, chunks: ChunkGap | None, expected: Judgement
) -> None:
    assert judge(trace, chunks, THRESHOLDS) == expected


def test_a_value_at_a_limit_stands_on_the_lenient_side() -> None:
    assert Limit(0.1, 0.2).outcome(0.1) == "pass"
    assert Limit(0.1, 0.2).outcome(0.2) == "inconclusive"


def test_without_thresholds_the_worst_work_neither_fails_nor_passes() -> None:
    expected = Judgement("inconclusive", "thresholds not calibrated")
    assert judge(TraceGap(math.inf, math.inf), FARTHEST, None) == expected
    assert judge(NEAR, ALIKE, None) == expected
