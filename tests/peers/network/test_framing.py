"""Frames are read within bounds, whatever a stranger sends."""

from __future__ import annotations

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.network import framing
from peers.network.framing import RemoteError, Status
from recipes.errors import MessageError


def uncounted(_: int) -> None:
    pass


def stream_of(content: bytes, *, ended: bool = True) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(content)
    if ended:
        reader.feed_eof()
    return reader


def request_head(kind: bytes, length: int) -> bytes:
    return bytes([len(kind)]) + kind + struct.pack(">I", length)


async def test_a_request_head_gives_kind_and_length_and_leaves_the_body_unread() -> None:
    reader = stream_of(request_head(b"piece", 5) + b"hello")
    assert await framing.read_request_head(reader) == ("piece", 5)
    assert await framing.read_body(reader, 5, count=uncounted) == b"hello"


@pytest.mark.parametrize("kind", [b"", b"x" * 33, b"Piece", b"9", b"pi ce", "pié".encode(), b"a\n"])
async def test_a_malformed_kind_is_refused(kind: bytes) -> None:
    with pytest.raises(MessageError):
        await framing.read_request_head(stream_of(request_head(kind, 0)))
    with pytest.raises(ValueError, match="cannot name"):
        framing.check_kind(kind.decode(errors="replace"))


async def test_a_response_that_announces_too_much_is_refused_before_its_body_arrives() -> None:
    head = struct.pack(">BI", Status.OK, 2**32 - 1)
    with pytest.raises(MessageError, match="4294967295 bytes where 10 are allowed"):
        await framing.read_response(stream_of(head, ended=False), limit=10, count=uncounted)


async def test_a_refusal_carries_its_reason_without_control_characters() -> None:
    reason = framing.encode_reason("no such piece\x1b[2J\nError: forged")
    response = struct.pack(">BI", Status.REFUSED, len(reason)) + reason
    with pytest.raises(RemoteError, match=r"^no such piece \[2J Error: forged$"):
        await framing.read_response(stream_of(response), limit=0, count=uncounted)


async def test_a_refusal_without_end_is_not_read() -> None:
    head = struct.pack(">BI", Status.REFUSED, 2**31)
    with pytest.raises(MessageError, match="2147483648 bytes"):
        await framing.read_response(stream_of(head, ended=False), limit=2**32, count=uncounted)


async def test_bytes_are_counted_as_they_arrive_also_when_the_stream_breaks() -> None:
    counted: list[int] = []
    with pytest.raises(asyncio.IncompleteReadError):
        await framing.read_body(stream_of(b"x" * 700), 1000, count=counted.append)
    assert sum(counted) == 700


@given(st.binary(max_size=200))
def test_any_bytes_give_a_response_or_one_of_the_errors_foreseen(content: bytes) -> None:
    async def read() -> None:
        try:
            body = await framing.read_response(stream_of(content), limit=64, count=uncounted)
        except (MessageError, RemoteError, asyncio.IncompleteReadError):
            return
        assert content == struct.pack(">BI", Status.OK, len(body)) + body + content[5 + len(body) :]

    asyncio.run(read())


@given(st.binary(max_size=80))
def test_any_bytes_give_a_request_head_or_one_of_the_errors_foreseen(content: bytes) -> None:
    async def read() -> None:
        try:
            kind, length = await framing.read_request_head(stream_of(content))
        except (MessageError, asyncio.IncompleteReadError):
            return
        assert content.startswith(request_head(kind.encode(), length))

    asyncio.run(read())
