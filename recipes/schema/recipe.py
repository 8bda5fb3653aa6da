"""A recipe: the signed TOML file that says what to train, on what data, how, and under which rules.

`parse_recipe` reads one, published or still a template, and tells all that is wrong with it at once.
A published recipe has a `[genesis]` section, and its exact bytes name the run: `run_id`.
"""

from __future__ import annotations

import math
import sys
from typing import Literal

from blake3 import blake3
from pydantic import Field, ValidationError, model_validator

from recipes.errors import RecipeError
from recipes.schema.audit_sections import DETECTION, LEAST_EXPECTED_FINDS, CreditSection, VerificationSection
from recipes.schema.diagnosis import explain_problems, explain_syntax
from recipes.schema.sections import (
    DataSection,
    ExchangeSection,
    GenesisSection,
    InnerSection,
    ModelSection,
    OuterSection,
    RoundSection,
    RunSection,
    ScheduleSection,
    Section,
    TokenizerSection,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAXIMUM_RECIPE_BYTES = 256 * 1024


class Recipe(Section):
    """All that a peer must know of a run. Immutable; docs/recipe.md lists every field."""

    version: Literal[1] = Field(description="Version of the recipe format. This program reads version 1.")
    run: RunSection
    model: ModelSection
    tokenizer: TokenizerSection = TokenizerSection()
    data: DataSection
    inner: InnerSection
    schedule: ScheduleSection
    outer: OuterSection = OuterSection()
    round: RoundSection
    exchange: ExchangeSection = ExchangeSection()
    verification: VerificationSection = VerificationSection()
    credit: CreditSection = CreditSection()
    genesis: GenesisSection | None = None

    @model_validator(mode="after")
    def _sequence_fits_model(self) -> Recipe:
        positions = self.model.config.get("max_position_embeddings")
        if isinstance(positions, int) and positions < self.data.sequence_length:
            raise ValueError(
                f"model.config.max_position_embeddings ({positions}) must be at least "
                f"data.sequence_length ({self.data.sequence_length})"
            )
        return self

    @model_validator(mode="after")
    def _escrow_outlasts_cheats(self) -> Recipe:
        rate, rounds = self.verification.least_audit_rate, self.credit.escrow_rounds
        if rate * rounds * DETECTION < LEAST_EXPECTED_FINDS:
            needed = math.ceil(LEAST_EXPECTED_FINDS / (rate * DETECTION))
            raise ValueError(
                f"credit.escrow_rounds ({rounds}) must be at least {needed} with "
                f"verification.least_audit_rate ({rate:g}): else cheating would pay before it is found"
            )
        return self

    @property
    def flops_per_token(self) -> int:
        """Credit for one token, in FLOPs. Only a published recipe knows it when the field is 0.

        Raises:
            RecipeError: `credit.flops_per_token` is 0 and the recipe is a template.
        """
        return self.credit.flops_per_token or 6 * published(self).parameters


def parse_recipe(content: bytes, *, name: str) -> Recipe:
    """Read a recipe, published or not, from the bytes of its file; `name` is what errors call it.

    Raises:
        RecipeError: too large, not TOML, or a field is missing, unknown or out of bounds. The message
            lists every problem with its line, its field, the value found and what would be right.
    """
    if len(content) > MAXIMUM_RECIPE_BYTES:
        raise RecipeError(
            f"{name} has {len(content)} bytes; a recipe has at most {MAXIMUM_RECIPE_BYTES}.",
            remedy="Give the TOML file of a recipe.",
        )
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{name} is not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x}.",
            remedy="Save the file as UTF-8.",
        ) from error
    except (ValueError, RecursionError) as error:  # what is not TOML, and numbers of thousands of digits
        raise RecipeError(explain_syntax(error, name=name), remedy="Correct that line.") from error
    try:
        return Recipe.model_validate(_lists_as_tuples(table))
    except ValidationError as error:
        raise RecipeError(
            explain_problems(error, content.decode("utf-8"), model=Recipe, name=name),
            remedy="docs/recipe.md explains every field.",
        ) from error


def parse_published(content: bytes, *, name: str) -> Recipe:
    """Read a recipe that a run can start from: like `parse_recipe`, and `[genesis]` and owners must be there.

    Raises:
        RecipeError: as `parse_recipe`, or the recipe is a template.
    """
    recipe = parse_recipe(content, name=name)
    if recipe.genesis is None or not recipe.run.owners:
        lacking = "[genesis]" if recipe.genesis is None else "run.owners"
        raise RecipeError(
            f"{name} has not been published: it lacks {lacking}.",
            remedy=f"Publish it with `python -m recipes.publish {name} --data PATH` and use the folder made.",
        )
    return recipe


def published(recipe: Recipe) -> GenesisSection:
    """Return the genesis section.

    Raises:
        RecipeError: the recipe is a template.
    """
    if recipe.genesis is None:
        raise RecipeError(
            f"The recipe {recipe.run.name} has not been published: it has no [genesis].",
            remedy=f"Publish it with `python -m recipes.publish {recipe.run.name} --data PATH`.",
        )
    return recipe.genesis


def run_id(content: bytes) -> str:
    """Return the id of the run that a published recipe starts: BLAKE3 of its exact bytes, 64 hex digits."""
    return blake3(content).hexdigest()


def _lists_as_tuples(value: object) -> object:
    # Strict validation refuses a list where a tuple is declared, and TOML knows only lists.
    if isinstance(value, dict):
        return {key: _lists_as_tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_lists_as_tuples(item) for item in value)
    return value
