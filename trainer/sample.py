"""Text from an exported model, to see what it has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def generate(model_folder: Path, *, prompt: str, tokens: int, seed: int, temperature: float = 0.7) -> str:
    """Return `prompt` and what the model puts after it. The same seed gives the same text.

    Args:
        model_folder: from `trainer.export`; nothing else is read, and nothing is fetched.
        prompt: what the text begins with.
        tokens: how many to add at most; fewer if the model ends the text.
        seed: of the choice among likely tokens.
        temperature: below 1, likely tokens become more likely.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder, local_files_only=True)
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = tokenizer.encode(prompt) or [tokenizer.eos_token_id]
    start = len(ids)
    with torch.inference_mode():
        while len(ids) < start + tokens:
            # The model has never seen more than a training sequence, so it gets no more than that.
            window = torch.tensor([ids[-tokenizer.model_max_length :]])
            logits = model(input_ids=window, use_cache=False).logits[0, -1]
            choice = torch.multinomial(
                torch.softmax(logits.float() / temperature, dim=-1), 1, generator=generator
            )
            ids.append(int(choice))
            if ids[-1] == tokenizer.eos_token_id:
                break
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
