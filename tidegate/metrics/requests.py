"""Exact counts of requests: what the module inside Envoy counted, by who asked whom and what was said.

Owns: their names and labels. The numbers are those of ``tg_l7_verdicts`` and of what was freed of it (counts/totals.py): no
request is sampled or lost, whether an agent ran or not. Methods and statuses are not counted there; ``records`` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tidegate.counts.totals import L7Counts, Series, Workload
from tidegate.metrics.spec import Spec, counter

LABELS = ("source", "destination", "direction", "protocol", "verdict", "policy")

REQUESTS = counter("tidegate_requests_total", "Requests, connections and messages judged by the proxy.", LABELS)
BYTES = counter("tidegate_request_bytes_total", "Bytes of their bodies, both ways.", LABELS)
UNCOUNTED = counter(
    "tidegate_requests_uncounted_total",
    "Requests that found no room for a record of their own: in neither of the two.",
    ("verdict",),
)
SPECS: tuple[Spec, ...] = (REQUESTS, BYTES, UNCOUNTED)


class RequestCollector(Collector):
    """Reads the counts when it is asked."""

    def __init__(self, counts: Callable[[], L7Counts]) -> None:
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family; without counts (no module in Envoy) they are empty."""
        counts = self._counts()
        requests, octets, uncounted = REQUESTS.counter(), BYTES.counter(), UNCOUNTED.counter()
        for series, total in counts.totals.items():
            labels = _labels(series)
            requests.add_metric(labels, total.requests)
            octets.add_metric(labels, total.bytes)
        for kind, number in counts.overflow.items():
            uncounted.add_metric((kind.name.lower(),), number)
        yield requests
        yield octets
        yield uncounted


def _labels(series: Series) -> tuple[str, ...]:
    ends = (_name(series.source), _name(series.destination))
    return (*ends, str(series.side), series.protocol, series.verdict.name.lower(), ",".join(series.policies))


def _name(workload: Workload) -> str:
    return f"{workload.namespace}/{workload.name}" if workload.namespace else workload.name.removeprefix("reserved:")
