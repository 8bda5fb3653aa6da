"""Benchmarks take sizes of swarms as a list, and refuse anything else as a wrong option."""

from __future__ import annotations

import pytest
import typer

from benchmarks.harness.sizes import sizes_of


def test_sizes_stand_in_the_order_given() -> None:
    assert sizes_of("16,4") == [16, 4]


@pytest.mark.parametrize("text", ["", "4,", "0", "-4", "4;8", "many"])
def test_what_is_no_list_of_sizes_is_a_wrong_option(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="sizes"):
        sizes_of(text)
