"""The corpus as peers use it: a manifest that lists pieces of tokens, and arrays mapped from them.

A part (train or validation) is one long row of tokens, cut into pieces of 1 MiB, each a file whose name
is its BLAKE3 hash. Slot position p is the tokens p*L to p*L + L of its part, with L the sequence length:
L inputs, and the same shifted by one as targets. A sequence may cross from one piece into the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recipes.errors import DataError
from recipes.formats.blake3_tree import digest
from recipes.layout import PIECE_BYTES
from recipes.schema.sections import HexHash

PartName = Literal["train", "validation"]
TokenType = Literal["uint16", "uint32"]

MAXIMUM_MANIFEST_BYTES = 64 * 1024 * 1024
_OPEN_PIECES = 64


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CorpusPiece(_Record):
    """One file of tokens, named by the BLAKE3 hash of its content."""

    hash: HexHash
    bytes: int = Field(ge=1, le=PIECE_BYTES)


class Part(_Record):
    """The pieces of one part in order: all of 1 MiB but the last."""

    tokens: int = Field(ge=1)
    pieces: list[CorpusPiece] = Field(min_length=1)


class CorpusManifest(_Record):
    """What manifest.json holds: the whole corpus by hash. Tokens are little-endian integers."""

    version: Literal[1] = 1
    dtype: TokenType
    sequence_length: int = Field(ge=1)
    tokenizer: HexHash
    train: Part
    validation: Part

    @model_validator(mode="after")
    def _pieces_hold_tokens(self) -> CorpusManifest:
        for name, part in (("train", self.train), ("validation", self.validation)):
            if any(piece.bytes != PIECE_BYTES for piece in part.pieces[:-1]):
                raise ValueError(f"a piece of {name} before the last has not {PIECE_BYTES} bytes")
            if sum(piece.bytes for piece in part.pieces) != part.tokens * np.dtype(self.dtype).itemsize:
                raise ValueError(f"the pieces of {name} do not hold {part.tokens} tokens")
            if part.tokens <= self.sequence_length:
                raise ValueError(f"{name} is shorter than one sequence")
        return self

    def part(self, name: PartName) -> Part:
        """Return the part called `name`."""
        return self.train if name == "train" else self.validation

    def slots(self, name: PartName) -> int:
        """Return the number of whole sequences in a part."""
        return (self.part(name).tokens - 1) // self.sequence_length

    def content(self) -> bytes:
        """Return the bytes of manifest.json: canonical JSON (RFC 8785)."""
        return rfc8785.dumps(self.model_dump())

    def hash(self) -> bytes:
        """Return the BLAKE3 hash of `content`, which the recipe names, 32 bytes."""
        return digest(self.content())


def parse_manifest(content: bytes, *, expected: bytes) -> CorpusManifest:
    """Read the content of a manifest.json whose BLAKE3 hash must be `expected`.

    Raises:
        DataError: it is too large, another one than expected, or malformed.
    """
    if len(content) > MAXIMUM_MANIFEST_BYTES or digest(content) != expected:
        raise DataError(
            "manifest.json is not the one that the recipe names.",
            remedy="Remove it: joining fetches it again.",
        )
    try:
        return CorpusManifest.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        raise DataError(
            f"manifest.json is malformed: {place}: {problem['msg']}.",
            remedy="Its publisher must publish the run again.",
        ) from error


class TokenArray:
    """One part of the corpus, mapped from the pieces in a folder.

    Only sizes are checked here: a piece's hash is checked when it arrives.
    """

    def __init__(self, folder: Path, manifest: CorpusManifest, part: PartName) -> None:
        """`folder` holds the pieces, each named by its hash.

        Raises:
            DataError: a piece is missing or has the wrong size.
        """
        self.sequence_length = manifest.sequence_length
        self.tokens = manifest.part(part).tokens
        self.slots = manifest.slots(part)
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._piece_tokens = PIECE_BYTES // self._dtype.itemsize
        self._pieces = [(folder / piece.hash, piece.bytes) for piece in manifest.part(part).pieces]
        self._open: dict[int, npt.NDArray[np.unsignedinteger]] = {}
        for path, size in self._pieces:
            _check_piece(path, size)

    def sequence(self, position: int) -> npt.NDArray[np.int64]:
        """Return the tokens of one slot position, int64 of shape (sequence_length + 1,).

        Raises:
            IndexError: `position` is not between 0 and slots - 1.
            DataError: a piece has gone or changed its size since.
        """
        if not 0 <= position < self.slots:
            raise IndexError(f"slot position {position} of {self.slots}")
        return self.slice(position * self.sequence_length, self.sequence_length + 1)

    def slice(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """Return up to `count` tokens from token `start` on, int64; fewer at the end of the part.

        Raises:
            DataError: a piece has gone or changed its size since.
        """
        out = np.empty(max(0, min(count, self.tokens - start)), dtype=np.int64)
        filled = 0
        while filled < out.size:
            index, offset = divmod(start + filled, self._piece_tokens)
            here = self._piece(index)[offset : offset + out.size - filled]
            out[filled : filled + here.size] = here
            filled += here.size
        return out

    def _piece(self, index: int) -> npt.NDArray[np.unsignedinteger]:
        mapped = self._open.pop(index, None)
        if mapped is None:
            path, size = self._pieces[index]
            _check_piece(path, size)
            mapped = np.memmap(path, dtype=self._dtype, mode="r")
            if len(self._open) >= _OPEN_PIECES:  # a process may hold only so many maps
                del self._open[next(iter(self._open))]
        self._open[index] = mapped  # the most recently used comes last
        return mapped


def _check_piece(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"The piece of data {path} cannot be read: {error.strerror}.",
            remedy="Join again: missing pieces are fetched.",
        ) from error
    if found != size:
        raise DataError(
            f"The piece of data {path} has {found} bytes, but {size} are listed.",
            remedy="Remove it and join again: missing pieces are fetched.",
        )
