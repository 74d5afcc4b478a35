"""Metrics of the node's status: what is realised, what was dropped, how full the maps are.

Owns: their names, labels and help. Must not know where the numbers come from: it reads a NodeStatus and the flow ring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tidegate.flows.record import Verdict
from tidegate.flows.ring import FlowRing
from tidegate.metrics.dns import dns_metrics
from tidegate.metrics.spec import Spec, counter, gauge
from tidegate.status.node import EndpointState, NodeStatus, PolicyState, ProcessState

BUILD = gauge("tidegate_build_info", "Which Tidegate and Envoy run; always 1.", ("version", "envoy"))
ENDPOINTS = gauge("tidegate_endpoints", "Local endpoints by state.", ("state",))
UNMANAGED = gauge("tidegate_unmanaged_workloads", "Workloads of this node whose traffic no policy reaches.", ("kind",))
POLICIES = gauge("tidegate_policies", "Policies by state.", ("state",))
DOCUMENT_ERRORS = gauge("tidegate_policy_document_errors", "Policy documents that could not be read.")
REVISION = gauge("tidegate_policy_revision", "Revision of the world that is wanted.")
REVISION_REALISED = gauge("tidegate_policy_revision_realised", "Lowest revision that a policy is realised at.")
ALL_REALISED = gauge("tidegate_all_realised", "1 when nothing is outstanding or wrong.")
ENVOY_UP = gauge("tidegate_envoy_up", "1 when Envoy is ready.")
ENVOY_RESTARTS = counter("tidegate_envoy_restarts_total", "Times Envoy was started again.")
BPF_UP = gauge("tidegate_bpf_up", "1 when programs and maps are in place.")
XDS_CONNECTED = gauge("tidegate_xds_connected", "1 while Envoy's configuration stream is open.")
XDS_RESOURCES = gauge("tidegate_xds_resources", "Resources in the snapshot.")
XDS_QUARANTINED = gauge("tidegate_xds_quarantined_resources", "Resources that Envoy refused.")
XDS_PUSHES = counter("tidegate_xds_pushes_total", "Responses sent to Envoy.")
XDS_ACKS = counter("tidegate_xds_acks_total", "Responses that Envoy accepted.")
XDS_NACKS = counter("tidegate_xds_nacks_total", "Responses that Envoy refused.")
DROP_PACKETS = counter("tidegate_drop_packets_total", "Packets dropped.", ("reason", "direction"))
DROP_BYTES = counter("tidegate_drop_bytes_total", "Bytes of packets dropped.", ("reason", "direction"))
MAP_ENTRIES = gauge("tidegate_bpf_map_entries", "Entries in a BPF map.", ("map",))
MAP_CAPACITY = gauge("tidegate_bpf_map_capacity", "Entries that a BPF map can hold.", ("map",))
MAP_FILL = gauge("tidegate_bpf_map_fill_ratio", "Entries in a BPF map by those that it can hold, 0 to 1.", ("map",))
FLOWS = counter("tidegate_flows_total", "Flow records published; allowed ones are sampled.", ("verdict",))
FLOWS_LOST = counter("tidegate_flows_lost_total", "Flow records lost, by where.", ("source",))
FOLLOWERS = gauge("tidegate_flow_followers", "Readers that follow the flow ring.")

SPECS: tuple[Spec, ...] = (
    BUILD,
    ENDPOINTS,
    UNMANAGED,
    POLICIES,
    DOCUMENT_ERRORS,
    REVISION,
    REVISION_REALISED,
    ALL_REALISED,
    ENVOY_UP,
    ENVOY_RESTARTS,
    BPF_UP,
    XDS_CONNECTED,
    XDS_RESOURCES,
    XDS_QUARANTINED,
    XDS_PUSHES,
    XDS_ACKS,
    XDS_NACKS,
    DROP_PACKETS,
    DROP_BYTES,
    MAP_ENTRIES,
    MAP_CAPACITY,
    MAP_FILL,
    FLOWS,
    FLOWS_LOST,
    FOLLOWERS,
)


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
        yield from dns_metrics(self._status.dns)
        yield from self._kernel()
        yield from self._records()

    def _node(self) -> Iterator[Metric]:
        status = self._status
        info = BUILD.gauge()
        info.add_metric([status.version, status.envoy.version], 1)
        yield info
        yield _by_state(ENDPOINTS, EndpointState, (endpoint.state for endpoint in status.endpoints))
        unmanaged = UNMANAGED.gauge()
        for kind in ("endpoint", "interface", "pod"):
            unmanaged.add_metric([kind], sum(each.kind == kind for each in status.unmanaged))
        yield unmanaged
        yield _by_state(POLICIES, PolicyState, (policy.state for policy in status.policies))
        yield DOCUMENT_ERRORS.value(len(status.document_errors))
        yield REVISION.value(status.revision)
        yield REVISION_REALISED.value(min((policy.revision for policy in status.policies), default=status.revision))
        yield ALL_REALISED.value(status.all_realised)
        yield ENVOY_UP.value(status.envoy.state is ProcessState.READY)
        yield ENVOY_RESTARTS.value(status.envoy.restarts)
        yield BPF_UP.value(status.bpf.healthy)

    def _xds(self) -> Iterator[Metric]:
        xds = self._status.xds
        yield XDS_CONNECTED.value(xds.connected)
        yield XDS_RESOURCES.value(xds.resources)
        yield XDS_QUARANTINED.value(len(xds.quarantined))
        yield XDS_PUSHES.value(xds.pushes)
        yield XDS_ACKS.value(xds.acks)
        yield XDS_NACKS.value(xds.nacks)

    def _kernel(self) -> Iterator[Metric]:
        packets, octets = DROP_PACKETS.counter(), DROP_BYTES.counter()
        for drop in self._status.drops:
            packets.add_metric([drop.reason, drop.direction], drop.packets)
            octets.add_metric([drop.reason, drop.direction], drop.bytes)
        yield packets
        yield octets
        entries, capacity, ratio = MAP_ENTRIES.gauge(), MAP_CAPACITY.gauge(), MAP_FILL.gauge()
        for fill in self._status.maps:
            entries.add_metric([fill.name], fill.entries)
            capacity.add_metric([fill.name], fill.capacity)
            ratio.add_metric([fill.name], fill.ratio)
        yield entries
        yield capacity
        yield ratio

    def _records(self) -> Iterator[Metric]:
        seen = FLOWS.counter()
        for verdict in Verdict:
            seen.add_metric([verdict.value], self._flows.seen.get(verdict, 0))
        yield seen
        lost = FLOWS_LOST.counter()
        for source, count in self._flows.lost.items():
            lost.add_metric([source.value], count)
        yield lost
        yield FOLLOWERS.value(self._flows.follower_count)


def _by_state(spec: Spec, states: type[StrEnum], found: Iterable[StrEnum]) -> Metric:
    """Every state has a series, so that an alert sees 0 rather than nothing."""
    counts = Counter(found)
    family = spec.gauge()
    for state in states:
        family.add_metric([state.value], counts[state])
    return family
