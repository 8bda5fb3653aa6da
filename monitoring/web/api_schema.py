"""What the JSON API answers, field by field: served as /api/v1/schema.json, and shown in docs/api.md.

Times are Unix seconds. FLOPs are decimal strings: they may be beyond what JSON's numbers hold.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AliasChoices, AliasGenerator, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field

from monitoring.swarm.peer_picture import PeerState
from monitoring.swarm.view import RoundResult
from monitoring.web.sentences import Mood
from peers.protocol.reasons import CreditReason, VerdictReason
from peers.protocol.verdicts import Decision, Outcome

Flops = Annotated[str, BeforeValidator(str)]
"""A whole number of FLOPs, as a decimal string."""

FiniteOrNull = Annotated[
    float | None, BeforeValidator(lambda value: value if value is None or math.isfinite(value) else None)
]
"""A number that JSON can hold: null in place of one that is not finite."""


class Form(BaseModel):
    """Base of all answers: most are made from a value of monitoring/swarm with attributes of the same names.

    Where such a value calls a field differently, or has it deeper, its `validation_alias` says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True, populate_by_name=True)


def _shown(*path: str) -> AliasPath:
    """Return where a field comes from: an attribute of the value that is `shown`, or of one of its own."""
    return AliasPath("shown", *path)


def _of_peer(name: str) -> AliasChoices:
    """Return where a peer's field of that name is: in its picture, in its record there or in its account."""
    return AliasChoices(_shown(name), _shown("record", name), _shown("account", name))


class PeersByState(Form):
    """How many peers are in each state."""

    training: int = Field(description="Counted in one of the last 4 blocks.")
    quiet: int = Field(description="Counted in an earlier one of the last 32.")
    gone: int = Field(description="Counted longer ago.")
    observing: int | None = Field(
        description="In none of those, but on the notice board; null where no board is read."
    )


class Loss(Form):
    """The model's loss on the recipe's validation data, as this observer measured it."""

    value: FiniteOrNull = Field(
        validation_alias="loss", description="Nats a token; null if it is no finite number."
    )
    round: int = Field(description="After which round.")
    tokens: int = Field(description="Trained on by then.")
    measured_at: float = Field(description="When it was measured.")


class Swarm(Form):
    """How the swarm is: `GET /api/v1/swarm`."""

    run: str = Field(description="Run id.")
    name: str = Field(description="The run's name in its recipe.")
    said: str = Field(description="How the swarm is, in sentences.")
    mood: Mood = Field(description="Whether to look closer.")
    now: float = Field(description="When this was put together.")
    heard_at: float | None = Field(description="When the swarm was last heard.")
    round: int = Field(description="Of the newest block.")
    final_round: int = Field(description="Of the newest block that is never undone.")
    last_block_at: float | None = Field(description="When the newest block came, if that was watched.")
    digest: str | None = Field(description="Of the state after it, if anybody co-signed it.")
    peers: PeersByState = Field(description="How many peers are in each state.")
    tokens: int = Field(description="Trained on so far.")
    goal_tokens: int = Field(description="After which the recipe's schedule ends.")
    goal_at: float | None = Field(description="When that is reached at the present pace.")
    tokens_per_second: float | None = Field(description="Of the last rounds that were watched.")
    round_seconds: float | None = Field(description="Mean of the last rounds that were watched.")
    compute_ratio: float | None = Field(
        description="Share of their time in which peers computed, as their claims say: the mean."
    )
    loss: Loss | None = Field(description="The newest measurement.")
    claimed_flops: Flops = Field(description="Work that peers claimed in blocks.")
    credited_flops: Flops = Field(description="Work that was credited into escrow.")
    vested_flops: Flops = Field(description="Credit that has vested.")
    state_disagreements: int = Field(description="Co-signatures that named another state than agreed on.")


class Peer(Form):
    """One peer: an item of `GET /api/v1/peers`, and a part of `GET /api/v1/peers/{peer}`."""

    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=_of_peer))

    peer: str = Field(description="Peer id.")
    state: PeerState = Field(description="By when it was last counted.")
    said: str = Field(validation_alias=AliasPath("said", "text"), description="How it is, in sentences.")
    mood: Mood = Field(validation_alias=AliasPath("said", "mood"), description="Whether to look closer.")
    first_round: int = Field(description="In which it was counted; 0: never.")
    last_round: int = Field(description="In which it was counted; 0: never.")
    rounds: int = Field(description="In which it was counted.")
    missed_rounds: int = Field(description="In which it tried in vain.")
    cuts_made: int = Field(
        validation_alias=_shown("cuts", "made"),
        description="Of the last 32 rounds, in how many it was counted.",
    )
    cuts_tried: int = Field(
        validation_alias=_shown("cuts", "tried"),
        description="Of the last 32 rounds, in how many it tried to be.",
    )
    tokens: int = Field(description="Of its counted contributions.")
    numeric_class: str = Field(description="Of its newest one, such as cpu-fp32.")
    transfer_ms: int | None = Field(description="What it last measured for a segment to move.")
    vested_flops: Flops = Field(
        validation_alias=_shown("account", "vested"), description="Credit that has vested."
    )
    pending_flops: Flops = Field(
        validation_alias=_shown("pending"), description="Credit that may still vest."
    )
    lost_flops: Flops = Field(
        validation_alias=_shown("lost"), description="Credit that was forfeited or lapsed."
    )
    missed_flops: Flops = Field(
        validation_alias=_shown("account", "missed"),
        description="Work that missed the cut and was never credited.",
    )
    audits_passed: int = Field(
        validation_alias=_shown("account", "passes"), description="Since it joined, or last failed one."
    )
    under_audit: bool = Field(description="Whether an audit of it is open.")
    convicted: bool = Field(description="Whether it signed two things that contradict each other.")
    expelled_until: int = Field(
        description="No claim of it is taken up to this round: an audit failed, or it contradicted itself."
    )


class Peers(Form):
    """Everybody: `GET /api/v1/peers`."""

    round: int = Field(description="Of the newest block.")
    peers: tuple[Peer, ...] = Field(description="Those who train first, of these whoever earned most.")


class SaidOfClaim(Form):
    """What an auditor said of a claim."""

    round: int = Field(description="Whose block holds it.")
    auditor: str = Field(description="Peer id.")
    outcome: Outcome = Field(description="Pass, fail, inconclusive or abstain.")
    reason: VerdictReason = Field(description="Why, from a closed list.")
    sentence: str = Field(description="The reason as a sentence.")


class Contribution(Form):
    """One contribution of a peer, what became of it, and what auditors said."""

    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=_shown))

    round: int = Field(description="To which round.")
    peer: str = Field(description="Whose it is.")
    claim: str = Field(description="Hash of the signed claim.")
    tokens: int = Field(description="Trained on.")
    steps: int = Field(description="Local optimizer steps.")
    numeric_class: str = Field(description="Kind of arithmetic.")
    bytes: int = Field(description="Of the contribution.")
    segments: int = Field(description="Of it that were averaged.")
    of_segments: int = Field(description="That there are.")
    credited_flops: Flops = Field(
        validation_alias=AliasPath("shown", "amount"), description="Went into escrow."
    )
    missed_flops: Flops = Field(
        validation_alias=AliasPath("shown", "missed"), description="Was not credited."
    )
    reason: CreditReason = Field(description="Why what was credited is not vested at once, or is nothing.")
    sentence: str = Field(validation_alias="sentence", description="The reason as a sentence.")
    verdicts: tuple[SaidOfClaim, ...] = Field(description="Empty if nobody audited it.")
    decision: Decision | None = Field(
        description="What the audit came to; null while it is open or was none."
    )


class PeerPage(Form):
    """One peer with its contributions: `GET /api/v1/peers/{peer}`."""

    peer: Peer = Field(description="The peer.")
    contributions: tuple[Contribution, ...] = Field(description="Newest first.")
    before: int | None = Field(description="Give this as `before` for older ones; null: there are none.")


class PhaseSeconds(Form):
    """How long each phase of a round took."""

    train: float = Field(description="The window.")
    roster: float = Field(description="Until the claims were in.")
    exchange: float = Field(description="Contributions and reduced segments on their way.")
    block: float = Field(description="Until the block was agreed on.")


class Round(Form):
    """One block: an item of `GET /api/v1/rounds`, and a part of `GET /api/v1/rounds/{round}`."""

    round: int = Field(description="Its number.")
    attempt: int = Field(description="Whose turn it was: 0 is the first leader's.")
    block: str = Field(description="The block's hash.")
    leader: str = Field(description="Who signed it.")
    roster: tuple[str, ...] = Field(description="Who claimed, in order.")
    counted: int = Field(description="Of these, how many were averaged at least in part.")
    segments: int = Field(description="Of the model.")
    empty_segments: int = Field(description="Of these, how many nobody could deliver.")
    result: RoundResult = Field(description="Whether all that was claimed is in the average.")
    tokens: int = Field(description="Trained on in it.")
    digest_before: str = Field(description="Of the state that it started from.")
    signers: int = Field(description="Who co-signed the block before.")
    disagreeing: int = Field(description="Of these, how many named another state.")
    bits_per_parameter: float = Field(description="Of a mean contribution.")
    seen_at: float | None = Field(description="When its block came, if that was watched.")
    seconds: float | None = Field(description="Since the block before, if that was watched.")
    phases: PhaseSeconds | None = Field(description="Where they went.")


class Rounds(Form):
    """Blocks, newest first: `GET /api/v1/rounds`."""

    rounds: tuple[Round, ...] = Field(description="Newest first.")
    before: int | None = Field(description="Give this as `before` for older ones; null: there are none.")


class RoundPage(Form):
    """One round with its contributions: `GET /api/v1/rounds/{round}`."""

    round: Round = Field(description="The round.")
    contributions: tuple[Contribution, ...] = Field(description="In no order.")


class Curve(Form):
    """What the charts draw: `GET /api/v1/curve`. Lists of one kind belong together, oldest first."""

    rounds: tuple[int, ...] = Field(description="Rounds, evenly spaced where there are many.")
    tokens: tuple[int, ...] = Field(description="Trained on since the round listed before.")
    loss_rounds: tuple[int, ...] = Field(description="After which losses were measured.")
    losses: tuple[float | None, ...] = Field(description="Nats a token.")


class Fact(Form):
    """One thing that the recipe says."""

    topic: str = Field(description="What it is about.")
    words: str = Field(description="What it says.")


class Recipe(Form):
    """The recipe in plain words: `GET /api/v1/recipe`."""

    run: str = Field(description="Run id.")
    name: str = Field(description="The run's name.")
    description: str = Field(description="What its owner says of it.")
    parameters: int = Field(description="Of the model.")
    join: str = Field(description="The line with which volunteers join.")
    facts: tuple[Fact, ...] = Field(description="All else, topic by topic.")


class Problem(Form):
    """Why there is no answer: with every status of 400 and above."""

    error: str = Field(description="What is wrong.")


FORMS: tuple[type[Form], ...] = (
    Swarm,
    PeersByState,
    Loss,
    Peers,
    Peer,
    PeerPage,
    Contribution,
    SaidOfClaim,
    Rounds,
    Round,
    PhaseSeconds,
    RoundPage,
    Curve,
    Recipe,
    Fact,
    Problem,
)
"""Every form, in the order of the documentation."""
