"""Metrics: Prometheus text, read at scrape time.

A module for each source of numbers (``node``: the status, ``dns``: the DNS proxy in it; ``records``: flow records;
``realisation``), each with its table of ``Spec``; ``CATALOGUE`` is all of them, and docs/metrics.md lists the same (a test
compares). Whoever has numbers of its own writes such a module, adds its table to ``CATALOGUE`` and its collector to the agent's
``Meters``.

Labels have few values: no address, path or pod name is one, and whatever traffic could make many (workloads, policies) stops at
``SERIES_MAX`` series, counted.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from tidegate.flows.ring import FlowRing
from tidegate.metrics import dns, node, realisation, records, requests
from tidegate.metrics.meters import Meters
from tidegate.metrics.node import NodeCollector
from tidegate.metrics.realisation import RealisationMeter
from tidegate.metrics.records import RecordMeter
from tidegate.metrics.requests import RequestCollector
from tidegate.metrics.spec import SERIES_MAX, BoundedSeries, Kind, Source, Spec
from tidegate.status.node import NodeStatus

__all__ = [
    "CATALOGUE",
    "CONTENT_TYPE",
    "SERIES_MAX",
    "BoundedSeries",
    "Kind",
    "Meters",
    "NodeCollector",
    "RealisationMeter",
    "RecordMeter",
    "RequestCollector",
    "Source",
    "Spec",
    "render",
]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
CATALOGUE: tuple[Spec, ...] = (*node.SPECS, *dns.SPECS, *realisation.SPECS, *requests.SPECS, *records.SPECS)


def render(status: NodeStatus, flows: FlowRing, meters: Meters) -> bytes:
    """Return all metrics as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(status, flows))
    for collector in meters.collectors:
        registry.register(collector)
    return generate_latest(registry)
