"""The DNS proxy's process: its settings file, and what makes a running one ours to adopt."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from proxylib.dns.policy import Reject
from tidegate.config.dns import DnsSection
from tidegate.config.node import NodeConfig, NodeSection
from tidegate.dnsproxy import ProcessSettings
from tidegate.processes.dns import DnsLauncher, process_settings


def node(tmp_path: Path, dns: DnsSection | None = None) -> NodeConfig:
    return NodeConfig(
        path=tmp_path / "node.yaml",
        node=NodeSection(name="a"),
        policies=tmp_path,
        endpoints=tmp_path / "endpoints.yaml",
        state=tmp_path / "state",
        dns=dns or DnsSection(),
    )


def test_settings_come_back_from_their_file(tmp_path: Path) -> None:
    settings = process_settings(node(tmp_path, DnsSection(upstream_timeout_seconds=1.5, in_flight_max=7)))
    assert ProcessSettings.from_json(settings.to_json()) == settings
    assert (settings.proxy.upstream_timeout_ns, settings.proxy.in_flight_max) == (1_500_000_000, 7)


def test_only_what_the_process_itself_is_told_makes_it_another_one(tmp_path: Path) -> None:
    config = node(tmp_path)
    fingerprint = DnsLauncher(config).write_settings()
    assert DnsLauncher(config).write_settings() == fingerprint
    # What stands in rules.json reaches a running proxy.
    assert (
        DnsLauncher(replace(config, dns=DnsSection(reject=Reject.NXDOMAIN, ttl_floor_seconds=9))).write_settings() == fingerprint
    )
    assert DnsLauncher(replace(config, dns=DnsSection(in_flight_max=9_999))).write_settings() != fingerprint


def test_the_process_imports_no_policy_no_grpc_and_no_yaml() -> None:
    code = "import json, sys, tidegate.dnsproxy; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {"grpc", "yaml", "asyncio", "aiohttp", "pyroute2", "l7filters", "xds_server", "bcc", "structlog"}.isdisjoint(
        json.loads(found.stdout)
    )


@pytest.mark.parametrize(
    "text, code", [("", 3), ("{}", 3), ('{"proxy": {"bogus": 1}, "names_pin": "", "lock_path": ""}', 3), (None, 3)]
)
def test_a_settings_file_that_can_not_be_used_ends_it_with_a_reason(tmp_path: Path, text: str | None, code: int) -> None:
    path = tmp_path / "settings.json"
    if text is not None:
        path.write_text(text)
    found = subprocess.run([sys.executable, "-m", "tidegate.dnsproxy", str(path)], check=False, capture_output=True, text=True)
    assert (found.returncode, "can't be used" in found.stderr) == (code, True)
