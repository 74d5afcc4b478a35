"""Envoy's bootstrap: what it must know before it can ask the agent for the rest.

Owns: the node's name, the agent's socket, limits of the whole process, runtime flags, which statistics are kept. Everything else
comes over the aggregated stream. Must not write files.
"""

from __future__ import annotations

from dataclasses import dataclass

from envoy.config.bootstrap.v3.bootstrap_pb2 import Admin, Bootstrap, LayeredRuntime, RuntimeLayer
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, Pipe, SocketAddress
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.core.v3.config_source_pb2 import ApiConfigSource, ApiVersion
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions, KeepaliveSettings
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.metrics.v3.stats_pb2 import StatsConfig, StatsMatcher
from envoy.config.overload.v3.overload_pb2 import OverloadAction, OverloadManager, ResourceMonitor, ThresholdTrigger, Trigger
from envoy.extensions.resource_monitors.downstream_connections.v3.downstream_connections_pb2 import DownstreamConnectionsConfig
from envoy.extensions.resource_monitors.fixed_heap.v3.fixed_heap_pb2 import FixedHeapConfig
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher, StringMatcher
from google.protobuf.json_format import MessageToJson

from l7filters.envoy import names
from l7filters.envoy.cluster import HTTP_OPTIONS
from l7filters.envoy.matching import REGEX_PROGRAM_SIZE_MAX
from l7filters.envoy.message import duration, from_agent, packed
from l7filters.envoy.settings import EnvoySettings

CONNECT_TIMEOUT_SECONDS = 5.0
RUNTIME_FETCH_TIMEOUT_SECONDS = 2.0
"""Envoy asks for its runtime before anything else; an agent that has none must not hold it up for the default 15 s."""
KEEPALIVE_INTERVAL_SECONDS = 30.0
KEEPALIVE_TIMEOUT_SECONDS = 10.0
PIPE_MODE = 0o600

RUNTIME_FLAGS: dict[str, object] = {
    "re2.max_program_size.error_level": REGEX_PROGRAM_SIZE_MAX,
    "re2.max_program_size.warn_level": REGEX_PROGRAM_SIZE_MAX,
    # A header of several lines is one value, joined by commas; matching.py relies on it.
    "envoy.reloadable_features.match_headers_individually": False,
    "envoy.reloadable_features.rbac_match_headers_individually": False,
}

STATS_KEPT_PREFIXES = (
    "server.",
    "listener_manager.",
    "cluster_manager.",
    "control_plane.",
    "runtime.",
    "overload.",
    f"cluster.{names.XDS_CLUSTER}.",
    f"cluster.{names.ORIGINAL_DST_CLUSTER}.upstream_",
    "envoy.overload_actions.",
)
STATS_KEPT_SUFFIXES = ("downstream_cx_active", "downstream_rq_active", "downstream_cx_total", "downstream_rq_total")
STATS_KEPT_PARTS = (".rbac.", "tidegate_guard_")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSettings:
    """What differs from node to node. Exactly one of ``admin_socket`` and ``admin_port`` (on 127.0.0.1) is set."""

    node_id: str
    xds_socket: str
    admin_socket: str | None = None
    admin_port: int | None = None
    heap_bytes_max: int | None = None
    """Above 95 % of it Envoy stops accepting requests, rather than being killed."""

    def __post_init__(self) -> None:
        assert self.node_id, "Envoy needs a node id"
        assert (self.admin_socket is None) != (self.admin_port is None), "one admin address"


def bootstrap(node: BootstrapSettings, settings: EnvoySettings) -> Bootstrap:
    """Return the bootstrap."""
    made = Bootstrap(
        node=Node(id=node.node_id, cluster="tidegate"),
        header_prefix=names.HEADER_PREFIX,
        layered_runtime=_runtime(),
        stats_config=StatsConfig(stats_matcher=_stats_kept()),
        overload_manager=_overload(node, settings),
        admin=Admin(address=_admin_address(node)),
    )
    made.static_resources.clusters.append(_xds_cluster(node.xds_socket))
    made.dynamic_resources.lds_config.CopyFrom(from_agent())
    made.dynamic_resources.cds_config.CopyFrom(from_agent())
    made.dynamic_resources.ads_config.CopyFrom(
        ApiConfigSource(
            api_type=ApiConfigSource.DELTA_GRPC,
            transport_api_version=ApiVersion.V3,
            set_node_on_first_message_only=True,
            grpc_services=[GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=names.XDS_CLUSTER))],
        )
    )
    return made


def bootstrap_json(node: BootstrapSettings, settings: EnvoySettings) -> str:
    """Return the bootstrap as a file for ``envoy --config-path``."""
    return str(MessageToJson(bootstrap(node, settings), preserving_proto_field_name=True, indent=1, sort_keys=True)) + "\n"


def _admin_address(node: BootstrapSettings) -> Address:
    if node.admin_socket is not None:
        return Address(pipe=Pipe(path=node.admin_socket, mode=PIPE_MODE))
    return Address(socket_address=SocketAddress(address="127.0.0.1", port_value=node.admin_port))


def _xds_cluster(socket: str) -> Cluster:
    address = Address(pipe=Pipe(path=socket))
    load = ClusterLoadAssignment(
        cluster_name=names.XDS_CLUSTER,
        endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))])],
    )
    keepalive = KeepaliveSettings(interval=duration(KEEPALIVE_INTERVAL_SECONDS), timeout=duration(KEEPALIVE_TIMEOUT_SECONDS))
    http = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptions.ExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(connection_keepalive=keepalive)
        )
    )
    cluster = Cluster(
        name=names.XDS_CLUSTER,
        type=Cluster.STATIC,
        connect_timeout=duration(CONNECT_TIMEOUT_SECONDS),
        load_assignment=load,
    )
    cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(packed(http))
    return cluster


def _runtime() -> LayeredRuntime:
    """Return the layers, each overriding those before it: flags, what the agent sets, what an operator sets by hand."""
    flags = RuntimeLayer(name="flags")
    flags.static_layer.update(RUNTIME_FLAGS)
    agent = RuntimeLayer(
        name=names.RUNTIME_LAYER,
        rtds_layer=RuntimeLayer.RtdsLayer(name=names.RUNTIME_LAYER, rtds_config=from_agent(RUNTIME_FETCH_TIMEOUT_SECONDS)),
    )
    return LayeredRuntime(layers=[flags, agent, RuntimeLayer(name="admin", admin_layer=RuntimeLayer.AdminLayer())])


def _stats_kept() -> StatsMatcher:
    patterns = [StringMatcher(prefix=each) for each in STATS_KEPT_PREFIXES]
    patterns += [StringMatcher(suffix=each) for each in STATS_KEPT_SUFFIXES]
    patterns += [StringMatcher(contains=each) for each in STATS_KEPT_PARTS]
    return StatsMatcher(inclusion_list=ListStringMatcher(patterns=patterns))


def _overload(node: BootstrapSettings, settings: EnvoySettings) -> OverloadManager:
    connections = DownstreamConnectionsConfig(max_active_downstream_connections=settings.downstream_connections_max)
    manager = OverloadManager(
        refresh_interval=duration(0.25),
        resource_monitors=[
            ResourceMonitor(name="envoy.resource_monitors.global_downstream_max_connections", typed_config=packed(connections))
        ],
    )
    if node.heap_bytes_max is not None:
        heap = "envoy.resource_monitors.fixed_heap"
        config = FixedHeapConfig(max_heap_size_bytes=node.heap_bytes_max)
        manager.resource_monitors.append(ResourceMonitor(name=heap, typed_config=packed(config)))
        for action, share in (
            ("envoy.overload_actions.shrink_heap", 0.90),
            ("envoy.overload_actions.stop_accepting_requests", 0.95),
        ):
            trigger = Trigger(name=heap, threshold=ThresholdTrigger(value=share))
            manager.actions.append(OverloadAction(name=action, triggers=[trigger]))
    return manager
