"""A changed value is what dataclasses.replace would have made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peers.credit.escrow import Account, Pending
from recipes.formats.values import changed


def test_a_changed_value_has_the_new_fields_and_all_others_as_they_were() -> None:
    before = Account(joined=3, pending=(Pending(3, 10),))
    after = changed(before, passes=2, vested=7)
    assert after == replace(before, passes=2, vested=7)
    assert before == Account(joined=3, pending=(Pending(3, 10),))


def test_a_field_that_is_not_there_is_refused() -> None:
    with pytest.raises(TypeError, match="Account has no passed"):
        changed(Account(), passed=1)
