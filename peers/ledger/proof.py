"""The proof that one entry is in a ledger: good by itself, without the rest of the ledger.

A reader that trusts the signer of its checkpoint, or knows the root from elsewhere, need trust nobody else.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from peers.credit.entries import Entry, parse_entry
from peers.credit.rfc9162_tree import includes, leaf_hash
from peers.ledger.note import TreeHead, key_of, origin_of, parse_note, parse_tree_head, sign_note
from peers.ledger.store import LedgerStore
from peers.protocol.messages import Closed, Count, Hash, PeerName
from recipes.errors import DataError, StateError
from recipes.keys.keys import SigningKey

MAX_PROOF_BYTES = 32 << 10


class EntryProof(Closed):
    """An entry, its number, and the hashes that lead from it to the root that `note` signs."""

    kind: Literal["proof"] = "proof"
    run: Hash
    number: Count
    entry: Annotated[Entry, Field(discriminator="kind")]
    proof: Annotated[tuple[Hash, ...], Field(max_length=64)]
    note: Annotated[str, Field(max_length=4096)]
    signer: PeerName


def prove(store: LedgerStore, number: int, *, run: str, key: SigningKey) -> EntryProof:
    """Return the proof that entry `number` is in the ledger in `store`, with a checkpoint signed by `key`.

    Raises:
        StateError: there is no such entry, or it was dropped.
    """
    head = store.head()
    content = next(store.entries(number, number + 1), None)
    if head is None or content is None:
        raise StateError(
            f"There is no entry {number} here: the ledger has {store.size}, from {store.first_kept()} on.",
            remedy="`python -m peers.ledger show` lists entries with their numbers.",
        )
    siblings = store.inclusion_proof(number, head.size)
    note = sign_note(TreeHead(origin_of(run), head.size, head.root).text(), [key])
    return EntryProof(
        run=run,
        number=number,
        entry=parse_entry(content),
        proof=tuple(sibling.hex() for sibling in siblings),
        note=note.format(),
        signer=key.peer_id,
    )


def check_proof(content: bytes) -> tuple[EntryProof, TreeHead]:
    """Check a proof; return it, and the tree that its entry is in.

    Raises:
        DataError: it is malformed, its checkpoint's signature does not hold, or it does not lead there.
    """
    if len(content) > MAX_PROOF_BYTES:
        raise DataError(f"A proof of more than {MAX_PROOF_BYTES} bytes.")
    try:
        proof = EntryProof.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"This is no proof of an entry: {error.errors()[0]['msg']}.") from error
    note = parse_note(proof.note.encode())
    note.verify([key_of(proof.signer)])
    head = parse_tree_head(note.text)
    siblings = [bytes.fromhex(sibling) for sibling in proof.proof]
    holds = includes(head.root, leaf_hash(proof.entry.canonical()), proof.number, head.size, siblings)
    if head.origin != origin_of(proof.run) or not holds:
        raise DataError(
            "The proof does not lead from its entry to the root that its checkpoint signs.",
            remedy="Do not trust it. Get another, or an export of the whole ledger.",
        )
    return proof, head
