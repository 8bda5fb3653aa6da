"""Verdicts, which auditors sign about claims, and disputes, which peers sign about decisions against them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from peers.protocol.reasons import VerdictReason
from peers.protocol.signed import Body, Count, Hash, Norm

Decision = Literal["pass", "fail", "undecided", "unreachable"]

Outcome = Literal["pass", "fail", "inconclusive", "abstain"]

_OUTCOMES: dict[VerdictReason, Outcome] = {
    "agrees": "pass",
    "loss trace differs": "fail",
    "sketch differs": "fail",
    "opened chunks differ": "fail",
    "opening does not fit the claim": "fail",
    "between the thresholds": "inconclusive",
    "thresholds not calibrated": "inconclusive",
    "not opened": "inconclusive",
    "cannot replay here": "abstain",
    "no state": "abstain",
    "no data": "abstain",
}
"""Which outcome each reason goes with: an auditor cannot give one for another."""


def outcome_of(reason: VerdictReason) -> Outcome:
    """Return the outcome of every verdict with this reason."""
    return _OUTCOMES[reason]


class Verdict(Body):
    """An auditor's verdict on the claim that it was asked to replay (`peer` is the auditor).

    Raises:
        ValueError: the reason belongs to another outcome, or a replay comes without its commitment.
    """

    purpose = "verdict"
    claim: Hash
    round: Count  # the claim's
    outcome: Outcome
    reason: VerdictReason
    steps: Count  # replayed, from the window's first one on
    trace: Hash | None  # commitment to the auditor's own losses, made before the peer opened its own
    loss_error: Norm  # largest relative difference between the two loss traces; 0 if none was compared
    kept: Annotated[float, Field(ge=0, le=1)] | None = None  # share of top-k indices that agree, full replays

    @model_validator(mode="after")
    def _is_consistent(self) -> Verdict:
        if _OUTCOMES[self.reason] != self.outcome:
            raise ValueError(f"{self.reason!r} is no reason for {self.outcome!r}")
        if self.replayed and self.trace is None:
            raise ValueError("a replay needs the commitment to its own losses")
        return self

    @property
    def replayed(self) -> bool:
        """Whether the auditor says that it replayed the work, for which it is paid."""
        return self.outcome != "abstain" and self.reason != "not opened"


class Dispute(Body):
    """A peer's statement that an audit which took credit from it went wrong: other auditors are to decide."""

    purpose = "dispute"
    claim: Hash
