"""The DNS proxy's process of this node: how it is configured from node.yaml, started, found again and ended.

Owns: its settings file, command line and places. Must not know rules (dns/side.py) or what the proxy does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
from pathlib import Path

import bpf_redirect
import proxylib.dns
from bpf_redirect.pins import PinRoot
from proxylib.dns.settings import SECOND_NS, Settings
from tidegate import dnsproxy
from tidegate.config.node import NodeConfig
from tidegate.dnsproxy import ProcessSettings
from tidegate.processes.envoy import host_has_ipv6
from tidegate.processes.process import DetachedProcess, processes_with, read_record

LOG_BYTES_MAX = 32 << 20
"""The log is begun anew at a start that finds it larger; the proxy writes only when it can't go on."""


class DnsPlaces:
    """Where the files of the DNS proxy are: below STATE/dns."""

    def __init__(self, config: NodeConfig) -> None:
        self.directory = config.dns_directory
        self.settings = self.directory / "settings.json"
        self.rules = self.directory / "rules.json"
        self.subjects = self.directory / "subjects.json"
        self.cache = self.directory / "cache"
        self.control = self.directory / "control.sock"
        self.reports = self.directory / "reports.sock"
        self.lock = self.directory / "proxy.lock"
        self.record = self.directory / "dnsproxy.json"
        self.log = self.directory / "dnsproxy.log"


def process_settings(config: NodeConfig) -> ProcessSettings:
    """Return what node.yaml says about the DNS proxy."""
    places, dns = DnsPlaces(config), config.dns
    proxy = Settings(
        rules_path=places.rules,
        subjects_path=places.subjects,
        cache_directory=places.cache,
        report_path=places.reports,
        control_path=places.control,
        proxy_port_min=config.proxy_ports.min,
        listen_addresses=("127.0.0.1", "::1") if host_has_ipv6() else ("127.0.0.1",),
        upstream_timeout_ns=round(dns.upstream_timeout_seconds * SECOND_NS),
        grace_ns=round(dns.grace_seconds * SECOND_NS),
        in_flight_max=dns.in_flight_max,
        in_flight_per_endpoint_max=dns.in_flight_per_endpoint_max,
    )
    return ProcessSettings(proxy, os.path.join(PinRoot(str(config.bpf.pin_root)).maps, "tg_names"), places.lock)


class DnsLauncher:
    """Starts the DNS proxy as node.yaml says, or finds the one that an earlier run started."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._places = DnsPlaces(config)

    @property
    def log_path(self) -> Path:
        """Where it writes."""
        return self._places.log

    @property
    def record_path(self) -> Path:
        """What is known of the running process."""
        return self._places.record

    def argv(self) -> list[str]:
        """Return its command line."""
        return [sys.executable, "-m", "tidegate.dnsproxy", str(self._places.settings)]

    def write_settings(self) -> str:
        """Write the settings file; return a fingerprint of it and of the program that reads it. Raises OSError."""
        self._places.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = process_settings(self._config).to_json()
        self._places.settings.write_text(text)
        return hashlib.sha256("\0".join([text, *self.argv(), _program_digest()]).encode()).hexdigest()

    def start_or_adopt(self) -> DetachedProcess:
        """Return the running proxy, after starting it if there was none with these settings and this code. Raises ProcessError.

        One of other settings or code is asked to end, which makes it save what it knows; its successor waits for its lock.
        """
        fingerprint = self.write_settings()
        running = DetachedProcess.adopt(self.record_path, fingerprint)
        if running is not None:
            return running
        self.end_strays(signal.SIGTERM)
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES_MAX:
            self.log_path.unlink()
        return DetachedProcess.start(self.argv(), record_path=self.record_path, fingerprint=fingerprint, log_path=self.log_path)

    def exec(self) -> None:
        """Become the proxy: this process is one that something else restarts, like a container's. Raises OSError."""
        self.write_settings()
        os.execv(sys.executable, self.argv())

    def end_strays(self, signal_number: signal.Signals = signal.SIGKILL) -> tuple[int, ...]:
        """End every DNS proxy of ours, known or not (see EnvoyLauncher.end_strays); return their pids."""
        strays = set(processes_with(str(self._places.settings)))
        record = read_record(self.record_path)
        if record is not None and record.is_alive():
            strays.add(record.pid)
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)
        return tuple(sorted(strays))


def _program_digest() -> str:
    """Return a digest of the program's files: after an upgrade the old proxy is no longer ours to adopt."""
    sources = [Path(dnsproxy.__file__), Path(dnsproxy.__file__).parent / "dns" / "names.py"]
    for package in (proxylib.dns, bpf_redirect):
        sources += sorted(Path(package.__path__[0]).glob("*.py"))
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()
