"""What a metric is called and means, and how series of it are counted within a limit.

Owns: the shape of the catalogue and the bound on label values. Must not know any metric.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

SERIES_MAX = 2000
"""Series of one metric that traffic can make: 200 services that talk to ten others. A scrape of it is some 100 KB."""
OTHER = "other"
"""The value of every label of the series that counts what came after ``SERIES_MAX``."""


class Kind(StrEnum):
    """Prometheus' types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Source(StrEnum):
    """How far a number can be trusted."""

    EXACT = "exact"
    RECORDS = "records"
    """From flow records: denials all, allowed requests the share that is recorded (flows.allowedSample; all while somebody
    follows), less what was lost (tidegate_flows_lost_total)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One metric. ``text`` is its help; counters end in ``_total``."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    source: Source = Source.EXACT

    @property
    def help(self) -> str:
        """The help text, with what it is counted from where that matters."""
        return self.text if self.source is Source.EXACT else f"{self.text} Of flow records: allowed requests are sampled."

    def counter(self) -> CounterMetricFamily:
        """Return an empty family. Only for a counter."""
        assert self.kind is Kind.COUNTER, self.name
        return CounterMetricFamily(self.name, self.help, labels=self.labels)

    def gauge(self) -> GaugeMetricFamily:
        """Return an empty family. Only for a gauge."""
        assert self.kind is Kind.GAUGE, self.name
        return GaugeMetricFamily(self.name, self.help, labels=self.labels)

    def histogram(self) -> HistogramMetricFamily:
        """Return an empty family. Only for a histogram."""
        assert self.kind is Kind.HISTOGRAM, self.name
        return HistogramMetricFamily(self.name, self.help, labels=self.labels)

    def value(self, value: float) -> Metric:
        """Return the family of a metric without labels."""
        family = self.counter() if self.kind is Kind.COUNTER else self.gauge()
        family.add_metric((), value)
        return family


def counter(name: str, text: str, labels: tuple[str, ...] = (), source: Source = Source.EXACT) -> Spec:
    """Return the Spec of a counter."""
    assert name.endswith("_total"), name
    return Spec(name=name, kind=Kind.COUNTER, text=text, labels=labels, source=source)


def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Spec:
    """Return the Spec of a gauge."""
    return Spec(name=name, kind=Kind.GAUGE, text=text, labels=labels)


def histogram(name: str, text: str, labels: tuple[str, ...] = (), source: Source = Source.EXACT) -> Spec:
    """Return the Spec of a histogram."""
    return Spec(name=name, kind=Kind.HISTOGRAM, text=text, labels=labels, source=source)


class BoundedSeries:
    """Counters by label values, at most ``series_max`` of them; what comes after is counted under ``other``."""

    def __init__(self, spec: Spec, series_max: int = SERIES_MAX) -> None:
        self.spec = spec
        self._series_max = series_max
        self._counts: dict[tuple[str, ...], int] = {}
        self.overflowed = 0
        """How often something was counted under ``other``."""

    def add(self, values: tuple[str, ...], count: int = 1) -> None:
        """Count. ``values`` are those of the spec's labels, in their order."""
        known = self._counts.get(values)
        if known is None and len(self._counts) >= self._series_max:
            values = (OTHER,) * len(values)
            known = self._counts.get(values)
            self.overflowed += count
        self._counts[values] = (known or 0) + count

    def collect(self) -> Metric:
        """Return the family."""
        family = self.spec.counter()
        for values, count in self._counts.items():
            family.add_metric(values, count)
        return family


class BoundedHistogram:
    """Histograms by label values, within the same limit; values in the unit of the metric."""

    def __init__(self, spec: Spec, bounds: tuple[float, ...], series_max: int) -> None:
        self.spec = spec
        self._bounds = bounds
        self._series_max = series_max
        self._series: dict[tuple[str, ...], list[float]] = {}
        self.overflowed = 0
        """How often something was counted under ``other``."""

    def observe(self, values: tuple[str, ...], observed: float) -> None:
        """Add one observation."""
        series = self._series.get(values)
        if series is None:
            if len(self._series) >= self._series_max:
                values = (OTHER,) * len(values)
                self.overflowed += 1
            # A bucket for each bound and one beyond, then the sum.
            series = self._series.setdefault(values, [0.0] * (len(self._bounds) + 2))
        for index, bound in enumerate(self._bounds):
            if observed <= bound:
                series[index] += 1
                break
        else:
            series[-2] += 1
        series[-1] += observed

    def collect(self) -> Metric:
        """Return the family."""
        family = self.spec.histogram()
        for values, series in self._series.items():
            buckets, total = [], 0.0
            for bound, count in zip((*map(str, self._bounds), "+Inf"), series[:-1], strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric(values, buckets, series[-1])
        return family


def overflow_of(spec: Spec, series: Iterable[BoundedSeries | BoundedHistogram]) -> Metric:
    """Return the family that says how often each of ``series`` was at its limit. ``spec`` has the label ``metric``."""
    family = spec.counter()
    for each in series:
        family.add_metric((each.spec.name,), each.overflowed)
    return family
