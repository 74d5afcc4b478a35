"""A server that says what it received: HTTP/1.1, HTTP/2 (prior knowledge or ALPN) and WebSocket on one port.

Each response is JSON: ``server, protocol, method, path, authority, headers, peer, connection, request, body_bytes``;
``connection`` numbers the TCP connections that this server accepted, ``request`` the requests on it. A request can ask
for more by headers: ``x-echo-status`` (the response's status) and ``x-echo-delay-ms``.

Run alone: ``python -m tests.support.echo_server --port 8080 --name deathstar``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import ipaddress
import itertools
import json
import ssl
from collections.abc import Iterable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import h11

H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
READ_BYTES_MAX = 65536
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 1.3."""

Headers = list[tuple[str, str]]


def peer_address(writer: asyncio.StreamWriter) -> list[Any]:
    """``[address, port]`` of the other end, IPv4 in its own spelling also on a dual-stack socket."""
    name = writer.get_extra_info("peername")
    address = ipaddress.ip_address(name[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return [str(mapped or address), name[1]]


def first(headers: Iterable[tuple[str, str]], name: str, default: str = "") -> str:
    """The first value of a header."""
    return next((value for key, value in headers if key == name), default)


class EchoServer:
    """The server of one port."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._connection_numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.accepted_count = 0
        self.request_count = 0

    async def start(self, port: int, tls: ssl.SSLContext | None = None, host: str | None = None) -> None:
        """Listen on every address (or ``host``) of both families."""
        if tls is not None:
            tls.set_alpn_protocols(["h2", "http/1.1"])
        self._server = await asyncio.start_server(self._accept, host, port, ssl=tls, backlog=1024, reuse_address=True)

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = next(self._connection_numbers)
        self.accepted_count += 1
        try:
            start = await self._read_start(reader)
            if start == H2_PREFACE:
                await _Http2(self, connection, reader, writer).run(start)
            else:
                await _Http1(self, connection, reader, writer).run(start)
        except (ConnectionError, ssl.SSLError, TimeoutError, h11.RemoteProtocolError, h2.exceptions.ProtocolError):
            return
        except asyncio.CancelledError:
            # stop() ends us; a cancelled handler would be logged by asyncio as an error.
            return
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
                await writer.wait_closed()

    @staticmethod
    async def _read_start(reader: asyncio.StreamReader) -> bytes:
        """Enough bytes to tell HTTP/2's preface from a request line."""
        start = b""
        while len(start) < len(H2_PREFACE) and H2_PREFACE.startswith(start):
            data = await reader.read(len(H2_PREFACE) - len(start))
            if not data:
                break
            start += data
        return start

    def describe(
        self, connection: int, request: int, protocol: str, headers: Headers, peer: list[Any], body_bytes: int
    ) -> dict[str, Any]:
        """What a response says about its request."""
        self.request_count += 1
        return {
            "server": self.name,
            "protocol": protocol,
            "method": first(headers, ":method"),
            "path": first(headers, ":path"),
            "authority": first(headers, ":authority") or first(headers, "host"),
            "headers": [[name, value] for name, value in headers if not name.startswith(":")],
            "peer": peer,
            "connection": connection,
            "request": request,
            "body_bytes": body_bytes,
        }


class _Http1:
    """One HTTP/1.1 connection."""

    def __init__(self, server: EchoServer, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.number, self.reader, self.writer = server, number, reader, writer
        self.state = h11.Connection(h11.SERVER)

    async def run(self, start: bytes) -> None:
        if start:
            self.state.receive_data(start)
        else:
            return
        for request_number in itertools.count(1):
            request = await self._next()
            if not isinstance(request, h11.Request):
                return
            headers: Headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in request.headers]
            pseudo: Headers = [(":method", request.method.decode("latin-1")), (":path", request.target.decode("latin-1"))]
            if first(headers, "upgrade").lower() == "websocket":
                await self._websocket(headers)
                return
            body_bytes = 0
            while not isinstance(event := await self._next(), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    return
                body_bytes += len(event.data)
            peer = peer_address(self.writer)
            answer = self.server.describe(self.number, request_number, "HTTP/1.1", pseudo + headers, peer, body_bytes)
            await asyncio.sleep(int(first(headers, "x-echo-delay-ms", "0")) / 1000)
            await self._respond(int(first(headers, "x-echo-status", "200")), answer)
            if self.state.our_state is not h11.DONE or self.state.their_state is not h11.DONE:
                return
            self.state.start_next_cycle()

    async def _next(self) -> object:
        while (event := self.state.next_event()) is h11.NEED_DATA:
            self.state.receive_data(await self.reader.read(READ_BYTES_MAX))
        return event

    async def _respond(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode() + b"\n"
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("server", self.server.name)]
        parts = [
            self.state.send(h11.Response(status_code=status, headers=headers)),
            self.state.send(h11.Data(data=body if answer["method"] != "HEAD" else b"")),
            self.state.send(h11.EndOfMessage()),
        ]
        self.writer.write(b"".join(part for part in parts if part))
        await self.writer.drain()

    async def _websocket(self, headers: Headers) -> None:
        """Accept the upgrade and echo text and binary frames until a close frame (RFC 6455 5.2)."""
        digest = hashlib.sha1(first(headers, "sec-websocket-key").encode() + WEBSOCKET_GUID, usedforsecurity=False).digest()
        accept = base64.b64encode(digest).decode()
        self.writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: " + accept.encode() + b"\r\n\r\n"
        )
        buffer = bytearray(self.state.trailing_data[0])

        async def take(count: int) -> bytes:
            while len(buffer) < count:
                data = await self.reader.read(READ_BYTES_MAX)
                if not data:
                    raise ConnectionResetError("the client left within a frame")
                buffer.extend(data)
            taken = bytes(buffer[:count])
            del buffer[:count]
            return taken

        while True:
            first_byte, second_byte = await take(2)
            length = second_byte & 0x7F
            if length == 126:
                length = int.from_bytes(await take(2), "big")
            elif length == 127:
                length = int.from_bytes(await take(8), "big")
            mask = await take(4)
            payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(await take(length)))
            opcode = first_byte & 0x0F
            assert length < 126, "the echo answers with short frames only"
            self.writer.write(bytes((0x80 | (0x0A if opcode == 0x09 else opcode), length)) + payload)
            await self.writer.drain()
            if opcode == 0x08:
                return


class _Http2:
    """One HTTP/2 connection; also answers gRPC health-like calls as plain streams, without trailers."""

    def __init__(self, server: EchoServer, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.number, self.reader, self.writer = server, number, reader, writer
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.requests: dict[int, tuple[Headers, int]] = {}
        self.request_numbers = itertools.count(1)
        self.delayed: set[asyncio.Task[None]] = set()

    async def run(self, start: bytes) -> None:
        self.state.initiate_connection()
        data = start
        try:
            while data:
                for event in self.state.receive_data(data):
                    self._handle(event)
                await self._flush()
                data = await self.reader.read(READ_BYTES_MAX)
        finally:
            for task in self.delayed:
                task.cancel()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers = [(str(name), str(value)) for name, value in event.headers]
            self.requests[event.stream_id] = (headers, 0)
        elif isinstance(event, h2.events.DataReceived):
            headers, size = self.requests[event.stream_id]
            self.requests[event.stream_id] = (headers, size + len(event.data))
            self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.requests.pop(event.stream_id, None)
        elif isinstance(event, h2.events.StreamEnded):
            headers, size = self.requests.pop(event.stream_id)
            delay_ms = int(first(headers, "x-echo-delay-ms", "0"))
            if delay_ms:
                task = asyncio.create_task(self._respond_later(event.stream_id, headers, size, delay_ms))
                self.delayed.add(task)
                task.add_done_callback(self.delayed.discard)
            else:
                self._respond(event.stream_id, headers, size)

    async def _respond_later(self, stream: int, headers: Headers, body_bytes: int, delay_ms: int) -> None:
        await asyncio.sleep(delay_ms / 1000)
        with contextlib.suppress(h2.exceptions.ProtocolError, ConnectionError):
            self._respond(stream, headers, body_bytes)
            await self._flush()

    def _respond(self, stream: int, headers: Headers, body_bytes: int) -> None:
        peer = peer_address(self.writer)
        answer = self.server.describe(self.number, next(self.request_numbers), "HTTP/2", headers, peer, body_bytes)
        body = json.dumps(answer).encode() + b"\n"
        assert len(body) < 16384, "one DATA frame within the initial window"
        self.state.send_headers(
            stream,
            [
                (":status", first(headers, "x-echo-status", "200")),
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("server", self.server.name),
            ],
        )
        self.state.send_data(stream, body, end_stream=True)

    async def _flush(self) -> None:
        self.writer.write(self.state.data_to_send())
        await self.writer.drain()


async def _main(arguments: argparse.Namespace) -> None:
    tls = None
    if arguments.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(arguments.certificate, arguments.key)
    server = EchoServer(arguments.name)
    await server.start(arguments.port, tls)
    print(f"{arguments.name} listens on {arguments.port}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="an HTTP server that echoes what it received")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="echo")
    parser.add_argument("--certificate", help="PEM file; makes the port speak TLS")
    parser.add_argument("--key", help="PEM file of the certificate's key")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
