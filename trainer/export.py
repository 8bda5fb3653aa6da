"""Write a run's model as a folder that transformers loads: weights, configuration and tokenizer.

    python -m trainer.export RUN DIR [--force] [--home FOLDER]

RUN is a run id, a folder with a recipe, or a recipe file. The newest weights whose hashes hold are taken: the
state as of the last block, else a snapshot. It may be called while a peer of this run is training.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from peers.state.weights_file import newest_weights, save_tensors
from recipes.command import plain_errors
from recipes.errors import RecipeError, StorageError
from recipes.home import home_folder, run_folder
from recipes.layout import Layout, layout_of
from recipes.locate import locate_recipe
from recipes.model import build_model
from recipes.publication import (
    RECIPE_FILE,
    TOKENIZER_FILE,
    SignedRecipe,
    load_signed_recipe,
    read_recipe_file,
)
from recipes.schema.recipe import Recipe, published, run_id
from recipes.tokenizer import END_OF_TEXT, load_tokenizer

WEIGHTS_FILE = "model.safetensors"
_TOKENIZER_CLASS = "PreTrainedTokenizerFast"
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Exported:
    """What an export holds: the weights after `round`, where 0 means untrained."""

    folder: Path
    round: int
    parameters: int


def find_run(given: str, *, home: Path) -> Path:
    """Return the folder with the state of the run that `given` means.

    Args:
        given: a run id, a folder with recipe.toml, or a recipe file.
        home: the home folder; if this run was joined from there, its state there is the newest.

    Raises:
        RecipeError: there is no such run.
    """
    if _ID.fullmatch(given):
        folder = run_folder(home, given)
        if not (folder / RECIPE_FILE).is_file():
            raise RecipeError(
                f"The run {given} has never been joined from {home}.",
                remedy="Join it first, or name another home folder with --home.",
            )
        return folder
    recipe = locate_recipe(given)
    joined = run_folder(home, run_id(read_recipe_file(recipe)))
    return joined if (joined / RECIPE_FILE).is_file() else recipe.parent


def export_model(run: Path, out: Path, *, force: bool = False) -> Exported:
    """Write the model of the run in the folder `run` to `out`, which appears only once it is complete.

    Args:
        run: a peer's run folder, or a publication's.
        out: a folder that is empty or does not exist.
        force: replace an earlier export at `out`.

    Raises:
        RecipeError: the recipe is missing or not signed by its owner.
        DataError: the tokenizer is missing or damaged.
        StateError: there are no weights whose hashes hold.
        StorageError: `out` is in use, or the disk refuses.
    """
    signed = load_signed_recipe(run)
    layout = layout_of(signed.recipe)
    newest = newest_weights(run, signed.recipe, layout)
    with _folder_in_the_making(out, force=force) as draft:
        save_tensors(draft / WEIGHTS_FILE, newest, layout)
        _write_configuration(draft, signed.recipe)
        _write_tokenizer(draft, run / TOKENIZER_FILE, signed.recipe)
        (draft / "README.md").write_text(_model_card(signed, layout, newest.round), encoding="utf-8")
    return Exported(folder=out, round=newest.round, parameters=layout.size)


def _write_configuration(folder: Path, recipe: Recipe) -> None:
    model: Any = build_model(recipe, meta=True)
    model.config.architectures = [recipe.model.architecture]
    model.config.save_pretrained(folder)
    _amend(folder / "config.json", _rope_of_version_4)
    model.generation_config.save_pretrained(folder)


def _rope_of_version_4(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with rotary positions where versions 4 and 5 of transformers look for them."""
    rope = dict(config.get("rope_parameters") or {})
    if "rope_theta" in rope:
        config = {**config, "rope_theta": rope.pop("rope_theta")}
    if rope.get("rope_type", "default") != "default":
        config = {**config, "rope_scaling": rope}
    return config


def _amend(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write a file of JSON anew, changed."""
    content = change(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tokenizer(folder: Path, source: Path, recipe: Recipe) -> None:
    from transformers import PreTrainedTokenizerFast

    factory: Any = PreTrainedTokenizerFast  # its constructor has no types
    tokenizer = factory(
        tokenizer_object=load_tokenizer(source, expected=bytes.fromhex(published(recipe).tokenizer)),
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=recipe.data.sequence_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    # Version 5 of transformers knows this name, too; version 4 knows not the one that version 5 writes.
    _amend(folder / "tokenizer_config.json", lambda config: {**config, "tokenizer_class": _TOKENIZER_CLASS})


def _model_card(signed: SignedRecipe, layout: Layout, round_number: int) -> str:
    recipe = signed.recipe
    return f"""---
license: {recipe.run.license.lower()}
library_name: transformers
---

# {recipe.run.name}

{recipe.run.description}

Trained by volunteers with Manyhands: {recipe.model.architecture}, {layout.size:,} parameters, sequences of
{recipe.data.sequence_length} tokens.

- Run: `{signed.run_id}`
- Recipe signed by: `{", ".join(signed.signers)}`
- Weights after round: {round_number}
- Data: manifest `{published(recipe).manifest}`
"""


@contextmanager
def _folder_in_the_making(out: Path, *, force: bool) -> Iterator[Path]:
    """Give the block a folder beside `out`, and put it in the place of `out` if the block succeeds."""
    out = out.absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not force:
            raise StorageError(
                f"{out} is not empty.", remedy="Name another folder, or replace it with --force."
            )
        if not (out / WEIGHTS_FILE).is_file():
            raise StorageError(f"{out} is no export, so it is not replaced.", remedy="Name another folder.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as workshop:
            draft = Path(workshop, "new")
            draft.mkdir()
            yield draft
            if out.exists():
                out.rename(Path(workshop, "old"))
            os.replace(draft, out)
    except OSError as error:
        raise StorageError(
            f"Cannot write the model to {out}: {error.strerror or error}.",
            remedy="Free some space, or name another folder.",
        ) from error


def main(
    run: Annotated[str, typer.Argument(help="A run id, a folder with a recipe, or a recipe file.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put the model.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export there.")] = False,
    home: Annotated[
        Path | None, typer.Option(help="Home folder. By default $MANYHANDS_HOME or ~/.manyhands.")
    ] = None,
) -> None:
    """Write a run's model as a folder that transformers loads: weights, configuration and tokenizer."""
    with plain_errors():
        done = export_model(find_run(run, home=home_folder(home)), folder, force=force)
    state = f"as of round {done.round}" if done.round else "untrained, as it was published"
    print(f"Wrote the model of {done.parameters:,} parameters, {state}, to {done.folder}.")


if __name__ == "__main__":
    typer.run(main)
