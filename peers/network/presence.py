"""The notice board: signed presence records, by which the peers of a run find each other.

A notice is small, says where its writer can be reached, and runs out by itself. The keepers of the board
(every peer and every bootstrap peer, through the DHT) take nothing else: known shape, bounded size, valid
signature, posted by its writer under the writer's own id on the board of its own run.

Nothing depends on the board but finding a peer: chain, claims and state never go through it.
"""

from __future__ import annotations

import string
from collections import OrderedDict
from dataclasses import dataclass
from random import Random
from typing import Annotated

import rfc8785
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from peers.network.network_groups import Places, group_of
from recipes.errors import MessageError
from recipes.keys.keys import PeerId, SigningKey, public_key, verify

NOTICE_BYTES = 2048
MOST_ADDRESSES = 8
LIFETIME_SECONDS = 75.0  # of a notice that this peer posts
LONGEST_LIFETIME_SECONDS = 120.0  # of a notice that it keeps: the rest allows for clocks that disagree
READER_LEEWAY_SECONDS = 30.0
LEAST_PAUSE_SECONDS = 1.0  # between two notices of one writer
_MOST_READ = 1024  # notices whose signature is known to hold
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
    """One peer's statement that it takes part in a run, and where it can be reached.

    Fields of later builds are carried along and signed over, as in messages (peers/protocol/signed.py).
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

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
    try:
        written = rfc8785.dumps(parsed.model_dump(mode="json"))
    except rfc8785.CanonicalizationError as error:
        raise MessageError("A notice holds what has no canonical form.") from error
    if written != notice:
        raise MessageError("A notice is not in canonical form.")
    signed = rfc8785.dumps(presence.model_dump(mode="json"))
    if not verify(presence.peer, _PURPOSE, signed, bytes.fromhex(parsed.signature)):
        raise MessageError(f"A notice is not signed by {presence.peer}, whose it claims to be.")
    return presence


def board_name(run_id: str) -> str:
    """Return the name under which the notices of a run are posted."""
    return f"manyhands/{run_id}/peers"


class NoticeReader:
    """Reads notices that others keep: those of one run, or of any run if `run_id` is None.

    A keeper's clock and this one's may disagree, and what the keepers took is theirs to answer for: hence the
    leeway. One bad notice spoils all that its keeper gives (hivemind checks answers as wholes).
    """

    def __init__(self, run_id: str | None) -> None:
        self._run_id = run_id
        self._read: OrderedDict[bytes, Presence] = OrderedDict()  # each keeper gives the same ones

    def read(
        self, notice: bytes, *, expires: float, now: float, leeway: float = READER_LEEWAY_SECONDS
    ) -> Presence:
        """Return what the notice says if it may hang until `expires`; times as by time.time().

        Raises:
            MessageError: it may not.
        """
        if not now - leeway <= expires <= now + LONGEST_LIFETIME_SECONDS + leeway:  # false for NaN, too
            raise MessageError("A notice has run out, or wants to stay for too long.")
        presence = self._read.get(notice)
        if presence is None:
            presence = self._read[notice] = read_presence(notice)
            if len(self._read) > _MOST_READ:
                self._read.popitem(last=False)
        if self._run_id not in (None, presence.run):
            raise MessageError("A notice belongs to another run.")
        if expires > presence.time + LONGEST_LIFETIME_SECONDS:  # or old ones could be hung up again for ever
            raise MessageError("A notice wants to stay for longer than its writer may ask.")
        return presence


@dataclass(frozen=True)
class _Kept:
    expires: float
    came_from: str


class NoticeBoard:
    """Decides which notices this peer keeps for others: those of one run, or of any run if `run_id` is None.

    A notice is hung up by its writer alone, over a connection, and has its place by the network which that
    connection comes from (network_groups.py): identities cost nothing, so somebody could otherwise fill the
    board with well-signed notices.
    """

    def __init__(self, run_id: str | None, *, salt: bytes, chance: Random) -> None:
        self._reader = NoticeReader(run_id)
        self._places: Places[tuple[str, PeerId]] = Places(salt=salt, chance=chance)
        self._kept: dict[tuple[str, PeerId], _Kept] = {}

    def check(self, notice: bytes, *, poster: PeerId, expires: float, now: float) -> Presence:
        """Return what a notice says that `poster` brings; times as by time.time().

        Raises:
            MessageError: it may not hang here until `expires`.
        """
        presence = self._reader.read(notice, expires=expires, now=now, leeway=0.0)
        if presence.peer != poster:
            raise MessageError("A notice is brought by another peer than its writer.")
        return presence

    def hangs_already(self, presence: Presence, *, expires: float) -> bool:
        """Whether a notice of the writer hangs here that is hardly older, and stays in place of this one."""
        before = self._kept.get((presence.run, presence.peer))
        return before is not None and expires < before.expires + LEAST_PAUSE_SECONDS

    def hang(
        self, presence: Presence, *, came_from: str, expires: float, now: float
    ) -> tuple[str, PeerId] | None:
        """Keep what was checked, which came from the address `came_from`.

        Returns the run and the writer of the notice that had to give way for it, if one had to.
        """
        self._take_down_old(now)
        place = (presence.run, presence.peer)
        gave_way = self._places.take(place, group_of(came_from))
        if gave_way is not None:
            del self._kept[gave_way]
        self._kept[place] = _Kept(expires, came_from)
        return gave_way

    def came_from(self, run: str, peer: PeerId) -> str | None:
        """Return the address from which a peer brought the notice that hangs here; None if none does."""
        place = self._kept.get((run, peer))
        return place.came_from if place is not None else None

    def _take_down_old(self, now: float) -> None:
        for place in [place for place, kept in self._kept.items() if kept.expires < now]:
            self._places.leave(place)
            del self._kept[place]
