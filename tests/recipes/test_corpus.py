"""Text becomes pieces named by hash, the same on every machine, and sequences come back out of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from places import SAMPLES

from recipes.corpus import CorpusManifest, CorpusPiece, Part, TokenArray, parse_manifest
from recipes.errors import DataError
from recipes.formats.blake3_tree import digest
from recipes.layout import PIECE_BYTES
from recipes.packing import DOCUMENT_CHARACTERS, collect_files, divide, documents, pack
from recipes.schema.recipe import Recipe, parse_recipe
from recipes.tokenizer import END_OF_TEXT, load_tokenizer, parse_tokenizer, train_tokenizer

TINY = (SAMPLES / "tiny.toml").read_bytes()
RECIPE = parse_recipe(TINY, name="tiny.toml")


@dataclass(frozen=True)
class Packed:
    """A corpus in a folder."""

    manifest: CorpusManifest
    tokenizer: bytes
    data: Path


def write_texts(folder: Path, *, count: int = 12, characters: int = 400) -> Path:
    words = random.Random(5)
    folder.mkdir()
    for number in range(count):
        text = "".join(words.choice("abcdefgh \n") for _ in range(characters))
        (folder / f"{number:02}.txt").write_text(text)
    return folder


def pack_folder(texts: Path, data: Path, recipe: Recipe = RECIPE) -> Packed:
    files = collect_files([str(texts)], include=recipe.data.include, exclude=recipe.data.exclude)
    source = divide(files, validation_fraction=recipe.data.validation_fraction)
    manifest, tokenizer = pack(recipe, source, data)
    return Packed(manifest, tokenizer, data)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("corpus")
    return pack_folder(write_texts(folder / "texts"), folder / "data")


def names(files: tuple[Path, ...]) -> list[str]:
    return [file.name for file in files]


# Which files


def test_a_folder_gives_its_matching_text_files_sorted(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.py", ".hidden.txt", "sub/d.txt", "private/e.txt", ".git/f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "binary.txt").write_bytes(b"a\x00b")
    assert names(collect_files([str(tmp_path)], include=["*.txt"], exclude=["private"])) == [
        "a.txt",
        "b.txt",
        "d.txt",
    ]


def test_a_file_given_by_name_is_taken_whatever_it_is_called_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("text")
    (tmp_path / "a.txt").write_text("text")
    given = [str(tmp_path / "notes.md"), str(tmp_path / "*.md"), str(tmp_path)]
    assert names(collect_files(given, include=["*.txt"], exclude=[])) == ["notes.md", "a.txt"]


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing at --data .*missing"):
        collect_files([str(tmp_path / "missing")], include=["*"], exclude=[])


def test_a_folder_without_matching_text_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("text")
    with pytest.raises(DataError, match=r"data.include is \['\*.txt'\]"):
        collect_files([str(tmp_path)], include=["*.txt"], exclude=[])


# Documents and parts


def test_documents_join_to_the_text_of_the_files_and_end_with_lines(tmp_path: Path) -> None:
    text = "".join(f"line {number}\r\n" for number in range(20_000))
    (tmp_path / "long.txt").write_bytes(text.encode())
    parts = list(documents([tmp_path / "long.txt"]))
    assert "".join(parts) == text
    assert len(parts) > 1
    assert all(part.endswith("\n") for part in parts)


def test_a_file_without_lines_is_still_cut(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("x" * (5 * DOCUMENT_CHARACTERS))
    assert max(map(len, documents([tmp_path / "line.txt"]))) <= 2 * DOCUMENT_CHARACTERS


def test_bytes_that_are_not_utf8_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert list(documents([tmp_path / "latin.txt"])) == ["caf\ufffd"]


def test_about_the_wanted_share_is_held_out_and_equal_text_never_lands_in_both_parts(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", count=301, characters=30)
    for file in list(texts.iterdir()):
        (texts / f"copy-{file.name}").write_bytes(file.read_bytes())
    files = sorted(texts.iterdir())
    source = divide(files, validation_fraction=0.2)
    assert source.documents == 602
    assert 0.12 < len(source.held_out) / source.documents < 0.28
    held_out = {files[number].name.removeprefix("copy-") for number in source.held_out}
    assert len(held_out) == len(source.held_out) / 2


def test_even_two_documents_can_be_divided_but_one_cannot(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one text")
    with pytest.raises(DataError, match="cannot be divided"):
        divide([tmp_path / "a.txt"], validation_fraction=0.01)
    (tmp_path / "b.txt").write_text("another")
    assert len(divide([tmp_path / "a.txt", tmp_path / "b.txt"], validation_fraction=0.01).held_out) == 1


# The tokenizer


def test_any_text_survives_the_tokenizer() -> None:
    text = "def f(x):\r\n\treturn 'é 漢字 🙂'  \n\n"
    for vocab_size in (257, 300):
        tokenizer = parse_tokenizer(train_tokenizer(["return return return"] * 50, vocab_size=vocab_size))
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_257_tokens_are_bytes_and_more_are_merges() -> None:
    plain = parse_tokenizer(train_tokenizer(["return"] * 50, vocab_size=257))
    merged = parse_tokenizer(train_tokenizer(["return"] * 50, vocab_size=262))
    assert len(plain.encode("return").ids) == 6
    assert len(merged.encode("return").ids) == 1


def test_text_that_spells_the_special_token_does_not_become_it() -> None:
    tokenizer = parse_tokenizer(train_tokenizer([], vocab_size=257))
    assert 0 not in tokenizer.encode(END_OF_TEXT).ids


def test_a_tokenizer_that_is_not_the_named_one_is_refused(tmp_path: Path) -> None:
    content = train_tokenizer([], vocab_size=257)
    (tmp_path / "tokenizer.json").write_bytes(content)
    load_tokenizer(tmp_path / "tokenizer.json", expected=digest(content))
    with pytest.raises(DataError, match="not the tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json", expected=digest(b"other"))
    with pytest.raises(DataError, match="holds no tokenizer"):
        parse_tokenizer(b'{"version": "1.0"}')


# Pieces and sequences


def test_the_same_text_elsewhere_gives_the_same_manifest(tmp_path: Path, packed: Packed) -> None:
    (tmp_path / "elsewhere").mkdir()
    again = pack_folder(write_texts(tmp_path / "elsewhere" / "other"), tmp_path / "data")
    assert again.manifest.hash() == packed.manifest.hash()


def test_every_piece_is_named_by_its_hash(packed: Packed) -> None:
    files = list(packed.data.iterdir())
    listed = [piece for part in (packed.manifest.train, packed.manifest.validation) for piece in part.pieces]
    assert {file.name for file in files} == {piece.hash for piece in listed}
    assert all(digest(file.read_bytes()).hex() == file.name for file in files)


def test_sequences_spell_the_documents_with_an_end_of_text_between(packed: Packed) -> None:
    tokenizer = parse_tokenizer(packed.tokenizer)
    array = TokenArray(packed.data, packed.manifest, "train")
    tokens = array.slice(0, array.tokens)
    assert np.count_nonzero(tokens == 0) + len(divided_texts(packed)) == 12
    first = tokens[: int(np.flatnonzero(tokens == 0)[0])]
    assert len(tokenizer.decode(first.tolist())) == 400


def divided_texts(packed: Packed) -> list[int]:
    array = TokenArray(packed.data, packed.manifest, "validation")
    return [int(at) for at in np.flatnonzero(array.slice(0, array.tokens) == 0)]


def test_neighbouring_sequences_share_one_token_the_target_of_the_last_input(packed: Packed) -> None:
    array = TokenArray(packed.data, packed.manifest, "train")
    assert array.slots == (packed.manifest.train.tokens - 1) // 32
    first, second = array.sequence(0), array.sequence(1)
    assert first.dtype == np.int64
    assert first.shape == (33,)
    assert first[-1] == second[0]
    assert array.sequence(array.slots - 1).shape == (33,)
    with pytest.raises(IndexError):
        array.sequence(array.slots)


def pieces_of(tokens: np.ndarray[tuple[int], np.dtype[np.uint16]], folder: Path) -> Part:
    content = tokens.astype("<u2").tobytes()
    pieces = []
    for start in range(0, len(content), PIECE_BYTES):
        piece = content[start : start + PIECE_BYTES]
        (folder / digest(piece).hex()).write_bytes(piece)
        pieces.append(CorpusPiece(hash=digest(piece).hex(), bytes=len(piece)))
    return Part(tokens=tokens.size, pieces=pieces)


@pytest.fixture
def long_corpus(tmp_path: Path) -> Packed:
    tokens = (
        np.random.default_rng(3).integers(0, 257, size=PIECE_BYTES + 1000).astype(np.uint16)
    )  # three pieces
    manifest = CorpusManifest(
        dtype="uint16",
        sequence_length=1000,
        tokenizer="a" * 64,
        train=pieces_of(tokens, tmp_path),
        validation=pieces_of(tokens[:5000], tmp_path),
    )
    return Packed(manifest, tokens.tobytes(), tmp_path)


def test_a_sequence_may_cross_from_one_piece_into_the_next(long_corpus: Packed) -> None:
    tokens = np.frombuffer(long_corpus.tokenizer, np.uint16)
    array = TokenArray(long_corpus.data, long_corpus.manifest, "train")
    boundary = PIECE_BYTES // 2 // 1000
    for position in (0, boundary, array.slots - 1):
        assert np.array_equal(array.sequence(position), tokens[position * 1000 : position * 1000 + 1001])
    assert np.array_equal(array.slice(array.tokens - 5, 100), tokens[-5:])


def test_a_missing_or_torn_piece_is_named(long_corpus: Packed) -> None:
    piece = long_corpus.data / long_corpus.manifest.train.pieces[1].hash
    piece.write_bytes(piece.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{piece.name} has {PIECE_BYTES - 1} bytes"):
        TokenArray(long_corpus.data, long_corpus.manifest, "train")
    piece.unlink()
    with pytest.raises(DataError, match=f"{piece.name} cannot be read"):
        TokenArray(long_corpus.data, long_corpus.manifest, "train")


def test_text_shorter_than_one_sequence_is_refused(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", count=2, characters=10)
    with pytest.raises(DataError, match="less than one sequence"):
        pack_folder(texts, tmp_path / "data")


# The manifest


def test_a_manifest_comes_back_as_it_was_written(packed: Packed) -> None:
    content = packed.manifest.content()
    assert parse_manifest(content, expected=packed.manifest.hash()) == packed.manifest


def test_another_manifest_than_the_named_one_is_refused(packed: Packed) -> None:
    with pytest.raises(DataError, match="not the one"):
        parse_manifest(packed.manifest.content() + b" ", expected=packed.manifest.hash())


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        (b'"sequence_length":32', b'"sequence_length":32000', "shorter than one sequence"),
        (b'"tokens":', b'"tokens":1', "do not hold"),
        (b'"version":1', b'"version":2', "version"),
        (b'"version":1', b'"path":"x","version":1', "path"),
        (b'"hash":"', b'"hash":"../', "hash"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_even_with_the_right_hash(
    packed: Packed, right: bytes, wrong: bytes, words: str
) -> None:
    content = packed.manifest.content().replace(right, wrong, 1)
    with pytest.raises(DataError, match=words):
        parse_manifest(content, expected=digest(content))
