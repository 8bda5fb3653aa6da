"""A slow response is waited for as long as it comes, and no longer. Time is virtual."""

from __future__ import annotations

import asyncio

import pytest
from virtual_loop import run_in_virtual_time

from peers.network.stall_timeouts import Received, unless_stalled
from recipes.errors import UnreachableError
from recipes.keys.keys import PeerId

ANNA = PeerId("anna")


async def trickle(received: Received, *, gaps: list[float]) -> bytes:
    """A response of which a few bytes come after each gap."""
    for gap in gaps:
        await asyncio.sleep(gap)
        received(10)
    return b"all of it"


async def seconds_until(gaps: list[float]) -> tuple[bytes | None, float]:
    received = Received(lambda _: None)
    try:
        content = await unless_stalled(trickle(received, gaps=gaps), received, peer=ANNA, stall_seconds=30.0)
    except UnreachableError:
        content = None
    return content, asyncio.get_running_loop().time()


def test_what_comes_slowly_is_waited_for() -> None:
    assert run_in_virtual_time(seconds_until([20.0] * 50)) == (b"all of it", 1000.0)


@pytest.mark.parametrize("before", [0, 3])
def test_what_does_not_come_any_more_is_given_up(before: int) -> None:
    content, seconds = run_in_virtual_time(seconds_until([20.0] * before + [1000.0]))
    assert content is None
    assert seconds == pytest.approx(20.0 * before + 30.0)
