"""A bandwidth limit holds in any stretch of time, is shared evenly, and keeps no message waiting for bulk.

Time is virtual, so seconds are exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_loop import run_in_virtual_time

from peers.network import framing
from peers.network.bandwidth import (
    BULK,
    BURST_SECONDS,
    EXCHANGE_TURNS,
    FIRST_BYTES,
    FIRST_MESSAGE_BYTES,
    LEAST_MBITS,
    RESERVED,
    STEP_SECONDS,
    BandwidthLimits,
    Budget,
    Line,
    Passage,
    Throttle,
    read_limit,
)
from peers.network.peer_scores import ALLOWANCES
from peers.network.stall_timeouts import unless_slow
from peers.protocol.messages import KINDS

BITS = 8000.0
RATE = 1000  # bytes a second, the same
BURST = round(RATE * BURST_SECONDS)
STEP = Throttle(BITS).step_bytes
BULK_AT_ONCE = round(BURST * (1 - RESERVED))

Passed = list[tuple[float, str, int]]
"""When what passed, and how many bytes of it."""


def now() -> float:
    return asyncio.get_running_loop().time()


async def transfer(
    throttle: Throttle, name: str, size: int, passed: Passed, *, line: Line = Line.EXCHANGE
) -> None:
    """Let `size` bytes pass, step by step."""
    while size:
        step = min(size, throttle.step_bytes)
        await throttle.admit(step, line)
        passed.append((now(), name, step))
        size -= step


def all_through(*sizes: tuple[str, int, float, Line]) -> Passed:
    """Return what passed when, of transfers with a name, a size, a beginning and a line."""
    passed: Passed = []

    async def play() -> None:
        throttle = Throttle(BITS)

        async def one(name: str, size: int, begins: float, line: Line) -> None:
            await asyncio.sleep(begins)
            await transfer(throttle, name, size, passed, line=line)

        await asyncio.gather(*(one(*each) for each in sizes))

    run_in_virtual_time(play())
    return passed


def most_in_a_stretch_beyond_the_rate(passed: Passed) -> float:
    """Return by how many bytes what passed exceeds the rate, in the worst stretch of time."""
    worst = 0.0
    for begin, (since, _, _) in enumerate(passed):
        total = 0
        for at, _, size in passed[begin:]:
            total += size
            worst = max(worst, total - RATE * (at - since))
    return worst


@given(
    st.lists(
        st.tuples(st.just("any"), st.integers(1, 4000), st.floats(0, 12), st.sampled_from(Line)),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_in_no_stretch_of_time_does_more_pass_than_the_rate_and_one_burst(
    transfers: list[tuple[str, int, float, Line]],
) -> None:
    passed = all_through(*transfers)
    assert sum(size for _, _, size in passed) == sum(size for _, size, _, _ in transfers)
    assert most_in_a_stretch_beyond_the_rate(passed) <= BURST + 0.01


def test_a_limit_is_used_whole_once_the_burst_is_through() -> None:
    end, _, _ = all_through(("bulk", 10_000, 0.0, Line.EXCHANGE))[-1]
    assert end == pytest.approx((10_000 - BULK_AT_ONCE) / RATE)


def test_transfers_take_turns_and_a_late_one_need_not_wait_for_those_before_it() -> None:
    passed = all_through(("long", 20 * BURST, 0.0, Line.EXCHANGE), ("late", 10 * STEP, 5.0, Line.EXCHANGE))
    both = [name for at, name, _ in passed if at > 5.0]
    assert both[: both.index("late") + 20].count("late") == 10
    assert all(a != b for a, b in pairwise(both[: both.index("late") + 19]))


def test_what_goes_first_passes_at_once_in_the_middle_of_bulk() -> None:
    bulk = [(f"bulk {number}", 4 * BURST, 0.0, Line.EXCHANGE) for number in range(3)]
    bulk += [(f"piece {number}", 4 * BURST, 0.0, Line.SUPPLY) for number in range(2)]
    times = [6.0 + moment / 10 for moment in range(30)]
    passed = all_through(*bulk, *(("message", 40, at, Line.MESSAGES) for at in times))
    assert [at for at, name, _ in passed if name == "message"] == times


def test_the_exchange_takes_four_turns_for_one_of_what_newcomers_fetch() -> None:
    passed = all_through(
        ("segments", 20_000, 0.0, Line.EXCHANGE),
        ("pieces", 20_000, 0.0, Line.SUPPLY),
        ("more", 20_000, 0.0, Line.SUPPLY),
    )
    names = [name for at, name, _ in passed if at > 0]
    both = names[: len(names) - 1 - names[::-1].index("segments")]
    assert both.count("segments") / len(both) == pytest.approx(
        EXCHANGE_TURNS / (EXCHANGE_TURNS + 1), abs=0.01
    )
    assert abs(both.count("pieces") - both.count("more")) <= 1
    assert passed[-1][0] == pytest.approx((60_000 - BULK_AT_ONCE) / RATE)  # and none is lost between them


def test_bulk_goes_on_once_what_goes_first_is_through() -> None:
    passed = all_through(("bulk", 4000, 0.0, Line.EXCHANGE), ("messages", 4000, 1.0, Line.MESSAGES))
    names = [name for _, name, _ in passed]
    last_message = len(names) - 1 - names[::-1].index("messages")
    assert "bulk" not in names[names.index("messages") : last_message]  # they are all that the rate carries
    assert names[-1] == "bulk"
    assert passed[-1][0] == pytest.approx((8000 - BULK_AT_ONCE) / RATE)


def test_who_gave_up_waiting_takes_nothing_and_holds_up_nobody() -> None:
    async def play() -> float:
        throttle, passed = Throttle(BITS), Passed()
        given_up = [asyncio.create_task(transfer(throttle, "gone", 8000, passed)) for _ in range(5)]
        await asyncio.sleep(1.0)
        for task in given_up:
            task.cancel()
        await asyncio.sleep(BURST_SECONDS)
        passed.clear()
        await transfer(throttle, "stays", BULK_AT_ONCE, passed)
        return now()

    assert run_in_virtual_time(play()) == 1.0 + BURST_SECONDS  # the bucket was full again


def test_waiting_takes_one_alarm_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[float] = []
    steps = 100

    async def play() -> None:
        loop = asyncio.get_running_loop()
        call_later: Callable[..., asyncio.TimerHandle] = loop.call_later

        def counted(delay: float, *rest: object) -> asyncio.TimerHandle:
            alarms.append(delay)
            return call_later(delay, *rest)

        monkeypatch.setattr(loop, "call_later", counted)
        await transfer(Throttle(BITS), "bulk", steps * STEP, [])

    run_in_virtual_time(play())
    assert len(alarms) <= steps
    assert min(alarms) > 0.9 * STEP_SECONDS / 2


def test_without_a_limit_nothing_waits() -> None:
    async def play() -> tuple[float, int]:
        passage = Budget(BandwidthLimits()).sending("segment")
        for _ in range(1000):
            await passage.admit(passage.step_bytes)
        return now(), passage.step_bytes

    assert run_in_virtual_time(play()) == (0.0, 256 * 1024)


# ---------------------------------------------------------------- what goes first


async def drained() -> Budget:
    """Return a budget both of whose buckets bulk has just emptied as far as it may."""
    budget = Budget(BandwidthLimits(upload_bits_per_second=BITS, download_bits_per_second=BITS))
    for passage in (budget.sending("segment"), budget.receiving("segment")):
        passage._first = 0
        for _ in range(BULK_AT_ONCE // STEP):
            await passage.admit(STEP)
    assert now() == 0.0
    return budget


async def seconds_for(passage: Passage, size: int) -> float:
    began = now()
    while size:
        step = min(size, passage.step_bytes)
        await passage.admit(step)
        size -= step
    return now() - began


@pytest.mark.parametrize("kind", sorted(ALLOWANCES))
def test_bulk_waits_and_messages_do_not(kind: str) -> None:
    async def play() -> list[float]:
        budget = await drained()
        ways: list[Passage] = [budget.sending(kind), budget.receiving(kind)]
        for passage in ways:
            passage._first -= FIRST_BYTES  # beyond what goes first of everything
        return await asyncio.gather(*(seconds_for(passage, 100) for passage in ways))

    waited = run_in_virtual_time(play())
    assert all(seconds > 0 for seconds in waited) if kind in BULK else waited == [0.0, 0.0]


def test_every_kind_is_bulk_or_a_message() -> None:
    assert ALLOWANCES.keys() >= BULK.keys()
    assert not BULK.keys() & KINDS.keys()


def test_a_request_for_bulk_goes_first_and_so_does_the_word_that_it_came() -> None:
    async def play() -> float:
        budget = await drained()
        return await seconds_for(budget.sending("reduced"), 44) + await seconds_for(
            budget.receiving("segment"), 5
        )

    assert run_in_virtual_time(play()) == 0.0


def test_a_message_without_end_takes_its_turn_with_the_bulk() -> None:
    async def play() -> None:
        throttle, passed = Throttle(BITS), Passed()
        endless = Passage(throttle, "roster")
        endless._first = 2 * STEP

        async def roster() -> None:
            for _ in range(100):
                await endless.admit(STEP)
                passed.append((now(), "roster", STEP))

        await asyncio.gather(roster(), transfer(throttle, "bulk", 100 * STEP, passed))
        names = [name for at, name, _ in passed if at > 0]  # once the burst is through
        assert abs(names[:100].count("bulk") - 50) <= 1

    run_in_virtual_time(play())
    assert FIRST_MESSAGE_BYTES > 3000 * 16  # a claim with many segments has 3 kB; most rosters go first whole


# ---------------------------------------------------------------- streams


class Wire:
    """Takes in what is written, and notes when."""

    def __init__(self) -> None:
        self.written: list[tuple[float, int]] = []

    def write(self, content: bytes) -> None:
        self.written.append((now(), len(content)))

    async def drain(self) -> None:
        pass


def count_nothing(_: int) -> None:
    pass


def test_a_request_is_written_no_faster_than_the_limit() -> None:
    async def play() -> list[tuple[float, int]]:
        wire = Wire()
        passage = Budget(BandwidthLimits(upload_bits_per_second=BITS)).sending("segment")
        await framing.send_request(wire, "segment", bytes(10_000), count=count_nothing, passage=passage)  # type: ignore[arg-type]
        return wire.written

    written = run_in_virtual_time(play())
    assert sum(size for _, size in written) == 10_000 + framing.request_head_bytes("segment")
    assert most_in_a_stretch_beyond_the_rate([(at, "", size) for at, size in written]) <= BURST
    assert written[-1][0] > 9.0


def test_a_response_is_read_no_faster_than_the_limit_and_the_rest_left_to_its_sender() -> None:
    async def play() -> Passed:
        reader = asyncio.StreamReader()
        reader.feed_data(bytes(10_000))
        read: Passed = []
        passage = Budget(BandwidthLimits(download_bits_per_second=BITS)).receiving("piece")

        def count(size: int) -> None:
            read.append((now(), "", size))

        await framing.read_body(reader, 10_000, count=count, passage=passage)
        return read

    read = run_in_virtual_time(play())
    assert most_in_a_stretch_beyond_the_rate(read) <= BURST + STEP  # a step is read, and then waited for
    assert read[-1][0] > 9.0


async def after(seconds: float, then: Callable[[], Awaitable[None]]) -> float:
    await asyncio.sleep(seconds)
    await then()
    return now()


async def nothing() -> None:
    pass


def test_time_that_our_own_limit_takes_is_not_held_against_the_other_side() -> None:
    async def play(busy: int, slow: float, allowed: float) -> float:
        throttle = Throttle(BITS)
        passage = Passage(throttle, "piece")
        passage._first = 0
        await transfer(throttle, "before", BULK_AT_ONCE, [])
        others = asyncio.create_task(transfer(throttle, "others", busy, []))
        await asyncio.sleep(0)

        async def wait_our_turn() -> None:
            await seconds_for(passage, 10 * STEP)

        try:
            return await unless_slow(after(slow, wait_our_turn), passage, seconds=allowed)
        finally:
            others.cancel()

    assert run_in_virtual_time(play(10_000, 4.0, 4.5)) > 5.0
    with pytest.raises(asyncio.TimeoutError):
        run_in_virtual_time(play(10_000, 5.0, 4.5))


def test_who_is_too_slow_is_given_up_on_time_also_without_a_limit() -> None:
    async def play() -> float:
        with pytest.raises(asyncio.TimeoutError):
            await unless_slow(after(9.0, nothing), Passage(Throttle(), "piece"), seconds=4.0)
        return now()

    assert run_in_virtual_time(play()) == 4.0


# ---------------------------------------------------------------- what a volunteer writes


def test_a_limit_is_given_in_megabits_a_second() -> None:
    assert (read_limit("2"), read_limit("0.5"), read_limit(str(LEAST_MBITS))) == (2e6, 5e5, 5e4)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("0", "would let nothing pass. Leave the option out"),
        ("-3", "would let nothing pass"),
        ("0.01", "at least 0.05"),
        ("fast", "'fast' is not a number. Write Mbit/s, such as 2"),
        ("2M", "Write Mbit/s"),
        ("nan", "not a number"),
        ("inf", "the unit is Mbit/s"),
        ("2000000", "the unit is Mbit/s"),
    ],
)
def test_what_is_no_limit_is_refused_with_what_to_write(given: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_limit(given)
