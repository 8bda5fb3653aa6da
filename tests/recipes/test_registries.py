"""What a recipe may name is in its registry, in the recipe's format and in the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import get_args

import pytest
import torch
from places import ROOT, SAMPLES

from recipes.model import ARCHITECTURES, build_model
from recipes.optimizers import INNER_OPTIMIZERS, fresh_optimizer
from recipes.schema.recipe import Recipe, parse_recipe
from recipes.schema.sections import Architecture, Optimizer

TINY = (SAMPLES / "tiny.toml").read_bytes()


def row_of(field: str) -> tuple[str, str]:
    """The values and the meaning of a field, as docs/recipe.md has them."""
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{field}` |"))
    _, _, values, _, meaning, _ = row.split("|")
    return values, meaning


def missing(places: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """What each place lacks of what any of them has."""
    everything = {name for names in places.values() for name in names}
    return {place: lacks for place, names in places.items() if (lacks := everything - set(names))}


def test_an_optimizer_is_in_the_registry_and_the_recipe_and_is_described_in_the_docs() -> None:
    values, meaning = row_of("optimizer")
    assert not missing(
        {
            "INNER_OPTIMIZERS in recipes/optimizers.py": INNER_OPTIMIZERS,
            "Optimizer in recipes/schema/sections.py": get_args(Optimizer),
            "docs/recipe.md, written by `python -m recipes.reference docs/recipe.md`": re.findall(
                r'`"(\w+)"`', values
            ),
            "the description of InnerSection.optimizer": re.findall(r"`(\w+)`", meaning),
        }
    )


def test_an_architecture_is_in_the_registry_the_recipe_and_the_docs() -> None:
    values, _ = row_of("architecture")
    assert not missing(
        {
            "ARCHITECTURES in recipes/model.py": ARCHITECTURES,
            "Architecture in recipes/schema/sections.py": get_args(Architecture),
            "docs/recipe.md, written by `python -m recipes.reference docs/recipe.md`": re.findall(
                r'`"(\w+)"`', values
            ),
        }
    )


def tiny(*, architecture: str = "LlamaForCausalLM", optimizer: str = "adamw") -> Recipe:
    content = TINY.replace(b"LlamaForCausalLM", architecture.encode())
    inner = f'[inner]\noptimizer = "{optimizer}"'.encode()
    return parse_recipe(content.replace(b"[inner]", inner), name="tiny.toml")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_layers_of_a_model_hold_its_hidden_matrices(architecture: Architecture) -> None:
    kind = ARCHITECTURES[architecture]
    recipe = tiny(architecture=architecture)
    model = build_model(recipe, meta=True)
    layers = kind.layers_of(model)
    assert len(layers) == recipe.model.config["num_hidden_layers"]
    within = {id(value) for layer in layers for value in layer.parameters() if value.ndim == 2}
    named = {id(value) for name, value in model.named_parameters() if kind.is_hidden_matrix(name, value.ndim)}
    assert named == within != set()


@pytest.mark.parametrize("optimizer", INNER_OPTIMIZERS)
def test_an_optimizer_steps_each_parameter_once(optimizer: Optimizer) -> None:
    recipe = tiny(optimizer=optimizer)
    model = build_model(recipe)
    inner = fresh_optimizer(model, recipe)
    stepped = [
        parameter
        for part in inner.parts
        for group in part.optimizer.param_groups
        for parameter in group["params"]
    ]
    assert sorted(map(id, stepped)) == sorted(map(id, model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    inner.step(0.1)
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert all(moved)
    inner.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
