"""The ledger's tree against the published vectors of Certificate Transparency, and against its definition."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.credit.rfc9162_tree import (
    EMPTY_ROOT,
    Frontier,
    Place,
    boundary,
    consistency_proof,
    consistent,
    includes,
    inclusion_proof,
    leaf_hash,
    node_hash,
)

# github.com/transparency-dev/merkle (Apache-2.0), testonly/constants.go and proof/verify_test.go.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {  # (leaf, size): proof; the vectors count leaves from 1
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CONSISTENCY = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}

SIZES = st.integers(0, 70)


class Grown:
    """A tree with all its nodes, and its root at each size."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        frontier = Frontier()
        self.kept: dict[Place, bytes] = {}
        self.roots = [frontier.root()]
        for leaf in leaves:
            self.kept.update(frontier.append(leaf_hash(leaf)))
            self.roots.append(frontier.root())

    def nodes(self, level: int, position: int) -> bytes:
        return self.kept[level, position]


def numbered(count: int) -> list[bytes]:
    return [f"entry {number}".encode() for number in range(count)]


def hashes(texts: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


def defined_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, word for word."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = defined_root(leaves[:split]), defined_root(leaves[split:])
    return sha256(b"\x01" + left + right).digest()


def test_hashes_are_those_of_the_published_vectors() -> None:
    leaf, node = leaf_hash(b"L123456"), node_hash(b"N123", b"N456")
    assert leaf.hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node.hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"


def test_roots_are_those_of_the_published_vectors() -> None:
    assert [root.hex() for root in Grown(LEAVES).roots] == ROOTS


@pytest.mark.parametrize(("place", "proof"), INCLUSION.items())
def test_inclusion_proofs_are_those_of_the_published_vectors(
    place: tuple[int, int], proof: tuple[str, ...]
) -> None:
    index, size = place
    assert inclusion_proof(index, size, Grown(LEAVES).nodes) == hashes(proof)
    root = bytes.fromhex(ROOTS[size])
    assert includes(root, leaf_hash(LEAVES[index]), index, size, hashes(proof))


@pytest.mark.parametrize(("sizes", "proof"), CONSISTENCY.items())
def test_consistency_proofs_are_those_of_the_published_vectors(
    sizes: tuple[int, int], proof: tuple[str, ...]
) -> None:
    old, new = sizes
    assert consistency_proof(old, new, Grown(LEAVES).nodes) == hashes(proof)
    assert consistent(old, bytes.fromhex(ROOTS[old]), new, bytes.fromhex(ROOTS[new]), hashes(proof))


@settings(deadline=None)
@given(SIZES)
def test_the_root_is_the_one_that_the_standard_defines(size: int) -> None:
    assert Grown(numbered(size)).roots[-1] == defined_root(numbered(size))


@settings(deadline=None)
@given(st.integers(1, 70), st.data())
def test_every_leaf_of_every_tree_is_proven_and_no_other(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    tree = Grown(numbered(size))
    proof = inclusion_proof(index, size, tree.nodes)
    root, leaf = tree.roots[size], leaf_hash(numbered(size)[index])
    assert includes(root, leaf, index, size, proof)
    other = data.draw(st.integers(-1, size + 1).filter(lambda number: number != index))
    assert not includes(root, leaf, other, size, proof)
    assert not includes(root, leaf_hash(b"another"), index, size, proof)
    assert not includes(root, leaf, index, size, [*proof, root])
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [*proof[:place], bytes(32), *proof[place + 1 :]]
        assert not includes(root, leaf, index, size, changed)
        assert not includes(root, leaf, index, size, proof[:-1])


@settings(deadline=None)
@given(SIZES, SIZES, st.data())
def test_every_tree_is_proven_to_be_the_beginning_of_every_larger_one(
    one: int, other: int, data: st.DataObject
) -> None:
    old, new = sorted((one, other))
    tree = Grown(numbered(new))
    proof = consistency_proof(old, new, tree.nodes)
    old_root, new_root = tree.roots[old], tree.roots[new]
    assert consistent(old, old_root, new, new_root, proof)
    assert not consistent(old, bytes(32), new, new_root, proof)
    assert not consistent(old, old_root, new, bytes(32), proof) or old == 0
    assert not consistent(old, old_root, new, new_root, [*proof, new_root])
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [*proof[:place], bytes(32), *proof[place + 1 :]]
        assert not consistent(old, old_root, new, new_root, changed)
        assert not consistent(old, old_root, new, new_root, proof[:-1])


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_consistency_between_heads_needs_only_what_lies_at_their_boundaries(steps: list[int]) -> None:
    heads = [sum(steps[:count]) for count in range(1, len(steps) + 1)]
    end = heads[-1]
    tree = Grown(numbered(end))
    needed = {place for head in heads for place in boundary(head, end)}
    kept = {place: tree.kept[place] for place in needed}
    for old in heads:
        for new in heads:
            if old <= new:
                proof = consistency_proof(old, new, lambda level, position: kept[level, position])
                assert consistent(old, tree.roots[old], new, tree.roots[new], proof)


def test_a_tree_goes_on_from_its_peaks() -> None:
    whole, half = Frontier(), Frontier()
    for leaf in numbered(11):
        whole.append(leaf_hash(leaf))
        half.append(leaf_hash(leaf))
    again = Frontier(half.size, half.peaks)
    for tree in (whole, again):
        tree.append(leaf_hash(b"one more"))
    assert again.root() == whole.root() != half.root()
    with pytest.raises(ValueError, match="peaks"):
        Frontier(5, half.peaks)


def test_nothing_is_proven_about_leaves_and_trees_that_are_not_there() -> None:
    tree = Grown(numbered(3))
    with pytest.raises(IndexError):
        inclusion_proof(3, 3, tree.nodes)
    with pytest.raises(IndexError):
        consistency_proof(4, 3, tree.nodes)
    assert not consistent(4, tree.roots[3], 3, tree.roots[3], [])
    assert not includes(EMPTY_ROOT, EMPTY_ROOT, 0, 0, [])
