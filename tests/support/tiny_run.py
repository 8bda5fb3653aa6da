"""A published run that is small enough to train in a test: 30,000 parameters, a few kilobytes of text."""

from __future__ import annotations

from pathlib import Path

from recipes.publication import Publication
from recipes.publish import publish

RECIPE = """
version = 1

[run]
name = "tiny"
license = "Apache-2.0"
description = "Learns to count, in a test."

[model]
architecture = "LlamaForCausalLM"
seed = 7

[model.config]
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 64
max_position_embeddings = 64
tie_word_embeddings = true

[tokenizer]
vocab_size = 257

[data]
sequence_length = 32
validation_fraction = 0.2

[inner]
optimizer = "adamw"
learning_rate = 1e-2
batch_slots = 4
ramp_steps = 2

[schedule]
warmup_tokens = 0
total_tokens = 100_000

[round]
window_seconds = 1
segments = 2
"""


def publish_tiny(folder: Path, *, recipe: str = RECIPE, home: Path | None = None) -> Publication:
    """Publish `recipe` with a text that counts in words, into folder/run."""
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    text = folder / "text"
    text.mkdir()
    for number in range(20):
        lines = (" ".join(words[int(digit)] for digit in str(n)) for n in range(number, 3000, 20))
        (text / f"{number}.txt").write_text("\n".join(lines))
    (folder / "recipe.toml").write_text(recipe)
    return publish(
        folder / "recipe.toml",
        [str(text)],
        folder / "run",
        home=home or folder / "home",
        tell=lambda _: None,
    )
