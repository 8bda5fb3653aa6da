"""The values of declared metrics: filled in as things happen, by any thread, and read at each scrape."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.metrics.spec import Declared

Labels = tuple[str, ...]


class Series(Collector):
    """Counters begin at 0, with every value that their labels may take; what no event has told is absent."""

    def __init__(self, declared: Iterable[Declared]) -> None:
        self._declared = {one.name: one for one in declared}
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {
            name: dict.fromkeys(one.known_series, 0.0) if one.kind == "counter" else {}
            for name, one in self._declared.items()
        }
        self._counts: dict[str, dict[Labels, list[int]]] = {
            name: {labels: [0] * (len(one.buckets) + 1) for labels in one.known_series}
            for name, one in self._declared.items()
            if one.kind == "histogram"
        }

    def add(self, name: str, amount: float = 1.0, *labels: str) -> None:
        """Let a counter grow."""
        with self._lock:
            values = self._values[name]
            values[labels] = values.get(labels, 0.0) + amount

    def set(self, name: str, value: float, *labels: str) -> None:
        """Let a gauge have this value; or a counter that something else counts."""
        with self._lock:
            self._values[name][labels] = value

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Put a value into a histogram's bucket: the first whose bound it does not exceed."""
        with self._lock:
            self._counts[name][labels][bisect_left(self._declared[name].buckets, value)] += 1
            self._values[name][labels] = self._values[name].get(labels, 0.0) + value

    def collect(self) -> Iterable[Metric]:
        """Return every metric that was declared, with what is known of it."""
        with self._lock:
            return [self._family(one) for one in self._declared.values()]

    def _family(self, one: Declared) -> Metric:
        if one.kind == "histogram":
            return self._histogram(one)
        return family_of(one, self._values[one.name])

    def _histogram(self, one: Declared) -> Metric:
        family = HistogramMetricFamily(one.name, one.help, labels=list(one.labels))
        bounds = [*(repr(float(bound)) for bound in one.buckets), "+Inf"]
        for labels, counts in self._counts[one.name].items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric(list(labels), buckets, sum_value=self._values[one.name].get(labels, 0.0))
        return family


def family_of(one: Declared, values: Mapping[Labels, float]) -> Metric:
    """Return a counter or gauge with its values by the values of its labels."""
    kind = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = kind(one.family, one.help, labels=list(one.labels))
    for labels, value in values.items():
        family.add_metric(list(labels), value)
    return family
