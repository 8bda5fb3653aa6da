"""Hostile bytes for what peers.network reads: streams, notices, addresses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

from hostile_subject import KEY, Subject
from pydantic import ValidationError
from rounds import RUN, keys_of

from peers.network import framing
from peers.network.addresses import by_usefulness, is_loopback, pin_ports, split_peer
from peers.network.discovery import PEERS_FILE, remembered_peers
from peers.network.framing import RemoteError, Status
from peers.network.p2pd import board, client
from peers.network.presence import Presence, read_presence, sign_presence
from recipes.errors import MessageError, NetworkError


def _head_of_request(_: Path) -> Subject:
    async def read(content: bytes) -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_data(content)
        reader.feed_eof()
        kind, length = await framing.read_request_head(reader)
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,31}", kind)
        return bytes([len(kind)]) + kind.encode() + struct.pack(">I", length) + await reader.read()

    samples = [b"\x05block\x00\x00\x10\x00", b"\x05pieceAAAA" + b"x" * 9]
    return Subject(samples, lambda content: asyncio.run(read(content)), (MessageError, EOFError), slowness=4)


def _response(_: Path) -> Subject:
    async def read(content: bytes) -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_data(content)
        reader.feed_eof()
        try:
            body = await framing.read_response(reader, limit=100, count=lambda _: None)
        except RemoteError:
            return content
        return struct.pack(">BI", Status.OK, len(body)) + body + await reader.read()

    samples = [struct.pack(">BI", status, 5) + b"hello" for status in Status]
    return Subject(samples, lambda content: asyncio.run(read(content)), (MessageError, EOFError), slowness=4)


def _presence(_: Path) -> Subject:
    samples = []
    for addresses in ((), (f"/ip4/203.0.113.5/tcp/31330/p2p/{KEY.peer_id}", "/dns4/example.org/udp/1")):
        presence = Presence(run=RUN, peer=KEY.peer_id, addresses=addresses, round=7, time=1_800_000_000)
        samples.append(sign_presence(presence, KEY))
    return Subject(samples, lambda content: sign_presence(read_presence(content), KEY))


def _presence_unsigned(_: Path) -> Subject:
    """What a liar can sign."""

    def read(content: bytes) -> bytes:
        presence = Presence.model_validate_json(content)
        by_usefulness(presence.addresses)
        pin_ports(["/ip4/0.0.0.0/tcp/0"], presence.addresses)
        for address in presence.addresses:
            is_loopback(address)
            with contextlib.suppress(NetworkError):
                split_peer(address)
            with contextlib.suppress(NetworkError):
                client.check_address(address)
        return json.dumps(presence.model_dump(mode="json")).encode()

    addresses = (
        f"/ip6/2001:db8::1/tcp/1/p2p/{KEY.peer_id}",
        "/ip4/1.2.3.4/udp/9/quic",
        "/dns4/example.org/tcp/1",
    )
    presence = Presence(run=RUN, peer=KEY.peer_id, addresses=addresses, round=7, time=1)
    return Subject([presence.model_dump_json().encode()], read, (ValidationError,), exact=False)


def _dht_record(_: Path) -> Subject:
    """A byte string in MessagePack: `bin 8` or `bin 16`, whichever is the shortest that holds it."""

    def pack(content: bytes) -> bytes:
        head = (
            b"\xc4" + bytes([len(content)]) if len(content) < 256 else struct.pack(">BH", 0xC5, len(content))
        )
        return head + content

    return Subject(
        [pack(bytes(300)), pack(b"notice"), pack(b"")], lambda content: pack(board._unpack(content))
    )


def _addresses(_: Path) -> Subject:
    """As text, from a command line, a file or a notice."""

    def read(content: bytes) -> bytes:
        text = content.decode()
        is_loopback(text)
        place, peer = split_peer(text)
        client.check_address(text)
        return f"{place}/p2p/{peer}".encode()

    samples = [f"/ip4/203.0.113.5/tcp/31330/p2p/{KEY.peer_id}", f"/ip6/::1/udp/0/quic/p2p/{KEY.peer_id}"]
    return Subject([s.encode() for s in samples], read, (NetworkError, UnicodeDecodeError))


def _peers_file(folder: Path) -> Subject:
    """On our own disk, but written down from notices, and disks rot."""

    def read(content: bytes) -> bytes:
        (folder / PEERS_FILE).write_bytes(content)
        return json.dumps(remembered_peers(folder)).encode()

    samples = [json.dumps({key.peer_id: ["/ip4/1.2.3.4/tcp/1"] for key in keys_of(3)}).encode(), b"{}"]
    return Subject(samples, read, (), exact=False, slowness=20)


NETWORK_SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "head of a request": _head_of_request,
    "response": _response,
    "presence": _presence,
    "presence by a liar": _presence_unsigned,
    "record in the DHT": _dht_record,
    "addresses": _addresses,
    "peers.json": _peers_file,
}
