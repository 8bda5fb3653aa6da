"""Making a corpus: from text files to tokens, held-out text and pieces named by their hash.

The same files give the same pieces on any machine, wherever they lie. Files are read in portions of
about 64 KiB, called documents, so that a corpus of one file can be divided and none has to fit into memory.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from recipes.corpus import CorpusManifest, CorpusPiece, Part, TokenType
from recipes.errors import DataError
from recipes.formats.blake3_tree import digest
from recipes.formats.files import write_atomic
from recipes.layout import PIECE_BYTES
from recipes.model import END_OF_TEXT_ID
from recipes.schema.recipe import Recipe
from recipes.tokenizer import parse_tokenizer, train_tokenizer

DOCUMENT_CHARACTERS = 1 << 16
_SNIFFED_BYTES = 8192
_BATCH_DOCUMENTS = 32


@dataclass(frozen=True)
class SourceText:
    """The files of a corpus and which of their documents, by number, are held out for validation."""

    files: tuple[Path, ...]
    documents: int
    held_out: frozenset[int]


def collect_files(
    paths: Sequence[str], *, include: Sequence[str], exclude: Sequence[str]
) -> tuple[Path, ...]:
    """Return the text files that `paths` mean, each once.

    A path is a file, taken as it is; a folder, searched for names that match `include`; or a glob pattern.
    What a folder holds is sorted by its path within. Hidden files, files with NUL bytes, and everything
    below a folder that matches `exclude` are left out.

    Raises:
        DataError: a path leads nowhere, or no text file is found.
    """
    found: dict[Path, None] = {}
    for given in paths:
        matches = [Path(given)]
        if not matches[0].exists():  # Path.glob takes no absolute patterns
            matches = sorted(map(Path, glob.glob(given, recursive=True)))  # noqa: PTH207
        if not matches:
            raise DataError(
                f"There is nothing at --data {given}.",
                remedy="Give files, folders or glob patterns that exist.",
            )
        for match in matches:
            files = _files_below(match, include, exclude) if match.is_dir() else [match]
            found.update((path.resolve(), None) for path in files if _is_text(path))
    if not found:
        raise DataError(
            f"No text files were found in {', '.join(paths)}.",
            remedy=f"The recipe's data.include is {list(include)} and data.exclude is {list(exclude)}.",
        )
    return tuple(found)


def divide(files: Sequence[Path], *, validation_fraction: float) -> SourceText:
    """Choose the documents to hold out by their hash, so that the same text is never in both parts.

    Raises:
        DataError: there is only one document, or a file cannot be read.
    """
    hashes = [digest(text.encode()) for text in documents(files)]
    share = [int.from_bytes(value[:8], "big") / 2**64 for value in hashes]
    held_out = frozenset(number for number, value in enumerate(share) if value < validation_fraction)
    if not held_out and len(set(hashes)) > 1:  # a small corpus: hold out the one nearest to it
        held_out = frozenset(number for number, value in enumerate(share) if value == min(share))
    if not held_out or len(held_out) == len(hashes):
        raise DataError(
            "The corpus cannot be divided into training and validation text. "
            f"Its number of documents of up to {DOCUMENT_CHARACTERS} characters is {len(hashes)}.",
            remedy="Give more text, or another data.validation_fraction.",
        )
    return SourceText(files=tuple(files), documents=len(hashes), held_out=held_out)


def documents(files: Iterable[Path]) -> Iterator[str]:
    """Yield the text of `files` in order, in portions that end with a line where possible.

    Bytes that are not UTF-8 become U+FFFD.

    Raises:
        DataError: a file cannot be read.
    """
    for path in files:
        try:
            with path.open(encoding="utf-8", errors="replace", newline="") as stream:
                while text := stream.read(DOCUMENT_CHARACTERS):
                    yield text + stream.readline(DOCUMENT_CHARACTERS)
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def pack(
    recipe: Recipe,
    source: SourceText,
    folder: Path,
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[CorpusManifest, bytes]:
    """Train the tokenizer on the training text and write both parts as pieces into `folder`.

    Args:
        recipe: a template or published recipe.
        source: from `divide`.
        folder: gets one file per piece, named by its hash.
        progress: is told how many documents are done.

    Returns:
        The manifest, and the content of tokenizer.json.

    Raises:
        DataError: a part is shorter than one sequence, or a file cannot be read.
        StorageError: a piece cannot be written.
    """
    training = (text for number, text in enumerate(documents(source.files)) if number not in source.held_out)
    tokenizer_file = train_tokenizer(training, vocab_size=recipe.tokenizer.vocab_size)
    tokenizer = parse_tokenizer(tokenizer_file)
    dtype: TokenType = "uint16" if recipe.tokenizer.vocab_size <= 1 << 16 else "uint32"
    train, validation = _PieceWriter(folder, dtype), _PieceWriter(folder, dtype)
    numbered = enumerate(documents(source.files))
    done = 0
    while batch := list(islice(numbered, _BATCH_DOCUMENTS)):
        for (number, _), tokens in zip(batch, _tokenise(tokenizer, [text for _, text in batch]), strict=True):
            (validation if number in source.held_out else train).append(tokens)
        done += len(batch)
        if progress is not None:
            progress(done)
    parts = {"train": train.finish(), "validation": validation.finish()}
    for name, part in parts.items():
        if part.tokens <= recipe.data.sequence_length:
            raise DataError(
                f"The {name} text has {part.tokens} tokens: less than one sequence and its last target.",
                remedy="Give more text, or a smaller data.sequence_length.",
            )
    manifest = CorpusManifest(
        dtype=dtype,
        sequence_length=recipe.data.sequence_length,
        tokenizer=digest(tokenizer_file).hex(),
        train=parts["train"],
        validation=parts["validation"],
    )
    return manifest, tokenizer_file


class _PieceWriter:
    """Gathers tokens and writes each full piece."""

    def __init__(self, folder: Path, dtype: TokenType) -> None:
        self._folder = folder
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._buffer = bytearray()
        self._pieces: list[CorpusPiece] = []
        self._tokens = 0

    def append(self, tokens: list[int]) -> None:
        self._tokens += len(tokens)
        self._buffer += np.array(tokens, dtype=self._dtype).tobytes()
        while len(self._buffer) >= PIECE_BYTES:
            self._write(bytes(self._buffer[:PIECE_BYTES]))
            del self._buffer[:PIECE_BYTES]

    def finish(self) -> Part:
        if self._buffer:
            self._write(bytes(self._buffer))
        return Part(tokens=self._tokens, pieces=self._pieces)

    def _write(self, content: bytes) -> None:
        name = digest(content).hex()
        write_atomic(self._folder / name, content)
        self._pieces.append(CorpusPiece(hash=name, bytes=len(content)))


def _tokenise(tokenizer: Tokenizer, texts: list[str]) -> Iterator[list[int]]:
    for encoding in tokenizer.encode_batch_fast(texts):
        yield [*encoding.ids, END_OF_TEXT_ID]


def _files_below(folder: Path, include: Sequence[str], exclude: Sequence[str]) -> list[Path]:
    files = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts):
        names = path.relative_to(folder).parts
        if any(name.startswith(".") or _matches(name, exclude) for name in names):
            continue
        if _matches(path.name, include) and path.is_file():
            files.append(path)
    return files


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return b"\x00" not in stream.read(_SNIFFED_BYTES)
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {error.strerror}.", remedy="Make it readable, or leave it out."
        ) from error
