"""The checks of ``tidegate doctor``, on made-up machines."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.tidegate.fakes import config_in
from tidegate.config.node import ProxyPortsSection
from tidegate.status.diagnosis import (
    CAPABILITIES,
    Outcome,
    check_bpffs,
    check_btf,
    check_cgroup2,
    check_early_demux,
    check_envoy,
    check_forwarding,
    check_headers,
    check_kernel,
    check_lockdown,
    check_proxy_ports,
    check_reverse_path,
    check_rights,
    check_state_directory,
)


def machine(root: Path, **files: str) -> Path:
    """A file system whose files are named by their path with __ for /."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("release", "outcome"),
    [
        ("6.1.0-18-amd64", Outcome.OK),
        ("5.10.0", Outcome.OK),
        ("5.9.16", Outcome.MISSING),
        ("4.19.0", Outcome.MISSING),
        ("unknown", Outcome.MISSING),
    ],
)
def test_kernel_by_its_version(release: str, outcome: Outcome) -> None:
    assert check_kernel(release).outcome is outcome


def test_rights_are_the_effective_capabilities(tmp_path: Path) -> None:
    everything = sum(1 << bit for bit in CAPABILITIES.values())
    machine(tmp_path, proc__self__status=f"Name:\tx\nCapEff:\t{everything:016x}\n")
    assert check_rights(tmp_path).outcome is Outcome.OK
    machine(tmp_path, proc__self__status=f"CapEff:\t{everything & ~(1 << CAPABILITIES['CAP_BPF']):016x}\n")
    assert (check_rights(tmp_path).outcome, check_rights(tmp_path).detail) == (Outcome.MISSING, "lacks CAP_BPF")
    machine(tmp_path, proc__self__status="")
    assert check_rights(tmp_path).outcome is Outcome.MISSING


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("[none] integrity confidentiality", Outcome.OK),
        ("none [integrity] x", Outcome.OK),
        ("none [confidentiality]", Outcome.MISSING),
    ],
)
def test_lockdown_in_confidentiality_mode_is_too_much(tmp_path: Path, text: str, outcome: Outcome) -> None:
    assert check_lockdown(machine(tmp_path, sys__kernel__security__lockdown=text)).outcome is outcome


def test_mounts_are_found_by_type_and_place(tmp_path: Path) -> None:
    machine(tmp_path, proc__mounts="bpf /sys/fs/bpf bpf rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n")
    assert (check_bpffs(tmp_path).outcome, check_cgroup2(tmp_path).outcome) == (Outcome.OK, Outcome.OK)
    assert "/sys/fs/cgroup/unified" in check_cgroup2(tmp_path).detail
    machine(tmp_path, proc__mounts="bpf /elsewhere bpf rw 0 0\ncgroup /sys/fs/cgroup cgroup rw 0 0\n")
    assert (check_bpffs(tmp_path).outcome, check_cgroup2(tmp_path).outcome) == (Outcome.WARNING, Outcome.WARNING)


def test_headers_are_required_and_types_are_not(tmp_path: Path) -> None:
    assert (check_headers(tmp_path).outcome, check_btf(tmp_path).outcome) == (Outcome.MISSING, Outcome.WARNING)
    machine(tmp_path, usr__include__linux__bpf__h="", sys__kernel__btf__vmlinux="")
    (tmp_path / "usr/include/linux/bpf.h").write_text("")
    assert (check_headers(tmp_path).outcome, check_btf(tmp_path).outcome) == (Outcome.OK, Outcome.OK)


def test_envoy_by_what_its_binary_says(tmp_path: Path) -> None:
    binary = tmp_path / "envoy"
    assert check_envoy(binary).outcome is Outcome.MISSING
    binary.write_text("#!/bin/sh\necho 'envoy  version: abc/1.40.2/Clean/RELEASE/BoringSSL'\n")
    assert check_envoy(binary).outcome is Outcome.MISSING  # not executable
    binary.chmod(0o755)
    assert (check_envoy(binary).outcome, check_envoy(binary).detail) == (Outcome.OK, f"1.40.2, {binary}")
    binary.write_text("#!/bin/sh\necho 'envoy  version: abc/1.29.0/Clean/RELEASE/BoringSSL'\n")
    assert check_envoy(binary).outcome is Outcome.WARNING
    binary.write_text("#!/bin/sh\nexit 3\n")
    assert check_envoy(binary).outcome is Outcome.MISSING


def test_envoy_that_hangs_is_no_envoy(tmp_path: Path) -> None:
    binary = tmp_path / "envoy"
    binary.write_text("")

    def hang(command: list[str]) -> str:
        raise subprocess.TimeoutExpired(command, 20)

    assert check_envoy(binary, hang).outcome is Outcome.MISSING


def test_sysctl_that_hinders_is_run_s_to_change_or_the_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(
        tmp_path,
        proc__sys__net__ipv4__ip_forward="1\n",
        proc__sys__net__ipv6__conf__all__forwarding="0\n",
        proc__sys__net__ipv4__conf__all__rp_filter="1\n",
    )
    assert check_forwarding(tmp_path).outcome is check_reverse_path(tmp_path).outcome is Outcome.OK
    assert "net.ipv6.conf.all.forwarding" in check_forwarding(tmp_path).detail
    monkeypatch.setattr("os.access", lambda path, mode: False)  # a container with /proc/sys read-only
    assert check_forwarding(tmp_path).outcome is check_reverse_path(tmp_path).outcome is Outcome.WARNING
    assert check_forwarding(tmp_path).fix == "sysctl -w net.ipv6.conf.all.forwarding=1"
    assert check_reverse_path(tmp_path).fix == "sysctl -w net.ipv4.conf.all.rp_filter=0"


def test_sysctls_as_they_should_be_are_fine(tmp_path: Path) -> None:
    machine(
        tmp_path,
        proc__sys__net__ipv4__ip_forward="1\n",
        proc__sys__net__ipv6__conf__all__forwarding="1\n",
        proc__sys__net__ipv4__conf__all__rp_filter="2\n",
    )
    assert check_forwarding(tmp_path).detail == "on"
    assert check_reverse_path(tmp_path).detail == "net.ipv4.conf.all.rp_filter is 2"


@pytest.mark.parametrize(("value", "warned"), [("1", True), ("0", False)])
def test_early_demux_is_noted(tmp_path: Path, value: str, warned: bool) -> None:
    machine(tmp_path, proc__sys__net__ipv4__tcp_early_demux=f"{value}\n")
    assert ("tcp_early_demux=0" in check_early_demux(tmp_path).detail) is warned


@pytest.mark.parametrize(
    ("lowest", "reserved", "outcome"),
    [(19000, "", Outcome.OK), (31000, "", Outcome.WARNING), (40000, "", Outcome.WARNING), (40000, "40000-42047", Outcome.OK)],
)
def test_proxy_ports_must_not_be_given_to_clients(tmp_path: Path, lowest: int, reserved: str, outcome: Outcome) -> None:
    machine(
        tmp_path,
        proc__sys__net__ipv4__ip_local_port_range="32768\t60999\n",
        proc__sys__net__ipv4__ip_local_reserved_ports=f"{reserved}\n",
    )
    config = replace(config_in(tmp_path), proxy_ports=ProxyPortsSection(min=lowest))
    assert check_proxy_ports(config, tmp_path).outcome is outcome


def test_state_directory_may_be_made(tmp_path: Path) -> None:
    assert check_state_directory(config_in(tmp_path / "a" / "b")).outcome is Outcome.OK
    (tmp_path / "file").write_text("")
    assert check_state_directory(config_in(tmp_path / "file")).outcome is Outcome.MISSING
