"""The notice board over real p2pds: what strangers cannot put on it, and whom nobody dials because of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from hivemind.utils import MSGPackSerializer
from p2pd_peers import NOBODY, RUN, OpenPeer, Told, open_peer, presence_of

from peers.network.dialling import OWN_GROUP_DIALS
from peers.network.discovery import Crowd
from peers.network.p2pd.transport import P2pdTransport
from peers.network.presence import Presence, board_name, sign_presence
from peers.protocol.events import Notice
from recipes.errors import UnreachableError
from recipes.keys.keys import SigningKey

__all__ = ["open_peer"]  # the fixture

BOARD = DHTID.generate(board_name(RUN))
STRANGERS = [SigningKey((1000 + number).to_bytes(32, "big")) for number in range(40)]


def record_of(key: SigningKey, places: Sequence[str] = ()) -> Any:
    """A well-signed notice as it goes through the DHT."""
    presence = Presence(
        run=RUN,
        peer=key.peer_id,
        addresses=tuple(f"{place}/p2p/{key.peer_id}" for place in places),
        round=0,
        time=int(time.time()),
    )
    return MSGPackSerializer.dumps(sign_presence(presence, key))


def dht_of(transport: P2pdTransport) -> Any:
    return transport._uplink.board._node.protocol


def keep(keeper: P2pdTransport, key: SigningKey, places: Sequence[str]) -> None:
    """Let a lying keeper give this notice to all who read the board."""
    dht_of(keeper).storage.store_subkey(BOARD, key.peer_id, record_of(key, places), time.time() + 60)


class ThirdMachine:
    """Listens on some ports, and counts who comes."""

    def __init__(self) -> None:
        self.connections = 0
        self.servers: list[asyncio.Server] = []

    async def listen(self, ports: int) -> list[str]:
        for _ in range(ports):
            self.servers.append(await asyncio.start_server(self._came, "127.0.2.1", 0))
        sockets = [server.sockets[0].getsockname() for server in self.servers]
        return [f"/ip4/{host}/tcp/{port}" for host, port in sockets]

    def _came(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()

    def close(self) -> None:
        for server in self.servers:
            server.close()


async def test_one_client_cannot_hang_up_the_notices_of_others(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    mallory = await open_peer("mallory", via=anna)
    for key in STRANGERS:
        stored = await dht_of(mallory).call_store(
            PeerID.from_base58(anna.peer_id),
            [BOARD],
            [record_of(key)],
            time.time() + 60,
            subkeys=[key.peer_id],
        )
        assert stored == [False]
    assert await mallory.announce(await presence_of(mallory))
    assert set(await anna.roll_call()) == {mallory.peer_id}
    assert anna.came_from(mallory.peer_id) in (await anna.connected())[mallory.peer_id]


async def test_a_keeper_hands_on_nothing_to_whoever_comes(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    for key in STRANGERS:
        keep(anna, key, ())
    bert = await open_peer("bert", via=anna)
    assert set(await bert.roll_call()) == {key.peer_id for key in STRANGERS}  # asked for, they come
    assert dht_of(bert).storage.get(BOARD) is None


async def test_hivemind_calls_no_peer_that_is_not_connected(open_peer: OpenPeer) -> None:
    anna = await open_peer("anna")
    with pytest.raises(UnreachableError, match="not connected"):
        await anna._uplink.board._gate.call_protobuf_handler(PeerID.from_base58(NOBODY), "any", None, None)


async def test_a_lying_keeper_has_a_third_machine_dialled_two_times(
    open_peer: OpenPeer, tmp_path: Path
) -> None:
    mallory = await open_peer("mallory")
    anna = await open_peer("anna", via=mallory)
    victim = ThirdMachine()
    places = await victim.listen(16)
    for number, key in enumerate(STRANGERS):
        keep(mallory, key, [places[(number + port) % 16] for port in range(8)])
    crowd = Crowd(anna, RUN, folder=tmp_path)
    for _ in range(3):
        await crowd.look_around(announce_round=1)
    victim.close()
    assert 1 <= victim.connections <= 2 < OWN_GROUP_DIALS
    assert crowd.peers() == [mallory.peer_id]


async def test_a_newcomer_asks_the_peer_that_it_joined_by_whatever_its_board_holds(
    open_peer: OpenPeer, tmp_path: Path
) -> None:
    anna = await open_peer("anna")
    for key in STRANGERS:
        keep(anna, key, ["/ip4/127.0.2.1/tcp/1"])
    bert = await open_peer("bert", via=anna)
    assert await Crowd(bert, RUN, folder=tmp_path).look_around() == (anna.peer_id,)


async def test_whether_the_peer_that_one_joined_by_takes_part_is_found_out(open_peer: OpenPeer) -> None:
    middle, anna = await open_peer("middle", run_id=None), await open_peer("anna")
    assert not (await open_peer("bert", via=middle)).introducers()[middle.peer_id].takes_part
    assert (await open_peer("carl", via=anna)).introducers()[anna.peer_id].takes_part


async def test_which_of_the_peers_to_join_by_did_not_answer_is_said(
    tmp_path: Path, open_peer: OpenPeer
) -> None:
    anna, told = await open_peer("anna"), Told()
    gone = f"/ip4/127.0.0.1/tcp/1/p2p/{NOBODY}"
    async with await P2pdTransport.open(
        key_path=tmp_path / "bert.key",
        run_id=RUN,
        listen=("/ip4/127.0.0.1/tcp/0",),
        bootstrap=[gone, *await anna.addresses()],
        listener=told,
    ) as bert:
        notice = await told.next(Notice)
        assert gone in notice.text
        assert set(bert.introducers()) == {anna.peer_id, NOBODY}


async def test_a_crowd_of_one_network_leaves_room_for_another_where_the_board_is_read(
    open_peer: OpenPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peers.network.p2pd.board._MOST_NOTICES", 4)
    anna = await open_peer("anna")
    *crowd, alone = STRANGERS
    for key in crowd:
        keep(anna, key, ["/ip4/203.0.113.5/tcp/1"])
    keep(anna, alone, ["/ip4/198.51.100.5/tcp/1"])
    found = await anna.roll_call()
    assert len(found) == 4
    assert alone.peer_id in found
