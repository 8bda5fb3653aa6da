"""Requests and responses on a stream: how they are laid out, sent, and read within bounds.

    request    1 byte n, n bytes kind (lower-case ASCII), 4 bytes length, body
    response   1 byte status, 4 bytes length, body (or, if refused, the reason as UTF-8)

Lengths are big-endian. A length is checked before one byte of the body is read, a body is taken in as it
arrives, and memory grows only with what really came. Each stream carries one request and its response. Bytes
pass in steps, each when this peer's own limits allow it (bandwidth.py).
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Callable
from enum import IntEnum

from peers.network.bandwidth import UNLIMITED, Passage
from recipes.errors import ManyhandsError, MessageError, Offence

REASON_BYTES = 512  # of a refusal
HEAD_BYTES = struct.calcsize(">BI")
_KIND = re.compile(rb"[a-z][a-z0-9-]{0,31}")

Count = Callable[[int], None]  # told the number of bytes after each step


class RemoteError(ManyhandsError):
    """A peer answered that it will not or cannot do what it was asked; the message is the peer's reason."""


class Status(IntEnum):
    """How a request went: the first byte of its response."""

    OK = 0
    REFUSED = 1  # asking again would give the same
    BUSY = 2  # asking later may help


def check_kind(kind: str) -> bytes:
    """Return `kind` as it stands in a request.

    Raises:
        ValueError: it is not 1 to 32 characters of a-z, 0-9 and `-`, starting with a letter.
    """
    encoded = kind.encode()
    if not _KIND.fullmatch(encoded):
        raise ValueError(f"{kind!r} cannot name a kind of request")
    return encoded


async def send_request(
    writer: asyncio.StreamWriter, kind: str, body: bytes, *, count: Count, passage: Passage = UNLIMITED
) -> None:
    """Send one request.

    Raises:
        OSError: the stream broke.
    """
    name = check_kind(kind)
    await _send(writer, bytes([len(name)]) + name + struct.pack(">I", len(body)), count, passage)
    await _send(writer, body, count, passage)


def request_head_bytes(kind: str) -> int:
    """Return how many bytes stand before the body of a request of this kind."""
    return 1 + len(kind) + 4


async def read_request_head(reader: asyncio.StreamReader) -> tuple[str, int]:
    """Return a request's kind and the length of its body in bytes; the body is left unread.

    Raises:
        MessageError: the kind is malformed.
        asyncio.IncompleteReadError: the stream ended before the head did.
    """
    (name_bytes,) = await reader.readexactly(1)
    if not 1 <= name_bytes <= 32:
        raise MessageError(
            f"A request's kind has {name_bytes} bytes; 1 to 32 are allowed.", offence=Offence.MALFORMED
        )
    head = await reader.readexactly(name_bytes + 4)
    name = head[:name_bytes]
    if not _KIND.fullmatch(name):
        raise MessageError("A request's kind is not made of a-z, 0-9 and '-'.", offence=Offence.MALFORMED)
    return name.decode(), int.from_bytes(head[name_bytes:], "big")


async def send_response(
    writer: asyncio.StreamWriter, status: Status, body: bytes, *, count: Count, passage: Passage = UNLIMITED
) -> None:
    """Send one response.

    Raises:
        OSError: the stream broke.
    """
    await _send(writer, struct.pack(">BI", status, len(body)), count, passage)
    await _send(writer, body, count, passage)


async def read_response(
    reader: asyncio.StreamReader, *, limit: int, count: Count, passage: Passage = UNLIMITED
) -> bytes:
    """Return a response's body, at most `limit` bytes.

    Raises:
        MessageError: the status is unknown, or the length is above what is allowed.
        RemoteError: the peer refused; the message is its reason.
        asyncio.IncompleteReadError: the stream ended before the response did.
    """
    status, length = struct.unpack(">BI", await read_body(reader, HEAD_BYTES, count=count, passage=passage))
    if status == Status.OK:
        if length > limit:
            raise MessageError(
                f"A response announces {length} bytes where {limit} are allowed.", offence=Offence.OVERSIZED
            )
        return await read_body(reader, length, count=count, passage=passage)
    if status not in (Status.REFUSED, Status.BUSY) or length > REASON_BYTES:
        raise MessageError(
            f"A response has status {status} and {length} bytes: neither done nor refused.",
            offence=Offence.MALFORMED,
        )
    reason = await read_body(reader, length, count=count, passage=passage)
    raise RemoteError(_printable(reason.decode(errors="replace")))


def encode_reason(text: str) -> bytes:
    """Return a refusal's reason as it goes on the wire, at most 512 bytes."""
    return text.encode()[:REASON_BYTES]


async def read_body(
    reader: asyncio.StreamReader, length: int, *, count: Count, passage: Passage = UNLIMITED
) -> bytes:
    """Return exactly `length` bytes, which the caller has found acceptable.

    Raises:
        asyncio.IncompleteReadError: the stream ended early.
    """
    body = bytearray()
    while len(body) < length:
        step = await reader.read(min(passage.step_bytes, length - len(body)))
        if not step:
            raise asyncio.IncompleteReadError(bytes(body[:HEAD_BYTES]), length)
        body += step
        count(len(step))
        await passage.admit(len(step))
    return bytes(body)


async def discard(reader: asyncio.StreamReader, *, passage: Passage = UNLIMITED) -> None:
    """Read and forget until the other side closes."""
    while step := await reader.read(passage.step_bytes):
        await passage.admit(len(step))


async def _send(writer: asyncio.StreamWriter, body: bytes, count: Count, passage: Passage) -> None:
    view = memoryview(body)
    for start in range(0, len(body), passage.step_bytes):
        step = view[start : start + passage.step_bytes]
        await passage.admit(len(step))
        writer.write(step)
        await writer.drain()
        count(len(step))


def _printable(text: str) -> str:
    """Strip what could move the cursor or forge lines on the terminal where the reason is shown."""
    return "".join(character if character.isprintable() else " " for character in text).strip()
