"""The notice board: signed presence records, by which the peers of a run find each other.

A notice is small, says where its writer can be reached, and runs out by itself. The keepers of the board
(every peer and every bootstrap peer, through the DHT) take nothing else: known shape, bounded size, valid
signature, posted under its writer's own id on the board of its own run.

Nothing depends on the board but finding a peer: chain, claims and state never go through it.
"""

from __future__ import annotations

import string
from typing import Annotated

import rfc8785
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from recipes.errors import MessageError
from recipes.keys.keys import PeerId, SigningKey, public_key, verify

NOTICE_BYTES = 2048
MOST_ADDRESSES = 8
LIFETIME_SECONDS = 75.0  # of a notice that this peer posts
LONGEST_LIFETIME_SECONDS = 120.0  # of a notice that it keeps: the rest allows for clocks that disagree
_PURPOSE = "presence"
_ADDRESS_CHARACTERS = frozenset(string.ascii_letters + string.digits + "/.:-_%")


def _check_address(address: str) -> str:
    if not address.startswith("/") or not _ADDRESS_CHARACTERS.issuperset(address):
        raise ValueError("not a multiaddr")
    return address


def _check_peer(peer: str) -> str:
    if public_key(PeerId(peer)) is None:
        raise ValueError("not an Ed25519 peer id")
    return peer


Writer = Annotated[PeerId, Field(max_length=64), AfterValidator(_check_peer)]
Address = Annotated[str, Field(min_length=2, max_length=256), AfterValidator(_check_address)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Presence(_Record):
    """One peer's statement that it takes part in a run, and where it can be reached."""

    run: str = Field(pattern=r"^[0-9a-f]{64}$", description="run id")
    peer: Writer = Field(description="the peer's own id")
    addresses: tuple[Address, ...] = Field(max_length=MOST_ADDRESSES, description="multiaddrs, best first")
    round: int = Field(ge=0, lt=2**53, description="the last round that the peer has applied")
    time: int = Field(ge=0, lt=2**53, description="when it was written, by its writer: Unix seconds")


class _Notice(_Record):
    presence: Presence
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


def sign_presence(presence: Presence, key: SigningKey) -> bytes:
    """Return the notice to post: canonical JSON (RFC 8785) with an Ed25519 signature.

    Raises:
        MessageError: the notice is larger than 2 KiB; name fewer addresses.
    """
    record = presence.model_dump(mode="json")
    signature = key.sign(_PURPOSE, rfc8785.dumps(record)).hex()
    notice = rfc8785.dumps({"presence": record, "signature": signature})
    if len(notice) > NOTICE_BYTES:
        raise MessageError(f"A notice of {len(notice)} bytes is too large: {NOTICE_BYTES} are allowed.")
    return notice


def read_presence(notice: bytes) -> Presence:
    """Return what a notice says, once its size, shape and signature are found right.

    Raises:
        MessageError: they are not.
    """
    if len(notice) > NOTICE_BYTES:
        raise MessageError(f"A notice has {len(notice)} bytes; {NOTICE_BYTES} are allowed.")
    try:
        parsed = _Notice.model_validate_json(notice)
    except ValidationError as error:
        raise MessageError(f"A notice is malformed: {error.error_count()} problems.") from error
    presence = parsed.presence
    if rfc8785.dumps(parsed.model_dump(mode="json")) != notice:
        raise MessageError("A notice is not in canonical form.")
    signed = rfc8785.dumps(presence.model_dump(mode="json"))
    if not verify(presence.peer, _PURPOSE, signed, bytes.fromhex(parsed.signature)):
        raise MessageError(f"A notice is not signed by {presence.peer}, whose it claims to be.")
    return presence


def board_name(run_id: str) -> str:
    """Return the name under which the notices of a run are posted."""
    return f"manyhands/{run_id}/peers"


class NoticeBoard:
    """Decides which notices to keep: those of one run, or of any run if `run_id` is None.

    It remembers the writers, and takes at most `capacity` writers at a time: identities cost nothing, so
    somebody could otherwise fill the memory with well-signed notices.
    """

    def __init__(self, run_id: str | None, *, capacity: int = 4096) -> None:
        self._run_id = run_id
        self._capacity = capacity
        self._expires: dict[PeerId, float] = {}

    def check(self, notice: bytes, *, expires: float, now: float) -> Presence:
        """Return what the notice says if it may hang on this board until `expires`; times as by time.time().

        Raises:
            MessageError: it may not.
        """
        if not now <= expires <= now + LONGEST_LIFETIME_SECONDS:  # false for NaN, too
            raise MessageError("A notice has run out, or wants to stay for too long.")
        presence = read_presence(notice)
        if self._run_id not in (None, presence.run):
            raise MessageError("A notice belongs to another run.")
        if expires > presence.time + LONGEST_LIFETIME_SECONDS:  # or old ones could be hung up again for ever
            raise MessageError("A notice wants to stay for longer than its writer may ask.")
        self._register(presence.peer, expires, now)
        return presence

    def _register(self, peer: PeerId, expires: float, now: float) -> None:
        if peer not in self._expires and len(self._expires) >= self._capacity:
            self._expires = {writer: end for writer, end in self._expires.items() if end >= now}
            if len(self._expires) >= self._capacity:
                raise MessageError(f"The notice board is full: {self._capacity} peers.")
        self._expires[peer] = max(expires, self._expires.get(peer, expires))
