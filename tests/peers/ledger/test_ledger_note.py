"""Signed notes and checkpoints: the published example, and what is refused."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import keys_of

from peers.ledger.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Note,
    NoteKey,
    TreeHead,
    key_of,
    origin_of,
    parse_note,
    parse_tree_head,
    sign_note,
)
from recipes.errors import DataError
from recipes.keys.keys import PeerId, SigningKey, verify

# golang.org/x/mod/sumdb/note (BSD licence), its documented example and its verifier key.
PETER = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUg"
    "YN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
PETERS_KEY = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"  # the signature type, then the key
PETERS_ID = "c74f20a3"

ONE, OTHER = keys_of(2)
HEAD = TreeHead(origin_of("ab" * 32), 20852163, bytes(range(32)))


def signed() -> str:
    return sign_note(HEAD.text(), [ONE]).format()


def test_the_published_example_is_read_verified_and_written_as_it_was() -> None:
    key = NoteKey("PeterNeumann", base64.b64decode(PETERS_KEY)[1:])
    assert key.id.hex() == PETERS_ID
    note = parse_note(PETER.encode())
    assert note.verify([key]) == ["PeterNeumann"]
    assert note.format() == PETER
    with pytest.raises(DataError, match="does not hold"):
        parse_note(PETER.replace("cryptography", "cryptographY").encode()).verify([key])


def test_a_checkpoint_says_what_was_signed() -> None:
    note = parse_note(signed().encode())
    assert note.verify([key_of(ONE.peer_id), key_of(OTHER.peer_id)]) == [ONE.peer_id]
    assert parse_tree_head(note.text) == HEAD


def test_the_empty_ledger_has_a_checkpoint_too() -> None:
    head = TreeHead("log", 0, bytes(32))
    assert parse_tree_head(head.text()) == head


def test_several_peers_sign_one_note_and_strangers_are_passed_over() -> None:
    note = parse_note(sign_note(HEAD.text(), [ONE, OTHER]).format().encode())
    assert note.verify([key_of(ONE.peer_id), key_of(OTHER.peer_id)]) == [ONE.peer_id, OTHER.peer_id]
    assert note.verify([key_of(OTHER.peer_id)]) == [OTHER.peer_id]
    with pytest.raises(DataError, match="nobody whose key is known"):
        note.verify([])


def test_a_signature_over_a_note_is_good_for_no_message() -> None:
    signature = ONE.sign_note(HEAD.text().encode())
    assert not verify(ONE.peer_id, "claim", HEAD.text().encode(), signature)
    with pytest.raises(ValueError, match="NUL"):
        ONE.sign_note(b"manyhands/1/claim\x00body")


@settings(deadline=None)
@given(st.integers(0, len(signed().encode()) - 1), st.integers(1, 255))
def test_no_byte_of_a_signed_checkpoint_can_be_changed(place: int, change: int) -> None:
    content = bytearray(signed().encode())
    content[place] ^= change
    with pytest.raises(DataError):
        parse_note(bytes(content)).verify([key_of(ONE.peer_id)])


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_note_or_refused(content: bytes) -> None:
    try:
        note = parse_note(content)
    except DataError:
        return
    assert note.format().encode() == content


@settings(deadline=None)
@given(st.text("log0123456789+-=A/\n ", max_size=100))
def test_any_text_is_a_checkpoint_or_refused(text: str) -> None:
    try:
        head = parse_tree_head(text)
    except DataError:
        return
    assert head.text() == text


SIGNATURE = base64.b64encode(bytes(68)).decode()
MALFORMED = {
    "no empty line": f"text\n— name {SIGNATURE}\n",
    "no signature": "text\n\n",
    "no newline at the end": f"text\n\n— name {SIGNATURE}",
    "another dash": f"text\n\n- name {SIGNATURE}\n",
    "no name": f"text\n\n—  {SIGNATURE}\n",
    "a plus in the name": f"text\n\n— a+b {SIGNATURE}\n",
    "a wide space in the name": f"text\n\n— a\u2003b {SIGNATURE}\n",
    "no base64": "text\n\n— name !!!!\n",
    "a short signature": "text\n\n— name AAAA\n",
    "a carriage return": f"text\r\n\n— name {SIGNATURE}\n",
    "too many signatures": "text\n\n" + f"— name {SIGNATURE}\n" * (MAX_SIGNATURES + 1),
    "too many bytes": "x" * MAX_NOTE_BYTES + f"\n\n— name {SIGNATURE}\n",
    "a peer's signature of another length": Note("text\n", sign_note("text\n", [ONE]).signatures).format()[
        :-6
    ]
    + "\n",
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_note_is_refused(fault: str) -> None:
    with pytest.raises(DataError):
        parse_note(MALFORMED[fault].encode())


ROOT = base64.b64encode(bytes(32)).decode()
NO_CHECKPOINTS = {
    "no origin": f"\n1\n{ROOT}\n",
    "a leading zero": f"log\n01\n{ROOT}\n",
    "a negative size": f"log\n-1\n{ROOT}\n",
    "a size beyond bounds": f"log\n{2**63}\n{ROOT}\n",
    "digits of another script": f"log\n١\n{ROOT}\n",
    "a short root": "log\n1\nAAAA\n",
    "a line that nobody can check": f"log\n1\n{ROOT}\nextension\n",
    "no last newline": f"log\n1\n{ROOT}",
}


@pytest.mark.parametrize("fault", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_refused(fault: str) -> None:
    with pytest.raises(DataError):
        parse_tree_head(NO_CHECKPOINTS[fault])


def test_only_a_peers_name_gives_a_key() -> None:
    with pytest.raises(DataError, match="no peer's name"):
        key_of(PeerId("example.com"))
    assert key_of(SigningKey(bytes(32)).peer_id).public
