"""What a test can have a pod do: the test's end of ``pod_agent.py``.

Every method sends one command and waits for its answer; ``start`` sends it and returns at once. A client's failure is raised as
``Failed`` whose ``kind`` says how: timeout, refused, reset, unreachable, eof, goaway, ``closed by the server``,
``stream reset N``.
"""

from __future__ import annotations

import base64
import itertools
import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parents[2]
REQUEST_TIMEOUT_SECONDS = 5.0
ANSWER_SLACK_SECONDS = 15.0
"""Beyond a command's own timeout: the process may still be starting on a busy machine."""
QUIET_SECONDS = 0.3

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class Failed(Exception):
    """A client's attempt failed; ``kind`` says how."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind} ({text})" if text else kind)
        self.kind = kind


@dataclass(frozen=True)
class Response:
    """One HTTP response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    trailers: tuple[tuple[str, str], ...]

    @property
    def json(self) -> Any:
        """The echo server's account of the request."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    @property
    def seen_headers(self) -> dict[str, str]:
        """The request's headers as the echo server received them."""
        return dict(self.json["headers"])


@dataclass(frozen=True)
class GrpcResult:
    """One gRPC call's outcome; ``code`` is the number (0 OK, 7 PERMISSION_DENIED, 14 UNAVAILABLE)."""

    code: int
    details: str
    messages: tuple[Any, ...]
    initial_metadata: dict[str, str]
    trailing_metadata: dict[str, str]


@dataclass(frozen=True)
class LoadCounts:
    """What a load saw. Times are ``time.monotonic()``; ``failures`` counts requests that got no response, by kind."""

    statuses: dict[int, int]
    failures: dict[str, int]
    opened_count: int
    first_seen: dict[int, float]
    last_seen: dict[int, float]
    last_sent: dict[int, float]
    """When the last request that got a status was sent."""


class Pending:
    """A command under way."""

    def __init__(self, process: PodProcess, number: int, timeout_seconds: float) -> None:
        self._process, self._number, self._timeout_seconds = process, number, timeout_seconds

    def result(self) -> Any:
        """Wait for the answer."""
        return self._process.wait(self._number, self._timeout_seconds)


class PodProcess:
    """A process in a namespace that serves and asks."""

    def __init__(self, prefix: Sequence[str], name: str) -> None:
        self.name = name
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._buffer = b""
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.support.pod_agent", str(theirs.fileno()), name],
                pass_fds=[theirs.fileno()],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
            )

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._child.kill()
        self._child.wait()

    # ---- commands -------------------------------------------------------------------------------------------------

    def start(self, op: str, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS, **arguments: Any) -> Pending:
        """Send a command; its answer can be waited for later."""
        number = next(self._numbers)
        self._socket.sendall(json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n")
        return Pending(self, number, timeout_seconds + ANSWER_SLACK_SECONDS)

    def call(self, op: str, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS, **arguments: Any) -> Any:
        """Send a command and wait for its answer."""
        return self.start(op, timeout_seconds, **arguments).result()

    def wait(self, number: int, timeout_seconds: float) -> Any:
        """The answer to command ``number``; answers to others are kept."""
        deadline = time.monotonic() + timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while number not in self._answers:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"{self.name}: no answer to a command within {timeout_seconds} s")
                self._receive()
        answer = self._answers.pop(number)
        if "error" in answer:
            if answer["error"] == "bug":
                raise AssertionError(f"{self.name}: {answer['text']}")
            raise Failed(answer["error"], answer["text"])
        return answer["result"]

    def _receive(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise RuntimeError(f"the process of pod {self.name} ended with code {self._child.wait()}")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._answers[answer["id"]] = answer

    # ---- servers: each listens, on both families, when the call returns ---------------------------------------------

    def serve_http(self, port: int, certificate: Path | None = None, key: Path | None = None) -> None:
        """An echo server (HTTP/1.1, HTTP/2, WebSocket); with a certificate, over TLS."""
        self.call("serve_http", port=port, certificate=str(certificate) if certificate else None, key=str(key) if key else None)

    def stop_http(self, port: int) -> None:
        """Close the echo server of a port and all its connections."""
        self.call("stop_http", port=port)

    def server_counts(self, port: int) -> dict[str, int]:
        """How many connections and requests the echo server of a port has seen."""
        counts: dict[str, int] = self.call("server_counts", port=port)
        return counts

    def serve_tcp(self, port: int) -> None:
        """A TCP echo server."""
        self.call("serve_tcp", port=port)

    def serve_udp(self, port: int) -> None:
        """A UDP echo server; it answers with JSON."""
        self.call("serve_udp", port=port)

    def serve_grpc(self, port: int) -> None:
        """A gRPC server that accepts every method; methods named ``Stream...`` answer with three messages."""
        self.call("serve_grpc", port=port)

    # ---- HTTP -----------------------------------------------------------------------------------------------------

    def http(
        self,
        url: str,
        method: str = "GET",
        headers: Headers = (),
        *,
        protocol: str = "h1",
        path: str | None = None,
        body: bytes = b"",
        timeout: float = REQUEST_TIMEOUT_SECONDS,
        **options: Any,
    ) -> Response:
        """One request on a connection of its own. ``path`` overrides the URL's and goes out exactly as written.

        Options: ``authority`` (PEM file that TLS verifies against), ``server_name`` (SNI), ``source`` (own address).
        """
        return self.start_http(url, method, headers, protocol=protocol, path=path, body=body, timeout=timeout, **options).result()

    def start_http(
        self,
        url: str,
        method: str = "GET",
        headers: Headers = (),
        *,
        protocol: str = "h1",
        path: str | None = None,
        body: bytes = b"",
        timeout: float = REQUEST_TIMEOUT_SECONDS,
        **options: Any,
    ) -> PendingResponse:
        """``http`` without the wait."""
        target = _Target(url)
        pending = self.start(
            "http",
            timeout,
            protocol=protocol,
            host=target.host,
            port=target.port,
            tls=target.tls,
            method=method,
            path=target.path if path is None else path,
            headers=target.with_host(headers),
            body=base64.b64encode(body).decode(),
            timeout=timeout,
            **_json_options(options),
        )
        return PendingResponse(pending)

    def connect(self, url: str, protocol: str = "h1", timeout: float = REQUEST_TIMEOUT_SECONDS, **options: Any) -> Connection:
        """Open a connection (h1, h2 or tcp) and keep it. Options as for ``http``."""
        target = _Target(url)
        number = self.call(
            "connect",
            timeout,
            protocol=protocol,
            host=target.host,
            port=target.port,
            tls=target.tls,
            timeout=timeout,
            **_json_options(options),
        )
        return Connection(self, number, target)

    def load(
        self, url: str, connections: int = 4, protocol: str = "h1", method: str = "GET", headers: Headers = (), **options: Any
    ) -> Load:
        """Start requests, one after the other on each connection, until ``stop()``."""
        target = _Target(url)
        number = self.call(
            "load_start",
            connections=connections,
            protocol=protocol,
            url=url,
            method=method,
            headers=target.with_host(headers),
            options={"tls": target.tls, **_json_options(options)},
        )
        return Load(self, number)

    # ---- the rest -------------------------------------------------------------------------------------------------

    def tcp(self, host: str, port: int, timeout: float = REQUEST_TIMEOUT_SECONDS, source: str | None = None) -> str:
        """``connected``, or how connecting failed."""
        result: str = self.call("tcp", timeout, host=host, port=port, timeout=timeout, source=source)
        return result

    def raw(
        self,
        host: str,
        port: int,
        data: bytes,
        timeout: float = REQUEST_TIMEOUT_SECONDS,
        quiet: float = QUIET_SECONDS,
        pause: float = 0,
    ) -> bytes:
        """Send bytes over TCP and return what comes until the end or ``quiet`` seconds of silence."""
        text = base64.b64encode(data).decode()
        answer = self.call(
            "raw", timeout + quiet + pause, host=host, port=port, data=text, timeout=timeout, quiet=quiet, pause=pause
        )
        return base64.b64decode(answer)

    def udp(
        self, host: str, port: int, data: bytes = b"hello", timeout: float = REQUEST_TIMEOUT_SECONDS, source_port: int = 0
    ) -> dict[str, Any]:
        """Send a datagram to an echo server and return its answer: ``server, peer, data``."""
        text = base64.b64encode(data).decode()
        answer: dict[str, Any] = self.call(
            "udp", timeout, host=host, port=port, data=text, timeout=timeout, source_port=source_port
        )
        return answer

    def ping(self, host: str, timeout: float = REQUEST_TIMEOUT_SECONDS, size: int = 56) -> bool:
        """Whether an ICMP echo request is answered."""
        result: bool = self.call("ping", timeout, host=host, timeout=timeout, size=size)
        return result

    def grpc(
        self,
        target: str,
        method: str,
        data: bytes = b"",
        metadata: Headers = (),
        *,
        stream: bool = False,
        timeout: float = REQUEST_TIMEOUT_SECONDS,
    ) -> GrpcResult:
        """One call of ``/package.Service/Method``; the channel to ``target`` (host:port) stays open between calls."""
        answer = self.call(
            "grpc",
            timeout,
            target=target,
            method=method,
            metadata=_pairs(metadata),
            timeout=timeout,
            data=base64.b64encode(data).decode(),
            stream=stream,
        )
        return GrpcResult(
            answer["code"],
            answer["details"],
            tuple(answer["messages"]),
            dict(answer["initial_metadata"]),
            dict(answer["trailing_metadata"]),
        )

    def websocket(self, url: str, headers: Headers = (), timeout: float = REQUEST_TIMEOUT_SECONDS) -> WebSocket | int:
        """An open WebSocket, or the status with which the upgrade was refused."""
        answer = self.call("websocket", timeout, url=url, headers=_pairs(headers), timeout=timeout)
        return WebSocket(self, answer["connection"]) if "connection" in answer else int(answer["status"])


class PendingResponse:
    """An HTTP request under way."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending

    def result(self) -> Response:
        """Wait for the response."""
        return _response(self._pending.result())


class Connection:
    """A connection that stays open between requests."""

    def __init__(self, process: PodProcess, number: int, target: _Target) -> None:
        self._process, self._number, self._target = process, number, target

    def request(
        self,
        path: str = "/",
        method: str = "GET",
        headers: Headers = (),
        body: bytes = b"",
        timeout: float = REQUEST_TIMEOUT_SECONDS,
    ) -> Response:
        """One request on this connection."""
        answer = self._process.call(
            "request",
            timeout,
            connection=self._number,
            method=method,
            path=path,
            headers=self._target.with_host(headers),
            body=base64.b64encode(body).decode(),
            timeout=timeout,
        )
        return _response(answer)

    def exchange(self, data: bytes, timeout: float = REQUEST_TIMEOUT_SECONDS) -> bytes:
        """On a ``tcp`` connection: send bytes and read as many back."""
        text = base64.b64encode(data).decode()
        return base64.b64decode(self._process.call("exchange", timeout, connection=self._number, data=text, timeout=timeout))

    @property
    def is_open(self) -> bool:
        """Whether it can still be used, as far as this end has been told."""
        return bool(self._process.call("is_open", connection=self._number))

    def close(self) -> None:
        """End the connection."""
        self._process.call("close", connection=self._number)


class WebSocket:
    """An open WebSocket."""

    def __init__(self, process: PodProcess, number: int) -> None:
        self._process, self._number = process, number

    def exchange(self, text: str, timeout: float = REQUEST_TIMEOUT_SECONDS) -> str:
        """Send a text message and return the echo."""
        return str(self._process.call("websocket_exchange", timeout, connection=self._number, text=text, timeout=timeout))

    def close(self) -> None:
        """End the connection."""
        self._process.call("close", connection=self._number)


class Load:
    """Requests under way until stopped."""

    def __init__(self, process: PodProcess, number: int) -> None:
        self._process, self._number = process, number

    def counts(self) -> LoadCounts:
        """What has come so far."""
        return _counts(self._process.call("load_counts", load=self._number))

    def stop(self) -> LoadCounts:
        """End it, letting requests under way finish."""
        return _counts(self._process.call("load_stop", load=self._number))


class _Target:
    """Where a URL points."""

    def __init__(self, url: str) -> None:
        split = urlsplit(url)
        assert split.hostname is not None, url
        self.host = split.hostname
        self.tls = split.scheme == "https"
        self.port = split.port or (443 if self.tls else 80)
        self.path = (split.path or "/") + (f"?{split.query}" if split.query else "")
        self.netloc = split.netloc

    def with_host(self, headers: Headers) -> list[list[str]]:
        pairs = _pairs(headers)
        if any(name.lower() == "host" for name, _ in pairs):
            return pairs
        return [["host", self.netloc], *pairs]


def _pairs(headers: Headers) -> list[list[str]]:
    items = headers.items() if isinstance(headers, Mapping) else headers
    return [[name, value] for name, value in items]


def _json_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def _response(answer: dict[str, Any]) -> Response:
    return Response(
        answer["status"],
        tuple((name.lower(), value) for name, value in answer["headers"]),
        base64.b64decode(answer["body"]),
        tuple((name.lower(), value) for name, value in answer["trailers"]),
    )


def _counts(answer: dict[str, Any]) -> LoadCounts:
    return LoadCounts(
        statuses={int(status): count for status, count in answer["statuses"].items()},
        failures=answer["failures"],
        opened_count=answer["opened"],
        first_seen={int(status): seen for status, seen in answer["first_seen"].items()},
        last_seen={int(status): seen for status, seen in answer["last_seen"].items()},
        last_sent={int(status): sent for status, sent in answer["last_sent"].items()},
    )
