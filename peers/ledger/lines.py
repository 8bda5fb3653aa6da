"""The lines of a ledger's export: canonical JSON, one object a line, each with its kind.

    header      the run's id, its recipe and an owner's signature, and who signs the checkpoints
    block       a block as the chain holds it; its entries follow
    entry       an entry with its number, from 0 on
    checkpoint  a signed note on the tree after a round, and the proof that it continues the one before
    end         the last round, the tree after it, and the sums

Every line is the one canonical form (RFC 8785) of what it says, so no byte of an export can be changed
without changing what it says.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from peers.protocol.messages import (
    MAX_BLOCK_BYTES,
    Block,
    Closed,
    Count,
    Hash,
    Message,
    PeerName,
    SignatureHex,
    Signed,
)
from recipes.errors import DataError, OutdatedError
from recipes.formats.canonical import canonical_json
from recipes.schema.recipe import MAXIMUM_RECIPE_BYTES
from recipes.signature import MAXIMUM_SIGNATURE_BYTES, MAXIMUM_SIGNATURES, OwnerSignature

FORMAT_VERSION = 3
MAX_LINE_BYTES = MAX_BLOCK_BYTES + 1024  # a block's is the longest
MAX_HEADER_BYTES = (
    2 * MAXIMUM_RECIPE_BYTES + MAXIMUM_SIGNATURE_BYTES
)  # the next longest: of a recipe, some bytes are escaped
_BLOCK_START, _BLOCK_END = b'{"block":', b',"kind":"block"}'
_BODY_START, _SIGNATURE_START, _SIGNED_END = b'{"body":', b',"signature":"', b'"}'
_SIGNATURE_DIGITS = 128


class Header(Closed):
    """The first line. `owner` is an owner of the run, whose signature over `recipe` follows.

    Where the recipe takes several owners, the others' signatures are in `more`, which is left out if empty.
    """

    kind: Literal["header"] = "header"
    version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)] = FORMAT_VERSION
    run: Hash
    recipe: Annotated[str, Field(max_length=MAXIMUM_RECIPE_BYTES)]
    owner: PeerName
    signature: SignatureHex
    signer: PeerName
    more: Annotated[tuple[OwnerSignature, ...], Field(max_length=MAXIMUM_SIGNATURES, fail_fast=True)] = ()

    def canonical(self) -> bytes:
        """Return the line as RFC 8785 canonical JSON."""
        return canonical_json(self.model_dump(mode="json", exclude=None if self.more else {"more"}))


class CheckpointLine(Closed):
    """A note on the tree after `round`; `proof` leads there from the note before, or from nothing."""

    kind: Literal["checkpoint"] = "checkpoint"
    round: Count
    note: Annotated[str, Field(max_length=4096)]
    proof: Annotated[tuple[Hash, ...], Field(max_length=128)]


class Sums(Closed):
    """FLOPs as decimal strings."""

    earned: str
    vested: str
    pending: str
    lost: str


class End(Closed):
    """The last line."""

    kind: Literal["end"] = "end"
    round: Count
    size: Count
    root: Hash
    totals: Sums


def block_line(signed: Signed[Block]) -> bytes:
    """Return a block's line, without its end."""
    return _BLOCK_START + signed.canonical() + _BLOCK_END


def entry_line(number: int, entry: bytes) -> bytes:
    """Return an entry's line, without its end. `entry` is in canonical form."""
    return b'{"entry":%b,"kind":"entry","number":%d}' % (entry, number)


def kind_of(line: bytes) -> str:
    """Return the kind that a line claims to be of, at a glance; an empty string if it has none.

    Blocks and entries are told by how their canonical form begins, without parsing them. What is too long for
    any other line is not parsed either: a thousand wrong keys cost far more memory than their bytes.
    """
    if line.startswith(_BLOCK_START):
        return "block"
    if line.startswith(b'{"entry":'):
        return "entry"
    if len(line) > MAX_HEADER_BYTES:
        return ""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    kind = found.get("kind") if isinstance(found, dict) else None
    return kind if isinstance(kind, str) else ""


def block_in(line: bytes) -> bytes:
    """Return the bytes of the signed block in a line.

    Raises:
        DataError: it is no block's line.
    """
    if not (line.startswith(_BLOCK_START) and line.endswith(_BLOCK_END)):
        raise DataError("This is no line of a block.")
    return line[len(_BLOCK_START) : -len(_BLOCK_END)]


def check_version(line: bytes) -> None:
    """Check that a first line is not that of an export of another version.

    Raises:
        OutdatedError: it is.
    """
    try:
        found = json.loads(line[:MAX_HEADER_BYTES])
    except (ValueError, RecursionError):
        return
    version = found.get("version") if isinstance(found, dict) and found.get("kind") == "header" else None
    if isinstance(version, int) and version > 0 and version != FORMAT_VERSION:
        newer = version > FORMAT_VERSION
        raise OutdatedError(
            f"This export is of version {version}, and this build reads version {FORMAT_VERSION}.",
            remedy="Install a newer build of Manyhands, and run the same command again."
            if newer
            else "Use the build that wrote it: the runs of that time go on with it alone.",
        )


def parse_line(line: bytes, form: type[Header] | type[CheckpointLine] | type[End]) -> Message:
    """Read a header, checkpoint or end.

    Raises:
        DataError: it is longer than any, malformed, or not in canonical form.
    """
    if len(line) > MAX_HEADER_BYTES:
        raise DataError(f"Malformed: {len(line)} bytes; at most {MAX_HEADER_BYTES} are allowed.")
    try:
        found = form.model_validate_json(line)
    except (ValidationError, RecursionError) as error:
        place, reason = "the line", "too deep"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = first["msg"]
            place = next((str(name) for name in first["loc"][:1] if name in form.model_fields), place)
        raise DataError(f"Malformed: {place}: {reason}.") from error
    if found.canonical() != line:
        raise DataError("Not in canonical form (RFC 8785).")
    return found
