"""Each label of a closed list has its sentence, and no sentence is without a label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import pytest

from peers.protocol import round_reasons as reasons


@pytest.mark.parametrize(
    ("labels", "sentences"),
    [
        (reasons.WaitReason, reasons.WAIT_SENTENCES),
        (reasons.MissReason, reasons.MISS_SENTENCES),
        (reasons.SpoiltReason, reasons.SPOILT_SENTENCES),
        (reasons.RewindReason, reasons.REWIND_SENTENCES),
        (reasons.Equivocation, reasons.EQUIVOCATION_SENTENCES),
    ],
)
def test_each_label_has_a_whole_sentence(labels: Any, sentences: Mapping[str, str]) -> None:
    assert set(get_args(labels)) == sentences.keys()
    for words in sentences.values():
        assert words[0].isupper()
        assert words.endswith(".")


def test_each_kind_that_is_refused_has_a_name() -> None:
    assert set(get_args(reasons.RefusedKind)) == reasons.REFUSED_NAMES.keys()
