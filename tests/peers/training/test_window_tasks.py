"""A peer's windows: which weights they start from, when the state may change, when they become claims."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hosts import BenchHost
from rounds import Swarm, name

from peers.codec.round_codec import ExchangeFormat
from peers.codec.segment import SegmentFrame
from peers.codec.sparse_codec import SparseCodec
from peers.consensus.effects import GoOn, Train, WindowEnded
from peers.exchange.segment_store import ExchangeStore
from peers.protocol.events import Validated, WindowFinished
from peers.training.interface import ReplayOrder, SharedBuffer, TrainOrder
from peers.training.start_weights import StartWeights
from peers.training.window_tasks import NodeSettings, WindowTasks
from recipes.density import Density, DensitySchedule
from recipes.layout import CHUNK_VALUES, Layout

LAYOUT = Layout(spans=(), size=CHUNK_VALUES, chunks=1, segments=1)
CODEC = SparseCodec(keep=1, level_bits=0)
PARENT, BLOCK = name("parent"), name("block")
SLOTS = ((0, 8),)


class SlowTrainer:
    """Trains until it is told that its time is up; notes what it started from."""

    numeric_class = "cpu-fp32"

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.orders: list[TrainOrder] = []
        self.ends: dict[int, float] = {}  # by number of the order
        self.stopped: set[int] = set()
        self.replayed: list[int] = []
        self.began = threading.Semaphore(0)
        self.time_is_up = threading.Event()

    def train(self, order: TrainOrder) -> SimpleNamespace:
        self.starts.append(float(order.weights.array[0]))
        self.orders.append(order)
        self.began.release()
        while not (self.time_is_up.wait(0.001) or order.number in self.stopped):
            pass
        delta = np.ones(4, dtype=np.float32)
        return SimpleNamespace(
            losses=(1.0, 3.0), steps=2, tokens=64, seconds=2.0, slots_used=order.slots, delta=delta
        )

    def replay(self, order: ReplayOrder) -> Any:
        self.replayed.append(order.number)

    def end_by(self, number: int, until: float) -> None:
        self.ends[number] = until

    def stop(self, number: int) -> None:
        self.stopped.add(number)

    def validation_loss(self, weights: SharedBuffer, *, limit_slots: int) -> float:
        return float(weights.array[0])

    def select(self, values: Any, keep: int) -> Any:
        raise AssertionError("nothing is selected here")


class Room:
    """Window tasks with a state that can be changed, and what comes of them."""

    def __init__(self, folder: Path, *, validate_every: int = 0) -> None:
        self.trainer = SlowTrainer()
        self.weights = np.ones(LAYOUT.padded, dtype=np.float32)
        self.state = SimpleNamespace(weights=self.weights, weights_file=None, block=PARENT)
        self.host = BenchHost()
        self.engine: Any = SimpleNamespace(
            digest="after the parent", chain=None, rules=SimpleNamespace(overlap="delayed")
        )
        density = Density(CODEC.keep, CODEC.level_bits, CODEC.keep, CODEC.level_bits)
        form = ExchangeFormat(DensitySchedule(density), segments=1, chunks_per_segment=1, clip_factor=2.0)
        self.exchange = ExchangeStore(folder, form)
        contributor: Any = SimpleNamespace(contribute=self._contribute)
        self.windows = WindowTasks(
            self.host,
            engine=self.engine,
            trainer=self.trainer,
            contributor=contributor,
            exchange=self.exchange,
            state_sync=SimpleNamespace(state=self.state),  # type: ignore[arg-type]
            starts=StartWeights(folder, layout=LAYOUT, learning_rate=1.0),
            settings=NodeSettings(validate_every=validate_every),
        )

    def _contribute(self, window: Any, *, parent: str, start_digest: str, **_: object) -> WindowEnded:
        work = Swarm(1).genesis  # only a hash of the right form is needed
        return WindowEnded(
            parent=parent,
            start_digest=start_digest,
            slots=window.slots_used,
            steps=window.steps,
            numeric_class="cpu-fp32",
            contribution=work.hash,
            contribution_bytes=1,
            norms=(1.0,),
            feedback=work.hash,
            feedback_reset=False,
            loss_commitment=work.hash,
            compute_seconds=window.seconds,
        )

    async def claimed(self) -> WindowEnded:
        """Wait for what the next window came to."""
        ended = await self.host.next_input()
        assert isinstance(ended, WindowEnded)
        return ended

    async def until_training(self) -> None:
        """Wait until the trainer has begun once more."""
        await self.within_reason(asyncio.to_thread(self.trainer.began.acquire))

    async def within_reason(self, what: Awaitable[Any]) -> None:
        await asyncio.wait_for(what, timeout=60)


def order(*, ahead: bool, number: int = 5) -> Train:
    return Train(PARENT, number, SLOTS, 0, 1000.0, ahead=ahead)


@pytest.fixture
async def room(tmp_path: Path) -> Any:
    made = Room(tmp_path)
    yield made
    made.windows.stop()
    made.trainer.time_is_up.set()
    made.windows.shutdown()


async def test_the_state_may_change_once_the_start_of_a_window_ahead_is_copied(room: Room) -> None:
    room.windows.train(order(ahead=True))
    await room.within_reason(room.windows.state_may_change())
    room.weights += 1.0  # the block is applied
    await room.until_training()
    assert room.trainer.starts == [1.0]


async def test_an_eager_window_starts_with_the_share_of_what_was_just_claimed(room: Room) -> None:
    swarm = Swarm(1)
    values = np.zeros((1, CHUNK_VALUES), dtype=np.float32)
    values[0, 0] = 0.5
    frame = SegmentFrame.encode(values, codec=CODEC)
    claim = swarm.claim(swarm.keys[0], swarm.genesis)
    room.exchange.hold(claim.body.contribution, (frame,))
    room.engine.rules.overlap = "eager"
    room.engine.chain = swarm.chain
    room.engine.own_claims = {swarm.genesis.hash: claim}
    room.windows.train(Train(swarm.genesis.hash, 2, SLOTS, 0, 1000.0, ahead=True))
    await room.until_training()
    assert room.trainer.starts == [1.0 - frame.decode().values[0]]
    assert frame.decode().values[0] == pytest.approx(0.5, rel=0.05)


async def test_a_window_ahead_becomes_a_claim_when_its_block_is_named(room: Room) -> None:
    room.windows.train(order(ahead=True))
    room.trainer.time_is_up.set()  # it is over before the block comes
    finished = await room.host.next_event()
    assert isinstance(finished, WindowFinished)
    assert finished.round == 5
    assert room.host.taken == []
    room.engine.digest = "after the block"
    room.windows.go_on(GoOn(BLOCK, 3.0))
    work = await room.claimed()
    assert (work.parent, work.start_digest, work.ahead) == (BLOCK, "after the block", True)


async def test_the_block_moves_the_end_of_the_window_that_runs(room: Room) -> None:
    room.windows.train(order(ahead=True))
    await room.until_training()
    assert room.trainer.ends == {}
    room.windows.go_on(GoOn(BLOCK, 3.0))
    assert list(room.trainer.ends) == [room.trainer.orders[0].number]
    room.trainer.time_is_up.set()
    assert (await room.claimed()).parent == BLOCK


async def test_a_window_that_is_replaced_comes_to_nothing(room: Room) -> None:
    room.windows.train(order(ahead=True))
    await room.until_training()
    room.windows.train(order(ahead=False, number=6))
    assert room.trainer.stopped == {room.trainer.orders[0].number}
    await room.until_training()
    room.trainer.time_is_up.set()
    work = await room.claimed()
    assert (work.parent, work.ahead) == (PARENT, False)
    assert [event.round for event in room.host.told if isinstance(event, WindowFinished)] == [6]
    assert room.host.taken == [work]


async def test_a_window_that_is_replaced_before_it_began_never_reaches_the_trainer(room: Room) -> None:
    room.windows.train(order(ahead=False, number=5))
    room.windows.train(order(ahead=False, number=6))
    room.trainer.time_is_up.set()
    await room.claimed()
    assert len(room.trainer.orders) == 1
    assert [event.round for event in room.host.told if isinstance(event, WindowFinished)] == [6]


async def test_a_window_of_the_round_at_hand_needs_no_block_and_keeps_no_state_waiting(room: Room) -> None:
    room.windows.train(order(ahead=False))
    await room.within_reason(room.windows.state_may_change())
    room.trainer.time_is_up.set()
    work = await room.claimed()
    assert (work.parent, work.start_digest) == (PARENT, "after the parent")


async def test_a_window_under_which_the_state_moved_on_comes_to_nothing(room: Room) -> None:
    """Its start is gone: what it would send is the other way round what the block has just applied."""
    room.windows.train(order(ahead=False))
    await room.until_training()
    room.state.block = BLOCK  # the block came while the last step ran
    room.weights += 1.0
    room.trainer.time_is_up.set()
    await room.within_reason(room.host.tasks[0])
    assert room.host.taken == []


async def test_a_replay_waits_for_the_window_at_hand_and_can_be_stopped_by_its_number(room: Room) -> None:
    room.windows.train(order(ahead=False))
    await room.until_training()
    number = room.windows.next_number()
    replayed = asyncio.create_task(
        room.windows.replay(
            ReplayOrder(number=number, weights=SharedBuffer(room.weights), slots=SLOTS, tokens_before=0)
        )
    )
    room.windows.stop_replay(number)
    assert room.trainer.stopped == {number}
    assert number != room.trainer.orders[0].number
    room.trainer.time_is_up.set()
    await room.within_reason(replayed)
    assert room.trainer.replayed == [number]


async def test_each_state_is_validated_once_before_it_changes(tmp_path: Path) -> None:
    room = Room(tmp_path, validate_every=1)
    room.windows.train(order(ahead=False, number=5))
    await room.until_training()
    room.windows.train(order(ahead=True, number=6))  # on top of the same block
    await room.within_reason(room.windows.state_may_change())
    room.weights += 1.0
    room.windows.go_on(GoOn(BLOCK, 3.0))
    room.trainer.time_is_up.set()
    await room.claimed()
    room.windows.train(order(ahead=True, number=7))
    await room.within_reason(room.windows.state_may_change())
    assert [event for event in room.host.told if isinstance(event, Validated)] == [
        Validated(4, 1.0),
        Validated(5, 2.0),
    ]
    room.windows.stop()
    room.windows.shutdown()
