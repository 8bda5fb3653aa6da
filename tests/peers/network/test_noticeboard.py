"""The notice board takes signed presence records, each from its writer, and nothing else."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.network.presence import NOTICE_BYTES, NoticeBoard, Presence, read_presence, sign_presence
from recipes.errors import MessageError
from recipes.keys.keys import PeerId, SigningKey

RUN, OTHER_RUN = "ab" * 32, "cd" * 32
NOW = 1_800_000_000
KEY, STRANGER = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)


def presence_of(
    key: SigningKey, *, run: str = RUN, time: int = NOW, addresses: tuple[str, ...] = ()
) -> Presence:
    return Presence(run=run, peer=key.peer_id, addresses=addresses, round=7, time=time)


def test_what_is_signed_is_read_again() -> None:
    presence = presence_of(KEY, addresses=(f"/ip4/203.0.113.5/tcp/31330/p2p/{KEY.peer_id}",))
    assert read_presence(sign_presence(presence, KEY)) == presence


def test_a_notice_signed_by_somebody_else_is_refused() -> None:
    with pytest.raises(MessageError, match="not signed by"):
        read_presence(sign_presence(presence_of(KEY), STRANGER))


@given(place=st.integers(min_value=0), change=st.integers(min_value=1, max_value=255))
def test_a_notice_with_one_changed_byte_is_refused(place: int, change: int) -> None:
    notice = bytearray(sign_presence(presence_of(KEY), KEY))
    notice[place % len(notice)] ^= change
    with pytest.raises(MessageError):
        read_presence(bytes(notice))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(MessageError):
        read_presence(content)


@pytest.mark.parametrize(
    "content", [b"[" * NOTICE_BYTES, b" " * (NOTICE_BYTES + 1), b"null", b'{"presence":{},"signature":""}']
)
def test_nested_oversized_and_empty_notices_are_refused(content: bytes) -> None:
    with pytest.raises(MessageError):
        read_presence(content)


def test_the_same_words_in_another_form_are_refused() -> None:
    notice = sign_presence(presence_of(KEY), KEY)
    with pytest.raises(MessageError, match="canonical"):
        read_presence(notice.replace(b'"round":7', b'"round": 7'))


@pytest.mark.parametrize(
    "wrong",
    [
        {"addresses": ("/ip4/203.0.113.5/tcp/1",) * 9},
        {"addresses": ("/" + "x" * 256,)},
        {"addresses": ("/ip4/\x1b[2J",)},
        {"addresses": ("203.0.113.5",)},
        {"run": "AB" * 32},
        {"run": "ab"},
        {"peer": "QmWrong"},
        {"peer": PeerId("1" * 1000)},
        {"round": -1},
        {"round": True},
        {"time": 2**53},
    ],
)
def test_a_presence_with_a_field_out_of_bounds_cannot_be_made(wrong: dict[str, object]) -> None:
    fields = presence_of(KEY).model_dump()
    with pytest.raises(ValueError, match="validation error"):
        Presence.model_validate({**fields, **wrong})


def test_a_notice_too_large_to_post_is_not_signed() -> None:
    with pytest.raises(MessageError, match="too large"):
        sign_presence(presence_of(KEY, addresses=tuple(f"/{n}" + "x" * 250 for n in range(8))), KEY)


def test_a_board_keeps_notices_of_its_own_run_and_a_bootstrap_peers_board_those_of_any() -> None:
    notice = sign_presence(presence_of(KEY, run=OTHER_RUN), KEY)
    assert NoticeBoard(None).check(notice, expires=NOW + 60, now=NOW).run == OTHER_RUN
    with pytest.raises(MessageError, match="another run"):
        NoticeBoard(RUN).check(notice, expires=NOW + 60, now=NOW)


@pytest.mark.parametrize("expires", [NOW - 1, NOW + 121, math.nan, math.inf, -math.inf])
def test_a_notice_hangs_for_two_minutes_at_most(expires: float) -> None:
    with pytest.raises(MessageError, match="run out"):
        NoticeBoard(RUN).check(sign_presence(presence_of(KEY), KEY), expires=expires, now=NOW)


def test_an_old_notice_cannot_be_hung_up_again() -> None:
    notice = sign_presence(presence_of(KEY, time=NOW - 100), KEY)
    NoticeBoard(RUN).check(notice, expires=NOW + 20, now=NOW)
    with pytest.raises(MessageError, match="longer than its writer may ask"):
        NoticeBoard(RUN).check(notice, expires=NOW + 21, now=NOW)


def test_a_full_board_takes_new_writers_once_old_notices_have_run_out() -> None:
    board = NoticeBoard(RUN, capacity=2)
    keys = [SigningKey(bytes([n]) * 32) for n in range(3)]

    def post(key: SigningKey, now: int) -> None:
        board.check(sign_presence(presence_of(key, time=now), key), expires=now + 60, now=now)

    post(keys[0], NOW)
    post(keys[1], NOW + 30)
    with pytest.raises(MessageError, match="full"):
        post(keys[2], NOW + 30)
    post(keys[1], NOW + 31)  # who is on it may post again
    post(keys[2], NOW + 61)
