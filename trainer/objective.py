"""What training minimises: the mean cross-entropy of each next token, in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def next_token_loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean loss over all next tokens of `tokens`, a scalar in fp32.

    Args:
        model: one of transformers' causal language models, on the device of `tokens`.
        tokens: int64 of shape (slots, sequence_length + 1): inputs, and the same shifted by one as targets.
    """
    from torch.nn import functional

    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
