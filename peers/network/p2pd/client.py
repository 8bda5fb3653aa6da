"""libp2p through p2pd: connections and streams to other peers.

This speaks p2pd's control protocol with hivemind's message types, but by its own calls: hivemind's leak a
socket when a call fails or is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hivemind.p2p import PeerID
from hivemind.proto import p2pd_pb2
from hivemind.utils.multiaddr import Multiaddr
from hivemind.utils.multiaddr.exceptions import Error as MultiaddrError

from recipes.errors import NetworkError, UnreachableError
from recipes.keys.keys import PeerId

_log = logging.getLogger(__name__)

_CONTROL_BYTES = 1 << 20  # of one control message; p2pd's own stay far below


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

    async def connections(self) -> Mapping[PeerId, tuple[str, ...]]:
        """Return the peers to which connections are open, each with the addresses at their other ends."""
        response = await self._ask(p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS))
        found: dict[PeerId, tuple[str, ...]] = {}
        for info in response.peers:  # one for each connection
            peer = PeerId(PeerID(info.id).to_base58())
            found[peer] = (*found.get(peer, ()), *(str(Multiaddr(address)) for address in info.addrs))
        return found

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

    async def accept(self, handlers: Mapping[str, StreamHandler]) -> None:
        """Let the handler of its protocol deal with each stream that a peer opens; call this once.

        libp2p has authenticated the peer. The stream is closed when the handler returns or fails.
        """

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
                info = p2pd_pb2.StreamInfo()
                info.ParseFromString(await _read_message(reader))
                await handlers[info.proto](PeerId(PeerID(info.peer).to_base58()), reader, writer)

        def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(serve(reader, writer))
            self._serving.add(task)
            task.add_done_callback(self._finished)

        self._server = await asyncio.start_unix_server(start, path=self._stream_socket)
        registration = p2pd_pb2.StreamHandlerRequest(
            addr=Multiaddr(f"/unix{self._stream_socket}").to_bytes(), proto=list(handlers), balanced=False
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
