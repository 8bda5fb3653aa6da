"""Payouts: trees byte-equal to OpenZeppelin's, and addresses that only their own peer can name."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import RUN, keys_of, name

from peers.credit.escrow import Account, Pending
from peers.ledger.openzeppelin_tree import keccak256, leaf, plain_address, proves, standard_tree, tree_array
from peers.ledger.payout import AddressBinding, make_payout, read_bindings, write_payout
from peers.protocol.messages import Signed, sign
from recipes.errors import DataError
from recipes.keys.keys import SigningKey

# github.com/OpenZeppelin/merkle-tree (MIT licence): the example of its README.
PAYMENTS = [
    ("0x1111111111111111111111111111111111111111", 5000000000000000000),
    ("0x2222222222222222222222222222222222222222", 2500000000000000000),
]
ROOT = "0xd4dee0beab2d53f2cc83e567171bd2820e49898130a22622b10ead383e90bd77"
FIRST_LEAF = "eb02c421cfa48976e66dfb29120745909ea3a0f843456c263cf8f1253483e283"
SECOND_LEAF = "b92c48e9d7abe27fd8dfd6b5dfdbfb1c9a463f80c712b66f3a5180a090cccafc"

# The same, test/dumps/standard-v1.sorted.1_0_6.json: the array over six leaves.
ARRAY = [
    "6deb52b5da8fd108f79fab00341f38d2587896634c646ee52e49f845680a70c8",
    "52426e0f1f65ff7e209a13b8c29cffe82e3acaf3dad0a9b9088f3b9a61a929c3",
    "fd3cf45654e88d1cc5d663578c82c76f4b5e3826bacaa1216441443504538f51",
    "8076923e76cf01a7c048400a2304c9a9c23bbbdac3a98ea3946340fdafbba34f",
    "965b92c6cf08303cc4feb7f3e0819c436c2cec17c6f0688a6af139c9a368707c",
    "eba909cf4bb90c6922771d7f126ad0fd11dfde93f3937a196274e1ac20fd2f5b",
    "c62a8cfa41edc0ef6f6ae27a2985b7d39c7fea770787d7e104696c6e81f64848",
    "9cf5a63718145ba968a01c1d557020181c5b252f665cf7386d370eddb176517b",
    "9c15a6a0eaeed500fd9eed4cbeab71f797cefcc67bfd46683e4d2e6ff7f06d1c",
    "9a4f64e953595df82d1b4f570d34c4f4f0cfaf729a61e9d60e83e579e1aa283e",
    "19ba6c6333e0e9a15bf67523e0676e2f23eb8e574092552d5e888c64a4bb3681",
]

ANNA, BEN, CLEO = keys_of(3)
HOMES = [f"0x{digit * 40}" for digit in "123"]


def binding(key: SigningKey, address: str, *, number: int = 0, run: str = RUN) -> Signed[AddressBinding]:
    return sign(key, AddressBinding(run=run, peer=key.peer_id, address=address, number=number))


def write(path: Path, *bindings: Signed[AddressBinding]) -> Path:
    path.write_bytes(b"".join(one.canonical() + b"\n" for one in bindings))
    return path


def test_the_hash_is_the_one_from_before_sha3() -> None:
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


def test_the_published_example_has_the_published_leaves_root_and_proofs() -> None:
    tree = standard_tree(PAYMENTS)
    assert [leaf(payment).hex() for payment in PAYMENTS] == [FIRST_LEAF, SECOND_LEAF]
    assert tree.root == ROOT
    assert tree.proof(0) == ["0x" + SECOND_LEAF]
    assert tree.proof(1) == ["0x" + FIRST_LEAF]
    assert tree.dump() == {
        "format": "standard-v1",
        "leafEncoding": ["address", "uint256"],
        "tree": [ROOT, "0x" + FIRST_LEAF, "0x" + SECOND_LEAF],
        "values": [
            {"value": [PAYMENTS[0][0], "5000000000000000000"], "treeIndex": 1},
            {"value": [PAYMENTS[1][0], "2500000000000000000"], "treeIndex": 2},
        ],
    }


def test_the_array_is_laid_out_as_in_the_published_dump() -> None:
    nodes = [bytes.fromhex(node) for node in ARRAY]
    assert tree_array(sorted(nodes[5:])) == nodes


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2**160 - 1), st.integers(0, 2**256 - 1)), min_size=1, max_size=20))
def test_every_payment_is_proven_and_no_other_amount_is(numbers: list[tuple[int, int]]) -> None:
    payments = [(f"0x{address:040x}", amount) for address, amount in numbers]
    tree = standard_tree(payments)
    for number, payment in enumerate(payments):
        assert proves(tree.root, payment, tree.proof(number))
        other = (payment[0], payment[1] ^ 1)
        assert other in payments or not proves(tree.root, other, tree.proof(number))


def test_no_tree_is_made_of_what_is_no_payment() -> None:
    for wrong in ([], [("0x12", 1)], [(HOMES[0], -1)], [(HOMES[0], 2**256)]):
        with pytest.raises(ValueError, match="payment"):
            standard_tree(wrong)


def test_peers_are_paid_what_they_vested_at_the_addresses_that_they_signed(tmp_path: Path) -> None:
    accounts = {
        ANNA.peer_id: Account(vested=500, pending=(Pending(3, 99),)),
        BEN.peer_id: Account(vested=70),
        CLEO.peer_id: Account(pending=(Pending(3, 1),)),
    }
    path = write(tmp_path / "addresses", *(binding(key, HOMES[0]) for key in (ANNA, CLEO)))
    payout = make_payout(
        accounts, run=RUN, round_number=9, root=bytes(32), bindings=read_bindings(path, run=RUN)
    )
    assert payout.vested == {ANNA.peer_id: 500, BEN.peer_id: 70}
    assert payout.tree == standard_tree([(HOMES[0], 500)])
    write_payout(payout, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "payout.csv").read_text().splitlines()))
    assert {row["peer"]: (row["address"], row["vested_flops"]) for row in rows} == {
        ANNA.peer_id: (HOMES[0], "500"),
        BEN.peer_id: ("", "70"),
    }
    summary = json.loads((tmp_path / "out" / "payout.json").read_bytes())
    assert summary["merkle_root"] == payout.tree.root
    assert summary["without_address"] == [BEN.peer_id]
    assert json.loads((tmp_path / "out" / "tree.json").read_bytes()) == payout.tree.dump()
    [proof] = json.loads((tmp_path / "out" / "proofs.json").read_bytes())
    assert proves(payout.tree.root, (proof["address"], int(proof["amount"])), proof["proof"])


def test_peers_with_one_address_are_one_payment() -> None:
    accounts = {key.peer_id: Account(vested=10) for key in (ANNA, BEN)}
    bindings = {key.peer_id: binding(key, HOMES[1]) for key in (ANNA, BEN)}
    payout = make_payout(accounts, run=RUN, round_number=1, root=bytes(32), bindings=bindings)
    assert payout.tree is not None
    assert payout.tree.payments == ((HOMES[1], 20),)


def test_without_vested_credit_or_addresses_there_is_no_tree(tmp_path: Path) -> None:
    payout = make_payout({}, run=RUN, round_number=1, root=bytes(32), bindings={})
    assert payout.tree is None
    assert {path.name for path in write_payout(payout, tmp_path)} == {"payout.csv", "payout.json"}


def test_the_newest_address_counts(tmp_path: Path) -> None:
    path = write(
        tmp_path / "addresses",
        binding(ANNA, HOMES[1], number=2),
        binding(ANNA, HOMES[2], number=1),
        binding(ANNA, HOMES[1], number=2),
    )
    assert read_bindings(path, run=RUN)[ANNA.peer_id].body.address == HOMES[1]


def test_who_signs_two_addresses_at_once_has_none_and_stops_nobody_else(tmp_path: Path) -> None:
    honest = binding(ANNA, HOMES[0])
    twice = [binding(BEN, HOMES[1], number=1), binding(BEN, HOMES[2], number=1)]
    for lines in (
        [honest, *twice],
        [*reversed(twice), honest],
        [binding(BEN, HOMES[0], number=0), *twice, honest],
    ):
        assert read_bindings(write(tmp_path / "addresses", *lines), run=RUN) == {ANNA.peer_id: honest}
    mended = binding(BEN, HOMES[2], number=2)
    for lines in ([honest, *twice, mended], [mended, *twice, honest]):
        found = read_bindings(write(tmp_path / "addresses", *lines), run=RUN)
        assert found == {ANNA.peer_id: honest, BEN.peer_id: mended}


def test_a_payout_without_addresses_leaves_no_proofs_of_an_earlier_one(tmp_path: Path) -> None:
    accounts = {ANNA.peer_id: Account(vested=10)}
    for bindings in ({ANNA.peer_id: binding(ANNA, HOMES[1])}, {}):
        payout = make_payout(accounts, run=RUN, round_number=1, root=bytes(32), bindings=bindings)
        written = write_payout(payout, tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted(written)


def test_nobody_names_an_address_for_another_or_for_another_run(tmp_path: Path) -> None:
    honest = binding(ANNA, HOMES[0])
    lines = {
        "does not hold": honest.model_copy(
            update={"body": honest.body.model_copy(update={"address": HOMES[2]})}
        ),
        "another run": binding(ANNA, HOMES[0], run=name("another run")),
    }
    for reason, line in lines.items():
        path = write(tmp_path / "addresses", honest, binding(BEN, HOMES[1]), line)
        with pytest.raises(DataError, match=f"line 3: .*{reason}"):
            read_bindings(path, run=RUN)
    for content in (b"{}\n", b"x" * 2000, b"\xff\n"):
        (tmp_path / "addresses").write_bytes(content)
        with pytest.raises(DataError, match="line 1"):
            read_bindings(tmp_path / "addresses", run=RUN)
    with pytest.raises(DataError, match="Cannot read"):
        read_bindings(tmp_path / "none", run=RUN)


def test_a_mistyped_address_is_noticed() -> None:
    checked = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"  # an example of ERC-55
    assert plain_address(checked) == checked.lower()
    assert plain_address(checked.lower()) == checked.lower()
    for wrong in (checked.replace("A", "a", 1), checked[:-1], "0x" + "g" * 40):
        with pytest.raises(DataError):
            plain_address(wrong)


def test_what_is_pending_is_never_paid() -> None:
    account = replace(Account(), pending=(Pending(1, 10),), uncalibrated=5)
    payout = make_payout({ANNA.peer_id: account}, run=RUN, round_number=1, root=bytes(32), bindings={})
    assert payout.vested == {}
