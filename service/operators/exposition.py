"""Metrics in Prometheus' text format, made of plain numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from service.observing.metrics import Histogram

PREFIX: Final = "viewing_time_"

Labels = tuple[str, ...]


class _One(Collector):
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


class Exposition:
    """The metric families of one scrape; names get the prefix of this service."""

    def __init__(self) -> None:
        self._families: list[Metric] = []

    def blocks(self) -> Iterator[bytes]:
        """The text of each family."""
        for family in self._families:
            yield generate_latest(_One(family))

    def plain(self, is_counter: bool, name: str, doc: str, value: float) -> None:
        """A counter or gauge whose name is shared by all services."""
        kind = CounterMetricFamily if is_counter else GaugeMetricFamily
        self._families.append(kind(name, doc, value))

    def counter(self, name: str, doc: str, value: float) -> None:
        self._families.append(CounterMetricFamily(PREFIX + name, doc, value))

    def counters(self, name: str, doc: str, label: str, values: Mapping[str, float]) -> None:
        self.table(name, doc, (label,), {(labelled,): value for labelled, value in values.items()})

    def table(
        self,
        name: str,
        doc: str,
        labels: Sequence[str],
        values: Mapping[Labels, float],
    ) -> None:
        """A counter with several labels; `values` by their values in the same order."""
        family = CounterMetricFamily(PREFIX + name, doc, labels=labels)
        for labelled, value in values.items():
            family.add_metric(labelled, value)
        self._families.append(family)

    def gauge(
        self, name: str, doc: str, value: float, labels: Mapping[str, str] | None = None
    ) -> None:
        family = GaugeMetricFamily(PREFIX + name, doc, labels=list(labels or {}))
        family.add_metric(list((labels or {}).values()), value)
        self._families.append(family)

    def gauges(self, name: str, doc: str, label: str, values: Mapping[str, float]) -> None:
        family = GaugeMetricFamily(PREFIX + name, doc, labels=[label])
        for labelled, value in values.items():
            family.add_metric([labelled], value)
        self._families.append(family)

    def histogram(self, name: str, doc: str, counted: Histogram) -> None:
        buckets = _buckets(counted)
        self._families.append(HistogramMetricFamily(PREFIX + name, doc, buckets, counted.sum))

    def histograms(self, name: str, doc: str, label: str, values: Mapping[str, Histogram]) -> None:
        family = HistogramMetricFamily(PREFIX + name, doc, labels=[label])
        for labelled, counted in values.items():
            family.add_metric([labelled], _buckets(counted), counted.sum)
        self._families.append(family)


def _buckets(counted: Histogram) -> list[tuple[str, float]]:
    """How many values were at most each bound, by the bound as Prometheus writes it."""
    bounds = map(floatToGoString, (*counted.bounds, float("inf")))
    return list(zip(bounds, counted.cumulative(), strict=True))
