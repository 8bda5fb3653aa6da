"""How a metric is declared: once, so that code, documentation and tests speak of the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

_UNITS = (
    ("_timestamp_seconds", "Unix time, s"),
    ("_seconds", "s"),
    ("_bytes", "bytes"),
    ("_ratio", "0 to 1"),
    ("_celsius", "°C"),
    ("_watts", "W"),
    ("_joules", "J"),
    ("_flops", "FLOPs"),
    ("_bytes_per_parameter", "bytes a parameter"),
    ("_loss", "nats a token"),
    ("_tokens", "tokens"),
    ("_round", "number of a round"),
    ("_info", "always 1"),
)
"""What the end of a name says of the unit; a counter's `_total` is left out. The first that fits."""


@dataclass(frozen=True)
class Declared:
    """A metric as Prometheus sees it.

    Attributes:
        name: as it is exposed; a counter's ends in `_total`.
        kind: its type.
        help: one sentence, as it stands on the metrics page.
        labels: the values that each label may take; empty where the values are free (a version).
        only: of these values, those that go together; empty if all do.
        buckets: of a histogram: their upper bounds, rising.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    only: tuple[tuple[str, ...], ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def family(self) -> str:
        """The name without a counter's ending."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name

    @property
    def unit(self) -> str:
        """The unit, as the name says it; what is counted is its own unit."""
        return next((unit for ending, unit in _UNITS if self.family.endswith(ending)), "count")

    @property
    def known_series(self) -> tuple[tuple[str, ...], ...]:
        """The values of labels that are known beforehand; none where a label's values are free."""
        return self.only or tuple(product(*self.labels.values()))
