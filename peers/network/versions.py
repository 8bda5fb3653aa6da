"""Major versions of the protocol: two peers that share none do not understand each other at all.

Within a major version the wire grows (docs/protocol.md, "Growth"). A build of another major version speaks
under other protocol names, so it is reached by none of this one's requests. That it may say so, every peer
answers on `VERSIONS_PROTOCOL`, whose form never changes: a stream on which the answerer writes its versions
at once, as decimal numbers with commas between, and closes.
"""

from __future__ import annotations

from collections.abc import Collection

from recipes.errors import MessageError

SPOKEN = (4,)
VERSIONS_PROTOCOL = "/manyhands/versions"
MAX_ANSWER_BYTES = 64
_MAX_VERSION = 9999


def encode_versions(versions: Collection[int] = SPOKEN) -> bytes:
    """Return the answer that names these versions."""
    return ",".join(map(str, sorted(versions))).encode()


def decode_versions(answer: bytes) -> frozenset[int]:
    """Return the versions that an answer names.

    Raises:
        MessageError: it is too long, or names none.
    """
    words = answer.split(b",")
    if len(answer) > MAX_ANSWER_BYTES or not all(
        word.isdigit() and int(word) <= _MAX_VERSION for word in words
    ):
        raise MessageError("an answer that names no versions")
    return frozenset(map(int, words))


def misfit(theirs: Collection[int]) -> str:
    """Return why this build does not understand peers of these versions, and the remedy; empty if it does."""
    if not theirs or set(theirs) & set(SPOKEN):
        return ""
    newer = min(theirs) > max(SPOKEN)
    remedy = (
        "Install a newer build of Manyhands, and run the same command again."
        if newer
        else "Its peers have not been upgraded: join with the build that they run, or wait until they are."
    )
    spoken = ", ".join(map(str, sorted(theirs)))
    return f"speaks version {spoken} of the protocol, and this build version {max(SPOKEN)}. {remedy}"
