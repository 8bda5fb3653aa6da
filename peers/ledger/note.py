"""Signed notes and checkpoints of the ledger, as transparency logs and their witnesses read them.

A note is a text, an empty line, and signature lines (c2sp.org/signed-note):

    — NAME BASE64(key id, 4 bytes || Ed25519 signature of the text, 64 bytes)

A checkpoint is a note whose text names a log, its size and its root (c2sp.org/tlog-checkpoint). The ledger
follows from the chain and has no operator, so whoever signs one does so under its own name: its peer id, from
which its public key follows. Notes come from anywhere: nothing in them is believed before `verify`.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from peers.credit.rfc9162_tree import HASH_BYTES
from recipes.errors import DataError
from recipes.keys.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, PeerId, SigningKey, public_key, verify_note

MAX_NOTE_BYTES = 64 << 10
MAX_SIGNATURES = 64  # of one note; the specification asks for at least 16
MAX_TREE_SIZE = 2**63 - 1
_ED25519 = b"\x01"  # signature type
_KEY_ID_BYTES = 4
_DASH = "— "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class NoteKey:
    """A public key by the name under which it signs notes."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not _is_name(self.name) or len(self.public) != PUBLIC_KEY_BYTES:
            raise ValueError(f"no name and Ed25519 key of a signer of notes: {self.name!r}")

    @property
    def id(self) -> bytes:
        """The key id that stands in its signatures, 4 bytes."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_KEY_ID_BYTES]


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: not yet verified, and perhaps of a type that is unknown here."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        """Return it as it stands in a note."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True)
class Note:
    """A text that ends in a newline, and the signatures under it."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def format(self) -> str:
        """Return the note as it is sent and kept."""
        return self.text + "\n" + "".join(signature.line() for signature in self.signatures)

    def verify(self, keys: Iterable[NoteKey]) -> list[str]:
        """Return the names of those of `keys` that signed this.

        Signatures of other keys are passed over, as the specification says; one that claims to be of one of
        `keys` and does not hold spoils the whole note.

        Raises:
            DataError: such a signature does not hold, or none of `keys` signed.
        """
        known = {(key.name, key.id): key for key in keys}
        signers = []
        for signature in self.signatures:
            key = known.get((signature.name, signature.key_id))
            if key is None:
                continue
            if not verify_note(key.public, self.text.encode(), signature.signature):
                raise _refused(f"the signature of {key.name} does not hold")
            signers.append(key.name)
        if not signers:
            raise _refused("nobody whose key is known signed it")
        return signers


@dataclass(frozen=True)
class TreeHead:
    """A checkpoint's statement: the root of the tree of `size` leaves of the log `origin`."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def origin_of(run: str) -> str:
    """Return the name of a run's ledger."""
    return f"manyhands/{run}"


def key_of(peer: PeerId) -> NoteKey:
    """Return the key by which a peer signs notes, under its own id.

    Raises:
        DataError: `peer` is no peer id that holds an Ed25519 key.
    """
    public = public_key(peer)
    if public is None:
        raise _refused(f"{peer[:64]!r} is no peer's name")
    return NoteKey(peer, public)


def sign_note(text: str, keys: Sequence[SigningKey]) -> Note:
    """Return a text with the signatures of some peers under it."""
    signed = []
    for key in keys:
        name = key_of(key.peer_id)
        signed.append(NoteSignature(name.name, name.id, key.sign_note(text.encode())))
    return Note(text, tuple(signed))


def parse_note(content: bytes) -> Note:
    """Read a note. Its signatures are not verified yet.

    Raises:
        DataError: it is larger than any, or not of a note's form.
    """
    if len(content) > MAX_NOTE_BYTES:
        raise _refused(f"{len(content)} bytes; at most {MAX_NOTE_BYTES} fit")
    try:
        whole = content.decode()
    except UnicodeDecodeError as error:
        raise _refused("not UTF-8") from error
    if any(ord(character) < 0x20 and character != "\n" for character in whole):
        raise _refused("a control character")
    text, empty_line, lines = whole.rpartition("\n\n")
    if not empty_line or not lines.endswith("\n"):
        raise _refused("no signatures")
    signatures = lines[:-1].split("\n")
    if len(signatures) > MAX_SIGNATURES:
        raise _refused(f"more than {MAX_SIGNATURES} signatures")
    return Note(text + "\n", tuple(_parse_signature(line) for line in signatures))


def parse_tree_head(text: str) -> TreeHead:
    """Read a checkpoint's text. Lines after the third are refused: nobody can check what they say.

    Raises:
        DataError: it is not of a checkpoint's form.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise _refused("not the three lines of a checkpoint")
    origin, size, root = lines[:3]
    if not origin or _SIZE.fullmatch(size) is None or int(size) > MAX_TREE_SIZE:
        raise _refused("not a checkpoint's origin and size")
    head = TreeHead(origin, int(size), _decode(root))
    if len(head.root) != HASH_BYTES:
        raise _refused("not a checkpoint's root")
    return head


def _parse_signature(line: str) -> NoteSignature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or not _is_name(name):
        raise _refused("a malformed signature line")
    content = _decode(encoded)
    if len(content) < _KEY_ID_BYTES + 1:
        raise _refused("a signature that is too short")
    key_id, signature = content[:_KEY_ID_BYTES], content[_KEY_ID_BYTES:]
    if _is_peer(name, key_id) and len(signature) != SIGNATURE_BYTES:
        raise _refused("a signature of another length than Ed25519 has")
    return NoteSignature(name, key_id, signature)


def _is_peer(name: str, key_id: bytes) -> bool:
    public = public_key(PeerId(name))
    return public is not None and NoteKey(name, public).id == key_id


def _is_name(name: str) -> bool:
    """Whether `name` is one that a key may have: no space of any kind, no plus, no control character."""
    return bool(name) and not any(
        character.isspace() or character == "+" or unicodedata.category(character) == "Cc"
        for character in name
    )


def _decode(encoded: str) -> bytes:
    """Decode standard base64 (RFC 4648, section 4), of which there is one form only."""
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused("not base64") from error
    if base64.b64encode(content).decode() != encoded:
        raise _refused("base64 of another form than the standard one")
    return content


def _refused(reason: str) -> DataError:
    return DataError(
        f"This is no signed note that can be trusted: {reason}.",
        remedy="Get it again, unchanged, from the peer that signed it.",
    )
