"""What the two swarms of benchmarks.join are told: one link, one model, one period, for both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.bad_links import PORT

VETERANS = 3  # peers that train before the newcomer comes
STEPS = 3  # that a peer of hivemind's takes in a window; more would take time from the others on few cores


@dataclass(frozen=True, kw_only=True)
class JoinSettings:
    """What is the same for both."""

    up_megabits: float  # the newcomer's line
    down_megabits: float
    round_trip_ms: float  # between it and any other
    loss: float  # share of the packets on its line, each way
    fast_megabits: float  # the others' lines, each way
    window_seconds: float
    limit_seconds: float  # for the newcomer to be counted
    half_state: bool  # whether hivemind's peers send their state in fp16


@dataclass(frozen=True, kw_only=True)
class HivemindSettings:
    """What one peer of hivemind's swarm is told."""

    publication: Path
    events: Path
    host: str  # IPv4 address
    port: int
    peers: tuple[str, ...]  # multiaddrs of some that are there already
    newcomer: bool  # whether it begins by loading the others' state
    samples_per_epoch: int  # of all peers together
    step_seconds: float  # that a step takes at least
    matchmaking_seconds: float
    averaging_seconds: float
    load_seconds: float
    half_state: bool


def hivemind_settings(
    settings: JoinSettings,
    *,
    publication: Path,
    events: Path,
    host: str,
    peers: tuple[str, ...],
    newcomer: bool,
    batch: int,
    parameters: int,
) -> HivemindSettings:
    """Return settings with which hivemind does well over these links, by its own configuration guide.

    An epoch is as long as a window: the samples that the veterans take in it. Matchmaking gets half
    of it, between the 5 s that the guide names for small runs and the 15 s for the internet. Averaging may
    take twice what a gradient of 2 bytes a parameter needs on the thinnest line, and half a minute besides.
    """
    thinnest = min(settings.up_megabits, settings.down_megabits, settings.fast_megabits) * 1e6
    return HivemindSettings(
        publication=publication,
        events=events,
        host=host,
        port=PORT,
        peers=peers,
        newcomer=newcomer,
        samples_per_epoch=VETERANS * STEPS * batch,
        step_seconds=settings.window_seconds / STEPS,
        matchmaking_seconds=min(15.0, max(5.0, settings.window_seconds / 2)),
        averaging_seconds=30.0 + 2 * 16 * parameters / thinnest,
        load_seconds=settings.limit_seconds,
        half_state=settings.half_state,
    )
