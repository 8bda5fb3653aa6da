"""A volunteer whose limits cannot carry the rounds is told so before the first one, with numbers."""

from __future__ import annotations

import pytest
import typer

from peers.network.bandwidth import BandwidthLimits
from peers.node.bandwidth_plan import plan
from recipes.demands import exchanged_bytes
from recipes.density import density_schedule
from recipes.locate import locate_recipe
from recipes.schema.recipe import Recipe, parse_recipe
from trainer.join import bits_per_second

PARAMETERS = 100_000_000


def recipe(*, window: float = 300, longest_transfer: float = 1800) -> Recipe:
    path = locate_recipe("stdlib-tiny")
    parsed = parse_recipe(path.read_bytes(), name=str(path))
    changed = {"window_seconds": window, "transfer_seconds": (3.0, longest_transfer)}
    return parsed.model_copy(update={"round": parsed.round.model_copy(update=changed)})


def told(
    *, up: float | None = None, down: float | None = None, peers: int = 1, run: Recipe | None = None
) -> list[str]:
    limits = BandwidthLimits(
        upload_bits_per_second=None if up is None else up * 1e6,
        download_bits_per_second=None if down is None else down * 1e6,
    )
    return plan(limits, run or recipe(), parameters=PARAMETERS, peers=peers)


def megabits(*, peers: int) -> float:
    return (
        sum(exchanged_bytes(density_schedule(recipe()).lasting, parameters=PARAMETERS, peers=peers)) * 8 / 1e6
    )


def test_who_sets_a_limit_is_told_that_early_rounds_carry_more() -> None:
    dense = recipe()
    dense = dense.model_copy(
        update={"exchange": dense.exchange.model_copy(update={"early": ((0.1, 4.0), (0.3, 2.0))})}
    )
    lasting, early, *_ = told(up=1000, run=dense)
    assert lasting == told(up=1000)[0]
    assert "first 30% of the run" in early
    megabytes = sum(exchanged_bytes(density_schedule(dense).densest, parameters=PARAMETERS, peers=8)) / 1e6
    assert f"up to {megabytes:.2g} MB" in early


def test_without_limits_there_is_nothing_to_say() -> None:
    assert told() == []


def test_limits_that_carry_a_round_are_told_what_it_takes_of_them() -> None:
    (sentence,) = told(up=2, down=10)
    up, down = megabits(peers=8) / 2, megabits(peers=8) / 10
    assert f"{up:,.0f} s at 2 Mbit/s up and {down:,.0f} s at 10 Mbit/s down" in sentence
    assert sentence.startswith(f"One round's exchange with 8 peers is about {megabits(peers=8) / 8:.2g} MB")
    assert sentence.endswith("Windows are 300 s.")


def test_a_larger_swarm_asks_a_little_more() -> None:
    assert f"with 64 peers is about {megabits(peers=64) / 8:.2g} MB" in told(up=2, peers=64)[0]
    assert megabits(peers=8) < megabits(peers=64) < 8 / 7 * megabits(peers=8)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_limit_below_what_a_window_allows_is_told_what_follows_and_what_would_do(direction: str) -> None:
    _, warning = told(up=0.2) if direction == "up" else told(down=0.2)
    assert warning.startswith(
        f"At 0.2 Mbit/s {direction}, one round's exchange takes {megabits(peers=8) / 0.2:,.0f} s; "
        "windows are 300 s: you will hold up the others, or miss cuts."
    )
    enough = float(warning.split("With ")[1].split(" Mbit/s")[0])
    assert len(told(up=enough, down=enough)) == 1
    assert len(told(up=enough - 0.01)) == 2


def test_a_contribution_for_which_nobody_waits_is_told_to_miss_every_cut() -> None:
    impatient = recipe(longest_transfer=60)
    contribution, _ = exchanged_bytes(density_schedule(impatient).lasting, parameters=PARAMETERS, peers=8)
    _, up, down = told(up=0.1, down=0.1, run=impatient)
    assert up.startswith(
        f"At 0.1 Mbit/s up, your contribution alone takes {contribution * 8 / 1e5:,.0f} s, and nobody waits "
        "for that longer than 60 s: you will miss every cut."
    )
    assert "At 0.1 Mbit/s down, what you reduce for the others takes" in down
    least = float(up.split("It takes ")[1].split(" Mbit/s")[0])
    assert "every cut" not in " ".join(told(up=least, run=impatient))


def test_a_command_refuses_what_is_no_limit_with_the_words_that_teach() -> None:
    assert bits_per_second("0.5") == 5e5
    with pytest.raises(typer.BadParameter, match="Leave the option out to set no limit"):
        bits_per_second("0")
