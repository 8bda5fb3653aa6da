"""A volunteer's metrics, fed by events: what happened, in numbers.

It is a listener, as the screen is, and knows nothing of the engine. Events come on one thread, scrapes on
others. Labels are those of the events (peers/protocol/round_reasons.py): no sentence is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from monitoring.metrics.device_metrics import DeviceCollector
from monitoring.metrics.own_credit import OwnCredit
from monitoring.metrics.series import Series
from monitoring.metrics.volunteer_metrics import (
    DECLARED,
    RESULT_OF_MISS,
    ContributionResult,
    CountedShare,
    CreditState,
)
from peers.credit.escrow import Account
from peers.credit.rules import credit_rules
from peers.ledger.derive import Ground
from peers.network.traffic import TrafficMeter, TrafficStatistics
from peers.protocol.events import (
    Banned,
    BlockAdopted,
    BlockFinal,
    Claimed,
    Convicted,
    Diverged,
    Event,
    Refused,
    Rewound,
    RosterAccepted,
    Validated,
    Waiting,
    WindowFinished,
    WindowSpoilt,
)
from peers.protocol.round_reasons import MissReason, WaitReason
from peers.protocol.verdicts import Outcome

if TYPE_CHECKING:
    from peers.sync.run_download import Run
    from recipes.keys.keys import PeerId
    from recipes.layout import Layout

_COUNTED_BY: Mapping[type[Event], str] = {
    Banned: "manyhands_bans_total",
    Convicted: "manyhands_convictions_total",
    Diverged: "manyhands_state_divergences_total",
    Rewound: "manyhands_rewinds_total",
}


class VolunteerMetrics:
    """Everything that a volunteer's process tells Prometheus, in a registry of its own."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        """Begin with every counter at zero. `now` is a clock that gives Unix time."""
        self._now = now
        self._series = Series(DECLARED)
        self._segments: int | None = None  # of a contribution
        self._tokens: dict[int, int] = {}  # of windows whose block has not come, by round
        self._claimed: dict[int, bool] = {}  # rounds whose block has not come -> whether the roster has it
        self._series.set("manyhands_build_info", 1.0, version("manyhands"))
        self.registry = CollectorRegistry(auto_describe=False)
        self._meter: TrafficMeter | None = None
        self._own_credit: OwnCredit | None = None
        self.registry.register(_Volunteered(self._series, self._moved))
        self.registry.register(DeviceCollector())

    def count_traffic(self, meter: TrafficMeter) -> None:
        """Let scrapes read the bytes moved so far."""
        self._meter = meter

    def follow_recipe(self, *, segments: int, window_seconds: float) -> None:
        """Take in what the recipe says: segments of a contribution, and the length of a window."""
        self._segments = segments
        self._series.set("manyhands_window_seconds", window_seconds)

    def follow_credit(self, run: Run, *, layout: Layout, peer: PeerId) -> None:
        """Derive this peer's credit and audits from its chain from now on, as blocks become final."""
        from peers.protocol.rules import Rules
        from peers.state.block_store import CHAIN_FILE
        from peers.state.genesis import start_digest

        recipe = run.signed.recipe
        rules = Rules.of(recipe, run.signed.run_id)
        ground = Ground(credit_rules(recipe, rules), start_digest(recipe, rules, layout))
        self._own_credit = OwnCredit(run.folder / CHAIN_FILE, ground, peer, self)

    def tell(self, event: Event) -> None:
        """Take in an event."""
        if self._own_credit is not None:
            self._own_credit.tell(event)
        match event:
            case WindowFinished():
                self._trained(event)
            case WindowSpoilt(round=number):
                self._missed("no_numbers")
                self._tokens.pop(number, None)
            case Waiting(reason=reason):
                self._waits(reason)
            case Claimed(round=number, contribution_bytes=size):
                self._claimed.setdefault(number, False)
                self._series.set("manyhands_contribution_bytes", size)
            case RosterAccepted(round=number, mine=mine) if number in self._claimed:
                self._claimed[number] = mine
            case BlockAdopted():
                self._adopted(event)
            case BlockFinal(round=number):
                self._series.set("manyhands_final_round", number)
            case Refused(kind=kind):
                self._series.add("manyhands_refusals_total", 1, kind)
            case Validated(round=number, loss=loss):
                self._series.set("manyhands_validation_loss", loss)
                self._series.set("manyhands_validation_round", number)
            case Banned() | Convicted() | Diverged() | Rewound():
                self._series.add(_COUNTED_BY[type(event)])
            case _:
                pass

    def credited(self, account: Account) -> None:
        """Take in where this peer's credit is now."""
        amounts: dict[CreditState, int] = {
            "vested": account.vested,
            "pending": account.in_escrow,
            "uncalibrated": account.uncalibrated,
            "missed": account.missed,
            "lost": sum(account.lost.values()),
        }
        for state, amount in amounts.items():
            self._series.set("manyhands_credit_flops", amount, state)

    def audited(self, outcome: Outcome, by_this_peer: bool) -> None:
        """Count a verdict that this peer gave, or else got."""
        self._series.add("manyhands_audits_total", 1, "auditor" if by_this_peer else "audited", outcome)

    def _moved(self) -> TrafficStatistics | None:
        return self._meter.statistics() if self._meter is not None else None

    def _trained(self, event: WindowFinished) -> None:
        self._tokens[event.round] = event.tokens
        self._series.add("manyhands_tokens_total", event.tokens)
        self._series.add("manyhands_local_steps_total", event.steps)
        self._series.add("manyhands_compute_seconds_total", event.seconds)
        self._series.add("manyhands_wait_seconds_total", event.waited)
        if event.steps:
            self._series.set("manyhands_training_loss", event.loss)

    def _waits(self, reason: WaitReason) -> None:
        self._series.add("manyhands_pauses_total", 1, reason)
        if reason == "no_step":
            self._missed("no_step")

    def _adopted(self, event: BlockAdopted) -> None:
        self._series.set("manyhands_round", event.round)
        self._series.set("manyhands_last_block_timestamp_seconds", self._now())
        for phase, seconds in event.phases.items():
            self._series.observe("manyhands_round_phase_seconds", max(0.0, seconds), phase)
        if event.counted_segments:
            self._series.add("manyhands_counted_tokens_total", self._tokens.get(event.round, 0))
        if event.round in self._claimed:
            self._decided(event, in_roster=self._claimed[event.round])
        passed = [number for number in self._claimed if number < event.round]
        for _ in passed:
            self._missed("block_not_seen")
        self._claimed = {n: mine for n, mine in self._claimed.items() if n > event.round}
        self._tokens = {n: tokens for n, tokens in self._tokens.items() if n > event.round}

    def _decided(self, event: BlockAdopted, *, in_roster: bool) -> None:
        """Count what a block says of the own claim for its round."""
        if not event.counted_segments:
            self._missed("not_in_average" if in_roster else "not_in_roster")
        elif self._segments is None or event.counted_segments >= self._segments:
            self._contribution("counted", "whole")
        else:
            self._contribution("counted", "partly")

    def _missed(self, reason: MissReason) -> None:
        self._contribution(RESULT_OF_MISS[reason], reason)

    def _contribution(self, result: ContributionResult, reason: CountedShare | MissReason) -> None:
        self._series.add("manyhands_contributions_total", 1, result, reason)


class _Volunteered(Collector):
    """The series, with the bytes that were moved up to the scrape."""

    def __init__(self, series: Series, traffic: Callable[[], TrafficStatistics | None]) -> None:
        self._series = series
        self._traffic = traffic

    def collect(self) -> Iterable[Metric]:
        moved = self._traffic()
        if moved is not None:
            for direction, by_purpose in (("sent", moved.sent), ("received", moved.received)):
                for purpose, size in by_purpose.items():
                    self._series.set("manyhands_traffic_bytes_total", size, direction, purpose)
        return self._series.collect()
