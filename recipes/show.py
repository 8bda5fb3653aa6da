"""Explain a recipe in plain words: what it trains, on what, by whom, and what it asks of a volunteer.

    python -m recipes.show RECIPE

RECIPE is a TOML file, a published folder, or a name from the catalogue.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from recipes.command import plain_errors
from recipes.corpus import CorpusManifest
from recipes.demands import ASSUMED_PEERS, estimate
from recipes.density import density_schedule
from recipes.layout import layout_of
from recipes.locate import locate_recipe
from recipes.optimizers import INNER_OPTIMIZERS
from recipes.publication import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    check_signed,
    load_manifest,
    read_recipe_file,
    read_signature_file,
)
from recipes.schema.recipe import Recipe, parse_recipe, run_id
from recipes.schema.sections import BYTE_VOCABULARY

Fact = tuple[str, str]
"""A topic, and what the recipe says about it."""


def describe(path: Path) -> list[Fact]:
    """Return what there is to say about the recipe at `path` and what lies beside it, topic by topic.

    Raises:
        RecipeError: the recipe is malformed, or the signature beside it does not hold.
        ModelError: its model cannot be built.
        DataError: the manifest beside it is not the one that it names.
    """
    content = read_recipe_file(path)
    recipe = parse_recipe(content, name=str(path))
    parameters = recipe.genesis.parameters if recipe.genesis else layout_of(recipe).size
    manifest = None
    if recipe.genesis and (path.parent / MANIFEST_FILE).exists():
        manifest = load_manifest(path.parent, recipe)
    return [
        ("run", f"{recipe.run.name}. {recipe.run.description}"),
        ("run id", run_id(content) if recipe.genesis else "none yet: this recipe has not been published"),
        ("signed", _signed(path, content, recipe)),
        ("model", _model(recipe, parameters)),
        ("data", _data(recipe, manifest)),
        ("training", _training(recipe)),
        ("round", _round(recipe)),
        ("exchange", _exchange(recipe)),
        ("audits", _audits(recipe)),
        ("licence", f"The trained weights are under {recipe.run.license}."),
        *_demands(recipe, parameters, manifest),
    ]


def _signed(path: Path, content: bytes, recipe: Recipe) -> str:
    if recipe.genesis is None:
        return "by nobody yet"
    if not (path.parent / SIGNATURE_FILE).exists():
        return (
            f"unknown: there is no {SIGNATURE_FILE} beside it. Its owners are {', '.join(recipe.run.owners)}"
        )
    signed = check_signed(content, read_signature_file(path), name=str(path))
    on, threshold = recipe.genesis.created, recipe.run.owner_threshold
    if threshold == 1:
        return f"by its owner {signed.signers[0]}, on {on}; the signature holds"
    return f"by its owners {', '.join(signed.signers)}, of whom it takes {threshold}, on {on}; they hold"


def _model(recipe: Recipe, parameters: int) -> str:
    config = ", ".join(f"{key} {json.dumps(value)}" for key, value in recipe.model.config.items())
    return f"{recipe.model.architecture} with {parameters:,} parameters ({config})"


def _data(recipe: Recipe, manifest: CorpusManifest | None) -> str:
    merges = recipe.tokenizer.vocab_size - BYTE_VOCABULARY
    learned = f" and {merges:,} merges learned from the corpus" if merges else ""
    words = f"tokens are bytes{learned}, in sequences of {recipe.data.sequence_length}"
    if manifest is None:
        held_out = f"{recipe.data.validation_fraction:.0%} of the text is held out"
        return f"{words}; the text is chosen at publication, and {held_out}"
    size = _bytes(_data_bytes(manifest))
    counts = f"{manifest.train.tokens:,} tokens to train on and {manifest.validation.tokens:,} held out"
    return f"{counts}, {size}; {words}"


def _training(recipe: Recipe) -> str:
    inner, outer = recipe.inner, recipe.outer
    by_kind = INNER_OPTIMIZERS[inner.optimizer].uses_matrix_rate
    matrices = f" (matrices at {inner.matrix_rate:g} times the rate)" if by_kind else ""
    end = "" if recipe.schedule.kind == "constant" else f", falling to {recipe.schedule.final_fraction:.0%}"
    momentum = f" and {'Nesterov ' * outer.nesterov}momentum {outer.momentum:g}" if outer.momentum else ""
    return (
        f"{inner.optimizer}{matrices}, {inner.batch_slots} sequences a step, learning rate "
        f"{inner.learning_rate:g}{end} over {recipe.schedule.total_tokens:,} tokens of the whole swarm; the "
        f"average of a round is applied at rate {outer.learning_rate:g}{momentum}"
    )


def _round(recipe: Recipe) -> str:
    return (
        f"{recipe.round.window_seconds:g} s of training, then the exchange; a slow machine takes fewer "
        f"steps, and a snapshot is kept every {recipe.round.snapshot_interval} rounds"
    )


def _audits(recipe: Recipe) -> str:
    classes = sorted(recipe.verification.thresholds)
    if not classes:
        return (
            "replays are told, and judge nobody: no thresholds were measured "
            "(python -m peers.calibrate does that)"
        )
    return (
        f"replays judge claims in {', '.join(classes)}; claims of other numeric classes neither pass nor fail"
    )


def _exchange(recipe: Recipe) -> str:
    densities = density_schedule(recipe)
    stages = [
        f"{density.contribution_bits:.3f} and {density.reduced_bits:.3f} until {share:.0%} of the run"
        for (share, _), (_, density) in zip(recipe.exchange.early, densities.early, strict=True)
    ]
    early = f" (early on {', '.join(stages)})" if stages else ""
    return (
        f"about {densities.lasting.contribution_bits:.3f} bits a parameter for a contribution and "
        f"{densities.lasting.reduced_bits:.3f} for the reduced result"
        f"{early}; each peer checks "
        f"{recipe.verification.spot_check_chunks} random chunks of others' work in each round"
    )


def _demands(recipe: Recipe, parameters: int, manifest: CorpusManifest | None) -> list[Fact]:
    needs = estimate(recipe, parameters=parameters, data_bytes=_data_bytes(manifest) if manifest else 0)
    early = recipe.exchange.early
    densest = (
        f"; in the first {early[-1][0]:.0%} of the run up to {_bytes(needs.densest_per_day)}" if early else ""
    )
    per_day = (
        f"at most {_bytes(needs.upload_per_day)} up and {_bytes(needs.download_per_day)} down: "
        f"{_bytes(needs.contribution)} of contribution and {_bytes(needs.reduced)} of result, in "
        f"{ASSUMED_PEERS - 1} of {ASSUMED_PEERS} parts, for each {recipe.round.window_seconds:g} s{densest}. "
        "Bringing data and state to newcomers comes on top"
    )
    return [
        ("memory", f"about {_bytes(needs.memory)}, and what the activations of a batch take"),
        ("disk", f"about {_bytes(needs.disk)}{'' if manifest else ', and the data'}"),
        ("network a day", per_day),
    ]


def _data_bytes(manifest: CorpusManifest) -> int:
    return sum(piece.bytes for part in (manifest.train, manifest.validation) for piece in part.pieces)


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def main(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's TOML file, a published folder, or a name from the catalogue.")
    ],
) -> None:
    """Explain a recipe in plain words, with what it asks of a volunteer."""
    with plain_errors():
        facts = describe(locate_recipe(recipe))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for topic, words in facts:
        table.add_row(topic, words)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    typer.run(main)
