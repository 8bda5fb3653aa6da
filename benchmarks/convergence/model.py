"""The recipe's Llama for many simulated workers at once: each parameter has one more dimension, the worker.

A small model is bound by the time that it takes to start kernels, and eight of them in one batch start no
more of them than one. It computes what transformers' Llama computes; `check_against_production` says so for
the weights at hand, and the benchmark calls it before it trusts a single number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recipes.errors import ModelError
from recipes.schema.recipe import Recipe

_TOLERANCE = 2e-4  # nats, between two orders of the same fp32 sums


@dataclass(frozen=True)
class Shape:
    """The numbers of a Llama that its parameters' shapes do not tell."""

    layers: int
    heads: int
    groups: int  # key-value heads
    eps: float
    theta: float

    @classmethod
    def of(cls, recipe: Recipe) -> Shape:
        """Return the shape of the recipe's model.

        Raises:
            ModelError: it is not a plain Llama with tied embeddings.
        """
        config: Mapping[str, Any] = recipe.model.config
        if recipe.model.architecture != "LlamaForCausalLM" or not config.get("tie_word_embeddings"):
            raise ModelError(
                "This benchmark batches workers for a LlamaForCausalLM with tied embeddings alone.",
                remedy="Choose such a recipe, stdlib-tiny for one.",
            )
        heads = int(config["num_attention_heads"])
        return cls(
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            groups=int(config.get("num_key_value_heads", heads)),
            eps=float(config.get("rms_norm_eps", 1e-6)),
            theta=float(config.get("rope_theta", 10000.0)),
        )


class BatchedLlama:
    """A Llama over parameters that have one more dimension in front: the worker."""

    def __init__(self, shape: Shape, parameters: Mapping[str, Tensor]) -> None:
        """`parameters` are those of the recipe's model by name, each of shape (workers, *shape)."""
        self.parameters = dict(parameters)
        self.workers = next(iter(self.parameters.values())).shape[0]
        self._shape = shape
        self._rotations: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def losses(self, tokens: Tensor) -> Tensor:
        """Return each worker's mean loss in nats a token, fp32 of shape (workers,).

        Args:
            tokens: int64 of shape (workers, slots, sequence_length + 1).
        """
        workers, slots, _ = tokens.shape
        table = self.parameters["model.embed_tokens.weight"]
        vocabulary, width = table.shape[1:]
        inputs, targets = tokens[:, :, :-1], tokens[:, :, 1:]
        length = inputs.shape[2]
        row = torch.arange(workers, device=tokens.device)[:, None, None] * vocabulary
        stream = _look_up(inputs + row, table.reshape(-1, width)).view(workers, -1, width)
        for layer in range(self._shape.layers):
            name = f"model.layers.{layer}."
            normed = self._norm(stream, f"{name}input_layernorm.weight")
            stream = stream + self._attend(normed, f"{name}self_attn.", slots, length)
            normed = self._norm(stream, f"{name}post_attention_layernorm.weight")
            gate = functional.silu(self._linear(normed, f"{name}mlp.gate_proj.weight"))
            inner = gate * self._linear(normed, f"{name}mlp.up_proj.weight")
            stream = stream + self._linear(inner, f"{name}mlp.down_proj.weight")
        stream = self._norm(stream, "model.norm.weight")
        logits = torch.bmm(stream, table.transpose(1, 2))
        each = functional.cross_entropy(logits.view(-1, vocabulary), targets.reshape(-1), reduction="none")
        return each.view(workers, -1).mean(dim=1)

    def _linear(self, stream: Tensor, name: str) -> Tensor:
        return torch.bmm(stream, self.parameters[name].transpose(1, 2))

    def _norm(self, stream: Tensor, name: str) -> Tensor:
        ones = torch.ones(stream.shape[-1], device=stream.device)
        normed = functional.rms_norm(stream, stream.shape[-1:], ones, eps=self._shape.eps)
        return normed * self.parameters[name][:, None, :]

    def _attend(self, stream: Tensor, name: str, slots: int, length: int) -> Tensor:
        query, key, value = (
            self._linear(stream, f"{name}{part}_proj.weight")
            .view(self.workers * slots, length, heads, -1)
            .transpose(1, 2)
            for part, heads in (
                ("q", self._shape.heads),
                ("k", self._shape.groups),
                ("v", self._shape.groups),
            )
        )
        rotation = self._rotation(length, query)
        mixed = functional.scaled_dot_product_attention(
            _rotate(query, rotation),
            _rotate(key, rotation),
            value,
            is_causal=True,
            enable_gqa=self._shape.groups != self._shape.heads,
        )
        joined = mixed.transpose(1, 2).reshape(self.workers, slots * length, -1)
        return self._linear(joined, f"{name}o_proj.weight")

    def _rotation(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of rotary embeddings (Su et al. 2021), each (length, head width)."""
        width = like.shape[-1]
        if (length, width) not in self._rotations:
            device = like.device
            frequency = self._shape.theta ** -(torch.arange(0, width, 2, device=device).float() / width)
            angles = torch.arange(length, device=device).float()[:, None] * frequency
            angles = torch.cat((angles, angles), dim=1)
            self._rotations[length, width] = (angles.cos(), angles.sin())
        return self._rotations[length, width]


class _Rows(torch.autograd.Function):
    """Rows of a table by index, with a gradient that a CUDA graph can record."""

    @staticmethod
    def forward(context: Any, indices: Tensor, table: Tensor) -> Tensor:
        context.save_for_backward(indices)
        context.shape = table.shape
        return functional.embedding(indices, table)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        (indices,) = context.saved_tensors
        rows = gradients[0].new_zeros(context.shape)
        rows.index_add_(0, indices.flatten(), gradients[0].flatten(0, -2))
        return None, rows


def _look_up(indices: Tensor, table: Tensor) -> Tensor:
    rows: Tensor = _Rows.apply(indices, table)  # type: ignore[no-untyped-call]
    return rows


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cosines, sines = rotation
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat((-second, first), dim=-1) * sines


def check_against_production(recipe: Recipe, tokens: Tensor) -> None:
    """Compare with the production model and objective: the loss and the gradient of two workers.

    Args:
        recipe: whose model is built, with its first weights.
        tokens: int64 of shape (2, slots, sequence_length + 1).

    Raises:
        ModelError: they differ by more than rounding does: this benchmark's model is another one.
    """
    from recipes.model import build_model
    from trainer.objective import next_token_loss

    production = build_model(recipe)
    batched = BatchedLlama(
        Shape.of(recipe),
        {
            name: torch.stack([parameter.detach()] * 2).requires_grad_()
            for name, parameter in production.named_parameters()
        },
    )
    losses = batched.losses(tokens)
    gradients = torch.autograd.grad(losses.sum(), list(batched.parameters.values()))
    for worker in range(2):
        production.zero_grad()
        expected = next_token_loss(production, tokens[worker])
        expected.backward()  # type: ignore[no-untyped-call]
        apart = abs(expected.item() - losses[worker].item())
        for (name, parameter), gradient in zip(production.named_parameters(), gradients, strict=True):
            if parameter.grad is None:
                raise ModelError(f"The production model has no gradient for {name}.")
            difference = torch.linalg.vector_norm(parameter.grad - gradient[worker])
            apart = max(apart, float(difference / torch.linalg.vector_norm(parameter.grad)))
        if apart > _TOLERANCE:
            raise ModelError(f"The batched model differs from the production model by {apart:.2g}.")
