"""Publish a recipe: pack its data, draw its first weights, sign it, and say how volunteers join.

    python -m recipes.publish RECIPE --data PATH... [--out FOLDER] [--serve]

RECIPE is a TOML file, or a name from the catalogue such as `stdlib-tiny`. The folder that this makes
holds the whole run (see `recipes.publication`). It appears only once it is complete.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import rich.progress
import tomlkit
import typer

from recipes.command import plain_errors
from recipes.corpus import CorpusManifest
from recipes.errors import RecipeError, StorageError
from recipes.formats.files import write_atomic
from recipes.genesis import write_genesis
from recipes.home import IDENTITY_KEY, OWNER_KEY, home_folder
from recipes.keys.keys import PeerId, SigningKey, load_or_create_key
from recipes.layout import layout_of
from recipes.locate import locate_recipe
from recipes.model import try_training
from recipes.packing import SourceText, collect_files, divide, pack
from recipes.publication import (
    DATA_FOLDER,
    MANIFEST_FILE,
    RECIPE_FILE,
    SIGNATURE_FILE,
    TOKENIZER_FILE,
    Publication,
    load_publication,
    read_recipe_file,
)
from recipes.schema.recipe import Recipe, parse_published, parse_recipe, published
from recipes.schema.sections import GenesisSection
from recipes.signature import sign_recipe

DEFAULT_PORT = 31330

Tell = Callable[[str], None]
"""Told of each stage, in a sentence, when it is done."""

Packed = Callable[[int, int], None]
"""Told how many documents are packed, of how many."""


def publish(
    template: Path, data: Sequence[str], out: Path, *, home: Path, tell: Tell, packed: Packed | None = None
) -> Publication:
    """Make the folder `out` with a whole run in it, from a template.

    Args:
        template: the recipe's TOML file, without [genesis].
        data: files, folders and glob patterns of text.
        out: a folder that does not exist yet, or is empty.
        home: holds owner.key and identity.key, which are made when missing.
        tell: is told of each stage.
        packed: is told of progress in packing.

    Raises:
        RecipeError: the template is malformed, published already, or owned by others.
        ModelError: its model cannot be built.
        DataError: there is no text, or too little.
        IdentityError: a key file cannot be used.
        StorageError: `out` is not empty, or the disk refuses.
    """
    content = read_recipe_file(template)
    recipe = parse_recipe(content, name=str(template))
    owner = load_or_create_key(home / OWNER_KEY)
    _check_publishable(recipe, out, owner=owner, name=str(template))
    tell(f"The recipe {recipe.run.name} is sound. You sign it as {owner.peer_id}, with {home / OWNER_KEY}.")
    parameters = layout_of(recipe).size
    try_training(recipe)
    tell(f"Its model of {parameters:,} parameters runs forward and backward.")
    files = collect_files(data, include=recipe.data.include, exclude=recipe.data.exclude)
    source = divide(files, validation_fraction=recipe.data.validation_fraction)
    tell(f"Found {len(files):,} text files.")
    draft = _draft_folder(out)
    try:
        manifest = _write_data(draft, recipe, source, packed)
        tell(_packed_words(manifest))
        weights_root = write_genesis(recipe, draft)
        tell(f"Drew the first weights of {parameters:,} parameters.")
        genesis = GenesisSection(
            manifest=manifest.hash().hex(),
            tokenizer=manifest.tokenizer,
            weights_root=weights_root.hex(),
            parameters=parameters,
            electors=(load_or_create_key(home / IDENTITY_KEY).peer_id,),
            created=datetime.now(timezone.utc).date().isoformat(),
        )
        final = complete_recipe(content, owners=recipe.run.owners or (owner.peer_id,), genesis=genesis)
        write_atomic(draft / RECIPE_FILE, final)
        write_atomic(draft / SIGNATURE_FILE, sign_recipe(final, owner))
        # What is handed out passes the checks that every peer will make, but for other owners' signatures.
        checked = load_publication(draft, partly=True)
        _put_in_place(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    tell(f"Signed it, and checked every hash in {out}.")
    if (lacking := recipe.run.owner_threshold - 1) > 0:
        tell(f"It takes {lacking} more of its owners: each of them runs `python -m recipes.sign {out}`.")
    return replace(checked, folder=out)


def _write_data(draft: Path, recipe: Recipe, source: SourceText, packed: Packed | None) -> CorpusManifest:
    """Write data, tokenizer and manifest."""
    manifest, tokenizer_file = pack(
        recipe,
        source,
        draft / DATA_FOLDER,
        progress=None if packed is None else lambda done: packed(done, source.documents),
    )
    write_atomic(draft / TOKENIZER_FILE, tokenizer_file)
    write_atomic(draft / MANIFEST_FILE, manifest.content())
    return manifest


def complete_recipe(content: bytes, *, owners: Sequence[PeerId], genesis: GenesisSection) -> bytes:
    """Return the template `content` with owners and [genesis] filled in, and its comments as they were.

    Raises:
        RecipeError: the result is not a valid recipe.
    """
    document = tomlkit.parse(content.decode())
    run = document["run"]
    if not isinstance(run, dict):  # parsed before, so it is a table
        raise RecipeError("[run] must be a table.")
    if not run.get("owners"):
        run["owners"] = list(owners)
    section = tomlkit.table()
    section.add(tomlkit.comment("Written by publishing. A change makes the signature void."))
    for key, value in genesis.model_dump().items():
        section.add(key, list(value) if isinstance(value, tuple) else value)
    document["genesis"] = section
    final = tomlkit.dumps(document).encode()
    parse_published(final, name="the completed recipe")
    return final


def _check_publishable(recipe: Recipe, out: Path, *, owner: SigningKey, name: str) -> None:
    if recipe.genesis is not None:
        raise RecipeError(
            f"{name} is published already: it has a [genesis].",
            remedy="Join it with `python -m trainer.join`, or remove [genesis] to start another run from it.",
        )
    if recipe.run.owners and owner.peer_id not in recipe.run.owners:
        raise RecipeError(
            f"{name} belongs to {', '.join(recipe.run.owners)}, and you are {owner.peer_id}.",
            remedy="Remove run.owners to publish it as yours, or put the owner's key into your home folder.",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(
            f"{out} exists already.", remedy="Name another folder with --out, or move it away."
        )


def _draft_folder(out: Path) -> Path:
    # Beside the final place, so that the last step is a rename within one file system.
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
        draft.chmod(0o755)
    except OSError as error:
        raise StorageError(
            f"Cannot make a folder beside {out}: {error.strerror}.", remedy="Name another folder with --out."
        ) from error
    return draft


def _put_in_place(draft: Path, out: Path) -> None:
    try:
        os.replace(draft, out)
    except OSError as error:
        raise StorageError(
            f"Cannot put the finished folder at {out}: {error.strerror}.",
            remedy="Name another folder with --out.",
        ) from error


def _packed_words(manifest: CorpusManifest) -> str:
    return (
        f"Packed {manifest.train.tokens:,} tokens to train on into {len(manifest.train.pieces)} pieces, and "
        f"{manifest.validation.tokens:,} held out into {len(manifest.validation.pieces)}."
    )


def _outward_address() -> str:
    """Return this machine's address on its way to the internet. Connecting UDP sends no packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address, RFC 5737
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address


def main(
    recipe: Annotated[str, typer.Argument(help="A recipe's TOML file, or a name from the catalogue.")],
    data: Annotated[
        list[str], typer.Option("--data", help="A file, folder or glob pattern of text. Repeat it for more.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make. By default it is called like the run.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Home folder. By default $MANYHANDS_HOME or ~/.manyhands.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Go on as the run's first peer.")] = False,
    reached_at: Annotated[
        str | None, typer.Option(help="IPv4 address at which volunteers reach this machine.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port of the first peer.")] = DEFAULT_PORT,
) -> None:
    """Publish a recipe: pack its data, draw its first weights, sign it, and say how volunteers join."""
    with plain_errors():
        template = locate_recipe(recipe)
        folder = out or Path(parse_recipe(read_recipe_file(template), name=str(template)).run.name)
        with rich.progress.Progress(transient=True) as bar:
            task = bar.add_task("Packing", total=None)
            publication = publish(
                template,
                data,
                folder,
                home=home_folder(home),
                tell=lambda sentence: bar.console.print(sentence, highlight=False, soft_wrap=True),
                packed=lambda done, total: bar.update(task, completed=done, total=total),
            )
    passed_on = ["--port", str(port)]
    passed_on += ["--announce", f"/ip4/{reached_at}/tcp/{port}"] if reached_at else []
    passed_on += ["--home", str(home)] if home else []
    if publication.recipe.run.owner_threshold > 1:
        print(f"\nRun id: {publication.run_id}")
        return
    peer = published(publication.recipe).electors[0]
    address = f"/ip4/{reached_at or _outward_address()}/tcp/{port}/p2p/{peer}"
    print(f"\nRun id: {publication.run_id}\n")
    if not serve:
        print(f"Start its first peer with\n\n    python -m trainer.join {folder} {' '.join(passed_on)}\n")
    print(f"Volunteers join with\n\n    python -m trainer.join {publication.run_id} --peer {address}")
    if reached_at is None:
        print(
            "\nThat address is for this machine's own network. For volunteers elsewhere, give --reached-at."
        )
    if serve:
        command = [sys.executable, "-m", "trainer.join", str(folder), *passed_on]
        sys.stdout.flush()
        os.execv(command[0], command)


if __name__ == "__main__":
    typer.run(main)
