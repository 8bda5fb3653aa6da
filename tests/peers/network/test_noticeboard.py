"""The notice board takes signed presence records, each from its writer, and nothing else."""

from __future__ import annotations

import json
import math
from random import Random

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from peers.network.presence import (
    NOTICE_BYTES,
    NoticeBoard,
    NoticeReader,
    Presence,
    read_presence,
    sign_presence,
)
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


def board_of(run: str | None = RUN) -> NoticeBoard:
    return NoticeBoard(run, salt=bytes(32), chance=Random(1))


def check(
    board: NoticeBoard, key: SigningKey, *, expires: float, run: str = RUN, time: int = NOW
) -> Presence:
    notice = sign_presence(presence_of(key, run=run, time=time), key)
    return board.check(notice, poster=key.peer_id, expires=expires, now=NOW)


def hang(board: NoticeBoard, key: SigningKey, *, came_from: str, now: int = NOW) -> PeerId | None:
    """Bring a notice as a peer does over a connection; return whose had to give way."""
    notice = sign_presence(presence_of(key, time=now), key)
    presence = board.check(notice, poster=key.peer_id, expires=now + 60, now=now)
    gave_way = board.hang(presence, came_from=came_from, expires=now + 60, now=now)
    return gave_way[1] if gave_way is not None else None


def keys(count: int, *, first: int = 0) -> list[SigningKey]:
    return [SigningKey(number.to_bytes(32, "big")) for number in range(first, first + count)]


def test_a_board_keeps_notices_of_its_own_run_and_a_bootstrap_peers_board_those_of_any() -> None:
    assert check(board_of(None), KEY, run=OTHER_RUN, expires=NOW + 60).run == OTHER_RUN
    with pytest.raises(MessageError, match="another run"):
        check(board_of(), KEY, run=OTHER_RUN, expires=NOW + 60)


@pytest.mark.parametrize("expires", [NOW - 1, NOW + 121, math.nan, math.inf, -math.inf])
def test_a_notice_hangs_for_two_minutes_at_most(expires: float) -> None:
    with pytest.raises(MessageError, match="run out"):
        check(board_of(), KEY, expires=expires)


def test_an_old_notice_cannot_be_hung_up_again() -> None:
    check(board_of(), KEY, time=NOW - 100, expires=NOW + 20)
    with pytest.raises(MessageError, match="longer than its writer may ask"):
        check(board_of(), KEY, time=NOW - 100, expires=NOW + 21)


def test_a_notice_is_brought_by_its_writer_alone() -> None:
    notice = sign_presence(presence_of(KEY), KEY)
    with pytest.raises(MessageError, match="another peer than its writer"):
        board_of().check(notice, poster=STRANGER.peer_id, expires=NOW + 60, now=NOW)


def test_a_writers_notice_is_replaced_once_a_second_at_most() -> None:
    board, presence = board_of(), presence_of(KEY)
    assert not board.hangs_already(presence, expires=NOW + 60)
    hang(board, KEY, came_from="/ip4/203.0.113.5/tcp/1")
    assert board.hangs_already(presence, expires=NOW + 60.9)
    assert not board.hangs_already(presence, expires=NOW + 61)


def test_what_a_reader_finds_may_have_run_out_on_its_way_but_not_long_ago() -> None:
    notice, reader = sign_presence(presence_of(KEY), KEY), NoticeReader(RUN)
    assert reader.read(notice, expires=NOW - 29, now=NOW).peer == KEY.peer_id
    with pytest.raises(MessageError, match="run out"):
        reader.read(notice, expires=NOW - 31, now=NOW)


def test_thousands_of_identities_at_one_address_get_sixteen_places_and_honest_notices_are_all_taken() -> None:
    board = board_of()
    honest = {
        key.peer_id: f"/ip4/198.51.{number}.7/tcp/1" for number, key in enumerate(keys(20, first=10_000))
    }
    on_board: set[PeerId] = set()

    def bring(key: SigningKey, came_from: str) -> None:
        gave_way = hang(board, key, came_from=came_from)
        on_board.add(key.peer_id)
        on_board.discard(gave_way or PeerId(""))

    liars = keys(4600)
    for key in liars[:2300]:
        bring(key, "/ip4/203.0.113.5/tcp/1")
    for key in keys(20, first=10_000):
        bring(key, honest[key.peer_id])
    for key in liars[2300:]:
        bring(key, "/ip4/203.0.113.200/tcp/9")
    assert honest.keys() <= on_board
    assert len(on_board - honest.keys()) <= 16
    assert board.came_from(RUN, next(iter(honest))) == honest[next(iter(honest))]


def test_a_place_is_free_again_once_its_notice_has_run_out() -> None:
    board = board_of()
    for key in keys(16):
        assert hang(board, key, came_from="/ip4/203.0.113.5/tcp/1") is None
    assert hang(board, STRANGER, came_from="/ip4/203.0.113.5/tcp/1", now=NOW + 61) is None
    assert board.came_from(RUN, keys(1)[0].peer_id) is None


def test_a_notice_of_a_later_build_is_read_with_what_it_adds() -> None:
    record = json.loads(sign_presence(presence_of(KEY), KEY))["presence"] | {
        "reachability": "relayed",
        "zz": [1],
    }
    signature = KEY.sign("presence", rfc8785.dumps(record)).hex()
    notice = rfc8785.dumps({"presence": record, "signature": signature})
    assert read_presence(notice).round == presence_of(KEY).round
    spoilt = notice.replace(b'"relayed"', b'"nowhere"')
    with pytest.raises(MessageError, match="not signed"):
        read_presence(spoilt)
    for value in (b"1e999", b"1.0", b"9007199254740993"):
        with pytest.raises(MessageError, match=r"canonical|malformed"):
            read_presence(notice.replace(b'"relayed"', value))
