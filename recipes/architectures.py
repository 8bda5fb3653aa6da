"""The registry of architectures: of each, what the rest of the program has to know besides its name.

To add one, add it here and to `Architecture` in recipes/schema/sections.py, and write docs/recipe.md anew
(`python -m recipes.reference docs/recipe.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recipes.schema.sections import Architecture

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelKind:
    """What transformers' models of one architecture are like.

    Attributes:
        model_type: the name by which transformers' AutoConfig finds the configuration.
        layers: the module that holds the layers, one after the other.
    """

    model_type: str
    layers: str = "model.layers"

    def layers_of(self, model: torch.nn.Module) -> list[Any]:
        """Return the layers of a model, the first first."""
        modules: Any = model.get_submodule(self.layers)
        return list(modules)

    def is_hidden_matrix(self, name: str, dimensions: int) -> bool:
        """Whether a parameter is a matrix between hidden layers: no embedding, output head or norm.

        Args:
            name: as in `named_parameters()`.
            dimensions: how many it has.
        """
        return dimensions == 2 and name.startswith(f"{self.layers}.")


ARCHITECTURES: Mapping[Architecture, ModelKind] = {
    "LlamaForCausalLM": ModelKind("llama"),
    "MistralForCausalLM": ModelKind("mistral"),
    "Olmo2ForCausalLM": ModelKind("olmo2"),
    "Qwen2ForCausalLM": ModelKind("qwen2"),
    "Qwen3ForCausalLM": ModelKind("qwen3"),
}
