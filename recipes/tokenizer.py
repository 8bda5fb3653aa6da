"""The tokenizer of a run: byte-level byte-pair encoding, trained once, at publication.

Token 0 is end-of-text, tokens 1 to 256 are the byte values, and what follows are merges (Sennrich et al.
2016, on bytes as in GPT-2). Text that spells `<|endoftext|>` is encoded as those letters.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from recipes.errors import DataError
from recipes.formats.blake3_tree import digest
from recipes.model import END_OF_TEXT_ID

END_OF_TEXT = "<|endoftext|>"
MAXIMUM_TOKENIZER_BYTES = 64 * 1024 * 1024


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> bytes:
    """Return the content of a tokenizer.json with at most `vocab_size` tokens, learned from `texts`.

    With 257 tokens there is nothing to learn, and `texts` is not read.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    learning = vocab_size > len(alphabet) + 1
    tokenizer.train_from_iterator(texts if learning else iter(()), trainer)
    content: str = tokenizer.to_str()
    return content.encode()


def load_tokenizer(path: Path, *, expected: bytes) -> Tokenizer:
    """Read tokenizer.json.

    Args:
        path: the file.
        expected: the BLAKE3 hash that the recipe names, 32 bytes.

    Raises:
        DataError: the file is missing, too large, another one than expected, or no tokenizer.
    """
    try:
        too_large = path.stat().st_size > MAXIMUM_TOKENIZER_BYTES
        content = b"" if too_large else path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the tokenizer {path}: {error.strerror}.") from error
    if too_large or digest(content) != expected:
        raise DataError(
            f"{path} is not the tokenizer that the recipe names.",
            remedy="Remove it: joining fetches it again.",
        )
    return parse_tokenizer(content)


def parse_tokenizer(content: bytes) -> Tokenizer:
    """Return the tokenizer in the content of a tokenizer.json.

    Raises:
        DataError: it holds none, or one without end-of-text as token 0.
    """
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # tokenizers raises no narrower type
        raise DataError(f"tokenizer.json holds no tokenizer: {error}.") from error
    if tokenizer.token_to_id(END_OF_TEXT) != END_OF_TEXT_ID:
        raise DataError(f"The tokenizer has no {END_OF_TEXT} as token {END_OF_TEXT_ID}.")
    tokenizer.encode_special_tokens = True  # not kept in the file
    return tokenizer
