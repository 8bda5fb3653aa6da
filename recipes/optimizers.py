"""The registry of inner optimizers: how each is made, afresh for each window, and what its state takes.

To add one, add it here and to `Optimizer` in recipes/schema/sections.py, say there in the description of
`InnerSection.optimizer` what it is, and write docs/recipe.md anew (`python -m recipes.reference
docs/recipe.md`).

Muon (Jordan 2024) is for matrices between hidden layers, which it steps by a nearly orthogonal matrix.
Embedding, output head and norms are no such matrices: with Muon, AdamW trains them. Steps are scaled so that
their entries are as large as AdamW's (Liu et al. 2025), so one learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recipes.model import ARCHITECTURES
from recipes.schema.recipe import Recipe
from recipes.schema.sections import InnerSection, Optimizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Part:
    """A torch optimizer of some of the parameters, at `factor` times the learning rate."""

    optimizer: torch.optim.Optimizer
    factor: float = 1.0


@dataclass(frozen=True)
class InnerOptimizer:
    """One or more torch optimizers that step together."""

    parts: tuple[Part, ...]

    def step(self, rate: float) -> None:
        """Take one step at learning rate `rate` with the gradients that the parameters hold."""
        for part in self.parts:
            for group in part.optimizer.param_groups:
                group["lr"] = rate * part.factor
            part.optimizer.step()

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        for part in self.parts:
            part.optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class OptimizerKind:
    """What is known of one inner optimizer.

    Attributes:
        make: from a model's parameters by name and its recipe, the optimizers that step it, without state.
        state_bytes: what its state takes, in bytes a parameter.
        uses_matrix_rate: whether it steps the matrices of the layers at `inner.matrix_rate` times the rate.
    """

    make: Callable[[Mapping[str, torch.nn.Parameter], Recipe], tuple[Part, ...]]
    state_bytes: int
    uses_matrix_rate: bool = False


def fresh_optimizer(model: torch.nn.Module, recipe: Recipe) -> InnerOptimizer:
    """Return the recipe's inner optimizer for `model`, without moments."""
    kind = INNER_OPTIMIZERS[recipe.inner.optimizer]
    return InnerOptimizer(kind.make(dict(model.named_parameters()), recipe))


def _adamw(named: Mapping[str, torch.nn.Parameter], recipe: Recipe) -> tuple[Part, ...]:
    import torch

    groups = _decaying_and_not(named.values(), recipe.inner)
    return (Part(torch.optim.AdamW(groups, **_adam_settings(recipe.inner), fused=True)),)


def _adamw_8bit(named: Mapping[str, torch.nn.Parameter], recipe: Recipe) -> tuple[Part, ...]:
    from bitsandbytes.optim import AdamW8bit

    groups = _decaying_and_not(named.values(), recipe.inner)
    return (Part(AdamW8bit(groups, **_adam_settings(recipe.inner))),)


def _muon(named: Mapping[str, torch.nn.Parameter], recipe: Recipe) -> tuple[Part, ...]:
    import torch

    inner, kind = recipe.inner, ARCHITECTURES[recipe.model.architecture]
    matrices = {name: value for name, value in named.items() if kind.is_hidden_matrix(name, value.ndim)}
    rest = _adamw({name: value for name, value in named.items() if name not in matrices}, recipe)
    if not matrices:
        return rest
    muon: torch.optim.Optimizer = torch.optim.Muon(
        list(matrices.values()),
        lr=inner.learning_rate,
        weight_decay=inner.weight_decay,
        momentum=inner.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return (*rest, Part(muon, inner.matrix_rate))


INNER_OPTIMIZERS: Mapping[Optimizer, OptimizerKind] = {
    "adamw": OptimizerKind(_adamw, state_bytes=8),  # two moments
    "adamw8bit": OptimizerKind(_adamw_8bit, state_bytes=2),
    # One moment for matrices, two for the rest, and what it takes to make a matrix orthogonal.
    "muon": OptimizerKind(_muon, state_bytes=6, uses_matrix_rate=True),
}


def _decaying_and_not(parameters: Iterable[torch.nn.Parameter], inner: InnerSection) -> list[dict[str, Any]]:
    """Return parameters in two groups: matrices decay, norms' gains do not."""
    known = list(parameters)
    return [
        {"params": [p for p in known if p.ndim >= 2], "weight_decay": inner.weight_decay},
        {"params": [p for p in known if p.ndim < 2], "weight_decay": 0.0},
    ]


def _adam_settings(inner: InnerSection) -> dict[str, Any]:
    return {"lr": inner.learning_rate, "betas": inner.betas, "eps": inner.eps}
