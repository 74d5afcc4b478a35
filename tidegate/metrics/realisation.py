"""How long it takes until what was written is in force.

Owns: the delay from the moment a change was noticed to the moment kernel and Envoy agreed with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tidegate.metrics.spec import BoundedHistogram, BoundedSeries, Spec, counter, histogram

DELAY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

DELAY = histogram(
    "tidegate_policy_realisation_seconds", "From the moment a change was noticed until it was in force in kernel and Envoy."
)
REALISATIONS = counter("tidegate_policy_realisations_total", "Worlds brought into force, or not.", ("outcome",))
SPECS: tuple[Spec, ...] = (DELAY, REALISATIONS)


class RealisationMeter(Collector):
    """Counts realisations. Times are of a monotonic clock."""

    def __init__(self) -> None:
        self._noticed_s: float | None = None
        self._delays = BoundedHistogram(DELAY, DELAY_BOUNDS_S, 1)
        self._outcomes = BoundedSeries(REALISATIONS)
        for outcome in ("realised", "failed"):
            self._outcomes.add((outcome,), 0)

    def noticed(self, now_s: float) -> None:
        """Something changed; of several changes that are realised together the first counts."""
        if self._noticed_s is None:
            self._noticed_s = now_s

    def started(self) -> float | None:
        """A realisation takes in what was noticed so far; return when that was, for ``realised``."""
        noticed_s, self._noticed_s = self._noticed_s, None
        return noticed_s

    def realised(self, noticed_s: float | None, now_s: float) -> None:
        """What was noticed at ``noticed_s`` is in force."""
        self._outcomes.add(("realised",))
        if noticed_s is not None:
            self._delays.observe((), now_s - noticed_s)

    def failed(self, noticed_s: float | None) -> None:
        """It is not, and will be tried again."""
        self._outcomes.add(("failed",))
        if noticed_s is not None:
            self._noticed_s = noticed_s

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield self._delays.collect()
        yield self._outcomes.collect()
