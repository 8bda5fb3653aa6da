"""What Prometheus may know of one volunteer's process: each metric declared.

No label names a peer, a round or a message, so there are as many series however long it runs.
"""

from __future__ import annotations

from typing import Literal, get_args

from monitoring.metrics.spec import Declared
from monitoring.swarm.view import Phase
from peers.protocol.round_reasons import MissReason, RefusedKind, WaitReason
from peers.protocol.verdicts import Outcome

ContributionResult = Literal["counted", "missed", "unclaimed"]
"""What became of a window's work: averaged, claimed in vain, or not claimed."""

CountedShare = Literal["whole", "partly"]
"""How much of a contribution is in the average."""

CreditState = Literal["vested", "pending", "uncalibrated", "missed", "lost"]
"""Where the credit of a peer's work is."""

COUNTED_SENTENCES: dict[CountedShare, str] = {
    "whole": "Every segment of the contribution is in the average.",
    "partly": "Some segments of the contribution are in the average, and some are not.",
}
"""How much of a contribution is in the average, in a sentence."""

RESULT_OF_MISS: dict[MissReason, ContributionResult] = {
    "no_step": "unclaimed",
    "no_numbers": "unclaimed",
    "not_in_roster": "missed",
    "not_in_average": "missed",
    "block_not_seen": "missed",
}
"""Whether a window whose work is in no average was claimed at all."""

PHASES: tuple[Phase, ...] = get_args(Phase)
CONTRIBUTIONS: tuple[tuple[ContributionResult, CountedShare | MissReason], ...] = (
    *(("counted", share) for share in get_args(CountedShare)),
    *((result, reason) for reason, result in RESULT_OF_MISS.items()),
)
"""What may become of a window's work: the result, and why."""

PAUSES: tuple[WaitReason, ...] = get_args(WaitReason)
REFUSALS: tuple[RefusedKind, ...] = get_args(RefusedKind)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
CREDIT: tuple[CreditState, ...] = get_args(CreditState)

_PHASE_BUCKETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)

DECLARED = (
    Declared("manyhands_round", "gauge", "Round of the newest block that this peer applied."),
    Declared("manyhands_final_round", "gauge", "Round of the newest block that is never undone."),
    Declared(
        "manyhands_last_block_timestamp_seconds", "gauge", "When the newest block was applied, Unix time."
    ),
    Declared("manyhands_window_seconds", "gauge", "Length of a training window, as the recipe says."),
    Declared(
        "manyhands_round_phase_seconds",
        "histogram",
        "How long the phases of a round took here: training, then waiting for the roster, the exchange, the "
        "block. They add up to the time from block to block.",
        {"phase": PHASES},
        buckets=_PHASE_BUCKETS,
    ),
    Declared("manyhands_tokens_total", "counter", "Tokens trained on in finished windows."),
    Declared("manyhands_counted_tokens_total", "counter", "Of these, tokens of contributions that counted."),
    Declared("manyhands_local_steps_total", "counter", "Local steps in finished windows."),
    Declared(
        "manyhands_compute_seconds_total",
        "counter",
        "Time for which the trainer computed in them.",
    ),
    Declared("manyhands_wait_seconds_total", "counter", "Time before them in which it stood still."),
    Declared(
        "manyhands_training_loss",
        "gauge",
        "Mean loss over the steps of the last window, nats a token; NaN if no step gave a number.",
    ),
    Declared(
        "manyhands_validation_loss",
        "gauge",
        "Loss of the shared model on validation data as this peer measured it, nats a token.",
    ),
    Declared("manyhands_validation_round", "gauge", "After which round the model had that loss."),
    Declared(
        "manyhands_contributions_total",
        "counter",
        "Windows by what became of their work: averaged (counted), claimed in vain (missed), or not claimed.",
        {
            "result": ("counted", "missed", "unclaimed"),
            "reason": tuple(dict.fromkeys(reason for _, reason in CONTRIBUTIONS)),
        },
        only=CONTRIBUTIONS,
    ),
    Declared("manyhands_contribution_bytes", "gauge", "Size of the last contribution that was claimed."),
    Declared(
        "manyhands_traffic_bytes_total",
        "counter",
        "Bytes of requests and answers by direction and by what they are for. Encryption and TCP/IP are left "
        "out.",
        {"direction": ("sent", "received"), "purpose": ()},
    ),
    Declared(
        "manyhands_pauses_total", "counter", "Rounds that this peer sat out, by reason.", {"reason": PAUSES}
    ),
    Declared(
        "manyhands_refusals_total",
        "counter",
        "Things that other peers sent and this one dropped, by what they were to be.",
        {"what": REFUSALS},
    ),
    Declared("manyhands_bans_total", "counter", "Times that another peer was left alone for a while."),
    Declared(
        "manyhands_convictions_total", "counter", "Peers shown to have signed two things that contradict."
    ),
    Declared(
        "manyhands_state_divergences_total",
        "counter",
        "Times that this peer's state differed from the one agreed on, and was fetched again.",
    ),
    Declared("manyhands_rewinds_total", "counter", "Times that this peer left its branch for a better one."),
    Declared(
        "manyhands_audits_total",
        "counter",
        "Verdicts on the chain that this peer gave (auditor) or got (audited), by outcome.",
        {"role": ("auditor", "audited"), "outcome": OUTCOMES},
    ),
    Declared(
        "manyhands_credit_flops",
        "gauge",
        "This peer's work by where its credit is: vested, pending in escrow, done in numerics without "
        "calibrated thresholds, missed the cut, lost.",
        {"state": CREDIT},
    ),
    Declared("manyhands_build_info", "gauge", "Always 1; the version of this program.", {"version": ()}),
)
"""In the order in which they are exposed, before those of devices (device_metrics.py)."""
