"""libp2p through hivemind: streams to other peers, and its DHT as a notice board.

The only module that imports hivemind. It speaks p2pd's control protocol with hivemind's message types, but by
its own calls: hivemind's leak a socket when a call fails or is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hivemind.dht import DHTNode
from hivemind.dht.crypto import DHTRecord, RecordValidatorBase
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2P, PeerID
from hivemind.proto import p2pd_pb2
from hivemind.utils import MSGPackSerializer
from hivemind.utils.logging import use_hivemind_log_handler
from hivemind.utils.multiaddr import Multiaddr
from hivemind.utils.multiaddr.exceptions import Error as MultiaddrError

from peers.network.presence import (
    LIFETIME_SECONDS,
    NoticeBoard,
    Presence,
    board_name,
    read_presence,
    sign_presence,
)
from recipes.errors import MessageError, NetworkError, UnreachableError
from recipes.keys.keys import PeerId, SigningKey

_log = logging.getLogger(__name__)

_CONTROL_BYTES = 1 << 20  # of one control message; p2pd's own stay far below
_NOTICE_RPC_SECONDS = 5.0
_INTRODUCTION_SECONDS = 3.0


class Stream(NamedTuple):
    """One open stream between two peers."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


StreamHandler = Callable[[PeerId, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Streams:
    """p2pd's control socket: this peer's id, connections, and streams in both directions.

    Every method raises NetworkError if p2pd does not answer, for it is then gone.
    """

    def __init__(self, control_socket: Path, stream_socket: Path) -> None:
        self._control_socket = control_socket
        self._stream_socket = stream_socket
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def addresses(self) -> tuple[str, ...]:
        """Return the addresses at which p2pd believes this peer to be reachable, each with its id."""
        response = await self._ask(p2pd_pb2.Request(type=p2pd_pb2.Request.IDENTIFY))
        peer = PeerID(response.identify.id).to_base58()
        return tuple(f"{Multiaddr(address)}/p2p/{peer}" for address in response.identify.addrs)

    async def connect(self, peer: PeerId, places: Iterable[str]) -> None:
        """Connect to `peer` at any of `places`, multiaddrs without peer id.

        Raises:
            UnreachableError: nobody answered there, or not that peer; the message is p2pd's.
        """
        encoded = []
        for place in places:  # a malformed one does not spoil the others
            with contextlib.suppress(MultiaddrError, ValueError):
                encoded.append(Multiaddr(place).to_bytes())
        connect = p2pd_pb2.ConnectRequest(peer=_peer_bytes(peer), addrs=encoded)
        await self._ask(p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=connect))

    async def connected(self) -> frozenset[PeerId]:
        """Return the peers to which a connection is open."""
        response = await self._ask(p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS))
        return frozenset(PeerId(PeerID(info.id).to_base58()) for info in response.peers)

    async def open(self, peer: PeerId, protocol: str) -> Stream:
        """Open a stream to `peer`; the caller closes the writer.

        Raises:
            UnreachableError: the peer cannot be reached, or does not speak `protocol`; the message is p2pd's.
        """
        opening = p2pd_pb2.StreamOpenRequest(peer=_peer_bytes(peer), proto=[protocol])
        async with contextlib.AsyncExitStack() as on_failure:
            stream = await self._connection()
            on_failure.callback(stream.writer.close)
            request = p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=opening)
            await _exchange(stream, request)
            on_failure.pop_all()
        return stream

    async def accept(self, protocol: str, handler: StreamHandler) -> None:
        """Let `handler` deal with each stream that a peer opens for `protocol`; call this once.

        libp2p has authenticated the peer. The stream is closed when the handler returns or fails.
        """

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
                info = p2pd_pb2.StreamInfo()
                info.ParseFromString(await _read_message(reader))
                await handler(PeerId(PeerID(info.peer).to_base58()), reader, writer)

        def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(serve(reader, writer))
            self._serving.add(task)
            task.add_done_callback(self._finished)

        self._server = await asyncio.start_unix_server(start, path=self._stream_socket)
        registration = p2pd_pb2.StreamHandlerRequest(
            addr=Multiaddr(f"/unix{self._stream_socket}").to_bytes(), proto=[protocol], balanced=False
        )
        await self._ask(p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_HANDLER, streamHandler=registration))

    async def close(self) -> None:
        """Stop accepting streams and cancel the handlers that still run."""
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("A request could not be answered because of a fault of ours", exc_info=error)

    async def _ask(self, request: Any) -> Any:
        stream = await self._connection()
        with contextlib.closing(stream.writer):
            return await _exchange(stream, request)

    async def _connection(self) -> Stream:
        try:
            return Stream(*await asyncio.open_unix_connection(self._control_socket))
        except OSError as error:
            raise NetworkError(f"The network daemon p2pd takes no requests: {error.strerror}.") from error


class Board:
    """The notice board in hivemind's DHT, of which this peer keeps a part."""

    def __init__(self, node: Any, p2p: Any, key: SigningKey) -> None:
        self._node = node
        self._p2p = p2p
        self._key = key

    @classmethod
    async def open(cls, control_socket: Path, key: SigningKey, run_id: str | None) -> Board:
        """Take part in the DHT, knowing nobody yet: see `introduce`. Notices of other runs are not kept.

        Raises:
            NetworkError: p2pd does not answer.
        """
        use_hivemind_log_handler("nowhere")  # let its messages go where the program's own go
        try:
            p2p = await P2P.replicate(Multiaddr(f"/unix{control_socket}"))
            node = await DHTNode.create(
                p2p=p2p,
                node_id=DHTID.generate(key.peer_id),  # the same after a restart
                record_validator=_NoticeValidator(NoticeBoard(run_id)),
                wait_timeout=_NOTICE_RPC_SECONDS,
                # Each roll call asks the keepers anew, so caches would only hold what has run out. A search
                # must not wait for another one that may hang. A peer that was away for a night is asked again
                # soon: at the default rate of 2, the time for which a silent peer is ignored doubles without
                # end.
                cache_locally=False,
                cache_nearest=0,
                cache_on_store=False,
                cache_refresh_before_expiry=0,
                cache_size=16,
                reuse_get_requests=False,
                backoff_rate=1.0,
            )
        except (OSError, asyncio.IncompleteReadError) as error:
            raise NetworkError(f"The network daemon p2pd takes no requests: {error}.") from error
        return cls(node, p2p, key)

    async def introduce(self, peer: PeerId) -> bool:
        """Ask a connected peer to keep the board together with this one; False if it does not answer."""
        ping = self._node.protocol.call_ping(PeerID.from_base58(peer))
        try:
            return await asyncio.wait_for(ping, _INTRODUCTION_SECONDS) is not None
        except asyncio.TimeoutError:
            return False

    async def look_around(self) -> None:
        """Learn about more keepers of the board from those that are known."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(
                self._node.find_nearest_nodes([self._node.node_id]), timeout=_INTRODUCTION_SECONDS
            )

    async def post(self, presence: Presence) -> bool:
        """Sign and post; False if no keeper took it, which can be this peer alone.

        Raises:
            MessageError: the notice is too large.
        """
        notice = sign_presence(presence, self._key)
        storing = self._node.store(
            board_name(presence.run), notice, time.time() + LIFETIME_SECONDS, subkey=presence.peer
        )
        try:
            return bool(await asyncio.wait_for(storing, 3 * _NOTICE_RPC_SECONDS))
        except asyncio.TimeoutError:
            return False

    async def read(self, run_id: str) -> dict[PeerId, Presence]:
        """Return the notices of a run, this peer's own included, from those keepers that answer in time."""
        name = board_name(run_id)
        try:
            found = await asyncio.wait_for(self._node.get(name, latest=True), 3 * _NOTICE_RPC_SECONDS)
            notices = [entry.value for entry in found.value.values()] if found else []
        except asyncio.TimeoutError:  # a keeper's malformed answer can make hivemind's search hang
            kept = self._node.protocol.storage.get(DHTID.generate(name))
            notices = [_unpack(entry.value) for _, entry in kept.value.items()] if kept else []
        present = {}
        for notice in notices:
            with contextlib.suppress(MessageError):
                presence = read_presence(notice)
                present[presence.peer] = presence
        return present

    async def close(self) -> None:
        """Leave the DHT. p2pd may be dead already."""
        self._node.is_alive = False
        control = self._p2p._client.control
        await self._p2p.shutdown()  # of hivemind's side only: p2pd is not its child here
        # A p2pd that died broke these. Nobody else asks how they ended, and asyncio would complain of that.
        await asyncio.gather(control._read_task, control._write_task, return_exceptions=True)
        await asyncio.sleep(0)  # the tasks that this cancelled close their sockets


class _NoticeValidator(RecordValidatorBase):  # type: ignore[misc]  # hivemind is untyped
    """Lets into the DHT, and out of it, what a `NoticeBoard` accepts, where it belongs, and nothing else."""

    def __init__(self, board: NoticeBoard) -> None:
        self._board = board

    def validate(self, record: DHTRecord) -> bool:
        expires = record.expiration_time
        if not isinstance(expires, (int, float)):
            return False
        try:
            presence = self._board.check(_unpack(record.value), expires=expires, now=time.time())
        except MessageError:
            return False
        place = (DHTID.generate(board_name(presence.run)).to_bytes(), MSGPackSerializer.dumps(presence.peer))
        return bool((record.key, record.subkey) == place)


def check_address(address: str) -> None:
    """Check that libp2p understands an address.

    Raises:
        NetworkError: it does not; the message says where it stumbled.
    """
    try:
        Multiaddr(address)
    except (MultiaddrError, ValueError) as error:
        raise NetworkError(
            f"{address!r} is not a multiaddr: {error}.",
            remedy="An address to listen on or to announce looks like /ip4/203.0.113.5/tcp/31330.",
        ) from error


def _unpack(value: object) -> bytes:
    """Return the bytes inside a MessagePack `bin`, without a decoder that a stranger could lead astray."""
    if isinstance(value, bytes):
        for head_bytes in (2, 3):
            content = value[head_bytes:]
            if MSGPackSerializer.dumps(content) == value:
                return content
    raise MessageError("A record in the DHT is not a byte string of at most 64 KiB.")


def _peer_bytes(peer: PeerId) -> bytes:
    try:
        return bytes(PeerID.from_base58(peer).to_bytes())
    except ValueError as error:
        raise UnreachableError(f"{peer!r} is not a peer id.") from error


async def _exchange(stream: Stream, request: Any) -> Any:
    encoded = request.SerializeToString()
    response = p2pd_pb2.Response()
    try:
        stream.writer.write(_varint(len(encoded)) + encoded)
        await stream.writer.drain()
        response.ParseFromString(await _read_message(stream.reader))
    except (OSError, asyncio.IncompleteReadError) as error:
        raise NetworkError(f"The network daemon p2pd went away in mid-request: {error}.") from error
    if response.type == p2pd_pb2.Response.ERROR:
        raise UnreachableError(" ".join(str(response.error.msg).split()))  # p2pd lists addresses line by line
    return response


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    """Return one length-prefixed message from p2pd (unsigned varint, as in protobuf)."""
    length = shift = 0
    while True:
        (byte,) = await reader.readexactly(1)
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 28:
            raise NetworkError("The network daemon p2pd sent a malformed length.")
    if length > _CONTROL_BYTES:
        raise NetworkError(f"The network daemon p2pd sent a message of {length} bytes.")
    return await reader.readexactly(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
