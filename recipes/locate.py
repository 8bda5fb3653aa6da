"""Finding a recipe by what a person types: a file, a folder that holds one, or a name from the catalogue."""

from __future__ import annotations

from pathlib import Path

from recipes.errors import RecipeError
from recipes.home import run_folder
from recipes.publication import RECIPE_FILE, read_recipe_file
from recipes.schema.diagnosis import nearest
from recipes.schema.recipe import run_id

CATALOGUE = Path(__file__).parent / "catalogue"


def locate_recipe(given: str) -> Path:
    """Return the path of the recipe that `given` means.

    Raises:
        RecipeError: there is no such file, folder or catalogue name.
    """
    path = Path(given)
    if path.is_dir() and (path / RECIPE_FILE).is_file():
        return path / RECIPE_FILE
    if path.is_file():
        return path
    listed = CATALOGUE / f"{given}.toml"
    if listed.parent == CATALOGUE and listed.is_file():
        return listed
    names = catalogue_names()
    raise RecipeError(
        f"There is no recipe {given}: no such file, no folder with a {RECIPE_FILE}, "
        f"and none in the catalogue by that name{nearest(given, names) or '.'}",
        remedy=f"The catalogue has {', '.join(names)}.",
    )


def catalogue_names() -> list[str]:
    """Return the names of the recipes that come with Manyhands."""
    return sorted(path.stem for path in CATALOGUE.glob("*.toml"))


def joined_folder(given: str, home: Path) -> Path:
    """Return the folder of the run that `given` means, in the home folder."""
    is_id = len(given) == 64 and set(given) <= set("0123456789abcdef")
    run = given if is_id else run_id(read_recipe_file(locate_recipe(given)))
    folder = run_folder(home, run)
    if not (folder / RECIPE_FILE).is_file():
        raise RecipeError(
            f"The run {run} has never been joined from {home}.",
            remedy="Join it first, or name another home folder with --home.",
        )
    return folder
