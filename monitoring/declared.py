"""How a metric is declared: once, so that code, documentation and tests speak of the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge"]


@dataclass(frozen=True)
class Declared:
    """A metric as Prometheus sees it.

    Attributes:
        name: as it is exposed; a counter's ends in `_total`.
        kind: its type.
        help: one sentence, as it stands on the metrics page.
        labels: the values that each label may take; empty where the values are free (a version).
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
