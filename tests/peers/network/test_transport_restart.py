"""When p2pd dies, another one takes its place, and calls work again."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal

import pytest
from p2pd_peers import NOBODY, OpenPeer, Told, echo, open_peer, presence_of

from peers.network.p2pd import supervisor
from peers.network.p2pd.process import Daemon
from peers.network.p2pd.transport import P2pdTransport
from peers.network.transport import Request
from peers.protocol.events import Notice
from recipes.errors import NetworkError, UnreachableError

__all__ = ["open_peer"]  # the fixture


def kill_p2pd(transport: P2pdTransport) -> None:
    os.kill(transport._uplink.daemon.process_id, signal.SIGKILL)


@pytest.mark.parametrize("victim", ["anna", "bert"])
async def test_when_p2pd_is_killed_calls_work_again_in_both_directions(
    open_peer: OpenPeer, victim: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()
    anna = await open_peer("anna", listener=told)
    bert = await open_peer("bert", via=anna, listener=told)
    for peer in (anna, bert):
        peer.serve("echo", echo, limit=10)
        assert await peer.announce(await presence_of(peer))
    addresses = await anna.addresses()
    kill_p2pd({"anna": anna, "bert": bert}[victim])
    notice = await told.next(Notice)
    assert "ended by itself; another one runs now" in notice.text
    assert "p2pd: Peer ID" in notice.text
    assert await anna.addresses() == addresses  # the same port, though the system had chosen it
    assert await bert.call(anna.peer_id, Request("echo", b"there", limit=10, timeout=10)) == b"there"
    assert await anna.call(bert.peer_id, Request("echo", b"back", limit=10, timeout=10)) == b"back"
    await bert.connect(anna.peer_id, addresses)  # as peers do that find each other on the board
    assert set(await anna.roll_call()) | set(await bert.roll_call()) == {anna.peer_id, bert.peer_id}
    assert await anna.announce(await presence_of(anna))
    assert anna.peer_id in await bert.roll_call()
    assert not anna.died.is_set()
    assert not bert.died.is_set()
    gc.collect()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_while_p2pd_is_away_nobody_can_be_reached_and_who_looks_around_waits(
    open_peer: OpenPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PAUSES_SECONDS", (0.0, 3600.0))
    told = Told()
    anna = await open_peer("anna", listener=told)
    addresses = await anna.addresses()
    kill_p2pd(anna)
    with pytest.raises(UnreachableError, match="being started anew"):
        await anna.call(NOBODY, Request("echo", b"", limit=0, timeout=10))
    with pytest.raises(UnreachableError, match="p2pd"):
        await anna.connect(NOBODY, [f"/ip4/127.0.0.1/tcp/9/p2p/{NOBODY}"])
    asked = [asyncio.create_task(anna.addresses()), asyncio.create_task(anna.addresses())]
    await told.next(Notice)
    assert await asyncio.gather(*asked) == [addresses, addresses]
    assert not await anna.connected()


async def test_when_p2pd_cannot_be_started_again_calls_say_so(
    open_peer: OpenPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = await open_peer("anna")
    monkeypatch.setattr(supervisor, "PAUSES_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(Daemon, "start", refuse_to_start)
    kill_p2pd(anna)
    await asyncio.wait_for(anna.died.wait(), 10)
    with pytest.raises(NetworkError, match="p2pd") as caught:
        await anna.call(NOBODY, Request("echo", b"", limit=0, timeout=10))
    assert not isinstance(caught.value, UnreachableError)
    with pytest.raises(NetworkError, match="p2pd died"):
        await anna.addresses()
    assert "p2pd: Peer ID" in anna.last_words()
    assert "could not be started again: no memory" in anna.last_words()


async def refuse_to_start(_: object) -> None:
    raise NetworkError("no memory")


async def test_a_p2pd_that_dies_again_and_again_is_given_up(
    open_peer: OpenPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PAUSES_SECONDS", (0.0, 0.0))
    told = Told()
    anna = await open_peer("anna", listener=told)
    for _ in range(2):
        kill_p2pd(anna)
        await told.next(Notice)
    kill_p2pd(anna)
    await asyncio.wait_for(anna.died.wait(), 10)
