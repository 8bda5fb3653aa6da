"""The tables on audits and credit: what is checked, how often, by which measure, and when credit vests."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from recipes.schema.sections import Section

DETECTION = 0.8  # assumed chance that an audit finds a cheat that saves a tenth of the work
LEAST_EXPECTED_FINDS = 3  # of a lasting cheat, while its first credit is in escrow


def _in_order(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= limits[0] <= limits[1]:
        raise ValueError("must be two numbers of at least 0 that ascend")
    return limits


Limits = Annotated[tuple[float, float], AfterValidator(_in_order)]
NumericClass = Annotated[str, Field(pattern=r"^[a-z]{1,16}-(fp32|bf16)$")]


class ThresholdsSection(Section):
    """How far a replay may stray from a claim of one numeric class, such as `cpu-fp32`.

    Each field is a measure of peers/audit/comparing.py with two values: up to the first the two agree,
    beyond the second the audit fails, and in between it is inconclusive. `python -m peers.calibrate`
    measures them.
    """

    loss_mean: Limits = Field(description="Relative difference of the losses, mean over the steps replayed.")
    loss_worst: Limits = Field(description="The same, of the step that differs most.")
    dropped: Limits = Field(
        description="Share of the contribution's places in the opened chunks that the replay did not choose."
    )
    direction: Limits = Field(
        description="1 less the cosine between the opened pseudo-gradient and the replayed one."
    )
    length: Limits = Field(
        description="How far the opened pseudo-gradient's length along the replayed one is from 1 times that."
    )


class VerificationSection(Section):
    """What a peer checks before it co-signs a block, and how work is audited afterwards."""

    spot_check_chunks: int = Field(
        default=4,
        ge=0,
        le=64,
        description="Random chunks that each peer recomputes from all inputs in each round.",
    )
    newcomer_audit_rate: float = Field(
        default=0.15,
        ge=0.01,
        le=1,
        description="Share of the claims of a peer that are audited until it has passed `trusted_passes`.",
    )
    trusted_passes: int = Field(
        default=10,
        ge=1,
        le=10_000,
        description="Audits passed in a row after which that share begins to fall, as one over the passes.",
    )
    least_audit_rate: float = Field(
        default=0.035, ge=0.01, le=1, description="Share of claims to which it falls; never zero."
    )
    full_replay_rate: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description=(
            "Share of audits that replay a whole window and check the contribution too. The others replay a "
            "random number of its first steps, and do not see what comes after them."
        ),
    )
    repeat_rate: float = Field(
        default=0.1, ge=0, le=1, description="Share of audits in which a pass takes two auditors."
    )
    audit_rounds: int = Field(
        default=4,
        ge=1,
        le=1024,
        description="Rounds of an auditor's silence after which the next one is asked.",
    )
    retention_rounds: int = Field(
        default=8,
        ge=1,
        le=1024,
        description=(
            "Rounds in which a peer whose claim was drawn must open it. Past them, all that it has pending "
            "lapses if two auditors say that it did not."
        ),
    )
    dispute_rounds: int = Field(
        default=16,
        ge=0,
        le=1024,
        description="Rounds in which a decision may be disputed by those from whom it took credit.",
    )
    expulsion_rounds: int = Field(
        default=110,
        ge=0,
        le=4096,
        description="Rounds for which no claim of a peer is taken after the audit of one failed; 0: none.",
    )
    thresholds: dict[NumericClass, ThresholdsSection] = Field(
        default={},
        max_length=16,
        description=(
            "Thresholds of audits, a table for each calibrated numeric class. Work of any other class is "
            "audited to measure: no audit of it passes or fails, and it does not vest."
        ),
    )

    @model_validator(mode="after")
    def _trust_lowers_the_rate(self) -> VerificationSection:
        if self.least_audit_rate > self.newcomer_audit_rate:
            raise ValueError(
                f"least_audit_rate ({self.least_audit_rate:g}) must be at most newcomer_audit_rate "
                f"({self.newcomer_audit_rate:g})"
            )
        return self


class CreditSection(Section):
    """How work is counted, and when it vests."""

    flops_per_token: int = Field(
        default=0,
        ge=0,
        le=2**60,
        description="Credit for one token, in FLOPs; 0 means 6 times the number of parameters.",
    )
    escrow_rounds: int = Field(
        default=110,
        ge=4,
        le=4096,
        description=(
            "Rounds after which credit vests. Until then, a failed audit forfeits it; so this many rounds, "
            f"times `verification.least_audit_rate` and {DETECTION}, must be at least {LEAST_EXPECTED_FINDS}."
        ),
    )
