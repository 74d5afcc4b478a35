"""The gRPC shell over a real Unix socket, with plain gRPC clients in place of Envoy."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from tests.support.fake_envoy import resource
from xds_server import REMOVED, AckReport, Nack, RecordQueue, ResourceKey, Snapshot, SocketUnusable, TypeUrl, XdsServer
from xds_server.service import ADS_SERVICE, ALS_SERVICE, STREAMS_MAX
from xds_server.subscription import NAMES_MAX

TIMEOUT_S = 10.0
CLUSTER = TypeUrl.CLUSTER
A, B = ResourceKey(CLUSTER, "a"), ResourceKey(CLUSTER, "b")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await scenario

    asyncio.run(limited())


@asynccontextmanager
async def serving(path: Path, records: RecordQueue | None = None) -> AsyncIterator[XdsServer]:
    server = XdsServer(records=records)
    await server.start(path)
    try:
        yield server
    finally:
        await server.stop()


class Client:
    """One discovery stream."""

    def __init__(self, channel: grpc.aio.Channel, node_id: str) -> None:
        method = channel.stream_stream(
            f"/{ADS_SERVICE}/DeltaAggregatedResources",
            request_serializer=DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=DeltaDiscoveryResponse.FromString,
        )
        self.call = method()
        self._node_id = node_id

    async def ask(self, type_url: str = CLUSTER, **fields: Any) -> None:
        message = DeltaDiscoveryRequest(type_url=str(type_url), **fields)
        message.node.id = self._node_id
        await self.call.write(message)

    async def read(self) -> DeltaDiscoveryResponse:
        response = await self.call.read()
        assert isinstance(response, DeltaDiscoveryResponse), response
        return response

    async def ack(self, response: DeltaDiscoveryResponse) -> None:
        await self.ask(response.type_url, response_nonce=response.nonce)

    async def nack(self, response: DeltaDiscoveryResponse, reason: str) -> None:
        message = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        message.error_detail.code = 13
        message.error_detail.message = reason
        await self.call.write(message)


@asynccontextmanager
async def client(path: Path, node_id: str = "node-a") -> AsyncIterator[Client]:
    # Channels to one address share a connection unless told otherwise.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        made = Client(channel, node_id)
        try:
            yield made
        finally:
            made.call.cancel()


async def until(claim: Callable[[], bool]) -> None:
    while not claim():
        await asyncio.sleep(0.005)


def names(response: DeltaDiscoveryResponse) -> dict[str, str]:
    return {item.name: item.version for item in response.resources}


def test_a_published_resource_is_delivered_accepted_and_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server, client(path) as envoy:
            await envoy.ask()
            server.publish(Snapshot([resource(CLUSTER, "a", 1)]))
            response = await envoy.read()
            assert (response.type_url, names(response)) == (CLUSTER, {"a": "v1"})
            assert response.resources[0].resource.type_url == CLUSTER
            assert response.resources[0].resource.value == b"1"
            await envoy.ack(response)
            assert await server.wait_acked({A: "v1"}, TIMEOUT_S) == AckReport(acked=frozenset({A}))
            counters = server.counters.by_type[CLUSTER]
            assert (counters.responses_sent, counters.resources_sent, counters.acks, counters.nacks) == (1, 1, 1, 0)
            assert counters.bytes_sent == response.ByteSize()
            assert server.counters.total == counters
            assert [connection.node_id for connection in server.connections] == ["node-a"]

    run(scenario())


def test_publishing_what_is_there_already_costs_no_response(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server, client(path) as envoy:
            await envoy.ask()
            server.publish(Snapshot([resource(CLUSTER, "a", 1)]))
            await envoy.ack(await envoy.read())
            await server.wait_acked({A: "v1"}, TIMEOUT_S)
            before = server.counters
            for _ in range(200):
                server.publish(Snapshot([resource(CLUSTER, "a", 1)]))
            # The next thing that the client hears of is the next change.
            server.publish(Snapshot([resource(CLUSTER, "a", 2)]))
            assert names(await envoy.read()) == {"a": "v2"}
            assert server.counters.total.responses_sent == before.total.responses_sent + 1

    run(scenario())


def test_a_client_that_does_not_answer_gets_the_latest_state_afterwards(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server, client(path) as envoy:
            await envoy.ask()
            await until(lambda: server.connected)
            for content in range(100):
                server.publish(Snapshot([resource(CLUSTER, "a", content)]))
                await asyncio.sleep(0)
            first = await envoy.read()
            await envoy.ack(first)
            assert names(await envoy.read()) == {"a": "v99"}
            assert server.counters.total.responses_sent == 2

    run(scenario())


def test_every_connected_client_must_accept(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server, client(path) as old, client(path) as new:
            server.publish(Snapshot([resource(CLUSTER, "a", 1)]))
            await old.ask()
            await new.ask()
            await old.ack(await old.read())
            response = await new.read()
            assert (await server.wait_acked({A: "v1"}, 0.05)).pending == {A}
            await new.ack(response)
            assert (await server.wait_acked({A: "v1"}, TIMEOUT_S)).complete
            assert len(server.connections) == 2

    run(scenario())


def test_a_refusal_is_reported_with_its_reason_and_survives_a_reconnect(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server:
            server.publish(Snapshot([resource(CLUSTER, "a", 1), resource(CLUSTER, "b", 1)]))
            async with client(path) as envoy:
                await envoy.ask()
                await envoy.nack(await envoy.read(), "Error adding/updating cluster(s) b: no good")
                confirmation = await envoy.read()
                assert names(confirmation) == {"a": "v1"}
                await envoy.ack(confirmation)
                report = await server.wait_acked({A: "v1", B: "v1"}, TIMEOUT_S)
                assert report == AckReport(acked=frozenset({A}), nacked={B: "no good"})
            await until(lambda: not server.connected)
            assert server.nacks() == {B: Nack("v1", "no good")}
            async with client(path) as envoy:
                await envoy.ask(initial_resource_versions={"a": "v1"})
                report = await server.wait_acked({A: "v1", B: "v1"}, TIMEOUT_S)
                assert report.nacked == {B: "no good"}
                server.publish(Snapshot([resource(CLUSTER, "a", 1), resource(CLUSTER, "b", 2)]))
                assert server.nacks() == {}
                assert names(await envoy.read()) == {"b": "v2"}

    run(scenario())


def test_a_refused_version_is_tried_again_when_its_time_has_come(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server, client(path) as envoy:
            server.publish(Snapshot([resource(CLUSTER, "b", 1)]))
            await envoy.ask()
            started_s = asyncio.get_running_loop().time()
            await envoy.nack(await envoy.read(), "not now")
            again = await envoy.read()
            assert asyncio.get_running_loop().time() - started_s > 0.9
            await envoy.ack(again)
            await until(lambda: server.nacks() == {})
            assert (await server.wait_acked({B: "v1"}, TIMEOUT_S)).complete

    run(scenario())


def test_what_a_later_snapshot_replaces_is_superseded_before_and_during_the_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "xds.sock") as server:
            server.publish(Snapshot([resource(CLUSTER, "a", 1)]))
            waiting = asyncio.create_task(server.wait_acked({A: "v1"}, TIMEOUT_S))
            await asyncio.sleep(0)
            server.publish(Snapshot([resource(CLUSTER, "a", 2)]))
            assert await waiting == AckReport(superseded=frozenset({A}))
            assert await server.wait_acked({A: REMOVED}, TIMEOUT_S) == AckReport(superseded=frozenset({A}))

    run(scenario())


def test_clients_that_vanish_at_any_moment_leave_nothing_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server:
            for attempt in range(30):
                async with client(path) as envoy:
                    await envoy.ask()
                    await until(lambda: server.connected)
                    large = Snapshot(resource(CLUSTER, f"{number}", f"{attempt}-" + "x" * 2000) for number in range(300))
                    server.publish(large)
                    if attempt % 3:
                        await asyncio.sleep(0.001 * (attempt % 5))
                    else:
                        await envoy.read()
                await until(lambda: not server.connected)
            assert server.counters.streams_opened == 30

    run(scenario())
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_an_orderly_end_of_a_stream_is_answered_by_ours(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server, client(path) as envoy:
            await envoy.ask()
            await until(lambda: server.connected)
            await envoy.call.done_writing()
            assert await envoy.call.read() is grpc.aio.EOF
            assert await envoy.call.code() is grpc.StatusCode.OK
            assert not server.connected

    run(scenario())


def test_requests_for_types_that_are_not_served_are_counted_and_change_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server, client(path) as envoy:
            server.publish(Snapshot([resource(CLUSTER, "a", 1)]))
            await envoy.ask("type.googleapis.com/nobody.serves.This")
            await envoy.ask()
            assert names(await envoy.read()) == {"a": "v1"}
            assert server.counters.requests_ignored == 1

    run(scenario())


def test_too_many_streams_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server, grpc.aio.insecure_channel(f"unix:{path}") as channel:
            clients = [Client(channel, "node-a") for _ in range(STREAMS_MAX)]
            for one in clients:
                await one.ask()
            await until(lambda: len(server.connections) == STREAMS_MAX)
            one_more = Client(channel, "node-a")
            await one_more.ask()
            assert await one_more.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert len(server.connections) == STREAMS_MAX
            for one in clients:
                one.call.cancel()

    run(scenario())


def test_a_violation_of_the_protocol_ends_the_stream_with_a_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server, client(path) as envoy:
            await envoy.ask(resource_names_subscribe=[str(number) for number in range(NAMES_MAX + 1)])
            assert await envoy.call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert str(NAMES_MAX) in await envoy.call.details()
            await until(lambda: not server.connected)

    run(scenario())


def test_access_logs_reach_the_queue_with_the_name_that_only_the_first_message_has(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        records = RecordQueue(capacity=3)
        async with serving(path, records), grpc.aio.insecure_channel(f"unix:{path}") as channel:
            method = channel.stream_unary(
                f"/{ALS_SERVICE}/StreamAccessLogs",
                request_serializer=StreamAccessLogsMessage.SerializeToString,
                response_deserializer=StreamAccessLogsResponse.FromString,
            )
            call = method()
            for number in range(5):
                message = StreamAccessLogsMessage()
                if number == 0:
                    message.identifier.node.id = "node-a"
                    message.identifier.log_name = "slot-7"
                message.http_logs.log_entry.add().request.path = f"/{number}"
                await call.write(message)
            await call.done_writing()
            await call
            assert [(item.node_id, item.log_name, item.path) for item in records.drain()] == [
                ("node-a", "slot-7", f"/{number}") for number in (2, 3, 4)
            ]
            assert (records.received_count, records.dropped_count) == (5, 2)

    run(scenario())


# ---- the socket ---------------------------------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_only_and_goes_with_the_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path):
            mode = path.stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
        assert not path.exists()

    run(scenario())


def test_a_socket_that_nobody_serves_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "xds.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def scenario() -> None:
        async with serving(path) as server, client(path) as envoy:
            await envoy.ask()
            await until(lambda: server.connected)

    run(scenario())


def test_a_socket_that_is_served_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "xds.sock"
        async with serving(path) as server:
            with pytest.raises(SocketUnusable, match="another process"):
                await XdsServer().start(path)
            async with client(path) as envoy:
                await envoy.ask()
                await until(lambda: server.connected)

    run(scenario())


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "xds.sock"
    path.write_text("precious")
    with pytest.raises(SocketUnusable, match="not a socket"):
        run(XdsServer().start(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name, hint", [("x" * 120, "shorter"), ("missing/xds.sock", "directory")])
def test_a_path_that_can_not_be_served_is_refused_with_a_hint(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(SocketUnusable, match=hint):
        run(XdsServer().start(tmp_path / name))


def test_stopping_twice_or_before_the_start_is_fine(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = XdsServer()
        await server.stop()
        await server.start(tmp_path / "xds.sock")
        await server.stop()
        await server.stop()

    run(scenario())
