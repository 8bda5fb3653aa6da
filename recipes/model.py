"""The recipe's model as a torch module, and its way to and from the flat vector of `layout`.

transformers builds it from the recipe's values: no code, no file and no network access of its own.

An architecture is added to `ARCHITECTURES` here and to `Architecture` in recipes/schema/sections.py; then
docs/recipe.md is written anew: `python -m recipes.reference docs/recipe.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recipes.errors import ModelError
from recipes.schema.diagnosis import nearest
from recipes.schema.recipe import Recipe
from recipes.schema.sections import Architecture

if TYPE_CHECKING:
    import torch

_TRIED_TOKENS = 8
END_OF_TEXT_ID = 0  # the tokenizer's first token, see recipes.tokenizer

_FIXED_FIELDS = frozenset(
    {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "pretraining_tp"}
)


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


def build_model(recipe: Recipe, *, device: str = "cpu", meta: bool = False) -> torch.nn.Module:
    """Return the model in fp32 with weights drawn from `model.seed`, in training mode.

    The weights' bits may differ between versions of torch: a run takes them from the genesis snapshot.

    Args:
        recipe: published or a template.
        device: where to put it, by torch's name. Weights are always drawn on the CPU.
        meta: leave out the weights, and return shapes alone (on torch's meta device).

    Raises:
        ModelError: `model.config` names a field that the architecture does not have, or its values do
            not fit together.
    """
    import torch
    from transformers import AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM  # its methods have no types
    config = _configuration(recipe)
    model: torch.nn.Module
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta" if meta else "cpu"):
            torch.manual_seed(recipe.model.seed)
            model = factory.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, KeyError, ArithmeticError, RuntimeError) as error:
        raise ModelError(
            f"Cannot build {recipe.model.architecture} from [model.config]: {type(error).__name__}: {error}.",
            remedy="Correct those values in the recipe.",
        ) from error
    return model.train() if meta else model.to(device).train()


def try_training(recipe: Recipe) -> None:
    """Run the model forward and backward on a few tokens: configurations fit together that cannot run.

    It takes the memory of the weights, and a little more: no gradient is kept.

    Raises:
        ModelError: it cannot be built or run, or its loss or a gradient is no finite number.
    """
    import torch

    model: Any = build_model(recipe)
    infinite: list[str] = []

    def look(name: str, parameter: torch.Tensor) -> None:
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            infinite.append(name)
        parameter.grad = None

    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(partial(look, name))
    tokens = torch.arange(1, 1 + min(_TRIED_TOKENS, recipe.data.sequence_length)).unsqueeze(0)
    what = f"{recipe.model.architecture} as [model.config] says cannot be trained"
    remedy = "Correct those values: often, sizes and numbers of heads do not divide each other."
    try:
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{what}: {type(error).__name__}: {error}.", remedy=remedy) from error
    if not bool(loss.isfinite()) or infinite:
        where = f"the gradient of {infinite[0]}" if infinite else "the loss"
        raise ModelError(f"{what}: {where} is no finite number on the first tokens.", remedy=remedy)


def flatten_into(model: torch.nn.Module, out: npt.NDArray[np.float32]) -> None:
    """Write all parameters into `out`, fp32 of shape (padded,), with zeros after the last one.

    Raises:
        ModelError: `out` is too short.
    """
    offset = 0
    for name, parameter in model.named_parameters():
        values = parameter.detach().to("cpu").float().reshape(-1).numpy()
        if offset + values.size > out.size:
            raise ModelError(f"The parameter {name} does not fit into a vector of {out.size} values.")
        out[offset : offset + values.size] = values
        offset += values.size
    out[offset:] = 0


def load_flat(model: torch.nn.Module, flat: npt.NDArray[np.float32]) -> None:
    """Copy `flat`, fp32 of at least as many values as the model has, into the model's parameters in place.

    Raises:
        ModelError: `flat` is too short.
    """
    import torch

    offset = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = flat[offset : offset + parameter.numel()]
            if values.size != parameter.numel():
                raise ModelError(f"A vector of {flat.size} values ends before the parameter {name}.")
            # A copy, as torch warns of read-only memory maps; one parameter at a time keeps it small.
            parameter.copy_(torch.from_numpy(np.array(values)).reshape(parameter.shape))
            offset += values.size


def _configuration(recipe: Recipe) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    kind: Any = type(AutoConfig.for_model(ARCHITECTURES[recipe.model.architecture].model_type))
    known = sorted(set(kind.__annotations__) - _FIXED_FIELDS)
    for key in recipe.model.config:
        if key in _FIXED_FIELDS:
            raise ModelError(
                f"model.config.{key} is not for the recipe to set.",
                remedy="Remove it: the vocabulary is tokenizer.vocab_size, and the rest follows from it.",
            )
        if key not in known:
            raise ModelError(
                f"model.config.{key}: {kind.__name__} has no such field{nearest(key, known)}",
                remedy=f"Its fields are {', '.join(known)}.",
            )
    values = {
        key: list(value) if isinstance(value, tuple) else value for key, value in recipe.model.config.items()
    }
    try:
        config = kind(
            **values,
            vocab_size=recipe.tokenizer.vocab_size,
            bos_token_id=END_OF_TEXT_ID,
            eos_token_id=END_OF_TEXT_ID,
            pad_token_id=None,  # as a padding row, end-of-text would start at zero and never learn
        )
    except (StrictDataclassError, ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise ModelError(
            f"[model.config] does not describe a {recipe.model.architecture}: {error}",
            remedy="Correct those values in the recipe.",
        ) from error
    if config.max_position_embeddings < recipe.data.sequence_length:
        raise ModelError(
            f"The model reads at most {config.max_position_embeddings} tokens, "
            f"but data.sequence_length is {recipe.data.sequence_length}.",
            remedy="Set model.config.max_position_embeddings to at least that.",
        )
    return config
