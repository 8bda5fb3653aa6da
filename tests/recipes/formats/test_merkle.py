"""Merkle trees: RFC 9162's shape, and paths that prove what they should and nothing else."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from recipes.formats import blake3_tree

Leaves = st.lists(st.binary(max_size=8), min_size=1, max_size=70).map(
    lambda items: [blake3_tree.leaf_hash(item) for item in items]
)


def root_by_definition(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 9162 section 2.1.1 defines it: split at the largest power of two below n."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return blake3_tree.node_hash(root_by_definition(leaves[:split]), root_by_definition(leaves[split:]))


@given(Leaves)
def test_the_root_is_the_one_of_rfc_9162(leaves: list[bytes]) -> None:
    assert blake3_tree.root(leaves) == root_by_definition(leaves)


def test_the_empty_tree_has_the_root_of_nothing() -> None:
    assert blake3_tree.root([]) == blake3(b"").digest()


def test_a_leaf_cannot_pass_for_a_node() -> None:
    left, right = blake3_tree.leaf_hash(b"a"), blake3_tree.leaf_hash(b"b")
    assert blake3_tree.leaf_hash(left + right) != blake3_tree.node_hash(left, right)


@given(Leaves, st.data())
def test_a_path_leads_from_its_leaf_to_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    siblings = blake3_tree.path(leaves, index)
    assert blake3_tree.root_from_path(leaves[index], index, len(leaves), siblings) == blake3_tree.root(leaves)


@given(Leaves, st.data())
def test_another_leaf_place_or_path_does_not(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    siblings = blake3_tree.path(leaves, index)
    root = blake3_tree.root(leaves)
    assert (
        blake3_tree.root_from_path(blake3_tree.leaf_hash(b"another leaf"), index, len(leaves), siblings)
        != root
    )
    assert blake3_tree.root_from_path(leaves[index], index, len(leaves), [*siblings, root]) is None
    if siblings:
        assert blake3_tree.root_from_path(leaves[index], index, len(leaves), siblings[:-1]) is None
        bent = [bytes(32), *siblings[1:]]
        assert blake3_tree.root_from_path(leaves[index], index, len(leaves), bent) != root


@pytest.mark.parametrize("index", [-1, 3])
def test_a_place_outside_the_tree_has_no_path(index: int) -> None:
    leaves = [blake3_tree.leaf_hash(bytes([number])) for number in range(3)]
    with pytest.raises(IndexError):
        blake3_tree.path(leaves, index)
    assert blake3_tree.root_from_path(leaves[0], index, 3, []) is None
