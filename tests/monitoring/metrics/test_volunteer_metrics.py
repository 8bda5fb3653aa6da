"""A volunteer's metrics say what its events said, and are served where only its own machine reads them."""

from __future__ import annotations

import math
import socket
import urllib.request
from types import SimpleNamespace
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry

from monitoring.metrics.device_metrics import DEVICE_DECLARED, DeviceCollector
from monitoring.metrics.endpoint import metrics_served
from monitoring.metrics.series import Series
from monitoring.metrics.volunteer_listener import VolunteerMetrics
from monitoring.metrics.volunteer_metrics import CONTRIBUTIONS, DECLARED
from peers.credit.escrow import Account, Pending
from peers.network.traffic import TrafficMeter
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
from peers.protocol.round_reasons import MissReason, RefusedKind, WaitReason
from recipes.keys.keys import PeerId

PEER = PeerId("12D3KooWCQ3hPXK6YR9pXuqGv5536geuXU1kndtmf2XLbCetXM2K")
NOW = 1_700_000_000.0


def told(*events: Event) -> VolunteerMetrics:
    metrics = VolunteerMetrics(now=lambda: NOW)
    metrics.follow_recipe(segments=8, window_seconds=60.0)
    for event in events:
        metrics.tell(event)
    return metrics


def value(metrics: VolunteerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def contributions(metrics: VolunteerMetrics) -> dict[tuple[str, str], float]:
    name = "manyhands_contributions_total"
    counts = {(r, why): value(metrics, name, result=r, reason=why) or 0.0 for r, why in CONTRIBUTIONS}
    return {what: count for what, count in counts.items() if count}


def block(number: int, *, counted: int = 8) -> BlockAdopted:
    return BlockAdopted(
        round=number,
        attempt=0,
        block="b" * 64,
        digest="d" * 64,
        leader=PEER,
        claims=4,
        counted_segments=counted,
        empty_segments=0,
        tokens=123_456,
        phases={"train": 50.0, "roster": 0.25, "exchange": 4.0, "block": 0.75},
    )


def roster(number: int, *, mine: bool) -> RosterAccepted:
    return RosterAccepted(number, 0, PEER, 4, mine)


def window(number: int, *, loss: float = 2.5, tokens: int = 4096) -> WindowFinished:
    return WindowFinished(number, 12, tokens, loss, 45.0, waited=5.0)


def test_a_round_that_counted_is_told_in_tokens_steps_seconds_and_loss() -> None:
    metrics = told(window(7), Claimed(7, 26_000), roster(7, mine=True), block(7), BlockFinal(6, "f" * 64))
    expected = {
        "manyhands_round": 7,
        "manyhands_final_round": 6,
        "manyhands_last_block_timestamp_seconds": NOW,
        "manyhands_window_seconds": 60,
        "manyhands_tokens_total": 4096,
        "manyhands_counted_tokens_total": 4096,
        "manyhands_local_steps_total": 12,
        "manyhands_compute_seconds_total": 45,
        "manyhands_wait_seconds_total": 5,
        "manyhands_training_loss": 2.5,
        "manyhands_contribution_bytes": 26_000,
    }
    assert {name: value(metrics, name) for name in expected} == expected
    assert contributions(metrics) == {("counted", "whole"): 1}


def test_the_phases_of_a_round_fall_into_the_buckets_of_their_histogram() -> None:
    metrics = told(block(7), block(8))
    name = "manyhands_round_phase_seconds"
    assert value(metrics, f"{name}_count", phase="exchange") == 2
    assert value(metrics, f"{name}_sum", phase="exchange") == 8.0
    assert value(metrics, f"{name}_bucket", phase="exchange", le="3.0") == 0
    assert value(metrics, f"{name}_bucket", phase="exchange", le="10.0") == 2
    assert value(metrics, f"{name}_bucket", phase="train", le="+Inf") == 2


BECAME: list[tuple[tuple[Event, ...], tuple[str, str]]] = [
    ((Claimed(7, 9), roster(7, mine=True), block(7, counted=5)), ("counted", "partly")),
    ((Claimed(7, 9), roster(7, mine=True), block(7, counted=0)), ("missed", "not_in_average")),
    ((Claimed(7, 9), roster(7, mine=False), block(7, counted=0)), ("missed", "not_in_roster")),
    ((Claimed(7, 9), block(7, counted=0)), ("missed", "not_in_roster")),
    ((Claimed(7, 9), roster(7, mine=True), block(9, counted=0)), ("missed", "block_not_seen")),
    ((WindowSpoilt(7, "no_finite_step", 1, 3),), ("unclaimed", "no_numbers")),
    ((Waiting(7, "no_step"),), ("unclaimed", "no_step")),
]


@pytest.mark.parametrize(("events", "became"), BECAME)
def test_what_became_of_a_windows_work_is_counted_with_its_reason(
    events: tuple[Event, ...], became: tuple[str, str]
) -> None:
    assert contributions(told(*events)) == {became: 1}


def test_every_reason_for_work_in_no_average_is_counted_under_itself() -> None:
    counted = {reason for _, (_, reason) in BECAME}
    assert counted - {"whole", "partly"} == set(get_args(MissReason))


def test_a_round_without_a_claim_of_this_peers_says_nothing_of_contributions() -> None:
    assert contributions(told(block(7, counted=0))) == {}


def test_work_that_did_not_count_adds_no_counted_tokens() -> None:
    metrics = told(window(7), Claimed(7, 9), block(7, counted=0), window(8), Claimed(8, 9), block(8))
    assert value(metrics, "manyhands_tokens_total") == 8192
    assert value(metrics, "manyhands_counted_tokens_total") == 4096


def test_a_loss_that_is_no_number_is_told_as_such() -> None:
    loss = value(told(window(7, loss=math.nan)), "manyhands_training_loss")
    assert loss is not None
    assert math.isnan(loss)


def test_what_others_do_is_counted_by_kind() -> None:
    metrics = told(
        Banned(PEER, 60.0, {"malformed": 9}),
        Convicted(PEER, "two_claims", 7),
        Diverged(7, 2),
        Rewound(7, 5, "more_electors"),
    )
    for name in ("bans", "convictions", "state_divergences", "rewinds"):
        assert value(metrics, f"manyhands_{name}_total") == 1


@pytest.mark.parametrize("kind", get_args(RefusedKind))
def test_what_is_refused_is_counted_under_its_kind_whatever_is_wrong_with_it(kind: RefusedKind) -> None:
    metrics = told(Refused(PEER, kind, "a claim of too many words", which="block 7"))
    counts = {one: value(metrics, "manyhands_refusals_total", what=one) for one in get_args(RefusedKind)}
    assert counts == {**dict.fromkeys(counts, 0), kind: 1}


@pytest.mark.parametrize("reason", get_args(WaitReason))
def test_a_round_that_is_sat_out_is_counted_under_its_reason(reason: WaitReason) -> None:
    metrics = told(Waiting(7, reason, until=119))
    counts = {one: value(metrics, "manyhands_pauses_total", reason=one) for one in get_args(WaitReason)}
    assert counts == {**dict.fromkeys(counts, 0), reason: 1}


def test_bytes_are_read_from_the_meter_at_each_scrape() -> None:
    metrics, meter = told(), TrafficMeter()
    metrics.count_traffic(meter)
    sent = {"direction": "sent", "purpose": "segments"}
    assert value(metrics, "manyhands_traffic_bytes_total", **sent) is None
    meter.count_sent("segments")(1000)
    assert value(metrics, "manyhands_traffic_bytes_total", **sent) == 1000
    meter.count_sent("segments")(500)
    assert value(metrics, "manyhands_traffic_bytes_total", **sent) == 1500


def test_audits_and_credit_are_as_they_were_told() -> None:
    metrics = told()
    assert value(metrics, "manyhands_credit_flops", state="vested") is None
    metrics.credited(Account(vested=10, pending=(Pending(1, 3), Pending(2, 4)), lost={"audit failed": 2}))
    metrics.audited("fail", False)
    amounts = {s: value(metrics, "manyhands_credit_flops", state=s) for s in ("vested", "pending", "lost")}
    assert amounts == {"vested": 10, "pending": 7, "lost": 2}
    assert value(metrics, "manyhands_audits_total", role="audited", outcome="fail") == 1


def test_what_no_event_has_told_is_absent_and_counters_begin_at_zero() -> None:
    metrics = VolunteerMetrics()
    assert value(metrics, "manyhands_round") is None
    assert value(metrics, "manyhands_training_loss") is None
    assert value(metrics, "manyhands_rewinds_total") == 0
    assert value(metrics, "manyhands_pauses_total", reason="leaving") == 0


def test_the_validation_loss_comes_with_its_round() -> None:
    metrics = told(Validated(8, 2.25))
    assert value(metrics, "manyhands_validation_loss") == 2.25
    assert value(metrics, "manyhands_validation_round") == 8


class _UnknownError(Exception):
    pass


def nvml(*, driver: bool) -> SimpleNamespace:
    """Return what stands in for the module pynvml: one card, too old to know its energy."""

    def refuse(*_: object) -> None:
        raise _UnknownError

    return SimpleNamespace(
        NVMLError=_UnknownError,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=(lambda: None) if driver else refuse,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTemperature=lambda *_: 61,
        nvmlDeviceGetPowerUsage=lambda _: 350_500,  # mW
        nvmlDeviceGetTotalEnergyConsumption=refuse,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=3 << 30, total=80 << 30),
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=97, memory=12),
    )


def test_a_card_is_told_in_base_units_and_what_it_does_not_know_is_absent() -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DeviceCollector(nvml(driver=True)))
    read = {d.name: registry.get_sample_value(d.name, {"device": "0"}) for d in DEVICE_DECLARED}
    assert read == {
        "manyhands_device_temperature_celsius": 61,
        "manyhands_device_power_watts": 350.5,
        "manyhands_device_energy_joules_total": None,
        "manyhands_device_memory_used_bytes": 3 << 30,
        "manyhands_device_memory_bytes": 80 << 30,
        "manyhands_device_utilization_ratio": 0.97,
    }


def test_without_a_driver_there_is_nothing_of_devices() -> None:
    assert list(DeviceCollector(nvml(driver=False)).collect()) == []


def test_metrics_are_served_on_loopback_alone() -> None:
    said: list[str] = []
    with metrics_served(told(block(7)).registry, port=0, say=said.append) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b"\nmanyhands_round 7.0\n" in answer.read()
        with socket.socket() as elsewhere, pytest.raises(ConnectionRefusedError):
            elsewhere.connect(("127.0.0.2", port))
    assert said == [f"Metrics: http://127.0.0.1:{port}/metrics"]


def test_a_port_in_use_is_said_and_a_free_one_taken() -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        with metrics_served(VolunteerMetrics().registry, port=wanted, say=said.append) as port:
            assert port not in (None, wanted)
    assert said[0] == f"Port {wanted}, where the metrics were to be, is in use: taking a free one."


def test_a_port_that_the_system_refuses_does_not_stop_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "monitoring.metrics.endpoint.LOOPBACK", "192.0.2.1"
    )  # an address of no machine (RFC 5737)
    said: list[str] = []
    with metrics_served(VolunteerMetrics().registry, port=0, say=said.append) as port:
        assert port is None
    assert len(said) == 1
    assert said[0].startswith("No metrics are served: ")


def test_a_series_that_was_not_declared_is_a_fault() -> None:
    with pytest.raises(KeyError):
        Series(DECLARED).add("manyhands_unheard_of_total")
