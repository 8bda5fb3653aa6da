"""The metrics of a swarm, as Prometheus reads them."""

from __future__ import annotations

import re

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from promtools import promtool
from watching import ROUND_SECONDS, watched

from monitoring.metrics.swarm_metrics import DECLARED, swarm_registry, values_of
from monitoring.swarm.view import Picture


def exposed(picture: Picture) -> str:
    return generate_latest(swarm_registry(lambda: picture, version="1.2.3")).decode()


def full_picture() -> Picture:
    """A picture in which everything is known."""
    run = watched(goal_tokens=10**15)
    run.grow(run.swarm.keys, 6)
    run.watch.validated(6, 2.5, at=run.now)
    return run.picture(board=[run.swarm.keys[0].peer_id, run.swarm.owner.peer_id])


def test_every_declared_metric_is_exposed_with_its_type_and_help_and_no_other() -> None:
    text = exposed(full_picture())
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    assert types == {declared.name: declared.kind for declared in DECLARED}
    assert helps == {declared.name: declared.help for declared in DECLARED}


def test_every_declared_metric_has_samples_once_everything_is_known_and_only_declared_labels() -> None:
    values = values_of(full_picture(), version="1.2.3")
    assert values.keys() == {declared.name for declared in DECLARED}
    for declared in DECLARED:
        samples = values[declared.name]
        assert samples, declared.name
        for labels in samples:
            assert len(labels) == len(declared.labels)
            for label, allowed in zip(labels, declared.labels.values(), strict=True):
                assert label in allowed or not allowed


def test_the_numbers_are_those_of_the_chain() -> None:
    picture = full_picture()
    found = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(exposed(picture))
        for sample in family.samples
    }
    assert found["manyhands_swarm_peers", ("training",)] == 4
    assert found["manyhands_swarm_peers", ("observing",)] == 1
    assert found["manyhands_swarm_rounds_total", ("complete",)] == 6
    assert found["manyhands_swarm_contributions_total", ("counted",)] == 24
    assert found["manyhands_swarm_round_seconds_total", ()] == 5 * ROUND_SECONDS
    assert found["manyhands_swarm_tokens_total", ()] == picture.totals.tokens
    assert found["manyhands_swarm_validation_loss", ()] == 2.5


def test_what_is_not_known_is_left_out_and_never_zero() -> None:
    values = values_of(watched().picture(heard_at=None), version="1.2.3")
    for name in (
        "validation_loss",
        "compute_ratio",
        "last_block_timestamp_seconds",
        "goal_timestamp_seconds",
    ):
        assert values[f"manyhands_swarm_{name}"] == {}
    assert ("observing",) not in values["manyhands_swarm_peers"]


def test_peers_that_depart_vanish_from_the_metrics() -> None:
    run = watched()
    run.grow(run.swarm.keys, 2)
    run.grow(run.swarm.keys[:3], 33)
    peers = values_of(run.picture(), version="1.2.3")["manyhands_swarm_peers"]
    assert peers["training",] == 3
    assert peers["quiet",] == 0


def test_there_are_as_many_series_however_many_peers_take_part() -> None:
    few, many = watched(2, goal_tokens=10**15), watched(11, goal_tokens=10**15)
    for run in (few, many):
        run.grow(run.swarm.keys, 3)
    lines = [
        sum(not line.startswith("#") for line in exposed(run.picture()).splitlines()) for run in (few, many)
    ]
    assert lines[0] == lines[1] < 300


def test_no_peers_name_is_in_the_metrics() -> None:
    assert "12D3Koo" not in exposed(full_picture())


def test_promtool_finds_nothing_to_say_of_the_metrics() -> None:
    assert promtool("check", "metrics", given=exposed(full_picture()).encode()) == ""
