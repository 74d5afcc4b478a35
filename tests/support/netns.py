"""A node, its pods and the world outside, as real network namespaces.

The node is a namespace too, so nothing of this machine's own network is touched and a whole cluster ends with its namespaces::

    world, remote pods --- router ns --- uplink0 [ node ns ] lxc-NAME --- eth0 [ pod ns ]

Pods are wired as CNI plugins do it: a /32 and a /128 address, a link-local gateway that the node answers for (ARP and neighbour
discovery really happen), and a host route to the pod on its veth. Nothing here knows Tidegate but the shape of endpoints.yaml.

Names are ``PREFIX-PID-NUMBER-NAME``: namespaces whose PID is gone are the leftovers of a run that crashed and are removed.
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.support.pod import PodProcess

NETNS_DIRECTORY = Path("/run/netns")
BPF_FILE_SYSTEM = Path("/sys/fs/bpf")
INTERFACE_NAME_CHARS_MAX = 15
POD_COUNT_MAX = 4000
"""Bounded by the address plan: 10.0.X.Y with X < 16."""

GATEWAY_V4 = "169.254.1.1"
GATEWAY_V6 = "fe80::1"
NODE_V4, NODE_V6 = "172.31.0.1", "fd00:31::1"
UPLINK_V4, UPLINK_V6 = "172.31.1.1", "fd00:31:1::1"
UPLINK_INTERFACE = "uplink0"

NODE_SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
)
ROUTER_SYSCTLS = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

_cluster_numbers = itertools.count(1)


@dataclass(frozen=True)
class AddressPlan:
    """The addresses of one node of a cluster; ``site`` 0 is the first. Pods of nodes without namespaces are in 10.9.0.0/16."""

    site: int

    def __post_init__(self) -> None:
        assert 0 <= self.site < 9, "10.9.0.0/16 is taken"

    @property
    def node_v4(self) -> str:
        return NODE_V4 if self.site == 0 else f"172.31.0.{1 + self.site}"

    @property
    def node_v6(self) -> str:
        return NODE_V6 if self.site == 0 else f"fd00:31::{1 + self.site:x}"

    @property
    def uplink_v4(self) -> str:
        return UPLINK_V4 if self.site == 0 else f"172.31.{1 + self.site}.1"

    @property
    def uplink_v6(self) -> str:
        return UPLINK_V6 if self.site == 0 else f"fd00:31:{1 + self.site:x}::1"

    @property
    def router_v4(self) -> str:
        return f"172.31.{1 + self.site}.2"

    @property
    def router_v6(self) -> str:
        return f"fd00:31:{1 + self.site:x}::2"

    @property
    def router_interface(self) -> str:
        return f"node{self.site}"

    @property
    def pods_v4(self) -> str:
        return f"10.{self.site}.0.0/16"

    @property
    def pods_v6(self) -> str:
        return f"fd00:{10 + self.site}::/64"

    def pod_v4(self, number: int) -> str:
        return f"10.{self.site}.{number // 250}.{number % 250 + 2}"

    def pod_v6(self, number: int) -> str:
        return f"fd00:{10 + self.site}::{number:x}"


class NetnsError(RuntimeError):
    """An ``ip`` command failed."""


@dataclass
class Pod:
    """One namespace with a process in it that serves and asks; see tests/support/pod.py for what it can do."""

    cluster: Cluster
    name: str
    netns: str
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    ipv4: str = ""
    ipv6: str = ""
    interface: str | None = None
    cgroup: str | None = None
    """Of a workload in the node's own namespace: its cgroup, from the root of the hierarchy."""
    ports: Sequence[Mapping[str, Any]] = ()
    _process: PodProcess | None = None

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def address(self, family: int) -> str:
        """Its address of family 4 or 6."""
        return self.ipv4 if family == 4 else self.ipv6

    def authority(self, port: int, family: int = 4) -> str:
        """``address:port`` as it stands in a URL."""
        return f"{self.ipv4}:{port}" if family == 4 else f"[{self.ipv6}]:{port}"

    def url(self, port: int, path: str = "/", family: int = 4, scheme: str = "http") -> str:
        """A URL at this pod."""
        return f"{scheme}://{self.authority(port, family)}{path}"

    @property
    def process(self) -> PodProcess:
        """The helper process inside the namespace; started at first use."""
        if self._process is None:
            self._process = PodProcess(self.cluster.command_in(self.netns, self.cgroup), self.name)
        return self._process

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command in the namespace; it is killed with the cluster."""
        return self.cluster.popen_in(self.netns, command, **options)

    def run(self, command: Sequence[str], timeout_seconds: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace and return what it printed."""
        return subprocess.run(
            [*self.cluster.command_in(self.netns), *command], capture_output=True, text=True, timeout=timeout_seconds, check=False
        )

    def endpoint_document(self) -> dict[str, Any]:
        """Its item of endpoints.yaml."""
        document: dict[str, Any] = {"name": self.name, "namespace": self.namespace, "labels": dict(self.labels)}
        if self.cgroup is not None:
            return document | {"cgroup": self.cgroup}
        if self.interface is not None:
            document["interface"] = self.interface
        if self.ipv4:
            document["ipv4"] = self.ipv4
        if self.ipv6:
            document["ipv6"] = self.ipv6
        if self.ports:
            document["ports"] = [dict(port) for port in self.ports]
        return document

    def __getattr__(self, name: str) -> Any:
        """What the process can do, the pod can: ``pod.http(...)``, ``pod.serve_http(...)``."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.process, name)


class Cluster:
    """A node with pods. Use it as a context manager; everything it made is gone afterwards, also after a crash.

    ``joins``: another one, whose router this node is connected to as well: two nodes of one cluster. Each has pod networks and
    addresses of its own, and the router knows the way to both.
    """

    def __init__(self, prefix: str = "tgtest", joins: Cluster | None = None) -> None:
        assert re.fullmatch(r"[a-z]{1,12}", prefix), prefix
        self.prefix = prefix
        self.joins = joins
        self.plan = AddressPlan(0 if joins is None else next(joins._sites))
        self._sites = itertools.count(1)
        self.tag = f"{prefix}-{os.getpid()}-{next(_cluster_numbers)}"
        self.directory = Path()
        self.pods: dict[str, Pod] = {}
        self.remotes: dict[str, Pod] = {}
        self.worlds: dict[str, Pod] = {}
        self.workloads: dict[str, Pod] = {}
        self._namespaces: list[str] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._pod_numbers = itertools.count(2)
        self._remote_numbers = itertools.count(2)
        self._router: str | None = None
        self.node_netns = f"{self.tag}-node"
        self.host = Pod(self, "host", self.node_netns, ipv4=self.plan.node_v4, ipv6=self.plan.node_v6)

    # ---- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        remove_leftovers(self.prefix)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.tag}-"))
        atexit.register(self.close)
        try:
            self._add_namespace(self.node_netns)
            sysctl(self.node_netns, NODE_SYSCTLS)
            ip_batch(
                self.node_netns,
                "link set lo up",
                f"addr add {self.plan.node_v4}/32 dev lo",
                f"addr add {GATEWAY_V4}/32 dev lo scope link",
                f"addr add {self.plan.node_v6}/128 dev lo nodad",
            )
            if self.joins is not None:
                self._add_router()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop every process and remove every namespace. May be called twice."""
        atexit.unregister(self.close)
        for pod in (self.host, *self.pods.values(), *self.remotes.values(), *self.worlds.values(), *self.workloads.values()):
            if pod._process is not None:
                pod._process.close()
                pod._process = None
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.communicate()
        self._children.clear()
        for name in reversed(self._namespaces):
            remove_namespace(name)
        self._namespaces.clear()
        for workload in self.workloads.values():
            assert workload.cgroup is not None
            remove_cgroup(workload.cgroup)
        self.workloads.clear()
        if self.directory.is_absolute():
            shutil.rmtree(self.directory, ignore_errors=True)

    def _add_namespace(self, name: str) -> None:
        self._namespaces.append(name)
        run_ip("netns", "add", name)

    # ---- commands inside ------------------------------------------------------------------------------------------

    def command_in(self, netns: str, cgroup: str | None = None) -> list[str]:
        """The words that run what follows inside a namespace (and a cgroup).

        ``nsenter --net`` and not ``ip netns exec``: that remounts /sys, and the BPF file system would be gone.
        """
        words = ["nsenter", f"--net={NETNS_DIRECTORY / netns}", "--"]
        if cgroup is not None:
            words += ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(cgroup_root() / cgroup / "cgroup.procs")]
        return words

    def popen_in(self, netns: str, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command in a namespace; it is killed with the cluster."""
        child = subprocess.Popen([*self.command_in(netns), *command], **options)
        self._children.append(child)
        return child

    # ---- building -------------------------------------------------------------------------------------------------

    def pod(
        self,
        name: str,
        labels: Mapping[str, str] | None = None,
        namespace: str = "default",
        ports: Sequence[Mapping[str, Any]] = (),
    ) -> Pod:
        """A local pod: its veth's host side is ``lxc-NAME`` in the node's namespace."""
        assert name not in self.pods, name
        interface = f"lxc-{name}"
        assert len(interface) <= INTERFACE_NAME_CHARS_MAX, f"{interface} is too long for an interface"
        number = next(self._pod_numbers)
        assert number < POD_COUNT_MAX
        pod = Pod(
            self,
            name,
            f"{self.tag}-{name}",
            namespace=namespace,
            labels=labels or {},
            ipv4=self.plan.pod_v4(number),
            ipv6=self.plan.pod_v6(number),
            interface=interface,
            ports=ports,
        )
        self._add_namespace(pod.netns)
        self.pods[name] = pod
        wire(self.node_netns, interface, pod.netns, pod.ipv4, pod.ipv6, source_v4=self.plan.node_v4, source_v6=self.plan.node_v6)
        return pod

    def remove_pod(self, name: str) -> None:
        """The pod's end: its processes, its namespace and so its veth."""
        pod = self.pods.pop(name)
        if pod._process is not None:
            pod._process.close()
        self._namespaces.remove(pod.netns)
        remove_namespace(pod.netns)

    def workload(self, name: str, labels: Mapping[str, str], namespace: str = "host") -> Pod:
        """A process of the node itself, in the node's namespace, known by its cgroup (as a systemd unit is)."""
        pod = Pod(self, name, self.node_netns, namespace=namespace, labels=labels, ipv4=self.host.ipv4, ipv6=self.host.ipv6)
        pod.cgroup = f"{self.tag}-{name}"
        (cgroup_root() / pod.cgroup).mkdir()
        self.workloads[name] = pod
        return pod

    def remove_workload(self, name: str) -> None:
        """The workload's end: its processes and its cgroup."""
        workload = self.workloads.pop(name)
        if workload._process is not None:
            workload._process.close()
        assert workload.cgroup is not None
        remove_cgroup(workload.cgroup)

    def remote(self, name: str, labels: Mapping[str, str], namespace: str = "default") -> Pod:
        """A pod of another node: reached through the uplink, known by its labels."""
        number = next(self._remote_numbers)
        pod = self._outside(name, f"10.9.0.{number}", f"fd00:9::{number:x}")
        pod.labels, pod.namespace = labels, namespace
        self.remotes[name] = pod
        return pod

    def world(self, name: str, ipv4: str = "203.0.113.7", ipv6: str = "2001:db8:113::7") -> Pod:
        """A machine outside the cluster: reached through the uplink, known only by its addresses."""
        pod = self._outside(name, ipv4, ipv6)
        self.worlds[name] = pod
        return pod

    def _outside(self, name: str, ipv4: str, ipv6: str) -> Pod:
        router = self._router or self._add_router()
        pod = Pod(self, name, f"{self.tag}-{name}", ipv4=ipv4, ipv6=ipv6)
        self._add_namespace(pod.netns)
        wire(router, f"out-{name}"[:INTERFACE_NAME_CHARS_MAX], pod.netns, ipv4, ipv6)
        return pod

    def _add_router(self) -> str:
        """The next hop of the uplink; it knows the way to the pods and to everything outside."""
        if self.joins is None:
            router = f"{self.tag}-router"
            self._add_namespace(router)
            sysctl(router, ROUTER_SYSCTLS)
            ip_batch(router, "link set lo up", f"addr add {GATEWAY_V4}/32 dev lo scope link")
        else:
            router = self.joins._router or self.joins._add_router()
        plan = self.plan
        ip_batch(
            self.node_netns,
            f"link add {UPLINK_INTERFACE} type veth peer name {plan.router_interface} netns {router}",
            f"link set {UPLINK_INTERFACE} addrgenmode none",
            f"addr add {plan.uplink_v4}/30 dev {UPLINK_INTERFACE}",
            f"addr add {plan.uplink_v6}/64 dev {UPLINK_INTERFACE} nodad",
            f"addr add fe80::a/64 dev {UPLINK_INTERFACE} nodad",
            f"link set {UPLINK_INTERFACE} up",
        )
        ip_batch(
            router,
            f"addr add {plan.router_v4}/30 dev {plan.router_interface}",
            f"addr add {plan.router_v6}/64 dev {plan.router_interface} nodad",
            f"addr add fe80::b/64 dev {plan.router_interface} nodad",
            f"link set {plan.router_interface} addrgenmode none",
            f"link set {plan.router_interface} up",
            *(f"route add {network} via {plan.uplink_v4}" for network in (plan.pods_v4, f"{plan.node_v4}/32")),
            *(f"route add {network} via {plan.uplink_v6}" for network in (plan.pods_v6, f"{plan.node_v6}/128")),
        )
        ip_batch(
            self.node_netns,
            f"route add default via {plan.router_v4} src {plan.node_v4}",
            f"route add default via {plan.router_v6} src {plan.node_v6}",
        )
        self._router = router
        return router

    # ---- what Tidegate reads --------------------------------------------------------------------------------------

    def endpoints_yaml(self, extra: Sequence[Mapping[str, Any]] = ()) -> str:
        """endpoints.yaml as the cluster stands; ``extra`` items follow."""
        pods = (*self.pods.values(), *self.remotes.values(), *self.workloads.values())
        documents = [pod.endpoint_document() for pod in pods]
        return yaml.safe_dump([*documents, *(dict(item) for item in extra)], sort_keys=False)


# ---- ip and sysctl ------------------------------------------------------------------------------------------------


def wire(
    outer: str, interface: str, inner: str, ipv4: str, ipv6: str, source_v4: str | None = None, source_v6: str | None = None
) -> None:
    """Lay a veth from ``outer`` to ``inner`` (its eth0) with addresses, gateway and host routes.

    ``source_*``: the outer namespace's own address when it speaks to the inner one.
    """
    ip_batch(
        outer,
        f"link add {interface} type veth peer name eth0 netns {inner}",
        f"link set {interface} addrgenmode none",
        f"addr add {GATEWAY_V6}/64 dev {interface} nodad",
        f"link set {interface} up",
    )
    ip_batch(
        inner,
        "link set lo up",
        f"addr add {ipv4}/32 dev eth0",
        f"addr add {ipv6}/128 dev eth0 nodad",
        "addr add fe80::2/64 dev eth0 nodad",
        "link set eth0 addrgenmode none",
        "link set eth0 up",
        f"route add {GATEWAY_V4} dev eth0 scope link",
        f"route add default via {GATEWAY_V4} dev eth0",
        f"route add default via {GATEWAY_V6} dev eth0",
    )
    ip_batch(
        outer,
        f"route add {ipv4}/32 dev {interface} scope link" + (f" src {source_v4}" if source_v4 else ""),
        f"route add {ipv6}/128 dev {interface}" + (f" src {source_v6}" if source_v6 else ""),
    )


def run_ip(*arguments: str) -> None:
    """One ``ip`` command, in this process' namespace."""
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise NetnsError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")


def ip_batch(netns: str, *lines: str) -> None:
    """Several ``ip`` commands in a namespace by one process."""
    result = subprocess.run(
        ["ip", "-n", netns, "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise NetnsError(f"ip -n {netns}: {result.stderr.strip()}\n" + "\n".join(lines))


def sysctl(netns: str, settings: Sequence[str]) -> None:
    """Set sysctls of a namespace: /proc/sys/net shows the one of the process that looks."""
    result = subprocess.run(
        ["nsenter", f"--net={NETNS_DIRECTORY / netns}", "--", "sysctl", "-qw", *settings],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise NetnsError(f"sysctl in {netns}: {result.stderr.strip()}")


def remove_namespace(name: str) -> None:
    """Kill what still runs in a namespace and delete it."""
    deadline = time.monotonic() + 5
    while pids := namespace_pids(name):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise NetnsError(f"processes {pids} in {name} don't die")
        time.sleep(0.01)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def namespace_pids(name: str) -> list[int]:
    """The processes that are in a namespace, but for those that are dead and only unreaped."""
    result = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    return [int(word) for word in result.stdout.split() if not is_zombie(int(word))]


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and its parent hasn't asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def cgroup_root() -> Path:
    """Where cgroup v2 is mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return Path(next((words[1] for words in mounts if words[2] == "cgroup2"), "/sys/fs/cgroup"))


def remove_cgroup(name: str) -> None:
    """Kill what still runs in a cgroup and delete it."""
    directory = cgroup_root() / name
    deadline = time.monotonic() + 5
    while directory.is_dir():
        for pid in (directory / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        try:
            directory.rmdir()
        except OSError as error:
            if time.monotonic() > deadline:
                raise NetnsError(f"{directory} can't be removed: {error.strerror}") from error
            time.sleep(0.01)


def remove_leftovers(prefix: str) -> None:
    """Remove the namespaces and directories of runs whose process is gone."""
    pattern = re.compile(rf"{re.escape(prefix)}-(\d+)-\d+(-|$)")
    directories = (
        (NETNS_DIRECTORY, remove_namespace),
        (Path(tempfile.gettempdir()), _remove_directory),
        (BPF_FILE_SYSTEM, _remove_pins),
        (cgroup_root(), remove_cgroup),
    )
    for directory, remove in directories:
        if not directory.is_dir():
            continue
        for path in directory.iterdir():
            match = pattern.match(path.name)
            if match and not Path(f"/proc/{match[1]}").exists():
                remove(path.name)


def _remove_pins(name: str) -> None:
    shutil.rmtree(BPF_FILE_SYSTEM / name, ignore_errors=True)


def _remove_directory(name: str) -> None:
    shutil.rmtree(Path(tempfile.gettempdir()) / name, ignore_errors=True)
