"""The sections of a recipe: every field with its unit, its bounds and what it means.

These descriptions are what docs/recipe.md shows and what an error about a field quotes. The defaults
belong to format version 1 and never change within it, because a run id covers only the bytes that the
owner wrote: a changed default would silently change the rules of a running run.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from recipes.keys.keys import PeerId, public_key

Architecture = Literal[
    "LlamaForCausalLM", "MistralForCausalLM", "Olmo2ForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"
]
Optimizer = Literal["adamw", "adamw8bit", "muon"]
Overlap = Literal["none", "delayed", "eager"]
BYTE_VOCABULARY = 257  # 256 byte values and end-of-text
MAXIMUM_LAYERS = 1024

Scalar = bool | int | float | str
PlainValue = Scalar | tuple[Scalar, ...] | dict[str, Scalar]


def _is_peer_id(text: str) -> str:
    if public_key(PeerId(text)) is None:
        raise ValueError("must be a peer id with an Ed25519 key inside, such as 12D3KooW...")
    return text


def _is_iso_date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise ValueError("must be a date such as 2026-01-31") from error
    return text


def _as_span(value: object) -> object:
    """Let one number stand for a span of no width."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (float(value), float(value))
    return (
        tuple(float(v) if type(v) is int else v for v in value) if isinstance(value, list | tuple) else value
    )


def _ascends(span: tuple[float, float]) -> tuple[float, float]:
    if not 0 < span[0] <= span[1] <= 86400:
        raise ValueError("must be one number above 0, or two that ascend, and at most 86400")
    return span


def _denser_early(early: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Check a density schedule: shares of the run that ascend, and factors that make it denser."""
    shares = [share for share, _ in early]
    if any(not 0 < share <= 1 for share in shares) or shares != sorted(set(shares)):
        raise ValueError("must have shares of the run above 0 and at most 1, each above the one before")
    if any(factor < 1 for _, factor in early):
        raise ValueError("must have factors of at least 1: early rounds are denser, not thinner")
    return early


Span = Annotated[tuple[float, float], BeforeValidator(_as_span), AfterValidator(_ascends)]
EarlyDensity = Annotated[tuple[tuple[float, float], ...], AfterValidator(_denser_early)]
Owner = Annotated[PeerId, Field(max_length=64), AfterValidator(_is_peer_id)]
HexHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileGlob = Annotated[str, Field(min_length=1, max_length=256)]


class Section(BaseModel):
    """A table of the recipe: immutable, no coercion between types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RunSection(Section):
    """Who starts this run, and what it is."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,63}$",
        description="Short name of the run: lower-case letters, digits and hyphens, at most 64.",
    )
    owners: tuple[Owner, ...] = Field(
        default=(),
        max_length=16,
        description=(
            "Peer ids that may sign this recipe and its checkpoints. Publishing adds your own when none "
            "stands here."
        ),
    )
    owner_threshold: int = Field(
        default=1,
        ge=1,
        le=16,
        description="How many of the owners have to sign the recipe, and each checkpoint.",
    )
    license: str = Field(
        min_length=1,
        max_length=128,
        description="Licence of the trained weights, as an SPDX identifier such as `Apache-2.0`.",
    )
    description: str = Field(
        min_length=1,
        max_length=4096,
        description=(
            "What is trained and for whom, in a sentence or two that a volunteer reads before joining."
        ),
    )

    @model_validator(mode="after")
    def _owners_suffice(self) -> RunSection:
        if self.owner_threshold > max(1, len(set(self.owners))):
            raise ValueError("owner_threshold must not be more than there are owners")
        return self


class ModelSection(Section):
    """The network: built by transformers from these values alone, without code or files from elsewhere."""

    architecture: Architecture = Field(
        default="LlamaForCausalLM", description="Class of transformers that builds the model."
    )
    config: dict[str, PlainValue] = Field(
        description=(
            "Fields of that class's configuration, such as `hidden_size`. The vocabulary and the special "
            "tokens come from the tokenizer, and dropout is always 0, so that a replay repeats the work."
        ),
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Seed of the random first weights. Publishing fixes their bits.",
    )

    @model_validator(mode="after")
    def _fits_replay(self) -> ModelSection:
        for key, value in self.config.items():
            if "drop" in key and value not in (0, 0.0):
                raise ValueError(
                    f"config.{key} must be 0: an audit replays training, and dropout cannot be replayed"
                )
        layers = self.config.get("num_hidden_layers", 1)
        if not isinstance(layers, int) or not 1 <= layers <= MAXIMUM_LAYERS:
            raise ValueError(f"config.num_hidden_layers must be a whole number from 1 to {MAXIMUM_LAYERS}")
        return self


class TokenizerSection(Section):
    """How text becomes tokens. The tokenizer is trained on the corpus at publication."""

    kind: Literal["byte-bpe"] = Field(
        default="byte-bpe", description="Byte-level byte-pair encoding, which can spell any text."
    )
    vocab_size: int = Field(
        default=BYTE_VOCABULARY,
        ge=BYTE_VOCABULARY,
        le=2**20,
        description=(
            "Number of tokens: 256 bytes, end-of-text, and the rest merges learned from the corpus. 257 "
            "means none."
        ),
    )


class DataSection(Section):
    """Which text, in which portions."""

    sequence_length: int = Field(
        ge=8, le=2**20, description="Tokens of one training sequence. One sequence is one slot of work."
    )
    validation_fraction: float = Field(
        default=0.05, gt=0, le=0.5, description="Share of the text that is held out to measure the loss on."
    )
    include: tuple[FileGlob, ...] = Field(
        default=("*",),
        min_length=1,
        max_length=64,
        description=(
            "File names that are taken from a folder given to publish, as shell patterns such as `*.py`."
        ),
    )
    exclude: tuple[FileGlob, ...] = Field(
        default=(),
        max_length=64,
        description="Names of files and folders that are left out, as shell patterns such as `test*`.",
    )


class InnerSection(Section):
    """The optimizer that each peer runs on its own slots. Its state restarts with every window."""

    optimizer: Optimizer = Field(
        default="adamw",
        description=(
            "`adamw` is torch's; `adamw8bit` is that of bitsandbytes, with a quarter of the state's memory; "
            "`muon` is torch's Muon for the matrices of the layers, and `adamw` for all else."
        ),
    )
    learning_rate: float = Field(gt=0, le=1, description="Peak learning rate.")
    matrix_rate: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description=(
            "Factor on the learning rate for what Muon trains. With 1, an entry moves as far as with AdamW."
        ),
    )
    momentum: float = Field(default=0.95, ge=0, lt=1, description="Muon's momentum, which is Nesterov's.")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.95), description="Decay of the first and the second moment."
    )
    eps: float = Field(default=1e-8, gt=0, le=1e-2, description="Added to the denominator of AdamW's step.")
    weight_decay: float = Field(default=0.1, ge=0, le=1, description="Decoupled weight decay.")
    batch_slots: int = Field(
        ge=1,
        le=65536,
        description="Slots of one local step. A device that cannot hold them at once accumulates.",
    )
    clip_norm: float = Field(
        default=1.0, gt=0, le=1e6, description="Gradients longer than this are scaled down to it."
    )
    ramp_steps: int = Field(
        default=5,
        ge=0,
        le=1000,
        description=(
            "Local steps over which the learning rate rises at the start of each window, while moments are "
            "fresh."
        ),
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description=(
            "Whether activations are computed again for the backward pass: much less memory for about a "
            "third more work. A device that cannot hold those of one slot does so by itself."
        ),
    )


class ScheduleSection(Section):
    """The learning rate over the whole run, by tokens that the swarm has trained on."""

    kind: Literal["cosine", "constant"] = Field(
        default="cosine",
        description="Shape after the warm-up: half a cosine down to `final_fraction`, or level.",
    )
    warmup_tokens: int = Field(default=0, ge=0, le=2**60, description="Tokens of linear warm-up from zero.")
    total_tokens: int = Field(ge=1, le=2**60, description="Tokens at which the schedule has reached its end.")
    final_fraction: float = Field(
        default=0.1, ge=0, le=1, description="Share of the peak learning rate that is left at the end."
    )

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> ScheduleSection:
        if self.warmup_tokens >= self.total_tokens:
            raise ValueError(
                f"warmup_tokens ({self.warmup_tokens}) must be less than total_tokens ({self.total_tokens})"
            )
        return self


class OuterSection(Section):
    """How the averaged pseudo-gradient of a round moves the canonical weights: SGD."""

    learning_rate: float = Field(default=1.0, gt=0, le=4, description="Step size of the outer optimizer.")
    momentum: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "Momentum; 0 keeps no momentum and saves 4 bytes a parameter of disk and in each snapshot."
        ),
    )
    nesterov: bool = Field(default=False, description="Whether momentum is Nesterov's.")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> OuterSection:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        return self


class RoundSection(Section):
    """The swarm's heartbeat. Durations count from the moment at which a peer applied the last block."""

    window_seconds: float = Field(ge=1, le=86400, description="Seconds of local training in a round.")
    grace_seconds: Span = Field(
        default=(1.0, 120.0),
        description=(
            "Least and most seconds after the window in which claims may still arrive. The swarm finds the "
            "right number between the two by what peers measure; one number instead of two fixes it."
        ),
    )
    transfer_seconds: Span = Field(
        default=(3.0, 1800.0),
        description="Least and most seconds in which contributions must reach their reducers; likewise.",
    )
    leader_seconds: Span = Field(
        default=(2.0, 120.0),
        description="Least and most seconds of a leader's silence before the next one acts; likewise.",
    )
    segments: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="Equal parts of the model that peers reduce, each for all the others.",
    )
    newcomer_slots: int = Field(
        default=64,
        ge=1,
        le=2**32,
        description="Slots that a peer may use in its first round, before it has a quota.",
    )
    newcomer_lanes: int = Field(
        default=64,
        ge=1,
        le=2**20,
        description=(
            "Portions of `newcomer_slots` set aside in each round, of which a newcomer draws one by hash."
        ),
    )
    minimum_slots: int = Field(
        default=8, ge=1, le=2**32, description="Slots that the smallest quota of a peer in the roster holds."
    )
    snapshot_interval: int = Field(
        default=16, ge=1, le=65536, description="Rounds between snapshots of the state."
    )
    overlap: Overlap = Field(
        default="none",
        description=(
            "Whether a peer trains on while its contribution is exchanged, and from which weights. `none`: "
            "it waits for the block. `delayed`: from the state before that block. `eager`: the same, with "
            "its own share of that block, which it knows already, put in."
        ),
    )


class ExchangeSection(Section):
    """The codec on the way out and back. Chunks are 4096 values."""

    chunk: Literal[4096] = Field(
        default=4096, description="Values of a chunk, the unit of the codec and of audits."
    )
    keep: int = Field(
        default=64, ge=1, le=4096, description="Values of each chunk that a contribution keeps."
    )
    level_bits: int = Field(
        default=1, ge=0, le=4, description="Bits for the magnitude of each kept value, beside its sign."
    )
    reduced_keep: int = Field(
        default=256, ge=1, le=4096, description="Values of each chunk that a reduced segment keeps."
    )
    reduced_level_bits: int = Field(
        default=3,
        ge=0,
        le=4,
        description="Bits for the magnitude of each value of a reduced segment, beside its sign.",
    )
    early: EarlyDensity = Field(
        default=(),
        max_length=8,
        description=(
            "Denser beginnings: pairs of a share of `schedule.total_tokens` and a factor on `keep` and "
            "`reduced_keep` until then, shares ascending. `[[0.1, 4], [0.3, 2]]` sends 4 times the values in "
            "the first tenth of the run, then twice as many until three tenths. Empty: the same throughout."
        ),
    )
    feedback_decay: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="What remains each round of the error feedback, the part not yet sent.",
    )
    clip_factor: float = Field(
        default=2.0,
        gt=0,
        le=100,
        description="A contribution longer than this many median norms is clipped to it.",
    )
    return_dropped: bool = Field(
        default=True,
        description=(
            "Whether values that the reduced segment dropped go back into their sender's error feedback."
        ),
    )

    @model_validator(mode="after")
    def _early_fits_the_chunk(self) -> ExchangeSection:
        for name, keep in (("keep", self.keep), ("reduced_keep", self.reduced_keep)):
            for share, factor in self.early:
                if round(keep * factor) > self.chunk:
                    raise ValueError(
                        f"early keeps {factor:g} times {name} ({keep}) until {share:g} of the run: more than "
                        f"the {self.chunk} values of a chunk"
                    )
        return self


class GenesisSection(Section):
    """Where the run starts. Publishing writes this section; a template has none."""

    manifest: HexHash = Field(description="BLAKE3 hash of manifest.json, which lists the data's pieces.")
    tokenizer: HexHash = Field(description="BLAKE3 hash of tokenizer.json.")
    weights_root: HexHash = Field(description="Merkle root over the 1 MiB pieces of the first weights.")
    parameters: int = Field(ge=1, le=2**50, description="Number of trained values, tied ones once.")
    electors: tuple[Owner, ...] = Field(
        min_length=1,
        max_length=64,
        description="Peer ids that may lead the first rounds: the publisher's own peer.",
    )
    created: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_is_iso_date)] = Field(
        description="Day of publication in UTC, such as 2026-01-31."
    )
