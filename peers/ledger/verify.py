"""Checking a ledger's export offline, line by line; only accounts and the newest blocks stay in memory.

Nothing in an export is believed but the run's id, which names the recipe, which names its owners and its
first state. From there everything is done again: each signature, each block in its place, the counters, the
drawing of audits, what verdicts lead to, what vests, the tree, and each checkpoint's proof. What is refused
is refused with its line.

An export that ends early is whole as far as it goes. Whether the run went on, and whether its other peers
stand on the same branch, is seen by comparing the last block and the root with theirs.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from peers.credit.accounts import Accounts
from peers.credit.ledger import Ledger
from peers.credit.rfc9162_tree import EMPTY_ROOT, consistent
from peers.credit.rules import CreditRules
from peers.credit.tally import Tally, Totals, totals_of
from peers.ledger.derive import Derivation, Ground, Settled, ground_of
from peers.ledger.lines import (
    MAX_LINE_BYTES,
    CheckpointLine,
    End,
    Header,
    Sums,
    block_in,
    check_version,
    entry_line,
    kind_of,
    parse_line,
)
from peers.ledger.note import key_of, origin_of, parse_note, parse_tree_head
from peers.protocol.messages import Block, Signed, parse
from recipes.errors import DataError, MessageError, RecipeError
from recipes.keys.keys import PeerId
from recipes.publication import check_signed
from recipes.schema.recipe import run_id
from recipes.signature import MAXIMUM_SIGNATURES, OwnerSignature, SignatureFile

REFUSED = "Do not trust this export. Get another, or make one from the chain of a peer of yours."
"""What to do about an export in which something is not as it must be."""

_OBJECTS_BETWEEN_COLLECTIONS = 200_000

Grounds = Callable[[Header], Ground]
"""Returns what a run stands on, once the header's recipe and signature were checked."""

Watch = Callable[[Derivation, Settled], None]
"""Told of each block once it was found valid in its place, and of what it adds. Entries are checked after."""


@dataclass(frozen=True)
class Verified:
    """An export's contents, all of it checked.

    Attributes:
        header: the first line.
        rules: that the run audits and credits by.
        round: of the last block.
        block: the last block's hash, hex.
        final_round: up to which the blocks alone show that nothing can be undone.
        root: of the ledger after the last block.
        checkpoints: how many.
        accounts: after the last block.
        tally: of the entries.
        totals: over all peers.
        claims: how each claim names the one before it.
    """

    header: Header
    rules: CreditRules
    round: int
    block: str
    final_round: int
    root: bytes
    checkpoints: int
    accounts: Accounts
    tally: Tally
    totals: Totals
    claims: ClaimChains


@dataclass
class ClaimChains:
    """How the claims of each peer name the ones before them.

    A claim that no roster took, or whose branch was left, is on no chain, and the next one names it all the
    same. So a claim whose predecessor is not here breaks no rule; many of them say that much work was lost.
    """

    linked: int = 0  # they name the same peer's claim before, on this chain
    first: int = 0  # of their peers, and they name none
    elsewhere: int = 0  # they name one that is not on this chain, or none though there is one
    _newest: dict[PeerId, str] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        """Note a block's claims. The block's check has shown that each reveals the nonce that it owes."""
        for signed in block.roster.body.claims:
            claim = signed.body
            known = self._newest.get(claim.peer)
            if claim.predecessor is not None and claim.predecessor == known:
                self.linked += 1
            elif claim.predecessor is None and known is None:
                self.first += 1
            else:
                self.elsewhere += 1
            self._newest[claim.peer] = signed.hash


class _Lines:
    """The lines of a stream, counted, none longer than any may be."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.number = 0

    def take(self) -> bytes:
        """Return the next line without its end."""
        line = self._stream.readline(MAX_LINE_BYTES + 1)
        self.number += 1
        if not line:
            raise self.refused("the export ends here, without its last line")
        if not line.endswith(b"\n"):
            long = len(line) > MAX_LINE_BYTES
            raise self.refused("a line that is too long" if long else "a line that is cut off")
        return line[:-1]

    def expect_end(self) -> None:
        """Refuse whatever comes after the last line."""
        if self._stream.read(1):
            self.number += 1
            raise self.refused("something after the last line")

    def refused(self, reason: object) -> DataError:
        """Return the error that says what is wrong with the line at hand."""
        return DataError(f"Line {self.number}: {reason}", remedy=REFUSED)


def verify_export(
    stream: BinaryIO, *, grounds: Grounds | None = None, watch: Watch | None = None
) -> Verified:
    """Check an export from its first line to its last.

    Args:
        stream: the export.
        grounds: what a run stands on, instead of what follows from the recipe in the header.
        watch: told of each block. Nothing of it counts before all is verified.

    Raises:
        DataError: something in it is not as it must be; the message names the line and what.
        OutdatedError: it is of another version.
        ModelError: the recipe's model cannot be built here, so its first state is not known.
    """
    lines = _Lines(stream)
    line = lines.take()
    check_version(line)
    try:
        header = cast(Header, parse_line(line, Header))
        ground = (grounds or grounds_of_recipe)(header)
        if run_id(header.recipe.encode()) != header.run:
            raise DataError("The recipe is not the one that names this run.")
    except (DataError, RecipeError) as error:
        raise lines.refused(error.args[0]) from error
    with _rare_collections():
        return _Check(lines, header, ground, watch).run()


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Let Python look for cycles of garbage less often: blocks and accounts make none.

    It looks each time that so many more objects are there, and finds those of the newest blocks, all in use.
    """
    usual = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def grounds_of_recipe(header: Header) -> Ground:
    """Return what a run stands on, from its recipe, if the signatures of enough owners over that hold.

    Raises:
        RecipeError: the recipe is malformed, or too few signatures hold.
        ModelError: its model cannot be built.
    """
    first = OwnerSignature(peer=header.owner, signature=header.signature)
    file = SignatureFile(signatures=[first, *header.more][:MAXIMUM_SIGNATURES]).model_dump_json().encode()
    return ground_of(check_signed(header.recipe.encode(), file, name="the header's recipe"))


class _Check:
    """One pass over an export."""

    def __init__(self, lines: _Lines, header: Header, ground: Ground, watch: Watch | None) -> None:
        self._lines = lines
        self._header = header
        self._rules = ground.rules
        self._derivation = Derivation(ground)
        self._watch = watch
        self._tally = Tally()
        self._claims = ClaimChains()
        self._round = 0
        self._block = ""
        self._noted = (0, EMPTY_ROOT)
        self._noted_round = -1
        self._checkpoints = 0

    def run(self) -> Verified:
        totals = None
        while totals is None:
            line = self._lines.take()
            settled = None
            try:
                kind = kind_of(line)
                if kind == "block":
                    settled = self._take_block(line)
                elif kind == "checkpoint":
                    self._take_checkpoint(line)
                elif kind == "end":
                    totals = self._take_end(line)
                else:
                    raise DataError(f"A line of kind {kind[:32]!r}, where a block, checkpoint or end may be.")
            except (DataError, MessageError) as error:
                raise self._lines.refused(error.args[0]) from error
            if settled is not None:
                self._settle(settled)
        self._lines.expect_end()
        return Verified(
            header=self._header,
            rules=self._rules,
            round=self._round,
            block=self._block,
            final_round=self._derivation.final_round,
            root=self._ledger.root,
            checkpoints=self._checkpoints,
            accounts=self._derivation.accounts,
            tally=self._tally,
            totals=totals,
            claims=self._claims,
        )

    @property
    def _ledger(self) -> Ledger:
        """The ledger after the newest block: its entries are those of the lines so far, byte for byte."""
        return self._derivation.ledger

    def _take_block(self, line: bytes) -> Settled:
        signed = cast(Signed[Block], parse("block", block_in(line), run=self._header.run))
        settled = self._derivation.follow(signed)
        self._round, self._block = signed.body.round, signed.hash
        self._claims.add(signed.body)
        if self._watch is not None:
            self._watch(self._derivation, settled)
        return settled

    def _settle(self, settled: Settled) -> None:
        """Check that the entries that follow are those that the block adds, and no other."""
        ledger = settled.ledger
        for number, entry in enumerate(ledger.leaves, ledger.size - len(ledger.leaves)):
            expected = entry_line(number, entry)
            found = self._lines.take()
            if found != expected:
                raise self._lines.refused(_difference(expected, found, round_number=self._round))
        self._tally.add(settled.entries)

    def _take_checkpoint(self, line: bytes) -> None:
        stated = cast(CheckpointLine, parse_line(line, CheckpointLine))
        if stated.round != self._round or self._noted_round == self._round:
            raise DataError(f"A checkpoint of round {stated.round}, after the block of round {self._round}.")
        note = parse_note(stated.note.encode())
        if note.format() != stated.note:
            raise DataError("A note in another form than the one that is signed.")
        note.verify([key_of(self._header.signer)])
        head = parse_tree_head(note.text)
        if len(note.signatures) != 1 or head.origin != origin_of(self._header.run):
            raise DataError("A checkpoint of another ledger, or with signatures of others.")
        size, root = self._ledger.size, self._ledger.root
        if (head.size, head.root) != (size, root):
            raise DataError(f"A checkpoint of {head.size} entries that is not of the {size} before it.")
        proof = [bytes.fromhex(node) for node in stated.proof]
        if not consistent(*self._noted, size, root, proof):
            raise DataError("A proof that does not lead from the checkpoint before to this one.")
        self._noted, self._noted_round = (size, root), self._round
        self._checkpoints += 1

    def _take_end(self, line: bytes) -> Totals:
        stated = cast(End, parse_line(line, End))
        totals = self._tally.totals()
        if totals_of(self._derivation.accounts) != totals:
            raise DataError("The accounts do not add up to what the entries say.")
        expected = End(
            round=self._round,
            size=self._ledger.size,
            root=self._ledger.root.hex(),
            totals=Sums(**totals.as_json()),
        )
        if stated != expected:
            wrong = [name for name in End.model_fields if getattr(stated, name) != getattr(expected, name)]
            raise DataError(f"The last line is wrong in its {' and '.join(wrong)}, by the lines before it.")
        if self._noted_round != self._round:
            raise DataError("No checkpoint was signed after the last block.")
        return totals


def _difference(expected: bytes, found: bytes, *, round_number: int) -> str:
    """Say how a line differs from the entry that has to stand there."""
    place = next(
        (place for place, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other),
        min(len(expected), len(found)),
    )
    near = slice(max(0, place - 30), place + 30)
    return (
        f"not the entry that the block of round {round_number} leads to: from column {place + 1} on "
        f"{found[near]!r} instead of {expected[near]!r}"
    )
