"""The accounts as bytes, the same at every peer, and their hash: blocks carry it, and snapshots the bytes.

The bytes are canonical JSON of all that `Accounts` holds (recipes/formats/canonical_values.py). They are cut
into pieces of 1 MiB, and the hash is the root over these, as for all else in a snapshot. So each piece can be
checked by itself against hashes that lead to the one in the chain.

A block changes some dozens of accounts. The others are the same objects, which keep their texts; what is left
is to join and to hash.
"""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from peers.credit.accounts import Accounts
from peers.protocol.messages import PeerName
from recipes.errors import MessageError, Offence
from recipes.formats import blake3_tree
from recipes.formats.canonical_values import CanonicalForm
from recipes.keys.keys import PeerId
from recipes.layout import PIECE_BYTES

MOST_ACCOUNTS_PIECES = 256  # about a million accounts


_PEER_NAME: TypeAdapter[PeerId] = TypeAdapter(PeerName)


def _is_peer(name: str) -> bool:
    try:
        _PEER_NAME.validate_python(name)
    except ValidationError:
        return False
    return True


_FORM = CanonicalForm(Accounts, checks={PeerId: _is_peer})


def canonical_accounts(accounts: Accounts) -> bytes:
    """Return the accounts as canonical JSON (RFC 8785); whole numbers are decimal strings."""
    return _FORM.write(accounts).encode()


def parse_accounts(content: bytes) -> Accounts:
    """Return the accounts whose canonical JSON this is. The caller checks its hash.

    Raises:
        MessageError: it is too long, malformed, or not in canonical form.
    """
    try:
        return _FORM.read(content, limit=MOST_ACCOUNTS_PIECES * PIECE_BYTES)
    except ValueError as error:
        raise MessageError(f"Malformed accounts: {error}.", offence=Offence.MALFORMED) from error


def pieces_of(content: bytes) -> list[memoryview]:
    """Return the pieces of the accounts' bytes: 1 MiB each, and one that may be shorter."""
    view = memoryview(content)
    return [view[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]


def leaves_of(content: bytes) -> tuple[bytes, ...]:
    """Return the leaf hash of each piece of the accounts' bytes, 32 bytes each."""
    return tuple(blake3_tree.leaf_hash(piece) for piece in pieces_of(content))
