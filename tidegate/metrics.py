"""Metrics: Prometheus text, read at scrape time.

Owns: metric names, labels and help. Labels have few values: no address, path or pod name is one. Must not know where the
numbers come from: it reads a NodeStatus and the flow ring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tidegate.flow import Verdict
from tidegate.flows import FlowRing
from tidegate.status import EndpointState, NodeStatus, PolicyState, ProcessState

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def render(status: NodeStatus, flows: FlowRing) -> bytes:
    """Return all metrics as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(status, flows))
    return generate_latest(registry)


class NodeCollector(Collector):
    """One reading of a node."""

    def __init__(self, status: NodeStatus, flows: FlowRing) -> None:
        self._status = status
        self._flows = flows

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: the names are known only with the values."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from self._node()
        yield from self._xds()
        yield from self._kernel()
        yield from self._records()

    def _node(self) -> Iterator[Metric]:
        status = self._status
        info = GaugeMetricFamily("tidegate_build_info", "Which Tidegate and Envoy run; always 1.", labels=["version", "envoy"])
        info.add_metric([status.version, status.envoy.version], 1)
        yield info
        yield _by_state(
            "tidegate_endpoints", "Local endpoints by state.", EndpointState, (endpoint.state for endpoint in status.endpoints)
        )
        yield _by_state("tidegate_policies", "Policies by state.", PolicyState, (policy.state for policy in status.policies))
        yield _gauge("tidegate_policy_document_errors", "Policy documents that could not be read.", len(status.document_errors))
        yield _gauge("tidegate_policy_revision", "Revision of the world that is wanted.", status.revision)
        realised = min((policy.revision for policy in status.policies), default=status.revision)
        yield _gauge("tidegate_policy_revision_realised", "Lowest revision that a policy is realised at.", realised)
        yield _gauge("tidegate_all_realised", "1 when nothing is outstanding or wrong.", int(status.all_realised))
        yield _gauge("tidegate_envoy_up", "1 when Envoy is ready.", int(status.envoy.state is ProcessState.READY))
        yield _counter("tidegate_envoy_restarts", "Times Envoy was started again.", status.envoy.restarts)
        yield _gauge("tidegate_bpf_up", "1 when programs and maps are in place.", int(status.bpf.healthy))

    def _xds(self) -> Iterator[Metric]:
        xds = self._status.xds
        yield _gauge("tidegate_xds_connected", "1 while Envoy's configuration stream is open.", int(xds.connected))
        yield _gauge("tidegate_xds_resources", "Resources in the snapshot.", xds.resources)
        yield _gauge("tidegate_xds_quarantined_resources", "Resources that Envoy refused.", len(xds.quarantined))
        yield _counter("tidegate_xds_pushes", "Responses sent to Envoy.", xds.pushes)
        yield _counter("tidegate_xds_acks", "Responses that Envoy accepted.", xds.acks)
        yield _counter("tidegate_xds_nacks", "Responses that Envoy refused.", xds.nacks)

    def _kernel(self) -> Iterator[Metric]:
        packets = CounterMetricFamily("tidegate_drop_packets", "Packets dropped.", labels=["reason", "direction"])
        octets = CounterMetricFamily("tidegate_drop_bytes", "Bytes of packets dropped.", labels=["reason", "direction"])
        for drop in self._status.drops:
            packets.add_metric([drop.reason, drop.direction], drop.packets)
            octets.add_metric([drop.reason, drop.direction], drop.bytes)
        yield packets
        yield octets
        entries = GaugeMetricFamily("tidegate_bpf_map_entries", "Entries in a BPF map.", labels=["map"])
        capacity = GaugeMetricFamily("tidegate_bpf_map_capacity", "Entries that a BPF map can hold.", labels=["map"])
        for fill in self._status.maps:
            entries.add_metric([fill.name], fill.entries)
            capacity.add_metric([fill.name], fill.capacity)
        yield entries
        yield capacity

    def _records(self) -> Iterator[Metric]:
        seen = CounterMetricFamily("tidegate_flows", "Flow records published; allowed ones are sampled.", labels=["verdict"])
        for verdict in Verdict:
            seen.add_metric([verdict.value], self._flows.seen.get(verdict, 0))
        yield seen
        lost = CounterMetricFamily("tidegate_flows_lost", "Flow records lost, by where.", labels=["source"])
        for source, count in self._flows.lost.items():
            lost.add_metric([source.value], count)
        yield lost
        yield _gauge("tidegate_flow_followers", "Readers that follow the flow ring.", self._flows.follower_count)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _by_state(name: str, text: str, states: type[StrEnum], found: Iterable[StrEnum]) -> Metric:
    """Every state has a series, so that an alert sees 0 rather than nothing."""
    counts = Counter(found)
    family = GaugeMetricFamily(name, text, labels=["state"])
    for state in states:
        family.add_metric([state.value], counts[state])
    return family
