"""The gRPC shell: aggregated delta discovery and the access-log service on one Unix socket.

Owns: the socket, the streams and the clock. Thin on purpose: it decodes, calls the pure machine of ``delta``, writes what that
returns, and passes its facts to ``acks``. Several Envoys may be connected at once (generations of a hot restart); each has a
stream of its own. A client's refusals outlive its stream, so that reconnecting is no way around the back-off.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from xds_server.access_log import RecordQueue, decode_records
from xds_server.acks import AckBoard, AckReport, Nack, StreamId
from xds_server.counters import Counters, TypeCounters
from xds_server.delta import REMOVED, Answered, DeltaStream, Legacy, Output, Refused, Response
from xds_server.snapshot import ResourceKey, Snapshot, TypeUrl, XdsError
from xds_server.subscription import ProtocolViolation
from xds_server.wire import decode_request, encode_response

ADS_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
ALS_SERVICE = "envoy.service.accesslog.v3.AccessLogService"

STREAMS_MAX = 8
"""Discovery streams at once. A node has one Envoy, two during a hot restart; the rest is room for ones that die slowly."""

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""A received message: initial_resource_versions of 50,000 names is about 2 MB; a batch of access logs 16 KiB."""

SOCKET_PATH_BYTES_MAX = 107
"""sun_path of sockaddr_un, less its NUL (unix(7))."""

SOCKET_MODE = 0o600
"""Who can write here decides the node's policy: only our own user."""

NODES_REMEMBERED_MAX = 16
"""Node ids whose state is kept for their next stream."""

STOP_GRACE_S = 0.2

_log = structlog.get_logger("xds_server")


class SocketUnusable(XdsError):
    """The socket can't be served at that path. The message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One client: the node id that it gave, and the number of its stream since the server was made."""

    node_id: str
    stream: StreamId


class _Session:
    """One discovery stream: the machine, and the responses that it has decided on and that are not written yet."""

    def __init__(self, connection: Connection, legacy: Legacy) -> None:
        self.connection = connection
        self.machine = DeltaStream(legacy)
        # At most one unanswered response per type, so this is bounded by the number of types.
        self.outbox: deque[Response] = deque()
        self.wake = asyncio.Event()
        self.ended = False


class XdsServer:
    """The discovery server of one node. All methods belong to the event loop that called ``start``."""

    def __init__(self, *, records: RecordQueue | None = None, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.records = records if records is not None else RecordQueue()
        self._clock_ns = clock_ns
        self._server: grpc.aio.Server | None = None
        self._socket_path: Path | None = None
        self._snapshot: Snapshot | None = None
        self._sessions: dict[StreamId, _Session] = {}
        self._legacy_by_node: dict[str, Legacy] = {}
        self._board = AckBoard()
        self._counters = Counters()

    # ---- for the program ------------------------------------------------------------------------------------------

    async def start(self, socket_path: Path | str) -> None:
        """Serve on ``socket_path``, mode 0600, in place of a socket that nobody serves any more. Raises SocketUnusable."""
        assert self._server is None, "started already"
        path = Path(socket_path)
        _make_way(path)
        server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX), ("grpc.max_send_message_length", -1)]
        )
        server.add_generic_rpc_handlers((self._discovery_handler(), self._access_log_handler()))
        # The socket must never be there with wider permissions, not even between bind and chmod.
        old_umask = os.umask(0o777 & ~SOCKET_MODE)
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise SocketUnusable(f"can't listen on {path}: {error}; is its directory there and writable?") from error
        finally:
            os.umask(old_umask)
        await server.start()
        self._server, self._socket_path = server, path
        _log.info("xds_server_started", socket=str(path))

    async def stop(self) -> None:
        """End every stream and remove the socket. Envoy keeps what it has and reconnects when someone serves again."""
        server, self._server = self._server, None
        if server is None:
            return
        await server.stop(STOP_GRACE_S)
        assert self._socket_path is not None
        self._socket_path.unlink(missing_ok=True)
        _log.info("xds_server_stopped")

    def publish(self, snapshot: Snapshot) -> None:
        """From now on every client should hold ``snapshot``. Returns at once; sends nothing where nothing differs."""
        previous, self._snapshot = self._snapshot, snapshot
        changed = snapshot.keys() if previous is None else snapshot.changed_keys(previous)
        self._board.retarget({key: self._version(key) for key in changed})
        now_ns = self._clock_ns()
        for session in self._sessions.values():
            self._take(session, session.machine.publish(snapshot, now_ns))

    async def wait_acked(self, resources: Mapping[ResourceKey, str], timeout_s: float) -> AckReport:
        """Wait until every connected Envoy has answered for these versions of the published snapshot; REMOVED ("") waits for a
        removal. Comes back early when all are decided. With no Envoy connected, all is pending when the time is up.

        An accepted listener or cluster may still be warming (a listener waits for its route, so wait for both).
        """
        superseded = [key for key, version in resources.items() if self._version(key) != version]
        return await self._board.wait_for(resources, timeout_s, superseded)

    def nacks(self) -> dict[ResourceKey, Nack]:
        """The published versions that an Envoy has refused and not accepted since, with its reasons."""
        return {key: nack for key, nack in self._board.nacks().items() if nack.version == self._version(key) != REMOVED}

    @property
    def connected(self) -> bool:
        """Whether any Envoy has a discovery stream."""
        return bool(self._sessions)

    @property
    def connections(self) -> tuple[Connection, ...]:
        return tuple(session.connection for session in self._sessions.values())

    @property
    def counters(self) -> Counters:
        """A reading, which does not change afterwards."""
        return self._counters

    # ---- discovery ------------------------------------------------------------------------------------------------

    def _discovery_handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        method = grpc.stream_stream_rpc_method_handler(
            self._discover, request_deserializer=DeltaDiscoveryRequest.FromString, response_serializer=None
        )
        return grpc.method_handlers_generic_handler(ADS_SERVICE, {"DeltaAggregatedResources": method})

    async def _discover(
        self, requests: AsyncIterator[DeltaDiscoveryRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """One stream, until the client ends it."""
        # Sent apart from the first message: when both go and the client is gone, grpc loses track of what it has sent.
        if not await _delivered(context.send_initial_metadata(())):
            return
        try:
            first = await anext(requests)
        except StopAsyncIteration:
            return
        if len(self._sessions) >= STREAMS_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are {STREAMS_MAX} discovery streams already")
        session = self._enter(first.node.id)
        violation: ProtocolViolation | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(session, context), name="xds-write")
                violation = await self._read(session, first, requests)
                session.ended = True
                session.wake.set()
        finally:
            self._leave(session)
        if violation is not None:
            _log.warning("xds_stream_refused", node=session.connection.node_id, reason=str(violation))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(violation))

    async def _read(
        self, session: _Session, first: DeltaDiscoveryRequest, requests: AsyncIterator[DeltaDiscoveryRequest]
    ) -> ProtocolViolation | None:
        try:
            self._hear(session, first)
            async for message in requests:
                self._hear(session, message)
        except ProtocolViolation as violation:
            return violation
        return None

    def _hear(self, session: _Session, message: DeltaDiscoveryRequest) -> None:
        request = decode_request(message)
        if request is None:
            self._counters = replace(self._counters, requests_ignored=self._counters.requests_ignored + 1)
            return
        self._take(session, session.machine.request(request, self._clock_ns()))

    def _take(self, session: _Session, output: Output) -> None:
        """Act on what the machine has decided."""
        for fact in output.facts:
            match fact:
                case Answered(type_url, accepted):
                    self._count(type_url, TypeCounters(acks=int(accepted), nacks=int(not accepted)))
                case Refused(key, version, reason):
                    _log.warning(
                        "xds_resource_refused",
                        node=session.connection.node_id,
                        type_url=str(key.type_url),
                        name=key.name,
                        version=version,
                        reason=reason,
                    )
                case _:
                    pass
        self._board.apply(session.connection.stream, output.facts)
        session.outbox.extend(output.responses)
        assert len(session.outbox) <= len(TypeUrl), "one unanswered response per type"
        # Also without responses: the time of the next retry may have changed.
        session.wake.set()

    async def _write(self, session: _Session, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Write what is in the outbox, and give the machine its ticks."""
        while not session.ended:
            session.wake.clear()
            while session.outbox:
                response = session.outbox.popleft()
                encoded = encode_response(response)
                self._count(
                    response.type_url,
                    TypeCounters(
                        responses_sent=1,
                        resources_sent=len(response.resources),
                        removals_sent=len(response.removed),
                        bytes_sent=len(encoded),
                    ),
                )
                if not await _delivered(context.write(encoded)):
                    return
            wake_at_ns = session.machine.wake_at_ns
            wait_s = None if wake_at_ns is None else max(0.0, (wake_at_ns - self._clock_ns()) / 1e9)
            try:
                async with asyncio.timeout(wait_s):
                    await session.wake.wait()
            except TimeoutError:
                self._take(session, session.machine.tick(self._clock_ns()))

    def _enter(self, node_id: str) -> _Session:
        stream = StreamId(self._counters.streams_opened + 1)
        self._counters = replace(self._counters, streams_opened=stream)
        legacy = self._legacy(node_id)
        session = _Session(Connection(node_id, stream), legacy)
        self._sessions[stream] = session
        self._board.open(stream)
        self._board.apply(stream, [Refused(key, entry.version, entry.reason) for key, entry in legacy.quarantined.items()])
        if self._snapshot is not None:
            self._take(session, session.machine.publish(self._snapshot, self._clock_ns()))
        _log.info("envoy_connected", node=node_id, stream=stream)
        return session

    def _leave(self, session: _Session) -> None:
        connection = session.connection
        del self._sessions[connection.stream]
        self._board.close(connection.stream)
        self._legacy_by_node.pop(connection.node_id, None)
        self._legacy_by_node[connection.node_id] = session.machine.legacy()
        while len(self._legacy_by_node) > NODES_REMEMBERED_MAX:
            del self._legacy_by_node[next(iter(self._legacy_by_node))]
        _log.info("envoy_disconnected", node=connection.node_id, stream=connection.stream)

    def _legacy(self, node_id: str) -> Legacy:
        """What this node refuses and may run: by its newest stream, or by its last one."""
        for session in reversed(self._sessions.values()):
            if session.connection.node_id == node_id:
                return session.machine.legacy()
        return self._legacy_by_node.get(node_id, Legacy())

    def _count(self, type_url: TypeUrl, more: TypeCounters) -> None:
        self._counters = self._counters.plus(type_url, more)

    def _version(self, key: ResourceKey) -> str:
        resource = self._snapshot.get(key) if self._snapshot is not None else None
        return resource.version if resource is not None else REMOVED

    # ---- access logs ----------------------------------------------------------------------------------------------

    def _access_log_handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        method = grpc.stream_unary_rpc_method_handler(
            self._collect,
            request_deserializer=StreamAccessLogsMessage.FromString,
            response_serializer=StreamAccessLogsResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(ALS_SERVICE, {"StreamAccessLogs": method})

    async def _collect(
        self, messages: AsyncIterator[StreamAccessLogsMessage], context: grpc.aio.ServicerContext[Any, Any]
    ) -> StreamAccessLogsResponse:
        """One stream of records, until the client ends it. Always read, so that Envoy never waits."""
        del context
        node_id = log_name = ""
        async for message in messages:
            if message.HasField("identifier"):
                node_id, log_name = message.identifier.node.id, message.identifier.log_name
            for record in decode_records(message, node_id=node_id, log_name=log_name):
                self.records.put(record)
        return StreamAccessLogsResponse()


async def _delivered(sending: Awaitable[None]) -> bool:
    """Whether grpc took what is being sent. It does not when the client is gone; the stream's end is then about to be told."""
    try:
        await sending
    except grpc.aio.InternalError:
        return False
    return True


def _make_way(path: Path) -> None:
    """Remove a socket that a dead server left; never anything else, and never a live one."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise SocketUnusable(f"{path} is longer than {SOCKET_PATH_BYTES_MAX} bytes; choose a shorter state directory")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketUnusable(f"can't look at {path}: {error}") from error
    if not stat.S_ISSOCK(mode):
        raise SocketUnusable(f"{path} is not a socket; it is left alone, move it away or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise SocketUnusable(f"can't tell whether {path} is in use: {error}") from error
        else:
            raise SocketUnusable(f"{path} is served by another process; is another agent running?")
