"""What a recipe asks of a volunteer's machine, estimated from the recipe alone.

Estimates lean to the high side. The exchange is counted for rounds as short as their window, so that
the bytes per day are an upper bound; a swarm of `ASSUMED_PEERS` is assumed, and the figure for any other
size differs by at most a seventh.
"""

from __future__ import annotations

from dataclasses import dataclass

from recipes.density import Density, density_schedule
from recipes.optimizers import INNER_OPTIMIZERS
from recipes.schema.recipe import Recipe

ASSUMED_PEERS = 8
PROGRAM_BYTES = 900 * 10**6  # Python, torch, transformers and the network daemon
KEPT_SNAPSHOTS = 3  # the last two, and one that somebody is fetching

_SECONDS_PER_DAY = 86400


@dataclass(frozen=True)
class Demands:
    """Bytes that one volunteer needs, or moves in a day. `memory` leaves out activations.

    What is moved is that of the longest part of the run; `densest_per_day`, each way, is that of its densest.
    """

    memory: int
    disk: int
    upload_per_day: int
    download_per_day: int
    contribution: int
    reduced: int
    densest_per_day: int


def estimate(recipe: Recipe, *, parameters: int, data_bytes: int) -> Demands:
    """Return what `recipe` asks of a volunteer.

    Args:
        recipe: published or a template.
        parameters: number of values of its model.
        data_bytes: size of its packed data; 0 if unknown.
    """
    state = 4 + (4 if recipe.outer.momentum else 0)  # fp32 weights, and momentum
    feedback = 2  # bf16
    start = 0 if recipe.round.overlap == "none" else 4  # of a window that runs ahead of its block
    moments = INNER_OPTIMIZERS[recipe.inner.optimizer].state_bytes
    training = 4 + 4 + moments + 4  # weights, gradients, moments, pseudo-gradient
    densities = density_schedule(recipe)
    contribution = parameters * densities.lasting.contribution_bits / 8
    reduced = parameters * densities.lasting.reduced_bits / 8
    rounds_per_day = _SECONDS_PER_DAY / recipe.round.window_seconds
    lasting, densest = (
        rounds_per_day * sum(exchanged_bytes(density, parameters=parameters, peers=ASSUMED_PEERS))
        for density in (densities.lasting, densities.densest)
    )
    return Demands(
        memory=PROGRAM_BYTES + parameters * (training + state + feedback + start),
        disk=data_bytes + parameters * (state * (1 + KEPT_SNAPSHOTS) + feedback + start + 4),
        upload_per_day=round(lasting),
        download_per_day=round(lasting),
        contribution=round(contribution),
        reduced=round(reduced),
        densest_per_day=round(densest),
    )


def exchanged_bytes(density: Density, *, parameters: int, peers: int) -> tuple[float, float]:
    """Return what a peer sends in one round on average, and receives as well: contribution, reduced segments.

    Args:
        density: of the round.
        parameters: number of values of the model.
        peers: that contribute to the round.
    """
    others = (peers - 1) / peers
    return (
        others * parameters * density.contribution_bits / 8,
        others * parameters * density.reduced_bits / 8,
    )
