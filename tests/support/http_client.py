"""HTTP/1.1 and HTTP/2 connections that a test holds open across a policy edit.

Nothing is retried and nothing is reconnected: a connection that ends raises ``Gone``. Paths go out exactly as written.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from dataclasses import dataclass
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h11

READ_BYTES_MAX = 65536


class Gone(ConnectionError):
    """The connection ended; the text says how: ``eof``, ``reset``, ``goaway``, ``timeout``, ``stream reset N``."""


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]]


def how(error: OSError | TimeoutError) -> str:
    """A word for the way a connection failed."""
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, Gone):
        return str(error)
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "reset"
    if isinstance(error, ssl.SSLError):
        return f"tls: {error.reason}"
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.ECONNABORTED):
        return "unreachable"
    return f"error: {error}"


async def open_stream(
    host: str,
    port: int,
    *,
    timeout: float,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    source: str | None = None,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP (or TLS) connection."""
    async with asyncio.timeout(timeout):
        return await asyncio.open_connection(
            host,
            port,
            ssl=tls,
            server_hostname=server_name if tls else None,
            local_addr=(source, 0) if source else None,
        )


class Http1Connection:
    """One HTTP/1.1 connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.state = h11.Connection(h11.CLIENT)
        self.lock = asyncio.Lock()

    async def request(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> Answer:
        """Send a request and return its response."""
        async with self.lock:
            if self.state.our_state is h11.DONE and self.state.their_state is h11.DONE:
                self.state.start_next_cycle()
            if self.state.our_state is not h11.IDLE:
                raise Gone("closed by the server")
            if body:
                headers = [*headers, ("content-length", str(len(body)))]
            events: list[Any] = [h11.Request(method=method, target=path, headers=headers)]
            events += [h11.Data(data=body)] if body else []
            data = b"".join(self.state.send(event) or b"" for event in (*events, h11.EndOfMessage()))
            try:
                self.writer.write(data)
                await self.writer.drain()
                return await self._receive()
            except h11.RemoteProtocolError as error:
                raise Gone("eof" if self.reader.at_eof() else f"protocol: {error}") from error

    async def _receive(self) -> Answer:
        status, headers, body, trailers = 0, [], b"", []
        while True:
            event = self.state.next_event()
            if event is h11.NEED_DATA:
                data = await self.reader.read(READ_BYTES_MAX)
                if not data and status == 0:
                    raise Gone("eof")
                self.state.receive_data(data)
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, _texts(event.headers)
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    return Answer(101, _texts(event.headers), b"", [])
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                trailers = _texts(event.headers)
                return Answer(status, headers, body, trailers)
            elif event is h11.PAUSED:
                return Answer(status, headers, body, trailers)
            else:
                raise Gone("closed by the server")

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent, as far as this end has been told."""
        closed = (h11.CLOSED, h11.MUST_CLOSE, h11.ERROR)
        return not self.reader.at_eof() and self.state.our_state not in closed and self.state.their_state not in closed

    async def close(self) -> None:
        """End the connection."""
        await close_writer(self.writer)


class Http2Connection:
    """One HTTP/2 connection; requests may overlap."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scheme: str) -> None:
        self.reader, self.writer, self.scheme = reader, writer, scheme
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.state = h2.connection.H2Connection(config)
        self.state.initiate_connection()
        self.streams: dict[int, _Stream] = {}
        self.gone: str | None = None
        self.window_opened = asyncio.Event()
        self.reading = asyncio.create_task(self._read())

    async def request(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> Answer:
        """Send a request and return its response. ``host`` in the headers becomes ``:authority``."""
        if self.gone is not None:
            raise Gone(self.gone)
        authority = next((value for name, value in headers if name.lower() == "host"), "")
        pseudo = [(":method", method), (":scheme", self.scheme), (":authority", authority), (":path", path)]
        if method == "CONNECT":
            pseudo = [(":method", method), (":authority", path)]
        rest = [(name.lower(), value) for name, value in headers if name.lower() != "host"]
        number = self.state.get_next_available_stream_id()
        stream = self.streams[number] = _Stream(asyncio.get_running_loop().create_future(), is_tunnel=method == "CONNECT")
        self.state.send_headers(number, [*pseudo, *rest], end_stream=not body and method != "CONNECT")
        self.writer.write(self.state.data_to_send())
        try:
            await self.writer.drain()
            if body:
                await self._send_body(number, stream, body)
            return await stream.done
        finally:
            self.streams.pop(number, None)

    async def _send_body(self, number: int, stream: _Stream, body: bytes) -> None:
        """Send as the peer's flow-control windows allow (RFC 9113 5.2); an early response ends it."""
        while body and not stream.done.done():
            self.window_opened.clear()
            room = min(self.state.local_flow_control_window(number), self.state.max_outbound_frame_size)
            if room == 0:
                await self.window_opened.wait()
                continue
            part, body = body[:room], body[room:]
            self.state.send_data(number, part, end_stream=not body)
            self.writer.write(self.state.data_to_send())
            await self.writer.drain()

    async def _read(self) -> None:
        reason = "eof"
        try:
            self.writer.write(self.state.data_to_send())
            while data := await self.reader.read(READ_BYTES_MAX):
                for event in self.state.receive_data(data):
                    self._handle(event)
                self.writer.write(self.state.data_to_send())
                self.window_opened.set()
            if self.gone is not None:
                reason = self.gone
        except (OSError, h2.exceptions.ProtocolError) as error:
            reason = how(error) if isinstance(error, OSError) else f"protocol: {error}"
        finally:
            self.gone = self.gone or reason
            self.window_opened.set()
            for stream in self.streams.values():
                stream.fail(reason)

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.gone = "goaway"
            for number, stream in self.streams.items():
                if event.last_stream_id is not None and number > event.last_stream_id:
                    stream.fail("goaway")
            return
        concerned = self.streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.DataReceived):
            self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if concerned is None:
            return
        stream = concerned
        if isinstance(event, h2.events.ResponseReceived):
            stream.headers = [(str(name), str(value)) for name, value in event.headers]
            if stream.is_tunnel:
                stream.finish()
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data
        elif isinstance(event, h2.events.StreamEnded):
            stream.finish()
        elif isinstance(event, h2.events.StreamReset):
            stream.fail(f"stream reset {event.error_code}")

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent, as far as this end has been told."""
        return self.gone is None

    async def close(self) -> None:
        """End the connection."""
        self.reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.reading
        await close_writer(self.writer)


class _Stream:
    """What has arrived of one response."""

    def __init__(self, done: asyncio.Future[Answer], is_tunnel: bool) -> None:
        self.done = done
        self.headers: list[tuple[str, str]] = []
        self.trailers: list[tuple[str, str]] = []
        self.body = b""
        self.is_tunnel = is_tunnel

    def finish(self) -> None:
        if not self.done.done():
            status = int(next((value for name, value in self.headers if name == ":status"), "0"))
            plain = [(name, value) for name, value in self.headers if not name.startswith(":")]
            self.done.set_result(Answer(status, plain, self.body, self.trailers))

    def fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(Gone(reason))


HttpConnection = Http1Connection | Http2Connection


async def close_writer(writer: asyncio.StreamWriter) -> None:
    """Close a stream and wait for it; the peer may have been faster."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()


def _texts(headers: Any) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
