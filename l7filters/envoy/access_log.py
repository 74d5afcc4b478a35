"""The access log: what Envoy tells the agent of each request or connection.

Owns: which are told of. Denials, would-be denials (policies in audit mode) and failures of the proxy itself always; the rest at
a rate that the agent changes at run time, through the runtime resource, without touching a listener. Must not know rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLog,
    AccessLogFilter,
    MetadataFilter,
    OrFilter,
    ResponseFlagFilter,
    RuntimeFilter,
)
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
    TcpGrpcAccessLogConfig,
)
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ValueMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from l7filters.envoy import names
from l7filters.envoy.message import duration, packed
from l7filters.envoy.names import Stage
from l7filters.envoy.settings import EnvoySettings
from l7filters.model import Direction

MILLION = 1_000_000
PROXY_FAILURE_FLAGS = ("NR", "NC", "UF", "UO", "URX", "UT", "OM", "DPE")
"""No route or cluster, upstream failure, overflow or timeout, overload, a request that is no HTTP."""


def http_access_log(
    name: str, stages: Sequence[tuple[Direction, Stage]], settings: EnvoySettings, sample: float | None = None
) -> AccessLog:
    """Return the log of an HTTP slot; ``sample``: its own. The gRPC status is asked for, wherever it stands."""
    config = HttpGrpcAccessLogConfig(
        common_config=_common(name, settings),
        additional_response_headers_to_log=["grpc-status"],
        additional_response_trailers_to_log=["grpc-status"],
    )
    told = _told_of(names.HTTP_RBAC_NAMESPACE, stages, names.ENFORCED_RESULT, settings, sample)
    told.or_filter.filters.add(response_flag_filter=ResponseFlagFilter(flags=PROXY_FAILURE_FLAGS))
    return AccessLog(name="envoy.access_loggers.http_grpc", filter=told, typed_config=packed(config))


def tcp_access_log(name: str, stages: Sequence[tuple[Direction, Stage]], settings: EnvoySettings) -> AccessLog:
    """Return the log of a TLS slot, one entry for a connection, at its end. Without stages (Kafka) only failures are told of."""
    config = TcpGrpcAccessLogConfig(common_config=_common(name, settings))
    if not stages:
        failures = AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=["UF", "UO"]))
        return AccessLog(name="envoy.access_loggers.tcp_grpc", filter=failures, typed_config=packed(config))
    told = _told_of(names.NETWORK_RBAC_NAMESPACE, stages, names.NETWORK_ENFORCED + names.SHADOW_RESULT, settings)
    told.or_filter.filters.add(response_flag_filter=ResponseFlagFilter(flags=["UF", "UO"]))
    return AccessLog(name="envoy.access_loggers.tcp_grpc", filter=told, typed_config=packed(config))


def runtime(allowed_sample: float) -> Runtime:
    """Return the runtime layer that says which share (0..1) of allowed requests is told of."""
    assert 0.0 <= allowed_sample <= 1.0
    layer = Runtime(name=names.RUNTIME_LAYER)
    # A plain number: the log filter reads it as a count of the denominator that its own configuration has (a million).
    layer.layer.update({names.ALLOWED_SAMPLE_KEY: round(allowed_sample * MILLION)})
    return layer


def _common(name: str, settings: EnvoySettings) -> CommonGrpcAccessLogConfig:
    return CommonGrpcAccessLogConfig(
        log_name=name,
        grpc_service=GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=names.XDS_CLUSTER)),
        transport_api_version=ApiVersion.V3,
        buffer_flush_interval=duration(settings.access_log_flush_seconds),
        buffer_size_bytes=UInt32Value(value=settings.access_log_buffer_bytes),
    )


def _told_of(
    namespace: str,
    stages: Sequence[tuple[Direction, Stage]],
    enforced_key: str,
    settings: EnvoySettings,
    sample: float | None = None,
) -> AccessLogFilter:
    sampled = RuntimeFilter(
        runtime_key=names.ALLOWED_SAMPLE_KEY if sample is None else names.OBSERVED_SAMPLE_KEY,
        percent_sampled=FractionalPercent(
            numerator=round((settings.allowed_sample if sample is None else sample) * MILLION),
            denominator=FractionalPercent.MILLION,
        ),
        use_independent_randomness=True,
    )
    filters = [AccessLogFilter(runtime_filter=sampled)]
    for direction, stage in stages:
        for result in (enforced_key, names.SHADOW_RESULT):
            filters.append(_denied(namespace, names.stat_prefix(direction, stage) + result))
    return AccessLogFilter(or_filter=OrFilter(filters=filters))


def _denied(namespace: str, key: str) -> AccessLogFilter:
    matcher = MetadataMatcher(
        filter=namespace,
        path=[MetadataMatcher.PathSegment(key=key)],
        value=ValueMatcher(string_match=StringMatcher(exact=names.DENIED)),
    )
    return AccessLogFilter(metadata_filter=MetadataFilter(matcher=matcher, match_if_key_not_found=BoolValue(value=False)))
