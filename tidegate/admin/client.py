"""The client of the admin API: how a command speaks to a running node.

Owns: HTTP over the agent's Unix socket, and what its failures mean to a person. Standard library only, so that a command
starts fast.

Errors::

    NodeError
      NodeUnreachable     no agent answers at the socket
      NodeRefused         the agent answered, and said no
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

CONNECT_TIMEOUT_SECONDS = 5.0
REQUEST_TIMEOUT_SECONDS = 30.0
"""Beyond what the agent was asked to wait."""
RETRY_SECONDS = 0.1
"""How often a command that may wait looks whether the agent is there."""
HTTP_BAD_REQUEST = 400
LINE_BYTES_MAX = 1 << 20
"""The longest record: headers of 60 KiB escaped, with room."""


class NodeError(Exception):
    """Talking to the node failed; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NodeUnreachable(NodeError):
    """No agent answers at the socket."""


class NodeRefused(NodeError):
    """The agent answered, and said no. ``is_question`` says that what was asked makes no sense, so asking again won't help."""

    def __init__(self, message: str, hint: str = "", *, is_question: bool = False) -> None:
        super().__init__(message, hint)
        self.is_question = is_question


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(CONNECT_TIMEOUT_SECONDS)
        try:
            sock.connect(str(self._path))
        except BaseException:
            sock.close()
            raise
        sock.settimeout(self.timeout)
        self.sock = sock


class NodeClient:
    """Asks one node. Cheap to make; each request is a connection of its own."""

    def __init__(self, admin_socket: Path) -> None:
        self._path = admin_socket

    def is_running(self) -> bool:
        """Tell whether an agent answers."""
        try:
            self.get("/healthz")
        except NodeUnreachable:
            return False
        except NodeRefused:
            return True
        return True

    def get(self, path: str, query: Mapping[str, str] | None = None, timeout: float = REQUEST_TIMEOUT_SECONDS) -> Any:
        """Return the JSON answer. Raises NodeError."""
        return self._exchange("GET", path, query or {}, None, timeout)

    def post(self, path: str, body: object, timeout: float = REQUEST_TIMEOUT_SECONDS) -> Any:
        """Send JSON, return the JSON answer. Raises NodeError."""
        return self._exchange("POST", path, {}, json.dumps(body).encode(), timeout)

    def status(self, wait_seconds: float = 0.0) -> Any:
        """Return the status: at once, or as soon as all is realised, at the latest after ``wait_seconds``.

        An agent that isn't there yet is waited for, too. Raises NodeError.
        """
        deadline = time.monotonic() + wait_seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                return self.get("/v1/status", {"wait": f"{left:.3f}"} if left else {}, left + REQUEST_TIMEOUT_SECONDS)
            except NodeUnreachable:
                if left <= 0:
                    raise
            time.sleep(min(RETRY_SECONDS, left))

    def stream(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the objects of an NDJSON answer as they come; ends when the agent ends it. Raises NodeError."""
        connection = _UnixConnection(self._path, None)
        try:
            response = self._request(connection, "GET", path, query, None)
            while line := response.readline(LINE_BYTES_MAX):
                yield json.loads(line)
        except (http.client.HTTPException, ConnectionError):
            return  # the agent stopped in the middle of a record
        except ValueError as error:
            raise NodeRefused(f"the agent's answer is not JSON: {error}") from error
        finally:
            connection.close()

    def _exchange(self, method: str, path: str, query: Mapping[str, str], body: bytes | None, timeout: float) -> Any:
        connection = _UnixConnection(self._path, timeout)
        try:
            return json.loads(self._request(connection, method, path, query, body).read())
        except (http.client.HTTPException, ConnectionError) as error:
            raise NodeUnreachable(f"the agent hung up: {error}", "is it stopping? try again") from error
        except TimeoutError as error:
            raise NodeUnreachable(f"the agent did not answer within {timeout:g} s", "see its log") from error
        except ValueError as error:
            raise NodeRefused(f"the agent's answer is not JSON: {error}") from error
        finally:
            connection.close()

    def _request(
        self, connection: _UnixConnection, method: str, path: str, query: Mapping[str, str], body: bytes | None
    ) -> http.client.HTTPResponse:
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            connection.connect()
        except PermissionError as error:
            raise NodeUnreachable(f"may not open {self._path}", "run it as root, as the agent does") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NodeUnreachable(f"no agent answers at {self._path}", "start it with `tidegate run`") from error
        except OSError as error:
            raise NodeUnreachable(f"{self._path}: {error.strerror or error}", "is `state` in node.yaml right?") from error
        connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        if response.status != 200:
            raise NodeRefused(_refusal(response), is_question=response.status == HTTP_BAD_REQUEST)
        return response


def _refusal(response: http.client.HTTPResponse) -> str:
    text = response.read(LINE_BYTES_MAX).decode(errors="replace")
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status}: {text[:200]}"
