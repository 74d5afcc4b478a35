"""The process inside a pod's namespace: servers and clients that a test commands over a socket.

Started by ``tests/support/pod.py`` as ``python -m tests.support.pod_agent FD``: one JSON object per line in, one per line out. A
command is ``{"id": N, "op": NAME, ...}``; its answer ``{"id": N, "result": ...}`` or ``{"id": N, "error": KIND, "text": ...}``.
Answers come as commands finish, in any order. The process ends when the socket does, so no crash of a test leaves it behind.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import itertools
import json
import socket
import ssl
import sys
import time
from typing import Any, cast
from urllib.parse import urlsplit

from tests.support.echo_server import EchoServer, peer_address
from tests.support.http_client import (
    Answer,
    Gone,
    Http1Connection,
    Http2Connection,
    HttpConnection,
    close_writer,
    how,
    open_stream,
)

LINE_BYTES_MAX = 16 << 20
READ_BYTES_MAX = 65536
LOAD_RECONNECT_PAUSE_SECONDS = 0.005
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Headers = list[tuple[str, str]]


class Agent:
    """The commands. Each public coroutine is an ``op``; its keyword arguments are the command's other fields."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numbers = itertools.count(1)
        self.servers: dict[int, EchoServer] = {}
        self.listeners: dict[int, Any] = {}
        self.connections: dict[int, HttpConnection] = {}
        self.streams: dict[int, Stream] = {}
        self.websockets: dict[int, Any] = {}
        self.channels: dict[str, Any] = {}
        self.loads: dict[int, Load] = {}

    # ---- servers --------------------------------------------------------------------------------------------------

    async def serve_http(self, port: int, certificate: str | None = None, key: str | None = None) -> None:
        tls = None
        if certificate is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(certificate, key)
        server = EchoServer(self.name)
        await server.start(port, tls)
        self.servers[port] = server

    async def stop_http(self, port: int) -> None:
        await self.servers.pop(port).stop()

    async def server_counts(self, port: int) -> dict[str, int]:
        server = self.servers[port]
        return {"accepted": server.accepted_count, "requests": server.request_count}

    async def serve_tcp(self, port: int) -> None:
        self.listeners[port] = await asyncio.start_server(self._echo_tcp, None, port, backlog=1024)

    @staticmethod
    async def _echo_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(READ_BYTES_MAX):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve_udp(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            sock = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((any_address, port))
            sock.setblocking(False)
            await loop.create_datagram_endpoint(lambda: _UdpEcho(self.name), sock=sock)

    async def serve_grpc(self, port: int) -> None:
        # Not imported before it is asked for: it takes longer to import than all the rest.
        from tests.support.grpc_echo import serve

        self.listeners[port] = await serve(self.name, port)

    # ---- HTTP -----------------------------------------------------------------------------------------------------

    async def connect(self, protocol: str, host: str, port: int, timeout: float, **options: Any) -> int:
        """Open a connection: protocol ``h1``, ``h2`` or ``tcp``; options are those of ``_open``."""
        number = next(self.numbers)
        opened = await self._open(protocol, host, port, timeout, **options)
        if isinstance(opened, tuple):
            self.streams[number] = opened
        else:
            self.connections[number] = opened
        return number

    async def _open(
        self,
        protocol: str,
        host: str,
        port: int,
        timeout: float,
        tls: bool = False,
        authority: str | None = None,
        server_name: str | None = None,
        source: str | None = None,
    ) -> HttpConnection | Stream:
        context = None
        if tls:
            context = ssl.create_default_context(cafile=authority) if authority else ssl._create_unverified_context()
            if authority is None or server_name is None:
                context.check_hostname = False
            context.set_alpn_protocols(["h2"] if protocol == "h2" else ["http/1.1"])
        reader, writer = await open_stream(host, port, timeout=timeout, tls=context, server_name=server_name or "", source=source)
        if protocol == "tcp":
            return reader, writer
        if protocol == "h2":
            return Http2Connection(reader, writer, "https" if tls else "http")
        return Http1Connection(reader, writer)

    async def request(
        self, connection: int, method: str, path: str, headers: Headers, timeout: float, body: str = ""
    ) -> dict[str, Any]:
        return await self._request(self.connections[connection], method, path, headers, timeout, body)

    async def _request(
        self, connection: HttpConnection, method: str, path: str, headers: Headers, timeout: float, body: str
    ) -> dict[str, Any]:
        pairs = [(name, value) for name, value in headers]
        async with asyncio.timeout(timeout):
            answer = await connection.request(method, path, pairs, base64.b64decode(body))
        return answer_document(answer)

    async def http(
        self,
        protocol: str,
        host: str,
        port: int,
        method: str,
        path: str,
        headers: Headers,
        timeout: float,
        body: str = "",
        **options: Any,
    ) -> dict[str, Any]:
        """One request on a connection of its own."""
        connection = await self._open(protocol, host, port, timeout, **options)
        assert not isinstance(connection, tuple)
        try:
            return await self._request(connection, method, path, headers, timeout, body)
        finally:
            await connection.close()

    async def is_open(self, connection: int) -> bool:
        if connection in self.connections:
            return self.connections[connection].is_open
        return not self.streams[connection][0].at_eof()

    async def close(self, connection: int) -> None:
        if connection in self.connections:
            await self.connections.pop(connection).close()
        elif connection in self.streams:
            await close_writer(self.streams.pop(connection)[1])
        else:
            await self.websockets.pop(connection).close()

    async def load_start(
        self, connections: int, protocol: str, url: str, method: str, headers: Headers, options: dict[str, Any]
    ) -> int:
        number = next(self.numbers)
        self.loads[number] = Load(self, connections, protocol, url, method, [(k, v) for k, v in headers], options)
        return number

    async def load_counts(self, load: int) -> dict[str, Any]:
        return self.loads[load].counts()

    async def load_stop(self, load: int) -> dict[str, Any]:
        return await self.loads.pop(load).stop()

    # ---- TCP, UDP, ICMP -------------------------------------------------------------------------------------------

    async def tcp(self, host: str, port: int, timeout: float, source: str | None = None) -> str:
        """``connected``, or how it failed."""
        try:
            _, writer = await open_stream(host, port, timeout=timeout, source=source)
        except (OSError, TimeoutError) as error:
            return how(error)
        await close_writer(writer)
        return "connected"

    async def exchange(self, connection: int, data: str, timeout: float) -> str:
        """Send bytes on an open ``tcp`` connection and read as many back."""
        reader, writer = self.streams[connection]
        sent = base64.b64decode(data)
        async with asyncio.timeout(timeout):
            writer.write(sent)
            await writer.drain()
            try:
                received = await reader.readexactly(len(sent))
            except asyncio.IncompleteReadError as error:
                raise Gone("eof") from error
        return base64.b64encode(received).decode()

    async def raw(self, host: str, port: int, data: str, timeout: float, quiet: float, pause: float = 0, **options: Any) -> str:
        """Send bytes (after a ``pause``: in two halves) and return what comes until the end or ``quiet`` seconds of silence."""
        opened = await self._open("tcp", host, port, timeout, **options)
        assert isinstance(opened, tuple)
        reader, writer = opened
        received, sent = b"", base64.b64decode(data)
        half = len(sent) // 2 if pause else 0
        try:
            writer.write(sent[:half])
            await asyncio.sleep(pause)
            writer.write(sent[half:])
            with contextlib.suppress(TimeoutError, ConnectionError):
                while True:
                    async with asyncio.timeout(quiet):
                        chunk = await reader.read(READ_BYTES_MAX)
                    if not chunk:
                        break
                    received += chunk
        finally:
            await close_writer(writer)
        return base64.b64encode(received).decode()

    async def udp(self, host: str, port: int, data: str, timeout: float, source_port: int = 0) -> Any:
        """Send a datagram and return the echo."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        loop = asyncio.get_running_loop()
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind(("", source_port))
            sock.connect((host, port))
            async with asyncio.timeout(timeout):
                await loop.sock_sendall(sock, base64.b64decode(data))
                return json.loads(await loop.sock_recv(sock, READ_BYTES_MAX))

    async def ping(self, host: str, timeout: float, size: int = 56) -> bool:
        """Whether one echo request is answered."""
        command = ("ping", "-n", "-c", "1", "-W", str(timeout), "-s", str(size), host)
        child = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        return await child.wait() == 0

    # ---- gRPC and WebSocket ---------------------------------------------------------------------------------------

    async def grpc(
        self, target: str, method: str, metadata: Headers, timeout: float, data: str = "", stream: bool = False
    ) -> dict[str, Any]:
        """One call. The channel to ``target`` is kept for later calls."""
        from tests.support.grpc_echo import call, open_channel

        if target not in self.channels:
            self.channels[target] = open_channel(target)
        pairs = [(k, v) for k, v in metadata]
        return await call(self.channels[target], method, base64.b64decode(data), pairs, timeout, stream=stream)

    async def websocket(self, url: str, timeout: float, headers: Headers) -> dict[str, int]:
        """Open a WebSocket: ``{"connection": N}``, or ``{"status": S}`` when the server refused the upgrade."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus

        try:
            opened = await connect(url, open_timeout=timeout, additional_headers=[(k, v) for k, v in headers], proxy=None)
        except InvalidStatus as error:
            return {"status": error.response.status_code}
        number = next(self.numbers)
        self.websockets[number] = opened
        return {"connection": number}

    async def websocket_exchange(self, connection: int, text: str, timeout: float) -> str:
        """Send a text message and return the echo."""
        from websockets.exceptions import ConnectionClosed

        async with asyncio.timeout(timeout):
            try:
                await self.websockets[connection].send(text)
                return str(await self.websockets[connection].recv())
            except ConnectionClosed as error:
                raise Gone("eof") from error


class _UdpEcho(asyncio.DatagramProtocol):
    """Answers each datagram with JSON of it and its sender."""

    def __init__(self, name: str) -> None:
        self.name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        answer = {"server": self.name, "peer": [addr[0], addr[1]], "data": data.decode("latin-1")}
        self.transport.sendto(json.dumps(answer).encode(), addr)


class Load:
    """Requests one after the other on each of some connections, until stopped; counts what came of them."""

    def __init__(
        self, agent: Agent, connections: int, protocol: str, url: str, method: str, headers: Headers, options: dict[str, Any]
    ) -> None:
        self.agent, self.protocol, self.method, self.headers, self.options = agent, protocol, method, headers, options
        split = urlsplit(url)
        assert split.hostname is not None
        self.host, self.port, self.path = split.hostname, split.port or 80, split.path or "/"
        if not any(name.lower() == "host" for name, _ in headers):
            self.headers = [*headers, ("host", split.netloc)]
        self.statuses: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self.opened_count = 0
        self.first_seen: dict[str, float] = {}
        self.last_seen: dict[str, float] = {}
        self.last_sent: dict[str, float] = {}
        self.stopping = False
        self.tasks = [asyncio.create_task(self._run()) for _ in range(connections)]

    async def _run(self) -> None:
        connection: HttpConnection | None = None
        while not self.stopping:
            try:
                if connection is None or not connection.is_open:
                    if connection is not None:
                        await connection.close()
                    opened = await self.agent._open(self.protocol, self.host, self.port, 5, **self.options)
                    assert not isinstance(opened, tuple)
                    connection = opened
                    self.opened_count += 1
                sent = time.monotonic()
                async with asyncio.timeout(5):
                    answer = await connection.request(self.method, self.path, self.headers)
            except (OSError, TimeoutError) as error:
                self.failures[how(error)] += 1
                if connection is not None:
                    await connection.close()
                    connection = None
                await asyncio.sleep(LOAD_RECONNECT_PAUSE_SECONDS)
                continue
            now, status = time.monotonic(), str(answer.status)
            self.statuses[status] += 1
            self.first_seen.setdefault(status, now)
            self.last_seen[status] = now
            self.last_sent[status] = max(sent, self.last_sent.get(status, 0.0))
        if connection is not None:
            await connection.close()

    async def stop(self) -> dict[str, Any]:
        """Let each connection finish its request, then count."""
        self.stopping = True
        await asyncio.gather(*self.tasks)
        return self.counts()

    def counts(self) -> dict[str, Any]:
        """What has come so far; times are CLOCK_MONOTONIC, which every process of the machine shares."""
        return {
            "statuses": dict(self.statuses),
            "failures": dict(self.failures),
            "opened": self.opened_count,
            "first_seen": self.first_seen,
            "last_seen": self.last_seen,
            "last_sent": self.last_sent,
        }


def answer_document(answer: Answer) -> dict[str, Any]:
    """A response as JSON."""
    body = base64.b64encode(answer.body).decode()
    return {"status": answer.status, "headers": answer.headers, "body": body, "trailers": answer.trailers}


async def obey(sock: socket.socket, name: str) -> None:
    """Carry out commands until the other end of ``sock`` is closed."""
    reader, writer = await asyncio.open_connection(sock=sock, limit=LINE_BYTES_MAX)
    agent = Agent(name)
    running: set[asyncio.Task[None]] = set()

    async def carry_out(command: dict[str, Any]) -> None:
        number, op = command.pop("id"), command.pop("op")
        try:
            answer: dict[str, Any] = {"id": number, "result": await getattr(agent, op)(**command)}
        except (OSError, TimeoutError) as error:
            answer = {"id": number, "error": how(error), "text": str(error)}
        except Exception as error:
            # The task boundary: the test that sent the command gets the error.
            answer = {"id": number, "error": "bug", "text": f"{op}: {type(error).__name__}: {error}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()

    while line := await reader.readline():
        task = asyncio.create_task(carry_out(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


def main() -> None:
    """Obey the socket whose descriptor is the first argument."""
    with socket.socket(fileno=int(sys.argv[1])) as sock, contextlib.suppress(ConnectionError):
        asyncio.run(obey(sock.dup(), sys.argv[2]))


__all__ = ["Agent", "main", "obey", "peer_address"]

if __name__ == "__main__":
    main()
