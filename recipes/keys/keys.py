"""Ed25519 keys, and the libp2p peer ids that contain them.

A key file holds libp2p's `PrivateKey` protobuf, so the network daemon reads the same file. A peer id is
the identity multihash of the public key, in base58 (`12D3Koo...`): whoever knows the id can check the
signature, without asking anyone (libp2p specification, peer-ids).
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import NewType

import base58
import nacl.exceptions
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from nacl.bindings import crypto_sign_open

from recipes.errors import IdentityError
from recipes.formats.files import PRIVATE, write_atomic

PeerId = NewType("PeerId", str)

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32
_PROTOBUF_PRIVATE = bytes.fromhex("08011240")  # key_type = Ed25519, data = 64 bytes: seed, public key
_LONGEST_PEER_ID = 64  # those with an Ed25519 key have 52 characters
_PEER_ID_PREFIX = bytes.fromhex("002408011220")  # identity multihash of PublicKey{Ed25519, 32 bytes}
_FIELD = 2**255 - 19
_ORDER_8_Y = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER_Y = frozenset({1, _FIELD - 1, 0, _ORDER_8_Y, _FIELD - _ORDER_8_Y})  # of order 1, 2, 4, 8, 8


class SigningKey:
    """One Ed25519 private key and the peer id that follows from it."""

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.seed = seed
        self._public = self._private.public_key().public_bytes_raw()
        self.peer_id = PeerId(base58.b58encode(_PEER_ID_PREFIX + self._public).decode())

    @classmethod
    def generate(cls) -> SigningKey:
        """Return a fresh key from the operating system's randomness."""
        return cls(os.urandom(32))

    @classmethod
    def from_file_bytes(cls, content: bytes) -> SigningKey:
        """Read a key file's content (libp2p `PrivateKey` protobuf).

        Raises:
            IdentityError: the bytes are not an Ed25519 private key, or its halves do not belong together.
        """
        if len(content) != 68 or not content.startswith(_PROTOBUF_PRIVATE):
            raise IdentityError("This is not an Ed25519 key file in libp2p's format.")
        key = cls(content[4:36])
        if key._public != content[36:]:
            raise IdentityError(
                "The key file is damaged: its public half does not belong to its private half."
            )
        return key

    def file_bytes(self) -> bytes:
        """Return the content of a key file: libp2p's `PrivateKey` protobuf, 68 bytes."""
        return _PROTOBUF_PRIVATE + self.seed + self._public

    def sign(self, purpose: str, body: bytes) -> bytes:
        """Return a 64-byte signature over `body`, bound to `purpose` so that it is good for nothing else."""
        return self._private.sign(_bound(purpose, body))

    def sign_note(self, text: bytes) -> bytes:
        """Return a 64-byte signature over a note's text as it is, as the C2SP signed-note format wants it.

        Raises:
            ValueError: the text holds a NUL, as everything does that `sign` signs: a note is no message.
        """
        if b"\x00" in text:
            raise ValueError("a note holds no NUL")
        return self._private.sign(text)

    def __repr__(self) -> str:
        return f"SigningKey({self.peer_id})"


def verify(peer: PeerId, purpose: str, body: bytes, signature: bytes) -> bool:
    """Say whether `signature` is `peer`'s over `body` for `purpose`. False for a malformed peer id, too.

    libsodium takes half of OpenSSL's time, and is as strict or stricter: both compare R with what it has to
    be byte by byte, and libsodium also refuses R's of small order. So what it takes, OpenSSL takes, and of
    what it refuses OpenSSL has the last word: every peer has to call the same signatures good.
    """
    public = known_public_key(peer)
    if public is None or len(signature) != SIGNATURE_BYTES:
        return False
    bound = _bound(purpose, body)
    try:
        crypto_sign_open(signature + bound, public)
    except nacl.exceptions.BadSignatureError:
        return _openssl_verifies(public, bound, signature)
    return True


@lru_cache(maxsize=8192)
def known_public_key(peer: PeerId) -> bytes | None:
    """Return what `public_key` does, at once for an id that was read lately. `peer` must not be long."""
    return public_key(peer)


def _openssl_verifies(public: bytes, content: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_note(public: bytes, text: bytes, signature: bytes) -> bool:
    """Say whether `signature` over a note's text is that of the 32-byte Ed25519 key `public`."""
    if not is_sound(public) or len(signature) != SIGNATURE_BYTES or b"\x00" in text:
        return False
    return _openssl_verifies(public, text, signature)


def is_sound(public: bytes) -> bool:
    """Whether 32 bytes may be an Ed25519 public key: canonically encoded, and not of small order.

    For a key of small order, anybody can sign anything, and one signature can hold for many messages. RFC
    8032 (5.1.3) has y below the field's prime, and no sign where x is 0, which is so at orders 1 and 2 alone
    (Chalkias, Garillot, Nikolaenko: "Taming the many EdDSAs", 2020). A y that belongs to no point on the
    curve passes here: no signature holds for it.
    """
    if len(public) != PUBLIC_KEY_BYTES:
        return False
    y = int.from_bytes(public, "little") & (2**255 - 1)  # the highest bit is the sign of x
    return y < _FIELD and y not in _SMALL_ORDER_Y


def public_key(peer: PeerId) -> bytes | None:
    """Return the 32 public key bytes inside a peer id, or None if it is not the one id of a sound key."""
    if len(peer) > _LONGEST_PEER_ID or not peer.isalnum():  # b58decode passes over spaces at the end
        return None  # decoding takes time that grows with the square of the length
    try:
        raw = base58.b58decode(peer)
    except ValueError:
        return None
    if not raw.startswith(_PEER_ID_PREFIX) or not is_sound(raw[len(_PEER_ID_PREFIX) :]):
        return None
    return raw[len(_PEER_ID_PREFIX) :]


def load_or_create_key(path: Path) -> SigningKey:
    """Read the key at `path`, or make one there with mode 0600.

    Raises:
        IdentityError: the file is malformed or others may read it.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        key = SigningKey.generate()
        write_atomic(path, key.file_bytes(), mode=PRIVATE)
        return key
    except OSError as error:
        raise IdentityError(f"Cannot read the key file {path}: {error.strerror}.") from error
    if path.stat().st_mode & 0o077:
        raise IdentityError(
            f"The key file {path} can be read by other users of this machine.",
            remedy=f"Make it private with `chmod 600 {path}`, and ask yourself who may have copied it.",
        )
    try:
        return SigningKey.from_file_bytes(content)
    except IdentityError as error:
        raise IdentityError(
            f"{path}: {error}",
            remedy="Restore the file from a backup, or move it away to start with a new identity.",
        ) from error


def _bound(purpose: str, body: bytes) -> bytes:
    return b"manyhands/1/" + purpose.encode() + b"\x00" + body
