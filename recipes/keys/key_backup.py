"""Keys in files that a passphrase protects: PKCS #8 in PEM, as `openssl pkey -in FILE` reads them, too."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from recipes.errors import IdentityError
from recipes.formats.files import PRIVATE, write_atomic
from recipes.keys.keys import SigningKey

MAX_BACKUP_BYTES = 1 << 20
_ENDS = b"-----END ENCRYPTED PRIVATE KEY-----\n"


def write_backup(path: Path, key: SigningKey, passphrase: str, *, notes: bytes = b"") -> None:
    """Write `key`, encrypted, to a new file with mode 0600; `notes`, which are no secret, follow as they are.

    Raises:
        IdentityError: the file is there already, or the passphrase is empty.
        StorageError: the disk refuses.
    """
    must_be_new(path)
    if not passphrase:
        raise IdentityError("A backup needs a passphrase.", remedy="Choose a passphrase of several words.")
    private = Ed25519PrivateKey.from_private_bytes(key.seed)
    encryption = BestAvailableEncryption(passphrase.encode())
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_atomic(path, content + notes, mode=PRIVATE)


def must_be_new(path: Path) -> None:
    """Raise `IdentityError` if there is such a file: no key is written over another."""
    if path.exists():
        raise IdentityError(f"{path} is there already.", remedy="Name a file that is not.")


def read_backup(path: Path, passphrase: str) -> tuple[SigningKey, bytes]:
    """Return the key in a file that `write_backup` wrote, and the notes.

    Raises:
        IdentityError: the file cannot be read, holds no such key, or the passphrase is another.
    """
    content = _encrypted(path)
    try:
        private = load_pem_private_key(content, passphrase.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(
            f"{path} does not open with this passphrase.", remedy="Try again; or the file is damaged."
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise IdentityError(f"{path} holds a key that is not Ed25519.", remedy="Name another file.")
    return SigningKey(private.private_bytes_raw()), content.partition(_ENDS)[2]


def _encrypted(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BACKUP_BYTES + 1)
    except OSError as error:
        raise IdentityError(
            f"Cannot read {path}: {error.strerror}.", remedy="Name the file that the backup wrote."
        ) from error
    if len(content) > MAX_BACKUP_BYTES or _ENDS not in content:
        raise IdentityError(
            f"{path} is no encrypted key.", remedy="Name a file that `python -m peers.identity backup` wrote."
        )
    return content
