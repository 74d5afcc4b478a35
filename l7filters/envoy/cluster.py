"""Clusters: the way to where the client was going.

Owns: the shared original-destination cluster and, for originating TLS, one per slot. Must not know rules.

Connections to servers leave from the client's own address (the listener's original_src filter says so, with the mark), so
Envoy pools them per client address. HTTP goes on in the version the client speaks: nothing is bridged.
"""

from __future__ import annotations

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import RoutingPriority
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions as CommonHttpProtocolOptions
from envoy.config.core.v3.protocol_pb2 import UpstreamHttpProtocolOptions
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.wrappers_pb2 import UInt32Value

from l7filters.envoy import names
from l7filters.envoy.http import http1_options, http2_options
from l7filters.envoy.message import duration, packed
from l7filters.envoy.settings import EnvoySettings
from l7filters.envoy.tls import TlsMaterial

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
CLEANUP_SECONDS = 30.0
"""How long a destination that nothing uses is remembered."""
RETRIES_MAX = 0
PRIORITIES = (RoutingPriority.DEFAULT, RoutingPriority.HIGH)


def original_dst_cluster(name: str, settings: EnvoySettings, tls: TlsMaterial | None = None, *, http: bool = True) -> Cluster:
    """Return a cluster that connects to the original destination, by TLS if ``tls`` is given.

    Then the server name sent is the request's host, and the server's certificate must be for it. Where the cluster isn't for
    ``http`` the listener says what name is sent and verified, if any.
    """
    options = HttpProtocolOptions(
        use_downstream_protocol_config=HttpProtocolOptions.UseDownstreamHttpConfig(
            http_protocol_options=http1_options(settings), http2_protocol_options=http2_options(settings)
        ),
        common_http_protocol_options=CommonHttpProtocolOptions(idle_timeout=duration(settings.upstream_idle_timeout_seconds)),
    )
    cluster = Cluster(
        name=name,
        type=Cluster.ORIGINAL_DST,
        lb_policy=Cluster.CLUSTER_PROVIDED,
        connect_timeout=duration(settings.connect_timeout_seconds),
        cleanup_interval=duration(CLEANUP_SECONDS),
        per_connection_buffer_limit_bytes=UInt32Value(value=settings.connection_buffer_bytes),
        circuit_breakers=_circuit_breakers(settings),
    )
    if tls is not None and http:
        options.upstream_http_protocol_options.CopyFrom(UpstreamHttpProtocolOptions(auto_sni=True, auto_san_validation=True))
    if tls is not None:
        cluster.transport_socket.CopyFrom(tls.socket)
    if http:
        cluster.typed_extension_protocol_options[HTTP_OPTIONS].CopyFrom(packed(options))
    return cluster


def shared_cluster(settings: EnvoySettings) -> Cluster:
    """Return the cluster that every slot without originating TLS uses."""
    return original_dst_cluster(names.ORIGINAL_DST_CLUSTER, settings)


def _circuit_breakers(settings: EnvoySettings) -> CircuitBreakers:
    """Return explicit limits: Envoy's default of 1,024 for a whole cluster, which here is the node, would cut traffic off."""
    most = UInt32Value(value=settings.connections_max)
    breakers = CircuitBreakers()
    for priority in PRIORITIES:
        breakers.thresholds.add(
            priority=priority,
            max_connections=most,
            max_pending_requests=most,
            max_requests=most,
            max_connection_pools=most,
            max_retries=UInt32Value(value=RETRIES_MAX),
        )
    return breakers
