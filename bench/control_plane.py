"""The control plane at scale: ``python -m bench.control_plane --policies 10,100,1000 --endpoints 100,1000``.

A real ``tidegate run`` with that many policies (one file each) and endpoints (one file), of which two are real pods. Measured,
for each pair of sizes:

- start: from the process' start to everything being in force;
- edit: one rule of one policy changes. From the file's rename to the first request on an open connection that sees it, and of
  that the agent's own work (as its log says: compile, publish, Envoy's ACK, map writes); xDS bytes, CPU of the agent;
- pod: one endpoint more. From the rename to its entry in the kernel; xDS responses (there should be none); CPU of the agent;
- memory: resident, of agent and Envoy.

The file's way to the agent is part of "seen" (a file must rest, files.py), and reading one large endpoints file part of "pod".
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import yaml

from bench.compile_scale import FIRST_ADDRESS
from bench.processor import resident_bytes
from bpf_redirect import bpf
from bpf_redirect.abi import Endpoint
from bpf_redirect.pins import PinRoot, mount_bpffs
from tests.bpf.arena import netns
from tests.support.netns import NETNS_DIRECTORY, Cluster, Pod
from tests.support.node import Node

PORT = 8080
READY_SECONDS = 300.0
EDIT_SECONDS_MAX = 10.0
SOCKET_SECONDS = 5.0
POLL_SECONDS = 0.001
_REALISED = re.compile(rb"realised\s+milliseconds=([0-9.]+)")
_ANSI = re.compile(rb"\x1b\[[0-9;]*m")


def document(name: str, subject: str, **spec: Any) -> dict[str, Any]:
    """Return a policy for the pods with one label."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"endpointSelector": {"matchLabels": {"app": subject}}, **spec},
    }


def _ports(numbers: Sequence[str], http: Sequence[dict[str, str]] = ()) -> list[dict[str, Any]]:
    made: dict[str, Any] = {"ports": [{"port": number, "protocol": "TCP"} for number in numbers]}
    return [made | ({"rules": {"http": list(http)}} if http else {})]


def filling(number: int, label_sets: int, random: Random) -> dict[str, Any]:
    """Return one policy of the mass: three ingress rules, half of them HTTP; every fifth restricts HTTP on egress."""
    content = [{"method": "GET", "path": f"/x{number}"}, {"method": "POST", "path": f"/y{number}"}]
    ingress = []
    for _ in range(3):
        peer = {"matchLabels": {"app": f"a{random.randrange(label_sets)}"}}
        is_http = random.random() < 0.5
        ports = _ports([random.choice(["80", "8080", "443"])], content) if is_http else _ports(["5432", "6379"])
        ingress.append({"fromEndpoints": [peer], "toPorts": ports})
    spec: dict[str, Any] = {"ingress": ingress}
    if number % 5 == 0:
        spec["egress"] = [{"toPorts": _ports(["80"], [{"method": "GET", "path": f"/out{number}"}])}]
    return document(f"p{number}", f"a{number % label_sets}", **spec)


def probed(path: str) -> str:
    """Return the policy that is edited."""
    ingress = [{"toPorts": _ports([str(PORT)], [{"method": "GET", "path": path}])}]
    return yaml.safe_dump(document("probe", "probe", ingress=ingress), sort_keys=False)


def crowd(count: int, label_sets: int) -> list[dict[str, Any]]:
    """Return the endpoints of the mass: local ones whose interfaces aren't there, so that every policy has a subject here."""
    from ipaddress import ip_address

    return [
        {
            "name": f"e{number}",
            "labels": {"app": f"a{number % label_sets}", "tier": f"t{number % 10}"},
            "interface": f"no-such{number}",
            "ipv4": str(ip_address(FIRST_ADDRESS + (200 << 16) + number)),
        }
        for number in range(count)
    ]


class Crowded(Node):
    """A node that is ready when its log says that all is in force: most of its endpoints have no interface."""

    def wait_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait for the first realisation that knows the probed pod."""
        deadline = time.monotonic() + timeout_seconds
        while self.realisations() == 0 or not Path(self.pin_root).exists():
            assert self._child is not None
            assert self._child.poll() is None, "tidegate run has ended"
            assert time.monotonic() < deadline, f"not in force within {timeout_seconds} s"
            time.sleep(0.01)

    def log(self) -> bytes:
        """Return the log so far, without colours."""
        return _ANSI.sub(b"", self.log_file.read_bytes()) if self.log_file.exists() else b""

    def realisations(self) -> int:
        """Return how often something came into force."""
        return len(_REALISED.findall(self.log()))


@dataclass
class Series:
    """Figures of one kind."""

    values: list[float] = field(default_factory=list)

    def text(self) -> str:
        """Return median and 99th percentile (of few values: the greatest)."""
        ordered = sorted(self.values)
        if not ordered:
            return "-"
        return f"{statistics.median(ordered):.1f} / {ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]:.1f}"


@dataclass
class Measured:
    """One pair of sizes."""

    policies: int
    endpoints: int
    start_s: float = 0.0
    slots: int = 0
    agent_mb: float = 0.0
    envoy_mb: float = 0.0
    edit_seen_ms: Series = field(default_factory=Series)
    edit_work_ms: Series = field(default_factory=Series)
    edit_cpu_ms: Series = field(default_factory=Series)
    edit_bytes: Series = field(default_factory=Series)
    pod_seen_ms: Series = field(default_factory=Series)
    pod_work_ms: Series = field(default_factory=Series)
    pod_cpu_ms: Series = field(default_factory=Series)
    pod_pushes: int = 0

    def row(self) -> dict[str, str]:
        """Return the table's row."""
        return {
            "policies": str(self.policies),
            "endpoints": str(self.endpoints),
            "slots": str(self.slots),
            "start, s": f"{self.start_s:.1f}",
            "edit seen, ms": self.edit_seen_ms.text(),
            "edit work, ms": self.edit_work_ms.text(),
            "edit CPU, ms": self.edit_cpu_ms.text(),
            "edit xDS, kB": self.edit_bytes.text(),
            "pod seen, ms": self.pod_seen_ms.text(),
            "pod work, ms": self.pod_work_ms.text(),
            "pod CPU, ms": self.pod_cpu_ms.text(),
            "pod xDS": str(self.pod_pushes),
            "agent, MB": f"{self.agent_mb:.0f}",
            "Envoy, MB": f"{self.envoy_mb:.0f}",
        }


def cpu_ms(pid: int) -> float:
    """Return the processor time that all threads of a process have used."""
    total_ns = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total_ns += int(path.read_text().split()[0])
        except OSError:
            continue
    return total_ns / 1e6


def until(condition: Callable[[], bool], what: str) -> float:
    """Poll until it holds; return the seconds. Every refused request makes a record: too many would be measured, too."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < EDIT_SECONDS_MAX, f"not within {EDIT_SECONDS_MAX} s: {what}"
        time.sleep(POLL_SECONDS)
    return time.monotonic() - started


class Asking:
    """One keep-alive connection from a pod."""

    def __init__(self, pod: Pod, host: str) -> None:
        with netns(NETNS_DIRECTORY / pod.netns):
            self._socket = socket.socket()
        self._socket.settimeout(SOCKET_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect((host, PORT))
        self._buffer = b""

    def status(self, path: str) -> int:
        """Return the status of one GET."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: probe\r\n\r\n".encode())
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._socket.recv(65536) or self._gone()
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        length = int(next(line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")))
        while len(rest) < length:
            rest += self._socket.recv(65536) or self._gone()
        self._buffer = rest[length:]
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _gone(self) -> bytes:
        raise ConnectionError("the connection ended")


class Bench:
    """One node of one pair of sizes."""

    def __init__(self, cluster: Cluster, policies: int, endpoints: int) -> None:
        self.cluster = cluster
        self.found = Measured(policies, endpoints)
        self.server, self.client = cluster.pod("probe", {"app": "probe"}), cluster.pod("client", {"app": "client"})
        self._label_sets = max(1, min(policies, endpoints))
        random = Random(1)
        texts = {f"p{n}": yaml.safe_dump(filling(n, self._label_sets, random), sort_keys=False) for n in range(policies - 1)}
        self.node = Crowded(cluster, {"probe": probed("/a"), **texts})
        self._crowd = crowd(endpoints, self._label_sets)
        cluster_yaml = cluster.endpoints_yaml

        def with_crowd(extra: Sequence[Any] = ()) -> str:
            return cluster_yaml([*self._crowd, *extra])

        cluster.endpoints_yaml = with_crowd  # type: ignore[method-assign]
        self.server.serve_http(PORT)

    def agent_pid(self) -> int:
        """Return the agent's process."""
        (pid,) = self.node.processes("tidegate.agent")
        return pid

    def run(self, edits: int, pods: int) -> Measured:
        """Start, measure, stop."""
        started = time.monotonic()
        with self.node:
            self.found.start_s = time.monotonic() - started
            time.sleep(2.0)  # not waiting for something: what is measured next should not contain the start's last work
            self.found.slots = int(re.findall(rb"slots=(\d+)", self.node.log())[-1])
            self.edit(edits)
            self.add_pods(pods)
            self.found.agent_mb = resident_bytes(self.agent_pid()) / 1e6
            self.found.envoy_mb = resident_bytes(self.node.envoy_pid()) / 1e6
        return self.found

    def _work_ms(self, before: int) -> float:
        until(lambda: self.node.realisations() > before, "the log tells of it")
        return sum(map(float, _REALISED.findall(self.node.log())[before:]))

    def edit(self, count: int) -> None:
        """Let one path become another, count times."""
        asking = Asking(self.client, self.server.ipv4)
        agent = self.agent_pid()
        until(lambda: asking.status("/a") == 200, "the probe answers")
        for number in range(count):
            path = "/b" if number % 2 == 0 else "/a"
            before, sent, used = self.node.realisations(), self._bytes(), cpu_ms(agent)
            self.node.write_policy("probe", probed(path))
            self.found.edit_seen_ms.values.append(1000 * until(lambda: asking.status(path) == 200, "the edit"))  # noqa: B023
            self.found.edit_work_ms.values.append(self._work_ms(before))
            self.found.edit_cpu_ms.values.append(cpu_ms(agent) - used)
            self.found.edit_bytes.values.append((self._bytes() - sent) / 1000)
        asking.close()

    def _bytes(self) -> int:
        return int(self.node.status()["xds"].get("bytes", 0))

    def add_pods(self, count: int) -> None:
        """Add pods, one after the other."""
        endpoints = bpf.get(os.path.join(PinRoot(str(self.node.pin_root)).maps, "tg_endpoints"))
        agent = self.agent_pid()
        size = len(bytes(Endpoint()))
        pushes = self.node.status()["xds"]["pushes"]
        for number in range(count):
            pod = self.cluster.pod(f"new{number}", {"app": f"a{number % self._label_sets}", "tier": f"t{number % 10}"})
            with netns(NETNS_DIRECTORY / self.cluster.node_netns):
                key = socket.if_nametoindex(str(pod.interface)).to_bytes(4, sys.byteorder)
            before, used = self.node.realisations(), cpu_ms(agent)
            self.node.write_endpoints()
            seen = until(lambda: bpf.map_lookup(endpoints, key, size) is not None, "the pod")  # noqa: B023
            self.found.pod_seen_ms.values.append(1000 * seen)
            self.found.pod_work_ms.values.append(self._work_ms(before))
            self.found.pod_cpu_ms.values.append(cpu_ms(agent) - used)
        self.found.pod_pushes = self.node.status()["xds"]["pushes"] - pushes
        os.close(endpoints)


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows below their heading."""
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    lines = ["  ".join(name.rjust(widths[name]) for name in names)]
    lines += ["  ".join(row[name].rjust(widths[name]) for name in names) for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure every pair of sizes and print the table: median / 99th percentile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", default="10,100,1000")
    parser.add_argument("--endpoints", default="100,1000")
    parser.add_argument("--edits", type=int, default=30)
    parser.add_argument("--pods", type=int, default=10)
    parser.add_argument("--output", type=Path, help="write the rows there, as JSON")
    wanted = parser.parse_args()
    rows: list[dict[str, str]] = []
    for policies in map(int, wanted.policies.split(",")):
        for endpoints in map(int, wanted.endpoints.split(",")):
            with Cluster(prefix="tgscale") as cluster:
                mount_bpffs("/sys/fs/bpf")
                rows.append(Bench(cluster, policies, endpoints).run(wanted.edits, wanted.pods).row())
            print(table(rows[-1:]), file=sys.stderr, flush=True)
    print(table(rows))
    if wanted.output:
        wanted.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
