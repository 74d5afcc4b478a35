"""Access-log entries become plain values, and a reader that is away costs the oldest records, never Envoy's time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogCommon, HTTPAccessLogEntry, TCPAccessLogEntry, TLSProperties
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.struct_pb2 import Struct

from xds_server.access_log import (
    METADATA_DEPTH_MAX,
    AccessRecord,
    HttpVersion,
    RecordKind,
    RecordQueue,
    SocketAddress,
    decode_records,
)


def common() -> AccessLogCommon:
    made = AccessLogCommon(upstream_cluster="origin", route_name="r", stream_id="id-1")
    made.start_time.FromNanoseconds(1_700_000_000_123_456_789)
    made.duration.FromNanoseconds(1_500_000)
    made.downstream_remote_address.socket_address.address = "192.0.2.9"  # what X-Forwarded-For claims
    made.downstream_direct_remote_address.socket_address.address = "fd00::2"
    made.downstream_direct_remote_address.socket_address.port_value = 40000
    made.downstream_local_address.socket_address.address = "fd00::3"
    made.downstream_local_address.socket_address.port_value = 80
    made.upstream_remote_address.socket_address.address = "fd00::3"
    made.upstream_remote_address.socket_address.port_value = 80
    made.tls_properties.tls_sni_hostname = "db.example"
    made.tls_properties.tls_version = TLSProperties.TLSv1_3
    made.response_flags.upstream_connection_failure = True
    made.response_flags.unauthorized_details.reason = 1
    made.metadata.filter_metadata["envoy.filters.http.rbac"].update(
        {"shadow_engine_result": "denied", "nested": {"list": [1, "two", True, None]}}
    )
    made.custom_tags["tag"] = "value"
    return made


EXPECTED = AccessRecord(
    kind=RecordKind.TCP,
    node_id="node-a",
    log_name="slot-7",
    start_ns=1_700_000_000_123_456_789,
    duration_ns=1_500_000,
    downstream_remote=SocketAddress("fd00::2", 40000),
    downstream_local=SocketAddress("fd00::3", 80),
    upstream_remote=SocketAddress("fd00::3", 80),
    upstream_cluster="origin",
    route_name="r",
    response_flags=("upstream_connection_failure", "unauthorized"),
    metadata={"envoy.filters.http.rbac": {"shadow_engine_result": "denied", "nested": {"list": [1.0, "two", True, None]}}},
    custom_tags={"tag": "value"},
    requested_server_name="db.example",
    tls_version="TLSv1_3",
    received_bytes=10,
    sent_bytes=20,
    termination_details="",
    stream_id="id-1",
    is_final=True,
)


def decode(message: StreamAccessLogsMessage) -> list[AccessRecord]:
    return list(decode_records(message, node_id="node-a", log_name="slot-7"))


def test_a_connection_is_decoded_field_by_field() -> None:
    entry = TCPAccessLogEntry(common_properties=common())
    entry.connection_properties.received_bytes = 10
    entry.connection_properties.sent_bytes = 20
    message = StreamAccessLogsMessage()
    message.tcp_logs.log_entry.append(entry)
    assert decode(message) == [EXPECTED]


def test_a_request_is_decoded_field_by_field() -> None:
    entry = HTTPAccessLogEntry(common_properties=common(), protocol_version=HTTPAccessLogEntry.HTTP2)
    entry.request.request_method = RequestMethod.POST
    entry.request.scheme = "http"
    entry.request.authority = "svc:80"
    entry.request.path = "/pkg.Svc/Do?x=1"
    entry.request.original_path = "/pkg.Svc//Do?x=1"
    entry.request.user_agent = "grpc"
    entry.request.request_headers["x-id"] = "7"
    entry.request.request_headers_bytes, entry.request.request_body_bytes = 3, 7
    entry.response.response_headers_bytes, entry.response.response_body_bytes = 5, 15
    entry.response.response_code.value = 200
    entry.response.response_code_details = "via_upstream"
    entry.response.response_trailers["grpc-status"] = "7"
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.append(entry)
    assert decode(message) == [
        replace(
            EXPECTED,
            kind=RecordKind.HTTP,
            method="POST",
            scheme="http",
            authority="svc:80",
            path="/pkg.Svc/Do?x=1",
            original_path="/pkg.Svc//Do?x=1",
            user_agent="grpc",
            http_version=HttpVersion.HTTP2,
            status=200,
            response_code_details="via_upstream",
            grpc_status=7,
            request_headers={"x-id": "7"},
        )
    ]


def test_an_empty_entry_is_a_record_without_anything_known() -> None:
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.add()
    (record,) = decode(message)
    assert (record.status, record.grpc_status, record.method, record.tls_version) == (0, None, "", "")
    assert record.downstream_remote == SocketAddress("", 0)
    assert (record.http_version, record.metadata, record.response_flags) == (HttpVersion.UNKNOWN, {}, ())


def test_a_grpc_status_that_is_no_number_is_not_known() -> None:
    for text in ("", "x", "-1", "\u0661", "1e3"):
        message = StreamAccessLogsMessage()
        message.http_logs.log_entry.add().response.response_headers["grpc-status"] = text
        assert decode(message)[0].grpc_status is None


def test_a_grpc_reply_of_headers_only_has_its_status_there() -> None:
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.add().response.response_headers["grpc-status"] = "16"
    assert decode(message)[0].grpc_status == 16


def test_metadata_that_is_nested_too_deeply_is_cut() -> None:
    struct = Struct()
    inner = struct
    for _ in range(METADATA_DEPTH_MAX + 10):
        inner = inner.fields["x"].struct_value
    inner.fields["end"].bool_value = True
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.add().common_properties.metadata.filter_metadata["ns"].CopyFrom(struct)
    value: object = decode(message)[0].metadata["ns"]
    depth = 0
    while isinstance(value, dict):
        value = value["x"]
        depth += 1
    assert (value, depth) == (None, METADATA_DEPTH_MAX)


def test_a_full_queue_drops_the_oldest_and_counts_it() -> None:
    queue = RecordQueue(capacity=3)
    records = [replace(EXPECTED, start_ns=number) for number in range(5)]
    for record in records:
        queue.put(record)
    assert (queue.received_count, queue.dropped_count) == (5, 2)
    assert queue.drain() == records[2:]
    assert queue.drain() == []


def test_a_reader_gets_batches_as_they_come() -> None:
    async def run() -> list[list[int]]:
        queue = RecordQueue()
        queue.put(replace(EXPECTED, start_ns=1))
        queue.put(replace(EXPECTED, start_ns=2))
        batches: list[list[int]] = []
        async with asyncio.timeout(5):
            async for batch in queue.batches():
                batches.append([record.start_ns for record in batch])
                if len(batches) == 2:
                    break
                asyncio.get_running_loop().call_soon(queue.put, replace(EXPECTED, start_ns=3))
        return batches

    assert asyncio.run(run()) == [[1, 2], [3]]
