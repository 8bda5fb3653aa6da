"""A published run as a folder: what publishing makes, and what a peer keeps of it under its home.

recipe.toml                what to train; its hash is the run id
recipe.sig                 the owners' signatures over recipe.toml
tokenizer.json             named by hash in the recipe
manifest.json              named by hash in the recipe; lists the data
data/HASH                  pieces of tokens, named by hash in the manifest
snapshots/0/weights.f32    the first weights, named by Merkle root in the recipe
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from recipes.corpus import MAXIMUM_MANIFEST_BYTES, CorpusManifest, PartName, parse_manifest
from recipes.errors import DataError, RecipeError
from recipes.formats.blake3_tree import digest
from recipes.genesis import GENESIS_WEIGHTS, weights_root
from recipes.keys.keys import PeerId
from recipes.schema.recipe import MAXIMUM_RECIPE_BYTES, Recipe, parse_published, published, run_id
from recipes.signature import MAXIMUM_SIGNATURE_BYTES, check_recipe_signatures
from recipes.tokenizer import load_tokenizer

RECIPE_FILE = "recipe.toml"
SIGNATURE_FILE = "recipe.sig"
TOKENIZER_FILE = "tokenizer.json"
MANIFEST_FILE = "manifest.json"
DATA_FOLDER = "data"


@dataclass(frozen=True)
class SignedRecipe:
    """A published recipe that enough of its owners signed."""

    recipe: Recipe
    content: bytes
    signature: bytes
    run_id: str
    signers: tuple[PeerId, ...]  # owners


@dataclass(frozen=True)
class Publication:
    """A folder in which all that the recipe names is present and has the right hash."""

    folder: Path
    signed: SignedRecipe
    manifest: CorpusManifest

    @property
    def recipe(self) -> Recipe:
        """The published recipe."""
        return self.signed.recipe

    @property
    def run_id(self) -> str:
        """The run's id, 64 hex digits."""
        return self.signed.run_id

    @property
    def data(self) -> Path:
        """The folder of the pieces of tokens, as `TokenArray` takes it."""
        return self.folder / DATA_FOLDER

    @property
    def tokenizer(self) -> Path:
        """The path of tokenizer.json."""
        return self.folder / TOKENIZER_FILE

    @property
    def weights(self) -> Path:
        """The path of the first weights: the padded flat vector, little-endian fp32."""
        return self.folder / GENESIS_WEIGHTS


def check_signed(content: bytes, signature: bytes, *, name: str, partly: bool = False) -> SignedRecipe:
    """Return the recipe in `content` once it is complete and enough owners' signatures over it hold.

    With `partly`, one owner's is enough.

    Raises:
        RecipeError: it is malformed, a template, or not signed by as many owners as it asks for.
    """
    recipe = parse_published(content, name=name)
    threshold = 1 if partly else recipe.run.owner_threshold
    signers = check_recipe_signatures(content, signature, recipe.run.owners, threshold=threshold)
    return SignedRecipe(
        recipe=recipe, content=content, signature=signature, run_id=run_id(content), signers=signers
    )


def load_signed_recipe(folder: Path, *, partly: bool = False) -> SignedRecipe:
    """Read recipe.toml and recipe.sig from `folder`, as `check_signed` does.

    Raises:
        RecipeError: a file is missing, malformed, or the signature does not hold.
    """
    path = folder / RECIPE_FILE
    return check_signed(read_recipe_file(path), read_signature_file(path), name=str(path), partly=partly)


def load_manifest(folder: Path, recipe: Recipe) -> CorpusManifest:
    """Read manifest.json from `folder` and check that it is the one that the published recipe names.

    Raises:
        DataError: it is missing, malformed or another one, or does not fit the recipe.
    """
    path = folder / MANIFEST_FILE
    genesis = published(recipe)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAXIMUM_MANIFEST_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {error.strerror}.", remedy="Join again: it is fetched."
        ) from error
    manifest = parse_manifest(content, expected=bytes.fromhex(genesis.manifest))
    if (manifest.sequence_length, manifest.tokenizer) != (recipe.data.sequence_length, genesis.tokenizer):
        raise DataError(
            f"{path} was made for another sequence length or tokenizer than the recipe has.",
            remedy="Its publisher must publish the run again.",
        )
    return manifest


def damaged_pieces(
    folder: Path, manifest: CorpusManifest, parts: Collection[PartName] = ("train", "validation")
) -> tuple[str, ...]:
    """Return the names of the manifest's pieces that are missing in folder/data or have another hash."""
    names = dict.fromkeys(piece.hash for name in parts for piece in manifest.part(name).pieces)
    return tuple(name for name in names if not _is_intact(folder / DATA_FOLDER / name))


def load_publication(folder: Path, *, partly: bool = False) -> Publication:
    """Return the publication in `folder` once every signature and hash in it has been checked.

    With `partly`, one owner's signature is enough.

    Raises:
        RecipeError: the recipe is missing, malformed or not signed by its owner.
        DataError: something that it names is missing or has another hash.
    """
    signed = load_signed_recipe(folder, partly=partly)
    genesis = published(signed.recipe)
    load_tokenizer(folder / TOKENIZER_FILE, expected=bytes.fromhex(genesis.tokenizer))
    manifest = load_manifest(folder, signed.recipe)
    damaged = damaged_pieces(folder, manifest)
    if damaged:
        some = "1 piece" if len(damaged) == 1 else f"{len(damaged)} pieces"
        raise DataError(
            f"Missing or damaged in {folder / DATA_FOLDER}: {some} of data, the first one {damaged[0]}.",
            remedy="Publish the run again, or join it with --peer: what is missing is fetched.",
        )
    publication = Publication(folder=folder, signed=signed, manifest=manifest)
    if weights_root(publication.weights).hex() != genesis.weights_root:
        raise DataError(
            f"{publication.weights} does not hold the first weights that the recipe names.",
            remedy="Publish the run again, or join it with --peer: what is missing is fetched.",
        )
    return publication


def read_recipe_file(path: Path) -> bytes:
    """Return the bytes of a recipe file, at most one more than `parse_recipe` takes.

    Raises:
        RecipeError: the file cannot be read.
    """
    return _read(path, limit=MAXIMUM_RECIPE_BYTES)


def read_signature_file(recipe: Path) -> bytes:
    """Return the bytes of the recipe.sig that lies beside the recipe file `recipe`.

    Raises:
        RecipeError: the file cannot be read.
    """
    return _read(recipe.parent / SIGNATURE_FILE, limit=MAXIMUM_SIGNATURE_BYTES)


def _read(path: Path, *, limit: int) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(limit + 1)  # the one more lets the parser refuse what is too large
    except OSError as error:
        raise RecipeError(
            f"Cannot read {path}: {error.strerror}.",
            remedy="Give the folder that `python -m recipes.publish` made.",
        ) from error


def _is_intact(path: Path) -> bool:
    try:
        return digest(path.read_bytes()).hex() == path.name
    except OSError:
        return False
