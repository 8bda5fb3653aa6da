"""The node at its edges: what it cannot mend ends it, wherever it happened, and nothing follows from it."""

from __future__ import annotations

import asyncio
import errno
import math
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rounds import Swarm, name

from peers.audit.auditor import AuditParts
from peers.chain.finality import VoteLock
from peers.consensus import effects as do
from peers.network.transport import Request
from peers.node.disk import NodeDisk
from peers.node.node import CUT_OFF, Node
from peers.protocol.chance.say import alike
from peers.protocol.events import BlockAdopted, Event, Notice, RosterAccepted, WindowSpoilt
from peers.protocol.messages import Ready, Roster, Signed
from peers.protocol.requests import SpotCheck
from peers.training.interface import MOST_SPOILT_WINDOWS, TrainOrder
from peers.training.window_tasks import NodeSettings
from recipes.errors import MessageError, StorageError, TrainingError
from recipes.keys.keys import PeerId, SigningKey

KEY = SigningKey(bytes(32))
OTHER = SigningKey(bytes([1] * 32)).peer_id
RUN = "ab" * 32
EMPTY_CHAIN = SimpleNamespace(
    link=lambda _: SimpleNamespace(round=0, accounts=SimpleNamespace(audits=()), say=alike(())),
    tokens_at=lambda _: 0,
)
FULL = StorageError("No space left on device.")


class ScriptedEngine:
    """Answers every input with the effects that the test laid ready, once."""

    def __init__(self, *effects: do.Effect) -> None:
        self.rules = SimpleNamespace(run=RUN, rewind_depth=16)
        self.me = KEY.peer_id
        self.effects = list(effects)
        self.wake_at = math.inf
        self.chain = EMPTY_CHAIN
        self.head = ""
        self.own_claims: dict[str, object] = {}

    def handle(self, happened: do.Input, now: float) -> Iterator[do.Effect]:
        while self.effects:
            yield self.effects.pop(0)


class FullDisk:
    """A chain store that cannot keep anything."""

    def save_vote_lock(self, vote_lock: VoteLock) -> None:
        raise FULL


class SilentTransport:
    """Nobody to talk to; says who was sent what."""

    def __init__(self) -> None:
        self.died = asyncio.Event()
        self.sent: list[PeerId] = []

    def blame(self, peer: PeerId, error: MessageError) -> None:
        raise AssertionError(f"{peer} is blamed for {error}")

    async def call(self, peer: PeerId, request: Request) -> bytes:
        self.sent.append(peer)
        return b""


class EmptyStreet:
    """A crowd of nobody."""

    is_cut_off = False

    async def look_around(self, *, announce_round: int) -> tuple[PeerId, ...]:
        return await asyncio.Event().wait() and ()


class CutOffStreet:
    """A crowd of which all that were named have gone, until somebody comes back."""

    def __init__(self) -> None:
        self.is_cut_off = True
        self.looked = asyncio.Event()

    async def look_around(self, *, announce_round: int) -> tuple[PeerId, ...]:
        self.looked.set()
        return ()


class Listening:
    """Keeps the events that it is told, or refuses them."""

    def __init__(self, refusal: OSError | None = None) -> None:
        self.events: list[Event] = []
        self.refusal = refusal

    def tell(self, event: Event) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.events.append(event)


def node_of(
    engine: Any,
    *,
    transport: SilentTransport | None = None,
    listener: Listening | None = None,
    trainer: Any = None,
    crowd: EmptyStreet | CutOffStreet | None = None,
    **kept: Any,
) -> Node:
    """A node of which only the parts are there that a test is about; `kept` are those of its disk."""
    nothing: Any = None
    away: Any = transport or SilentTransport()
    street: Any = crowd or EmptyStreet()
    state: Any = kept.pop("state", None) or SimpleNamespace()
    state.keep_for_audits = lambda _: None
    stored: Any = SimpleNamespace(store=kept.pop("store", None))
    parts: dict[str, Any] = {"ledger": None, "exchange": None, "contributor": None, "starts": None, **kept}
    openings: Any = SimpleNamespace(forget=lambda **_: None)
    terms: Any = SimpleNamespace(layout=None)
    return Node(
        engine=engine,
        transport=away,
        crowd=street,
        disk=NodeDisk(chain=stored, state=state, **parts),
        trainer=trainer,
        settings=NodeSettings(),
        audits=AuditParts(terms=terms, past=nothing, starts=None, openings=openings, opened=nothing),
        listener=listener or Listening(),
    )


async def test_a_vote_lock_that_the_disk_refuses_on_an_alarm_ends_the_peer_and_is_never_signed() -> None:
    engine, transport = ScriptedEngine(), SilentTransport()
    node = node_of(engine, transport=transport, store=FullDisk())
    node.take(do.Tick())
    engine.effects = [do.SaveVoteLock(VoteLock(3)), do.Send((OTHER,), ready())]
    engine.wake_at = 0.0
    asyncio.get_running_loop().call_soon(node.take, do.Tick())  # as the alarm does
    with pytest.raises(StorageError, match="No space left"):
        await asyncio.wait_for(node.live(), timeout=10)
    assert transport.sent == []


async def test_a_disk_that_refuses_while_a_message_is_taken_in_ends_the_peer() -> None:
    node = node_of(ScriptedEngine(do.SaveVoteLock(VoteLock(3))), store=FullDisk())
    node.correspondence.receive(OTHER, "ready", ready().canonical())
    with pytest.raises(StorageError, match="No space left"):
        await asyncio.wait_for(node.live(), timeout=10)


async def test_an_event_log_that_the_disk_refuses_ends_the_peer_with_a_plain_error() -> None:
    full = Listening(OSError(errno.ENOSPC, "No space left on device"))
    node = node_of(ScriptedEngine(do.Tell(Notice("anything"))), listener=full)
    node.take(do.Tick())
    with pytest.raises(StorageError, match=r"No space left.*\n.*run the same command again"):
        await asyncio.wait_for(node.live(), timeout=10)


async def test_a_spot_check_is_answered_while_the_loop_and_the_averaging_go_on() -> None:
    averaging, loop_goes_on = threading.Event(), threading.Event()

    def prove(*spot: object) -> bytes:
        return f"{spot}".encode() if loop_goes_on.wait(10) else b"the loop stood still"

    node = node_of(ScriptedEngine(), exchange=SimpleNamespace(prove=prove))
    held = asyncio.create_task(node.compute(lambda: averaging.wait(10)))
    asyncio.get_running_loop().call_later(0.01, loop_goes_on.set)
    assert await node.prove(SpotCheck("ab", 1, 2, (0, 3))) == b"('ab', 1, 2, (0, 3))"
    assert not held.done()
    averaging.set()
    assert await held
    await node.end()


async def test_a_peer_that_was_to_join_others_does_not_begin_alone_when_none_of_them_is_there() -> None:
    engine: Any = ScriptedEngine(do.Tell(Notice("it has begun")))
    engine.chain = SimpleNamespace(link=lambda _: SimpleNamespace(round=0))
    engine.context = SimpleNamespace(started=False)
    listening, street = Listening(), CutOffStreet()
    node = node_of(engine, listener=listening, crowd=street)
    acquainting = node.spawn(node._keep_acquainted())
    await street.looked.wait()
    await asyncio.sleep(0)
    assert [event.text for event in listening.events if isinstance(event, Notice)] == [CUT_OFF]
    acquainting.cancel()
    await node.end()


# ------------------------------------------------------------ effects start work, events tell


class Notes:
    """Stands in for what lies on disk, and notes what is asked of it."""

    def __init__(self) -> None:
        self.began: list[Signed[Roster]] = []
        self.followed: list[str] = []
        self.in_ledger: list[str] = []
        self.has_begun = asyncio.Event()

    def begin(self, roster: Signed[Roster], *, tokens: int, newcomers: frozenset[int]) -> None:
        self.began.append(roster)
        self.has_begun.set()

    def draw_spots(self, count: int) -> list[tuple[int, int]]:
        return []

    def follow(self, chain: object, block: str) -> None:
        self.followed.append(block)

    def append(self, *, round_number: int, block: str, entries: object) -> None:
        self.in_ledger.append(block)

    def block_of(self, round_number: int) -> None:
        return None

    def head(self) -> None:
        return None


class ShortChain(ScriptedEngine):
    """An engine whose chain has one block on top of the place where it begins."""

    def __init__(self, block: str, *effects: do.Effect) -> None:
        super().__init__(*effects)
        self.head = block
        accounts, ledger = SimpleNamespace(audits=()), SimpleNamespace(leaves=())
        root = SimpleNamespace(hash="root", round=0, parent="")
        head = SimpleNamespace(hash=block, round=1, parent="root", accounts=accounts, ledger=ledger)
        links = {"root": root, block: head}
        self.chain = SimpleNamespace(links=links, link=links.__getitem__)


async def test_begin_exchange_makes_room_for_the_segments_of_a_roster() -> None:
    swarm, notes = Swarm(2), Notes()
    claims = [swarm.claim(key, swarm.genesis) for key in swarm.keys]
    roster = swarm.roster(claims, swarm.genesis)
    node = node_of(ScriptedEngine(do.BeginExchange(roster)), exchange=notes)
    node.take(do.Tick())
    await asyncio.wait_for(notes.has_begun.wait(), timeout=10)
    assert notes.began == [roster]
    await node.end()


async def test_follow_head_lets_the_blocks_given_to_others_and_the_ledger_end_with_that_block() -> None:
    notes, block = Notes(), name("block")
    node = node_of(ShortChain(block, do.FollowHead(block)), store=notes, ledger=notes)
    node.take(do.Tick())
    assert notes.followed == [block]
    assert notes.in_ledger == [block]
    await node.end()


@pytest.mark.parametrize(
    "event",
    [
        RosterAccepted(1, 0, OTHER, claims=2, mine=True),
        BlockAdopted(1, 0, name("block"), name("state"), OTHER, 2, 2, 0, 100, {}),
    ],
)
async def test_an_event_is_told_and_starts_nothing(event: Event) -> None:
    notes, listener = Notes(), Listening()
    engine = ShortChain(name("block"), do.Tell(event))
    node = node_of(engine, listener=listener, store=notes, ledger=notes, exchange=notes)
    node.take(do.Tick())
    assert listener.events == [event]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (notes.began, notes.followed, notes.in_ledger) == ([], [], [])
    await node.end()


# ------------------------------------------------------------ windows that gave no numbers


def window(*losses: float, delta: float = 0.5) -> SimpleNamespace:
    change = np.full(8, 0.5, dtype=np.float32)
    change[3] = delta
    steps = len(losses)
    return SimpleNamespace(
        delta=change, slots_used=((0, steps),), tokens=64 * steps, losses=losses, steps=steps, seconds=1.0
    )


GOOD, NO_LOSS, NO_WEIGHTS = window(2.0), window(math.nan, math.nan), window(2.0, delta=math.inf)


CONTRIBUTED = do.WindowEnded(
    parent="block",
    start_digest="00" * 32,
    slots=((0, 1),),
    steps=1,
    numeric_class="cpu-fp32",
    contribution="00" * 32,
    contribution_bytes=1,
    norms=(1.0,),
    feedback="00" * 32,
    feedback_reset=False,
    loss_commitment="00" * 32,
    compute_seconds=1.0,
)


class Story:
    """A trainer, an engine, a state and a contributor in one: windows as laid ready, and their outcome."""

    numeric_class = "cpu-fp32"
    digest = "00" * 32

    def __init__(self, *windows: SimpleNamespace) -> None:
        self.windows = list(windows)
        self.state = SimpleNamespace(
            weights=np.zeros(8, dtype=np.float32), weights_file=None, block="block 1"
        )
        self.rules = SimpleNamespace(run=RUN, rewind_depth=16)
        self.me = KEY.peer_id
        self.wake_at = math.inf
        self.chain = EMPTY_CHAIN
        self.head = ""
        self.own_claims: dict[str, object] = {}
        self.took: list[do.Input] = []
        self.round = 0

    def train(self, _order: TrainOrder) -> SimpleNamespace:
        return self.windows.pop(0)

    def stop(self, number: int) -> None:
        pass

    def contribute(self, window: SimpleNamespace, **_: object) -> do.WindowEnded:
        assert np.isfinite(window.delta).all()
        return CONTRIBUTED

    def handle(self, happened: do.Input, now: float) -> list[do.Effect]:
        self.took.append(happened)
        if not self.windows:
            return [do.Leave()]
        self.round += 1
        self.state.block = f"block {self.round}"
        return [do.Train(f"block {self.round}", self.round, ((0, 4),), 0, 60.0)]


async def lived(*windows: SimpleNamespace) -> tuple[list[do.Input], list[Event]]:
    """Live through these windows; return what the engine was told of each, and the events."""
    story, listener = Story(*windows), Listening()
    node = node_of(story, listener=listener, trainer=story, contributor=story, state=story)
    node.take(do.Tick())
    await asyncio.wait_for(node.live(), timeout=10)
    return story.took[1:], listener.events


@pytest.mark.parametrize("bad", [NO_LOSS, NO_WEIGHTS, window(2.0, delta=math.nan)])
async def test_a_window_that_gave_no_numbers_is_not_claimed_and_the_peer_goes_on(
    bad: SimpleNamespace,
) -> None:
    took, events = await lived(bad, GOOD)
    assert took == [do.WindowLost("block 1"), CONTRIBUTED]
    (told,) = [event for event in events if isinstance(event, WindowSpoilt)]
    assert (told.round, told.in_a_row, told.most) == (1, 1, MOST_SPOILT_WINDOWS)


async def test_a_step_that_failed_does_not_cost_the_window() -> None:
    took, events = await lived(window(2.0, math.nan))
    assert took == [CONTRIBUTED]
    assert not any(isinstance(event, WindowSpoilt) for event in events)


async def test_windows_that_give_no_numbers_again_and_again_end_the_peer() -> None:
    bad = [NO_WEIGHTS] * (MOST_SPOILT_WINDOWS - 1)
    took, _ = await lived(*bad, GOOD, *bad, GOOD)  # only those in a row count
    assert took.count(CONTRIBUTED) == 2
    with pytest.raises(TrainingError, match=r"gave no numbers(.|\n)*--device cpu") as caught:
        await lived(*bad, NO_LOSS, GOOD)
    assert caught.value.exit_code == 13


def ready() -> Ready:
    return Ready(round=1, parent="cd" * 32)
