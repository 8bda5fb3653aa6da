"""The reasons why work is not vested credit, and those of verdicts: closed lists, with a sentence each.

No credit is withheld without one of these. Every peer gives the same reasons, because they are part of the
ledger.
"""

from __future__ import annotations

from typing import Literal

CreditReason = Literal[
    "in escrow",
    "audit pending",
    "no audit passed yet",
    "thresholds not calibrated",
    "missed the cut",
    "branch lost",
    "audit failed",
    "false verdict",
    "double claim",
    "two rosters",
    "two blocks",
    "broken receipt",
    "not reachable for audit",
    "key retired",
]

Forfeiture = Literal[
    "audit failed", "false verdict", "double claim", "two rosters", "two blocks", "broken receipt"
]
"""Reasons that take a peer's pending credit and put it on probation."""

Breach = Literal["two rosters", "two blocks", "broken receipt", "two co-signatures"]
"""What two signed statements of one peer show, beside a double claim; the last one takes no credit."""

Lapse = Literal["not reachable for audit"]
"""Reasons for which pending credit lapses, without a statement that anybody cheated."""

VerdictReason = Literal[
    "agrees",
    "loss trace differs",
    "sketch differs",
    "opened chunks differ",
    "opening does not fit the claim",
    "between the thresholds",
    "thresholds not calibrated",
    "not opened",
    "cannot replay here",
    "no state",
    "no data",
]

CREDIT_SENTENCES: dict[CreditReason, str] = {
    "in escrow": "It vests after round {round}, unless an audit of this peer fails before.",
    "audit pending": "An audit of this peer is open, and nothing of it vests until that is decided.",
    "no audit passed yet": "This peer has passed no audit since it joined or last failed one.",
    "thresholds not calibrated": (
        "The recipe holds no calibrated thresholds for this numeric class, so a replay proves nothing."
    ),
    "missed the cut": "These segments of the contribution were in no average of that round's block.",
    "branch lost": "The claim stands on a branch that the run did not follow.",
    "audit failed": "Two auditors replayed a claim of this peer, each by itself, and came to other numbers.",
    "false verdict": "Two other auditors replayed what this peer had audited, and contradict its verdict.",
    "double claim": "This peer signed two different claims for one round.",
    "two rosters": "As leader, this peer signed two rosters of one attempt.",
    "two blocks": "As leader, this peer signed two blocks of one attempt.",
    "broken receipt": "As reducer, this peer left out a part for which it had given a receipt.",
    "not reachable for audit": "A claim was drawn for an audit, and its author did not open it in time.",
    "key retired": "This peer's account had moved to another key, and what the old one signs does not count.",
}

VERDICT_SENTENCES: dict[VerdictReason, str] = {
    "agrees": "The replay agrees with the claim within the recipe's thresholds.",
    "loss trace differs": "The losses of the replayed steps differ by more than the recipe allows.",
    "sketch differs": "The update at the drawn places differs by more than the recipe allows.",
    "opened chunks differ": "The drawn chunks are not what the replay's update and the error feedback give.",
    "opening does not fit the claim": "What the peer opened does not have the hashes that it claimed.",
    "between the thresholds": "The replay differs by more than honest work does, and by less than cheats do.",
    "thresholds not calibrated": "The recipe holds no thresholds for this numeric class to judge by.",
    "not opened": "The peer did not open its claim to the auditor.",
    "cannot replay here": "The auditor's machine cannot replay this claim.",
    "no state": "The auditor no longer has, and could not get, the state that the window started from.",
    "no data": "The auditor could not get the slots' text.",
}

AUDIT_PENDING = (
    "Audit pending: no verdict is on this chain yet. Claims stand as their peers signed them, and nothing "
    "vests before an audit is passed."
)
"""The note that every command prints with a ledger without verdicts."""


def sentence(reason: CreditReason, *, round_number: int = 0) -> str:
    """Return a reason as a plain sentence; `round_number` is the last round in escrow, for "in escrow"."""
    return CREDIT_SENTENCES[reason].format(round=round_number)
