"""The proof of an entry counts where it leads to the root that its checkpoint signs, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from rounds import RUN, keys_of

from peers.credit.entries import Join
from peers.ledger.proof import check_proof, prove
from peers.ledger.store import LedgerStore
from recipes.errors import DataError

KEY = keys_of(1)[0]
ENTRIES = [Join(round=1, peer=key.peer_id) for key in keys_of(5)]


@pytest.fixture
def proof(tmp_path: Path) -> bytes:
    """The proof of the fourth of five entries."""
    store = LedgerStore(tmp_path / "ledger.sqlite")
    store.append(round_number=1, block="block", entries=[entry.canonical() for entry in ENTRIES])
    content = prove(store, 3, run=RUN, key=KEY).canonical()
    store.close()
    return content


def test_a_proof_shows_its_entry_and_the_tree_that_it_is_in(proof: bytes) -> None:
    found, head = check_proof(proof)
    assert found.entry == ENTRIES[3]
    assert (found.number, head.size) == (3, 5)


@pytest.mark.parametrize(
    "entry",
    [
        b'{"kind":"join","round":%d}' % 10**30,
        b'{"kind":"join","round":NaN}',
        b'{"kind":"join","round":1e999}',
        b'{"kind":[]}',
        b"[" * 3000,
        ENTRIES[2].canonical(),
    ],
)
def test_what_a_proof_holds_in_place_of_its_entry_is_refused(proof: bytes, entry: bytes) -> None:
    with pytest.raises(DataError):
        check_proof(proof.replace(ENTRIES[3].canonical(), entry))
