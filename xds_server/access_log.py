"""Envoy's access-log records: the gRPC entries of ``envoy.service.accesslog.v3`` as plain values, and a bounded queue of them.

Owns: decoding and the queue. Must not know slots, policies or flows. Envoy is never held up: the stream is always read, and a
full queue drops its oldest record and counts it. Records are samples of what happened, not a count of it: Envoy drops silently
what it can't deliver.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from envoy.config.core.v3.address_pb2 import Address
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogCommon, HTTPAccessLogEntry, ResponseFlags, TCPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.struct_pb2 import Struct, Value

Json: TypeAlias = "bool | float | str | list[Json] | dict[str, Json] | None"

RECORDS_MAX = 16_384
"""About 25 MB of records; at 10,000 records a second it is more than a second of absence of the reader."""

METADATA_DEPTH_MAX = 16
"""Nesting of dynamic metadata that is decoded; what is deeper becomes None. RBAC's own is one level deep."""


class RecordKind(StrEnum):
    HTTP = "http"
    TCP = "tcp"


class HttpVersion(StrEnum):
    HTTP10 = "HTTP/1.0"
    HTTP11 = "HTTP/1.1"
    HTTP2 = "HTTP/2"
    HTTP3 = "HTTP/3"
    UNKNOWN = ""


_HTTP_VERSIONS = {
    HTTPAccessLogEntry.HTTP10: HttpVersion.HTTP10,
    HTTPAccessLogEntry.HTTP11: HttpVersion.HTTP11,
    HTTPAccessLogEntry.HTTP2: HttpVersion.HTTP2,
    HTTPAccessLogEntry.HTTP3: HttpVersion.HTTP3,
}

_FLAG_NAMES = tuple(name for name in ResponseFlags.DESCRIPTOR.fields_by_name if name != "unauthorized_details")

GRPC_STATUS_HEADER = "grpc-status"


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """An IP address as text and a port; ``("", 0)`` where Envoy has none to tell (denied before an upstream was chosen)."""

    address: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRecord:
    """One request (HTTP) or one connection (TCP), as Envoy saw it when it ended.

    ``log_name`` is the name that the listener's access logger has in its configuration. ``downstream_remote`` is the connection's
    own peer, not what a header claims; ``downstream_local`` the address that it dialled, where the listener restores original
    destinations. ``status`` 0: no response was begun. ``metadata``:
    dynamic metadata by namespace, such as ``envoy.filters.http.rbac``. ``grpc_status`` is known only where the logger lists
    ``grpc-status`` among the response headers and trailers to log. HTTP fields are empty in a TCP record.
    """

    kind: RecordKind
    node_id: str
    log_name: str
    start_ns: int
    duration_ns: int
    downstream_remote: SocketAddress
    downstream_local: SocketAddress
    upstream_remote: SocketAddress
    upstream_cluster: str
    route_name: str
    response_flags: tuple[str, ...]
    metadata: Mapping[str, Mapping[str, Json]]
    custom_tags: Mapping[str, str]
    requested_server_name: str
    tls_version: str
    received_bytes: int
    sent_bytes: int
    termination_details: str
    stream_id: str
    is_final: bool
    method: str = ""
    scheme: str = ""
    authority: str = ""
    path: str = ""
    original_path: str = ""
    user_agent: str = ""
    http_version: HttpVersion = HttpVersion.UNKNOWN
    status: int = 0
    response_code_details: str = ""
    grpc_status: int | None = None
    request_headers: Mapping[str, str] = field(default_factory=dict)


class RecordQueue:
    """A bounded queue between Envoy and whoever wants its records. Belongs to one event loop; one reader."""

    def __init__(self, capacity: int = RECORDS_MAX) -> None:
        assert capacity > 0
        self._records: deque[AccessRecord] = deque(maxlen=capacity)
        self._filled = asyncio.Event()
        self._capacity = capacity
        self.received_count = 0
        self.dropped_count = 0

    def put(self, record: AccessRecord) -> None:
        """Never waits: when full, the oldest record goes."""
        self.received_count += 1
        if len(self._records) == self._capacity:
            self.dropped_count += 1
        self._records.append(record)
        self._filled.set()

    def drain(self) -> list[AccessRecord]:
        """Everything that is there, oldest first."""
        records = list(self._records)
        self._records.clear()
        self._filled.clear()
        return records

    async def batches(self) -> AsyncIterator[list[AccessRecord]]:
        """Non-empty batches, for ever."""
        while True:
            await self._filled.wait()
            yield self.drain()


def decode_records(message: StreamAccessLogsMessage, *, node_id: str, log_name: str) -> Iterator[AccessRecord]:
    """The records of one message. Only the first message of a stream says whose they are, so the caller keeps that."""
    for http in message.http_logs.log_entry:
        yield _http_record(http, node_id, log_name)
    for tcp in message.tcp_logs.log_entry:
        yield _tcp_record(tcp, node_id, log_name)


def _http_record(entry: HTTPAccessLogEntry, node_id: str, log_name: str) -> AccessRecord:
    common, request, response = entry.common_properties, entry.request, entry.response
    return AccessRecord(
        kind=RecordKind.HTTP,
        node_id=node_id,
        log_name=log_name,
        start_ns=common.start_time.ToNanoseconds(),
        duration_ns=common.duration.ToNanoseconds(),
        downstream_remote=_socket_address(common.downstream_direct_remote_address),
        downstream_local=_socket_address(common.downstream_local_address),
        upstream_remote=_socket_address(common.upstream_remote_address),
        upstream_cluster=common.upstream_cluster,
        route_name=common.route_name,
        response_flags=_flags(common),
        metadata=_metadata(common),
        custom_tags=dict(common.custom_tags),
        requested_server_name=common.tls_properties.tls_sni_hostname,
        tls_version=_tls_version(common),
        received_bytes=request.request_headers_bytes + request.request_body_bytes,
        sent_bytes=response.response_headers_bytes + response.response_body_bytes,
        termination_details=common.connection_termination_details,
        stream_id=common.stream_id,
        is_final=not common.intermediate_log_entry,
        method=_method(request.request_method),
        scheme=request.scheme,
        authority=request.authority,
        path=request.path,
        original_path=request.original_path,
        user_agent=request.user_agent,
        http_version=_HTTP_VERSIONS.get(entry.protocol_version, HttpVersion.UNKNOWN),
        status=response.response_code.value,
        response_code_details=response.response_code_details,
        grpc_status=_grpc_status(response.response_trailers, response.response_headers),
        request_headers=dict(request.request_headers),
    )


def _tcp_record(entry: TCPAccessLogEntry, node_id: str, log_name: str) -> AccessRecord:
    common, connection = entry.common_properties, entry.connection_properties
    return AccessRecord(
        kind=RecordKind.TCP,
        node_id=node_id,
        log_name=log_name,
        start_ns=common.start_time.ToNanoseconds(),
        duration_ns=common.duration.ToNanoseconds(),
        downstream_remote=_socket_address(common.downstream_direct_remote_address),
        downstream_local=_socket_address(common.downstream_local_address),
        upstream_remote=_socket_address(common.upstream_remote_address),
        upstream_cluster=common.upstream_cluster,
        route_name=common.route_name,
        response_flags=_flags(common),
        metadata=_metadata(common),
        custom_tags=dict(common.custom_tags),
        requested_server_name=common.tls_properties.tls_sni_hostname,
        tls_version=_tls_version(common),
        received_bytes=connection.received_bytes,
        sent_bytes=connection.sent_bytes,
        termination_details=common.connection_termination_details,
        stream_id=common.stream_id,
        is_final=not common.intermediate_log_entry,
    )


def _socket_address(address: Address) -> SocketAddress:
    socket_address = address.socket_address
    return SocketAddress(socket_address.address, socket_address.port_value)


def _method(number: int) -> str:
    """The request's method. Envoy's enum has no place for methods of other RFCs: those are all METHOD_UNSPECIFIED, "" here."""
    return "" if number == RequestMethod.METHOD_UNSPECIFIED else str(RequestMethod.Name(number))


def _flags(common: AccessLogCommon) -> tuple[str, ...]:
    if not common.HasField("response_flags"):
        return ()
    flags = [name for name in _FLAG_NAMES if getattr(common.response_flags, name)]
    if common.response_flags.HasField("unauthorized_details"):
        flags.append("unauthorized")
    return tuple(flags)


def _tls_version(common: AccessLogCommon) -> str:
    if not common.HasField("tls_properties"):
        return ""
    properties = common.tls_properties
    name = str(type(properties).TLSVersion.Name(properties.tls_version))
    return "" if name == "VERSION_UNSPECIFIED" else name


def _metadata(common: AccessLogCommon) -> dict[str, dict[str, Json]]:
    return {namespace: _object(struct, METADATA_DEPTH_MAX) for namespace, struct in common.metadata.filter_metadata.items()}


def _object(struct: Struct, depth_left: int) -> dict[str, Json]:
    return {key: _json(value, depth_left - 1) for key, value in struct.fields.items()}


def _json(value: Value, depth_left: int) -> Json:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return value.number_value
        case "bool_value":
            return value.bool_value
        case "struct_value" if depth_left > 0:
            return _object(value.struct_value, depth_left)
        case "list_value" if depth_left > 0:
            return [_json(item, depth_left - 1) for item in value.list_value.values]
        case _:
            return None


def _grpc_status(*sources: Mapping[str, str]) -> int | None:
    """The status of a gRPC reply: in its trailers, or in the headers of one that has headers only."""
    for source in sources:
        text = source.get(GRPC_STATUS_HEADER, "")
        if text.isascii() and text.isdigit():
            return int(text)
    return None
