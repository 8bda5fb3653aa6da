"""Whether a round's exchange fits into a volunteer's bandwidth limits, in plain words, before the first one.

The exchange's bytes follow from the recipe, and the time that they take from the limits. So a volunteer whose
limit no round can keep learns of it at once, and not by rounds that do not count. The real speed of a line is
measured later, by the time that transfers take (measurements.py); waiting for a limit is a part of that time.
"""

from __future__ import annotations

import math

from peers.network.bandwidth import BandwidthLimits
from recipes.demands import ASSUMED_PEERS, exchanged_bytes
from recipes.density import density_schedule
from recipes.schema.recipe import Recipe


def plan(limits: BandwidthLimits, recipe: Recipe, *, parameters: int, peers: int) -> list[str]:
    """Return sentences about these limits for the volunteer; none without limits.

    Args:
        limits: the volunteer's.
        recipe: of the run.
        parameters: number of values of its model.
        peers: known to take part, the volunteer with them.
    """
    limited = {
        "up": limits.upload_bits_per_second,
        "down": limits.download_bits_per_second,
    }
    directions = {direction: rate for direction, rate in limited.items() if rate is not None}
    if not directions:
        return []
    peers = max(peers, ASSUMED_PEERS)
    densities = density_schedule(recipe)
    contribution, reduced = exchanged_bytes(densities.lasting, parameters=parameters, peers=peers)
    bits, window = 8 * (contribution + reduced), recipe.round.window_seconds
    taking = " and ".join(
        f"{_seconds(bits / rate)} at {_mbits(rate)} {direction}" for direction, rate in directions.items()
    )
    said = [
        f"One round's exchange with {peers} peers is about {bits / 8e6:.2g} MB each way, "
        f"which takes {taking}. Windows are {_seconds(window)}."
    ]
    if early := recipe.exchange.early:
        most = sum(exchanged_bytes(densities.densest, parameters=parameters, peers=peers))
        said.append(
            f"Rounds are denser in the first {early[-1][0]:.0%} of the run: "
            f"up to {most / 1e6:.2g} MB each way."
        )
    longest = recipe.round.transfer_seconds[1]
    for direction, rate in directions.items():
        if 8 * contribution / rate > longest:
            said.append(_too_late(direction, rate, contribution_bits=8 * contribution, longest=longest))
        elif bits / rate > window:
            said.append(
                f"At {_mbits(rate)} {direction}, one round's exchange takes {_seconds(bits / rate)}; windows "
                f"are {_seconds(window)}: you will hold up the others, or miss cuts. "
                f"With {_enough(bits / window)} it would fit."
            )
    return said


def _too_late(direction: str, rate: float, *, contribution_bits: float, longest: float) -> str:
    what = {"up": "your contribution alone", "down": "what you reduce for the others"}[direction]
    return (
        f"At {_mbits(rate)} {direction}, {what} takes {_seconds(contribution_bits / rate)}, and nobody "
        f"waits for that longer than {_seconds(longest)}: you will miss every cut. "
        f"It takes {_enough(contribution_bits / longest)} at least."
    )


def _mbits(bits_per_second: float) -> str:
    return f"{bits_per_second / 1e6:g} Mbit/s"


def _enough(bits_per_second: float) -> str:
    """Return a limit that is no less than `bits_per_second`, in hundredths of Mbit/s."""
    return f"{math.ceil(bits_per_second / 1e4) / 100:g} Mbit/s"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1g} s"
