"""The discovery server against the real Envoy: what it accepts, refuses, keeps and asks for again."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.xds_envoy import RunningEnvoy, cluster, http_listener, route, tcp_listener
from xds_server import REMOVED, AccessRecord, RecordKind, ResourceKey, Snapshot, SocketAddress, TypeUrl, XdsServer
from xds_server.quarantine import RETRY_NS_MIN

pytestmark = pytest.mark.envoy

# Each worker of a parallel run has its own, since ports and base ids belong to the machine.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = range(20700 + 50 * WORKER, 20750 + 50 * WORKER)
ACK_TIMEOUT_S = 15.0
BASE_IDS = range(7300 + 50 * WORKER, 7350 + 50 * WORKER)

_port_numbers = iter(PORTS)
_base_ids = iter(BASE_IDS)


@pytest.fixture
def port() -> int:
    return next(_port_numbers)


@pytest.fixture
def other_port() -> int:
    return next(_port_numbers)


@pytest.fixture
def base_id() -> int:
    return next(_base_ids)


@pytest.fixture
def envoy(tmp_path: Path, base_id: int) -> Iterator[RunningEnvoy]:
    with RunningEnvoy(tmp_path, tmp_path / "xds.sock", base_id=base_id) as running:
        yield running


@asynccontextmanager
async def serving(path: Path, snapshot: Snapshot | None = None) -> AsyncIterator[XdsServer]:
    server = XdsServer()
    if snapshot is not None:
        server.publish(snapshot)
    await server.start(path)
    try:
        yield server
    finally:
        await server.stop()


async def until(claim: Callable[[], bool], timeout_s: float = ACK_TIMEOUT_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not claim():
            await asyncio.sleep(0.01)


async def get(port: int, path: str = "/") -> tuple[int, str]:
    """One request on a new connection. Refused ones are tried again: workers start to listen a moment after the ACK."""
    deadline = time.monotonic() + 5.0
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.01)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: a.example\r\nuser-agent: probe/1\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
    body = (await reader.readexactly(int(headers["content-length"]))).decode()
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


async def accepted(server: XdsServer, snapshot: Snapshot) -> None:
    report = await server.wait_acked(snapshot.versions(), ACK_TIMEOUT_S)
    assert report.complete, report


def scenario(run: Coroutine[None, None, None]) -> None:
    asyncio.run(run)


def test_an_edit_of_a_route_is_one_response_with_one_resource_and_reaches_the_next_request(
    envoy: RunningEnvoy, tmp_path: Path, port: int
) -> None:
    async def run() -> None:
        first = Snapshot([http_listener("slot-1", port), route("slot-1"), cluster("origin")])
        async with serving(tmp_path / "xds.sock", first) as server:
            await accepted(server, first)
            assert await get(port) == (200, "one")
            before = server.counters
            second = first.edited(put=[route("slot-1", "two")])
            server.publish(second)
            await accepted(server, second)
            assert await get(port) == (200, "two")
            after = server.counters
            assert after.total.responses_sent - before.total.responses_sent == 1
            assert after.total.resources_sent - before.total.resources_sent == 1
            assert after.by_type[TypeUrl.ROUTE].resources_sent - before.by_type[TypeUrl.ROUTE].resources_sent == 1
            # An equal snapshot says nothing: up to the ACK of the next edit, that edit is all that was sent.
            server.publish(Snapshot(second.values()))
            third = second.edited(put=[route("slot-1", "three")])
            server.publish(third)
            await accepted(server, third)
            assert server.counters.total.responses_sent - after.total.responses_sent == 1

    scenario(run())


def test_a_bad_listener_beside_good_ones_is_quarantined_alone_and_tried_again_at_most_once_a_second(
    envoy: RunningEnvoy, tmp_path: Path, port: int, other_port: int
) -> None:
    async def run() -> None:
        good = [http_listener("slot-1", port), route("slot-1"), http_listener("slot-12", other_port), route("slot-12")]
        snapshot = Snapshot([*good, http_listener("slot-2", PORTS[-1], bad=True), route("slot-2")])
        bad = ResourceKey(TypeUrl.LISTENER, "slot-2")
        async with serving(tmp_path / "xds.sock", snapshot) as server:
            good_keys = {resource.key: resource.version for resource in good}
            report = await server.wait_acked(good_keys, ACK_TIMEOUT_S)
            assert report.complete, report
            report = await server.wait_acked({bad: snapshot[bad].version}, ACK_TIMEOUT_S)
            assert set(report.nacked) == {bad}
            assert "nobody.has.this" in report.nacked[bad]
            assert set(server.nacks()) == {bad}
            assert await get(port) == (200, "one")
            assert await get(other_port) == (200, "one")
            # Watched from the first refusal on: 1 s, then 2 s of back-off.
            first_nacks = server.counters.by_type[TypeUrl.LISTENER].nacks
            started = time.monotonic()
            await until(lambda: server.counters.by_type[TypeUrl.LISTENER].nacks > first_nacks)
            assert time.monotonic() - started > 0.5 * RETRY_NS_MIN / 1e9
            # Meanwhile others are served, and a repaired version goes out at once.
            repaired = snapshot.edited(put=[http_listener("slot-2", next(_port_numbers)), route("slot-1", "two")])
            server.publish(repaired)
            started = time.monotonic()
            await accepted(server, repaired)
            assert time.monotonic() - started < 0.5 * RETRY_NS_MIN / 1e9
            assert server.nacks() == {}
            assert await get(port) == (200, "two")

    scenario(run())


def test_a_bad_route_is_found_by_halving_since_envoy_does_not_name_it(envoy: RunningEnvoy, tmp_path: Path) -> None:
    async def run() -> None:
        numbers = [str(next(_port_numbers)) for _ in range(5)]
        listeners = [http_listener(f"slot-{number}", int(number)) for number in numbers]
        first = Snapshot([*listeners, *(route(f"slot-{number}") for number in numbers)])
        async with serving(tmp_path / "xds.sock", first) as server:
            await accepted(server, first)
            edits = [route(f"slot-{number}", "two", bad_regex=number == numbers[2]) for number in numbers]
            second = first.edited(put=edits)
            server.publish(second)
            report = await server.wait_acked(second.versions(), ACK_TIMEOUT_S)
            bad = ResourceKey(TypeUrl.ROUTE, f"slot-{numbers[2]}")
            assert set(report.nacked) == {bad}
            assert not report.pending
            assert [await get(int(number)) for number in numbers] == [
                (200, "one" if number == numbers[2] else "two") for number in numbers
            ]

    scenario(run())


def test_a_bad_cluster_is_named_and_its_neighbours_are_accepted(envoy: RunningEnvoy, tmp_path: Path) -> None:
    async def run() -> None:
        snapshot = Snapshot([cluster("a"), cluster("ab", connect_timeout_ms=0), cluster("b")])
        async with serving(tmp_path / "xds.sock", snapshot) as server:
            report = await server.wait_acked(snapshot.versions(), ACK_TIMEOUT_S)
            assert set(report.nacked) == {ResourceKey(TypeUrl.CLUSTER, "ab")}
            assert report.acked == {ResourceKey(TypeUrl.CLUSTER, "a"), ResourceKey(TypeUrl.CLUSTER, "b")}

    scenario(run())


def test_after_a_restart_of_the_server_nothing_unchanged_is_sent_again(
    envoy: RunningEnvoy, tmp_path: Path, port: int, other_port: int
) -> None:
    async def run() -> None:
        path = tmp_path / "xds.sock"
        resources = [http_listener("slot-1", port), route("slot-1"), cluster("origin")]
        async with serving(path, Snapshot(resources)) as server:
            await accepted(server, Snapshot(resources))
        assert await get(port) == (200, "one"), "with the server gone, Envoy keeps what it has"
        # The new server has no snapshot at first, which must not cost Envoy anything.
        async with serving(path) as server:
            await until(lambda: server.connected)
            assert server.counters.total.responses_sent == 0
            snapshot = Snapshot([*resources, http_listener("slot-2", other_port), route("slot-2", "new")])
            server.publish(snapshot)
            await accepted(server, snapshot)
            assert server.counters.by_type[TypeUrl.LISTENER].resources_sent == 1
            assert server.counters.by_type[TypeUrl.ROUTE].resources_sent == 1
            assert server.counters.by_type[TypeUrl.CLUSTER].resources_sent == 0
            assert server.counters.total.removals_sent == 0
            assert await get(other_port) == (200, "new")

    scenario(run())


def test_a_removed_listener_stops_listening_and_the_removal_can_be_waited_for(
    envoy: RunningEnvoy, tmp_path: Path, port: int
) -> None:
    async def run() -> None:
        listener = http_listener("slot-1", port)
        snapshot = Snapshot([listener, route("slot-1", to_cluster="origin"), cluster("origin")])
        async with serving(tmp_path / "xds.sock", snapshot) as server:
            await accepted(server, snapshot)
            server.publish(Snapshot([]))
            report = await server.wait_acked(dict.fromkeys(snapshot, REMOVED), ACK_TIMEOUT_S)
            assert report.complete, report
            assert server.counters.by_type[TypeUrl.LISTENER].removals_sent == 1
            assert server.counters.by_type[TypeUrl.CLUSTER].removals_sent == 1

            def closed() -> bool:
                with socket.socket() as probe:
                    return probe.connect_ex(("127.0.0.1", port)) != 0

            await until(closed)

    scenario(run())


def test_an_envoy_with_nothing_to_do_is_ready_at_once(envoy: RunningEnvoy, tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path / "xds.sock", Snapshot()) as server:
            await until(lambda: server.connected)
            await until(lambda: bool(envoy.log_lines("starting main dispatch loop")))
            await until(lambda: bool(envoy.log_lines("all clusters initialized")), 3.0)
            assert server.counters.by_type[TypeUrl.CLUSTER].responses_sent == 1
            await until(lambda: server.counters.by_type[TypeUrl.LISTENER].responses_sent == 1, 3.0)

    scenario(run())


def test_both_generations_of_a_hot_restart_must_accept(tmp_path: Path, base_id: int, port: int) -> None:
    async def run() -> None:
        path = tmp_path / "xds.sock"
        first = Snapshot([http_listener("slot-1", port), route("slot-1")])
        async with serving(path, first) as server:
            with RunningEnvoy(tmp_path, path, base_id=base_id) as old:
                await accepted(server, first)
                with RunningEnvoy(tmp_path, path, base_id=base_id, epoch=1):
                    await until(lambda: len(server.connections) == 2)
                    assert {connection.node_id for connection in server.connections} == {"node-a"}
                    second = first.edited(put=[route("slot-1", "two")])
                    server.publish(second)
                    await accepted(server, second)
                    assert await get(port) == (200, "two")
                    # The old one leaves by itself; an edit reaches the one that is left.
                    await until(lambda: len(server.connections) == 1)
                    third = first.edited(put=[route("slot-1", "three")])
                    server.publish(third)
                    await accepted(server, third)
                    assert await get(port) == (200, "three")
                    assert old.log_lines("shutting down due to child request") or old.log_lines("closing and draining listeners")

    scenario(run())


def test_access_log_records_arrive_decoded(envoy: RunningEnvoy, tmp_path: Path, port: int, other_port: int) -> None:
    async def run() -> None:
        snapshot = Snapshot(
            [
                http_listener("slot-1", port, log=True, deny_path="/secret"),
                route("slot-1"),
                tcp_listener("slot-2", other_port, "origin"),
                cluster("origin"),
            ]
        )
        records: list[AccessRecord] = []
        async with serving(tmp_path / "xds.sock", snapshot) as server:
            await accepted(server, snapshot)
            wall_before_ns = time.time_ns()
            assert await get(port, "/open?x=1") == (200, "one")
            assert (await get(port, "/secret"))[0] == 403
            await until(lambda: server.records.received_count >= 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", other_port)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            await until(lambda: server.records.received_count >= 3)
            records = server.records.drain()
        opened, secret, raw = sorted(records, key=lambda record: record.start_ns)
        assert (opened.kind, opened.node_id, opened.log_name) == (RecordKind.HTTP, "node-a", "slot-1")
        assert (opened.method, opened.path, opened.authority, opened.scheme) == ("GET", "/open?x=1", "a.example", "http")
        assert (opened.status, opened.user_agent, opened.http_version) == (200, "probe/1", "HTTP/1.1")
        assert opened.response_code_details == "direct_response"
        assert opened.downstream_local == SocketAddress("127.0.0.1", port)
        assert opened.downstream_remote.address == "127.0.0.1"
        assert opened.downstream_remote.port > 0
        assert opened.upstream_remote == SocketAddress()
        assert wall_before_ns - 1_000_000 < opened.start_ns < time.time_ns()
        assert 0 < opened.duration_ns < 5_000_000_000
        assert opened.sent_bytes > len("one")
        assert secret.status == 403
        assert secret.response_code_details == "rbac_access_denied_matched_policy[no-secret]"
        assert secret.response_flags == ("unauthorized",) or secret.response_flags == ()
        rbac = secret.metadata["envoy.filters.http.rbac"]
        assert rbac["enforced_effective_policy_id"] == "no-secret"
        assert rbac["enforced_engine_result"] == "denied"
        assert (raw.kind, raw.log_name, raw.method, raw.status) == (RecordKind.TCP, "slot-2", "", 0)
        assert raw.downstream_local == SocketAddress("127.0.0.1", other_port)
        assert "no_healthy_upstream" in raw.response_flags

    scenario(run())
