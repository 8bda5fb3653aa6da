"""Adding an owner's signature to a run that another owner published: `python -m recipes.sign FOLDER`.

A recipe may ask for several of its owners (`run.owner_threshold`). Who publishes it signs first; each of the
others looks at the folder, and adds a signature with this. No peer takes the run before enough have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from recipes.command import plain_errors
from recipes.errors import IdentityError
from recipes.formats.files import write_atomic
from recipes.home import OWNER_KEY, home_folder
from recipes.keys.keys import load_or_create_key
from recipes.publication import SIGNATURE_FILE, SignedRecipe, load_publication, load_signed_recipe
from recipes.signature import add_signature


@dataclass(frozen=True)
class Added:
    """A recipe with one more signature, and how many owners' it lacks."""

    signed: SignedRecipe
    lacking: int


def sign_published(folder: Path, *, home: Path) -> Added:
    """Add the signature of the owner at `home` to the run in `folder`, once all that it names is there.

    Raises:
        RecipeError: the recipe is malformed, or no owner has signed it yet.
        DataError: something that it names is missing or damaged.
        IdentityError: there is no owner's key, or it is not that of an owner of this run.
        StorageError: the disk refuses.
    """
    signed = load_publication(folder, partly=True).signed
    path = home / OWNER_KEY
    if not path.exists():
        raise IdentityError(
            f"There is no {path}: only an owner signs a recipe.",
            remedy="Name the home folder that holds an owner's key with --home.",
        )
    key = load_or_create_key(path)
    if key.peer_id not in signed.recipe.run.owners:
        raise IdentityError(
            f"{path} is the key of {key.peer_id}; the owners are {', '.join(signed.recipe.run.owners)}.",
            remedy="Name the home folder that holds an owner's key with --home.",
        )
    write_atomic(folder / SIGNATURE_FILE, add_signature(signed.content, signed.signature, key))
    after = load_signed_recipe(folder, partly=True)
    return Added(after, max(0, after.recipe.run.owner_threshold - len(after.signers)))


def main(
    folder: Annotated[Path, typer.Argument(help="The folder that `python -m recipes.publish` made.")],
    home: Annotated[
        Path | None, typer.Option(help="Home folder. By default $MANYHANDS_HOME or ~/.manyhands.")
    ] = None,
) -> None:
    """Sign, as one of its owners, a run that another owner published. `recipes.show` shows what it is."""
    with plain_errors():
        added = sign_published(folder, home=home_folder(home))
    print(f"{len(added.signed.signers)} of the owners have signed run {added.signed.run_id}.")
    if added.lacking:
        print(f"It takes {added.lacking} more: send them the folder, or its {SIGNATURE_FILE}.")
    else:
        print(f"That is enough: `python -m trainer.join {folder}` starts its first peer.")


if __name__ == "__main__":
    typer.run(main)
