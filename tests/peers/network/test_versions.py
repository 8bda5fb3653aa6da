"""Major versions of the protocol: what is answered, and what is told to a peer that shares none."""

from __future__ import annotations

import pytest

from peers.network.versions import MAX_ANSWER_BYTES, SPOKEN, decode_versions, encode_versions, misfit
from recipes.errors import MessageError


def test_an_answer_names_the_versions_that_are_spoken() -> None:
    assert decode_versions(encode_versions()) == set(SPOKEN)
    assert decode_versions(encode_versions((3, 12))) == {3, 12}


@pytest.mark.parametrize(
    "answer", [b"", b",", b"3,", b"three", b"-3", b"3 ", b"10000", b"1" * 65, b"3," * 40, "³".encode()]
)
def test_an_answer_that_names_none_is_refused(answer: bytes) -> None:
    with pytest.raises(MessageError):
        decode_versions(answer)
    assert len(encode_versions(range(20))) <= MAX_ANSWER_BYTES


def test_a_peer_that_shares_no_version_is_told_which_of_the_two_is_to_be_upgraded() -> None:
    assert misfit({max(SPOKEN)}) == ""
    assert misfit({max(SPOKEN), 99}) == ""
    assert misfit(set()) == ""
    assert "Install a newer build" in misfit({max(SPOKEN) + 1})
    assert "have not been upgraded" in misfit({min(SPOKEN) - 1})
