"""Writing a ledger's export: all that anyone needs to check it without asking anybody."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from peers.credit.rfc9162_tree import Frontier, Place, consistency_proof, leaf_hash, peaks
from peers.credit.tally import Tally
from peers.ledger.derive import Settled
from peers.ledger.lines import CheckpointLine, End, Header, Sums, block_line, entry_line
from peers.ledger.note import TreeHead, origin_of, sign_note
from recipes.errors import RecipeError
from recipes.keys.keys import PeerId, SigningKey
from recipes.publication import SignedRecipe
from recipes.schema.recipe import run_id
from recipes.signature import holding_signatures, parse_signatures

CHECKPOINT_EVERY = 64  # rounds


@dataclass(frozen=True)
class Exported:
    """What was written: the last round, how many entries, their root, and what they come to."""

    round: int
    tally: Tally
    root: bytes


class GrowingTree:
    """The ledger's tree, with no more of it in memory than the proofs between checkpoints need."""

    def __init__(self) -> None:
        self._frontier = Frontier()
        self._noted = 0  # size of the tree at the last checkpoint
        self._nodes: dict[Place, bytes] = {}

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self._frontier.size

    def root(self) -> bytes:
        """Return the root over all entries so far."""
        return self._frontier.root()

    def append(self, entry: bytes) -> None:
        """Add an entry."""
        self._nodes.update(self._frontier.append(leaf_hash(entry)))

    def note(self) -> list[bytes]:
        """Return the proof that the tree continues the one at the last checkpoint, and make this one that.

        It is made of what was completed since, and of the largest full subtrees from before.
        """
        proof = consistency_proof(self._noted, self.size, lambda level, place: self._nodes[level, place])
        self._noted = self.size
        self._nodes = dict(zip(peaks(0, self.size), self._frontier.peaks, strict=True))
        return proof


def header_of(signed: SignedRecipe, *, signer: PeerId) -> Header:
    """Return the first line of an export, with the signatures of the recipe's owners that hold.

    Raises:
        RecipeError: none is there. `check_signed` finds some in what it returns.
    """
    signatures = parse_signatures(signed.signature)
    holding = holding_signatures(signed.content, signatures, signed.recipe.run.owners)
    if not holding:
        raise RecipeError("No owner of this recipe has signed it.")
    needed = holding[: signed.recipe.run.owner_threshold]
    return Header(
        run=run_id(signed.content),
        recipe=signed.content.decode(),
        owner=needed[0].peer,
        signature=needed[0].signature,
        signer=signer,
        more=needed[1:],
    )


def write_export(
    out: BinaryIO,
    settled: Iterable[Settled],
    *,
    header: Header,
    key: SigningKey,
    every: int = CHECKPOINT_EVERY,
) -> Exported:
    """Write the ledger of a branch, from its first block on.

    Args:
        out: where to.
        settled: the branch.
        header: the first line; `header.signer` is the key's.
        key: signs the checkpoints.
        every: a checkpoint is written after so many rounds, and after the last.

    Raises:
        OSError: `out` takes no more.
    """
    tree, tally = GrowingTree(), Tally()
    out.write(header.canonical() + b"\n")
    last = noted = 0
    for one in settled:
        last = one.block.body.round
        out.write(block_line(one.block) + b"\n")
        for entry in one.ledger.leaves:
            out.write(entry_line(tree.size, entry) + b"\n")
            tree.append(entry)
        tally.add(one.entries)
        if last % every == 0:
            out.write(_checkpoint(tree, last, header, key) + b"\n")
            noted = last
    if noted != last or not last:
        out.write(_checkpoint(tree, last, header, key) + b"\n")
    totals = Sums(**tally.totals().as_json())
    end = End(round=last, size=tree.size, root=tree.root().hex(), totals=totals)
    out.write(end.canonical() + b"\n")
    return Exported(last, tally, tree.root())


def _checkpoint(tree: GrowingTree, round_number: int, header: Header, key: SigningKey) -> bytes:
    head = TreeHead(origin_of(header.run), tree.size, tree.root())
    proof = tuple(node.hex() for node in tree.note())
    note = sign_note(head.text(), [key]).format()
    return CheckpointLine(round=round_number, note=note, proof=proof).canonical()
