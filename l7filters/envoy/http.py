"""The HTTP connection manager of a slot: as little visible to client and server as Envoy can be.

Owns: protocol options, the fixed chain of HTTP filters, local replies. Must not know rules: those are in the route
configuration, which can change under live connections, while what is here can't without closing them.

What a server can still tell: header order, a request line in origin form, ``transfer-encoding`` in place of an unknown length.
What a client can: ``date``, where the server sent none. ``OPTIONS *`` and a request without a Host are refused by Envoy.
"""

from __future__ import annotations

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter, ComparisonFilter, StatusCodeFilter
from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.base_pb2 import DataSource, HeaderValue, HeaderValueOption, RuntimeUInt32
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.http.set_filter_state.v3.set_filter_state_pb2 import Config as SetFilterState
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    LocalReplyConfig,
    Rds,
    ResponseMapper,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy.extensions.http.header_formatters.preserve_case.v3.preserve_case_pb2 import PreserveCaseFormatterConfig
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from l7filters.envoy import names
from l7filters.envoy.access_log import http_access_log
from l7filters.envoy.counts import counts_log
from l7filters.envoy.message import duration, from_agent, packed
from l7filters.envoy.names import Stage
from l7filters.envoy.rbac import listener_filter
from l7filters.envoy.settings import EnvoySettings, EscapedSlashes, UnderscoreHeaders
from l7filters.model import Direction

FORBIDDEN = 403
DENIED_CONTENT_TYPE = "text/plain; charset=utf-8"

_ESCAPED_SLASHES = {
    EscapedSlashes.UNESCAPE: HttpConnectionManager.UNESCAPE_AND_FORWARD,
    EscapedSlashes.REJECT: HttpConnectionManager.REJECT_REQUEST,
}
_UNDERSCORES = {
    UnderscoreHeaders.ALLOW: HttpProtocolOptions.ALLOW,
    UnderscoreHeaders.REJECT: HttpProtocolOptions.REJECT_REQUEST,
    UnderscoreHeaders.DROP: HttpProtocolOptions.DROP_HEADER,
}


def http_connection_manager(
    name: str,
    judged: tuple[Direction, ...],
    settings: EnvoySettings,
    *,
    extra_filters: tuple[HttpFilter, ...] = (),
    sample: float | None = None,
) -> HttpConnectionManager:
    """Return the connection manager of the slot ``name``, whose records have a ``sample`` of their own, or the node's.

    ``extra_filters`` stand between the policy and the router.
    """
    stages = [(direction, stage) for direction in judged for stage in Stage]
    manager = HttpConnectionManager(
        codec_type=HttpConnectionManager.AUTO,
        stat_prefix=name,
        rds=Rds(route_config_name=name, config_source=from_agent()),
        http_filters=[*_policy_filters(stages), *extra_filters, _router()],
        access_log=[http_access_log(name, stages, settings, sample), *counts_log(name, judged, settings)],
        local_reply_config=local_replies(settings),
        early_header_mutation_extensions=[early_header_mutation()],
        # Nothing is added, renamed or taken away.
        server_header_transformation=HttpConnectionManager.PASS_THROUGH,
        use_remote_address=BoolValue(value=False),
        skip_xff_append=True,
        generate_request_id=BoolValue(value=False),
        preserve_external_request_id=True,
        proxy_100_continue=True,
        # One spelling for each path: the policy and the server see the same.
        normalize_path=BoolValue(value=True),
        merge_slashes=True,
        path_with_escaped_slashes_action=_ESCAPED_SLASHES[settings.escaped_slashes],
        # Limits.
        request_headers_timeout=duration(settings.request_headers_timeout_seconds),
        request_timeout=duration(0),
        stream_idle_timeout=duration(settings.stream_idle_timeout_seconds),
        max_request_headers_kb=UInt32Value(value=settings.request_headers_kib_max),
        common_http_protocol_options=common_options(settings),
        http_protocol_options=http1_options(settings),
        http2_protocol_options=http2_options(settings),
    )
    manager.upgrade_configs.add(upgrade_type="websocket")
    return manager


def common_options(settings: EnvoySettings) -> HttpProtocolOptions:
    """Return the options that both HTTP versions share, towards the client."""
    return HttpProtocolOptions(
        idle_timeout=duration(settings.connection_idle_timeout_seconds),
        max_headers_count=UInt32Value(value=settings.request_headers_count_max),
        headers_with_underscores_action=_UNDERSCORES[settings.underscore_headers],
    )


def http1_options(settings: EnvoySettings) -> Http1ProtocolOptions:
    """Return the HTTP/1 options, the same on both sides. Names of headers keep their case."""
    formatter = TypedExtensionConfig(
        name="envoy.http.stateful_header_formatters.preserve_case", typed_config=packed(PreserveCaseFormatterConfig())
    )
    return Http1ProtocolOptions(
        allow_absolute_url=BoolValue(value=True),
        accept_http_10=settings.accept_http_10,
        enable_trailers=True,
        header_key_format=Http1ProtocolOptions.HeaderKeyFormat(stateful_formatter=formatter),
    )


def http2_options(settings: EnvoySettings) -> Http2ProtocolOptions:
    """Return the HTTP/2 options, the same on both sides. ``allow_connect`` is the WebSocket of HTTP/2 (RFC 8441)."""
    return Http2ProtocolOptions(
        allow_connect=True,
        max_concurrent_streams=UInt32Value(value=settings.h2_concurrent_streams_max),
        initial_stream_window_size=UInt32Value(value=settings.h2_stream_window_bytes),
        initial_connection_window_size=UInt32Value(value=settings.h2_connection_window_bytes),
        override_stream_error_on_invalid_http_message=BoolValue(value=True),
    )


def early_header_mutation() -> TypedExtensionConfig:
    """Return what sets the client's ``x-forwarded-proto`` aside before Envoy adds one where there is none.

    Every route takes Envoy's off and puts the client's back (route.py); the virtual host drops what was set aside. A client's
    own header of that name is dropped first, so it can't pose as a set-aside one.
    """
    kept = HeaderValueOption(
        header=HeaderValue(key=names.FORWARDED_PROTO_KEPT, value="%REQ(x-forwarded-proto)%"),
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    config = EarlyHeaderMutation(mutations=[HeaderMutation(remove=names.FORWARDED_PROTO_KEPT), HeaderMutation(append=kept)])
    return TypedExtensionConfig(name="tidegate.early", typed_config=packed(config))


def local_replies(settings: EnvoySettings) -> LocalReplyConfig:
    """Return what a client is told of a denial. gRPC clients get status 7 with the body as its message, by Envoy itself.

    Only 403: the other replies Envoy makes itself say what they are. The header's value is Envoy's
    ``rbac_access_denied_matched_policy[...]`` with the origin of the rule that denied, or ``none``: no rule allowed.
    """
    body = settings.denied_body.replace("%", "%%")
    mapper = ResponseMapper(
        filter=AccessLogFilter(
            status_code_filter=StatusCodeFilter(
                comparison=ComparisonFilter(
                    op=ComparisonFilter.EQ,
                    value=RuntimeUInt32(default_value=FORBIDDEN, runtime_key="tidegate.denied_status"),
                )
            )
        ),
        body_format_override=SubstitutionFormatString(
            text_format_source=DataSource(inline_string=body), content_type=DENIED_CONTENT_TYPE
        ),
    )
    if settings.denied_header is not None:
        mapper.headers_to_add.add(
            header=HeaderValue(key=settings.denied_header, value="%RESPONSE_CODE_DETAILS%"),
            append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    return LocalReplyConfig(mappers=[mapper])


def _policy_filters(stages: list[tuple[Direction, Stage]]) -> list[HttpFilter]:
    filters = [HttpFilter(name=names.QUERY_FILTER, typed_config=packed(SetFilterState()))]
    for direction, stage in stages:
        config = packed(listener_filter(direction, stage))
        filters.append(HttpFilter(name=names.rbac_filter(direction, stage), typed_config=config))
    return filters


def _router() -> HttpFilter:
    return HttpFilter(name=names.ROUTER_FILTER, typed_config=packed(Router(suppress_envoy_headers=True)))
