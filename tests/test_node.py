"""The node at its edges: what it cannot mend ends it, wherever it happened, and nothing follows from it."""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from peers import effects as do
from peers.events import Event, Notice
from peers.finality import Promise
from peers.messages import Ready
from peers.node import Node, NodeSettings
from recipes.errors import MessageError, StorageError
from recipes.keys import PeerId, SigningKey

KEY = SigningKey(bytes(32))
OTHER = SigningKey(bytes([1] * 32)).peer_id
RUN = "ab" * 32
FULL = StorageError("No space left on device.")


class ScriptedEngine:
    """Answers every input with the effects that the test laid ready, once."""

    def __init__(self, *effects: do.Effect) -> None:
        self.rules = SimpleNamespace(run=RUN)
        self.me = KEY.peer_id
        self.effects = list(effects)
        self.wake_at = math.inf
        self.chain = SimpleNamespace(link=lambda _: SimpleNamespace(round=0))
        self.head = ""

    def handle(self, happened: do.Input, now: float) -> Iterator[do.Effect]:
        while self.effects:
            yield self.effects.pop(0)


class FullDisk:
    """A chain store that cannot keep anything."""

    def save_promise(self, promise: Promise) -> None:
        raise FULL


class SilentTransport:
    """Nobody to talk to; says who was sent what."""

    def __init__(self) -> None:
        self.died = asyncio.Event()
        self.sent: list[PeerId] = []

    def blame(self, peer: PeerId, error: MessageError) -> None:
        raise AssertionError(f"{peer} is blamed for {error}")

    async def call(self, peer: PeerId, *_: object, **__: object) -> bytes:
        self.sent.append(peer)
        return b""


class EmptyStreet:
    """A crowd of nobody."""

    async def look_around(self, *, announce_round: int) -> tuple[PeerId, ...]:
        return await asyncio.Event().wait() and ()


def node_of(
    engine: ScriptedEngine, transport: SilentTransport, listener: Callable[[Event], None] = lambda _: None
) -> Node:
    parts: dict[str, Any] = {
        "engine": engine,
        "transport": transport,
        "chain_store": FullDisk(),
        "crowd": EmptyStreet(),
        "exchange": None,
        "contributor": None,
        "state_sync": None,
        "trainer": None,
        "load_chain": None,
    }
    return Node(key=KEY, settings=NodeSettings(), listener=listener, **parts)


async def test_a_promise_that_the_disk_refuses_on_an_alarm_ends_the_peer_and_is_never_signed() -> None:
    engine, transport = ScriptedEngine(), SilentTransport()
    node = node_of(engine, transport)
    node.take(do.Tick())
    engine.effects = [do.SavePromise(Promise(3)), do.Send((OTHER,), ready())]
    engine.wake_at = 0.0
    asyncio.get_running_loop().call_soon(node.take, do.Tick())  # as the alarm does
    with pytest.raises(StorageError, match="No space left"):
        await asyncio.wait_for(node.live(), timeout=10)
    assert transport.sent == []


async def test_a_disk_that_refuses_while_a_message_is_taken_in_ends_the_peer() -> None:
    engine, transport = ScriptedEngine(do.SavePromise(Promise(3))), SilentTransport()
    node = node_of(engine, transport)
    node.receive(OTHER, "ready", ready().canonical())
    with pytest.raises(StorageError, match="No space left"):
        await asyncio.wait_for(node.live(), timeout=10)


async def test_an_event_log_that_the_disk_refuses_ends_the_peer_with_a_plain_error() -> None:
    def listener(_: Event) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    node = node_of(ScriptedEngine(do.Tell(Notice("anything"))), SilentTransport(), listener)
    node.take(do.Tick())
    with pytest.raises(StorageError, match=r"No space left.*\n.*run the same command again"):
        await asyncio.wait_for(node.live(), timeout=10)


def ready() -> Ready:
    return Ready(round=1, parent="cd" * 32)
