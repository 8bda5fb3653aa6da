"""The recipe's inner optimizer, made afresh for each window.

Muon (Jordan 2024) is for matrices between hidden layers, which it steps by a nearly orthogonal matrix.
Embedding, output head and norms are no such matrices: with Muon, AdamW trains them. Steps are scaled so that
their entries are as large as AdamW's (Liu et al. 2025), so one learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recipes.schema.sections import InnerSection

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class InnerOptimizer:
    """One or more torch optimizers that step together, each at its factor times the learning rate."""

    parts: Sequence[tuple[torch.optim.Optimizer, float]]

    def step(self, rate: float) -> None:
        """Take one step at learning rate `rate` with the gradients that the parameters hold."""
        for optimizer, factor in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        for optimizer, _ in self.parts:
            optimizer.zero_grad(set_to_none=True)


def fresh_optimizer(model: torch.nn.Module, inner: InnerSection) -> InnerOptimizer:
    """Return the inner optimizer without moments. Only matrices decay, not the norms' gains."""
    import torch

    named = dict(model.named_parameters())
    hidden = [
        name for name in named if inner.optimizer == "muon" and is_hidden_matrix(name, named[name].ndim)
    ]
    rest = [parameter for name, parameter in named.items() if name not in hidden]
    parts = [(_adamw(rest, inner), 1.0)]
    if hidden:
        muon: torch.optim.Optimizer = torch.optim.Muon(
            [named[name] for name in hidden],
            lr=inner.learning_rate,
            weight_decay=inner.weight_decay,
            momentum=inner.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        parts.append((muon, inner.matrix_rate))
    return InnerOptimizer(tuple(parts))


def is_hidden_matrix(name: str, dimensions: int) -> bool:
    """Say whether a parameter of a transformers model is a matrix between hidden layers.

    Args:
        name: as in `named_parameters()`.
        dimensions: how many it has.
    """
    return dimensions == 2 and name.startswith("model.layers.")


def _adamw(parameters: Sequence[torch.nn.Parameter], inner: InnerSection) -> torch.optim.Optimizer:
    import torch

    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": inner.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    settings: dict[str, Any] = {"lr": inner.learning_rate, "betas": inner.betas, "eps": inner.eps}
    if inner.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(groups, **settings)
        return optimizer
    return torch.optim.AdamW(groups, **settings, fused=True)
