"""Joined parts and fixed-size requests: what comes back is what was sent, and nothing else is taken."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.protocol.length_prefixed import join_parts, split_parts
from peers.protocol.messages import MAX_PEERS
from peers.protocol.requests import (
    DATA_REQUEST_BYTES,
    PIECE_REQUEST_BYTES,
    ROUND_BYTES,
    SPOT_REQUEST_BYTES,
    Span,
    SpotCheck,
    StatePiece,
    decode_data,
    decode_piece,
    decode_round,
    decode_spot_check,
    encode_data,
    encode_piece,
    encode_round,
    encode_spot_check,
)
from recipes.errors import MessageError


@given(parts=st.lists(st.binary(max_size=40), max_size=8))
def test_what_was_joined_comes_apart_again(parts: list[bytes]) -> None:
    assert split_parts(join_parts(parts), most=8) == parts


def test_more_parts_than_allowed_are_refused() -> None:
    with pytest.raises(MessageError, match="more parts"):
        split_parts(join_parts([b""] * 3), most=2)


@pytest.mark.parametrize("torn", [b"\x01", b"\x01\x00\x00", b"\x01\x00\x00\x00", b"\xff\xff\xff\xff123"])
def test_a_torn_part_is_refused(torn: bytes) -> None:
    with pytest.raises(MessageError):
        split_parts(join_parts([b"whole"]) + torn, most=8)


@given(data=st.binary(max_size=200))
def test_any_bytes_come_apart_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(MessageError):
        assert join_parts(split_parts(data, most=16)) == data


@given(round_number=st.integers(0, 2**53 - 1))
def test_a_round_survives_the_way(round_number: int) -> None:
    assert len(encode_round(round_number)) == ROUND_BYTES
    assert decode_round(encode_round(round_number)) == round_number


@pytest.mark.parametrize(
    "piece",
    [
        StatePiece("weights", 7),
        StatePiece("momentum", 2**32 - 1),
        StatePiece("counters", 0),
        StatePiece("accounts", 255),
    ],
)
def test_a_request_for_a_piece_survives_the_way(piece: StatePiece) -> None:
    span = Span(65536, 2**32 - 1)
    body = encode_piece(12, piece, span)
    assert len(body) == PIECE_REQUEST_BYTES
    assert decode_piece(body) == (12, piece, span)


def test_a_request_for_data_survives_the_way() -> None:
    body = encode_data(bytes(range(32)), Span(7, 9))
    assert len(body) == DATA_REQUEST_BYTES
    assert decode_data(body) == (bytes(range(32)).hex(), Span(7, 9))


def test_a_span_is_what_it_says_as_far_as_there_is_anything() -> None:
    assert Span(2, 3).of(b"abcdefg") == b"cde"
    assert Span(5, 9).of(b"abcdefg") == b"fg"
    assert Span(9, 9).of(b"abcdefg") == b""


def test_a_spot_check_of_the_largest_roster_survives_the_way() -> None:
    spot = SpotCheck("ab" * 32, 1023, 2**31, tuple(range(MAX_PEERS)))
    body = encode_spot_check(spot)
    assert len(body) == SPOT_REQUEST_BYTES
    assert decode_spot_check(body) == spot


def test_a_spot_check_of_more_parts_than_a_roster_has_claims_is_refused() -> None:
    """Each costs the reducer the hashes of a whole segment."""
    with pytest.raises(MessageError, match="too many"):
        decode_spot_check(encode_spot_check(SpotCheck("ab" * 32, 1, 2, (0,) * (MAX_PEERS + 1))))


def test_a_round_that_no_chain_reaches_is_refused() -> None:
    """A database counts in 63 bits, a message in 53."""
    for number in (2**53, 2**64 - 1):
        with pytest.raises(MessageError, match="no round"):
            decode_round(number.to_bytes(8, "little"))
        with pytest.raises(MessageError, match="no round"):
            decode_piece(number.to_bytes(8, "little") + bytes(5))


def test_pieces_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(MessageError, match="kind 4"):
        decode_piece(bytes(8) + b"\x04" + bytes(4))


@given(body=st.binary(max_size=220))
def test_any_bytes_are_a_request_or_are_refused(body: bytes) -> None:
    for decode in (decode_round, decode_piece, decode_data, decode_spot_check):
        with contextlib.suppress(MessageError):
            decode(body)
