"""What Prometheus may know of a whole swarm: each metric declared, and the collector that fills them in.

All of it follows from signed blocks and the ledger, from this observer's own clock, and from its own
measurement of the model. No label names a peer: there are as many series however many take part, and what
concerns one peer is on the page and in its API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.metrics.spec import Declared
from monitoring.swarm.peer_picture import PeerState
from monitoring.swarm.view import LEAVE_REASONS, PHASES, Picture, RoundResult
from peers.chain.finality import MANY_ELECTORS
from peers.protocol.verdicts import Outcome

Samples = Mapping[tuple[str, ...], float]
"""A metric's values by the values of its labels, in the order of its declaration."""

RESULTS: tuple[RoundResult, ...] = get_args(RoundResult)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
STATES: tuple[PeerState, ...] = ("training", "quiet", "observing")  # there is no end to those who are gone

DECLARED = (
    Declared(
        "manyhands_swarm_peers",
        "gauge",
        "Peers by state: counted in one of the last 4 blocks, in an earlier one of the last 32, or in none "
        "of them but on the notice board.",
        {"state": STATES},
    ),
    Declared("manyhands_swarm_round", "gauge", "Round of the newest block."),
    Declared("manyhands_swarm_final_round", "gauge", "Round of the newest block that is never undone."),
    Declared(
        "manyhands_swarm_last_block_timestamp_seconds",
        "gauge",
        "When the newest block was first seen here, or came about as far as that is known, Unix time.",
    ),
    Declared("manyhands_swarm_window_seconds", "gauge", "Length of a training window, as the recipe says."),
    Declared(
        "manyhands_swarm_rounds_total",
        "counter",
        "Rounds by result: everything that was claimed is in the average, a part of it is, or nothing.",
        {"result": RESULTS},
    ),
    Declared(
        "manyhands_swarm_round_phase_seconds_total",
        "counter",
        "Time of the rounds that were watched, by phase.",
        {"phase": PHASES},
    ),
    Declared(
        "manyhands_swarm_round_seconds_total",
        "counter",
        "Time of the rounds that were watched, block to block.",
    ),
    Declared(
        "manyhands_swarm_contributions_total",
        "counter",
        "Contributions by result: averaged at least in part, or not at all.",
        {"result": ("counted", "missed")},
    ),
    Declared(
        "manyhands_swarm_tokens_total", "counter", "Tokens trained on in contributions that were counted."
    ),
    Declared(
        "manyhands_swarm_validation_loss",
        "gauge",
        "Loss of the model on the recipe's validation data as this observer measured it, nats a token.",
    ),
    Declared(
        "manyhands_swarm_validation_timestamp_seconds", "gauge", "When that loss was measured, Unix time."
    ),
    Declared("manyhands_swarm_validation_round", "gauge", "After which round the model had that loss."),
    Declared(
        "manyhands_swarm_contribution_bytes_per_parameter",
        "gauge",
        "Mean size of a contribution in the newest block, bytes a parameter; times 8, that is bits.",
    ),
    Declared("manyhands_swarm_claimed_flops_total", "counter", "Work that peers claimed in blocks, FLOPs."),
    Declared("manyhands_swarm_credited_flops_total", "counter", "Work that was credited into escrow, FLOPs."),
    Declared("manyhands_swarm_vested_flops_total", "counter", "Credit that has vested, FLOPs."),
    Declared(
        "manyhands_swarm_verdicts_total",
        "counter",
        "Auditors' verdicts on the chain, by outcome.",
        {"outcome": OUTCOMES},
    ),
    Declared(
        "manyhands_swarm_state_disagreements_total",
        "counter",
        "Co-signatures in blocks that name another state than the one agreed on.",
    ),
    Declared(
        "manyhands_swarm_joins_total",
        "counter",
        "Peers that were counted for the first time, or again after 4 blocks or more without them.",
    ),
    Declared(
        "manyhands_swarm_leaves_total",
        "counter",
        "Peers that were in none of 4 blocks in a row: expelled, gone on under another key (rotated), or by "
        "whether they had delivered all that they owed in their last round (finished, unfinished).",
        {"reason": LEAVE_REASONS},
    ),
    Declared(
        "manyhands_swarm_expulsions_total",
        "counter",
        "Expulsions: no claim of the peer is taken for a while, for the audit of one failed.",
    ),
    Declared(
        "manyhands_swarm_compute_ratio",
        "gauge",
        "Share of the last watched rounds' time in which trainers computed: the mean of what claims say.",
    ),
    Declared("manyhands_swarm_goal_tokens", "gauge", "Tokens after which the recipe's schedule ends."),
    Declared(
        "manyhands_swarm_goal_timestamp_seconds",
        "gauge",
        "When that many tokens are reached at the pace of the last watched rounds, Unix time.",
    ),
    Declared(
        "manyhands_swarm_minimum_peers",
        "gauge",
        "Training peers below which too few disks hold the state for blocks to be final by electors alone.",
    ),
    Declared(
        "manyhands_monitor_last_success_timestamp_seconds",
        "gauge",
        "When this observer last heard from the swarm, Unix time.",
    ),
    Declared("manyhands_build_info", "gauge", "Always 1; the version of this program.", {"version": ()}),
)
"""In the order in which they are exposed."""


class SwarmCollector(Collector):
    """Fills in the declared metrics from the newest picture. What is not known is left out, never zero."""

    def __init__(self, picture: Callable[[], Picture], *, version: str) -> None:
        self._picture = picture
        self._version = version

    def collect(self) -> Iterable[Metric]:
        """Yield every metric, with as many samples as are known."""
        values = values_of(self._picture(), version=self._version)
        for declared in DECLARED:
            family = _FAMILIES[declared.kind](
                declared.name.removesuffix("_total") if declared.kind == "counter" else declared.name,
                declared.help,
                labels=list(declared.labels),
            )
            for labels, value in values.get(declared.name, {}).items():
                family.add_metric(list(labels), value)
            yield family


_FAMILIES: Mapping[str, Callable[..., CounterMetricFamily | GaugeMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
}


def swarm_registry(picture: Callable[[], Picture], *, version: str) -> CollectorRegistry:
    """Return a registry with the swarm's metrics alone: nothing of this process is among them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SwarmCollector(picture, version=version))
    return registry


def values_of(picture: Picture, *, version: str) -> dict[str, Samples]:
    """Return the values of all metrics by name, as far as they are known."""
    totals, watched, run = picture.totals, picture.watched, picture.run
    newest = picture.rounds[0] if picture.rounds else None
    validation = picture.validations[-1] if picture.validations else None
    states = {"training": picture.peers_in("training"), "quiet": picture.peers_in("quiet")}
    if picture.observing is not None:
        states["observing"] = picture.observing
    swarm: dict[str, Samples] = {
        "peers": _by(states),
        "round": _one(picture.round),
        "final_round": _one(picture.final_round),
        "last_block_timestamp_seconds": _one(picture.last_block_at),
        "window_seconds": _one(run.window_seconds),
        "rounds_total": _by({name: totals.results.get(name, 0) for name in RESULTS}),
        "round_phase_seconds_total": _by({name: watched.phases.get(name, 0.0) for name in PHASES}),
        "round_seconds_total": _one(watched.seconds),
        "contributions_total": _by({"counted": totals.counted, "missed": totals.missed}),
        "tokens_total": _one(totals.tokens),
        "validation_loss": _one(validation.loss if validation else None),
        "validation_timestamp_seconds": _one(validation.measured_at if validation else None),
        "validation_round": _one(validation.round if validation else None),
        "contribution_bytes_per_parameter": _one(newest.bits_per_parameter / 8 if newest else None),
        "claimed_flops_total": _one(totals.claimed),
        "credited_flops_total": _one(totals.credited),
        "vested_flops_total": _one(totals.vested),
        "verdicts_total": _by({name: totals.verdicts.get(name, 0) for name in OUTCOMES}),
        "state_disagreements_total": _one(totals.disagreements),
        "joins_total": _one(totals.joins),
        "leaves_total": _by({reason: totals.leaves.get(reason, 0) for reason in LEAVE_REASONS}),
        "expulsions_total": _one(totals.expulsions),
        "compute_ratio": _one(watched.compute_ratio),
        "goal_tokens": _one(run.goal_tokens),
        "goal_timestamp_seconds": _one(picture.goal_at),
        "minimum_peers": _one(MANY_ELECTORS),
    }
    found = {f"manyhands_swarm_{name}": samples for name, samples in swarm.items()}
    found["manyhands_monitor_last_success_timestamp_seconds"] = _one(picture.heard_at)
    found["manyhands_build_info"] = {(version,): 1.0}
    return found


def _one(value: float | None) -> Samples:
    return {} if value is None else {(): float(value)}


def _by(values: Mapping[str, float]) -> Samples:
    return {(name,): float(value) for name, value in values.items()}
