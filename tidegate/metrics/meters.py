"""What the agent counts besides its status: every collector whose numbers belong on /metrics.

Owns: the list. The agent makes one, hands it to whoever has numbers, and the admin API reads it.
"""

from __future__ import annotations

from prometheus_client.registry import Collector

from tidegate.metrics.realisation import RealisationMeter
from tidegate.metrics.records import RecordMeter


class Meters:
    """The meters of one agent."""

    def __init__(self) -> None:
        self.records = RecordMeter()
        self.realisation = RealisationMeter()
        self._others: list[Collector] = []

    @property
    def collectors(self) -> tuple[Collector, ...]:
        """All of them."""
        return (self.realisation, self.records, *self._others)

    def add(self, collector: Collector) -> None:
        """Have ``collector`` asked at every scrape. It must be quick and must not wait."""
        self._others.append(collector)
