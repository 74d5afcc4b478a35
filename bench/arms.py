"""The arms: the same two pods on one node, with different things between them.

Every arm is a cluster of its own (namespaces, veths, addresses the same in each), all stand from the first to the last run, and
the rounds go from one to the next. An arm that is not being asked is idle.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bench import proxies, server
from bpf_redirect.cgroups import mount_point
from bpf_redirect.pins import mount_bpffs
from l7filters.envoy.settings import EnvoySettings
from tests.support.netns import NODE_V4, Cluster, Pod, ip_batch, sysctl
from tests.support.node import Node

PREFIX = "tgbench"
CLIENT, SERVER = {"app": "client"}, {"app": "server"}
OUTBOUND, INBOUND, TPROXY = 15001, 15006, 15001
TPROXY_TABLE = 100
CGROUP_EMPTY_SECONDS = 10.0
POD_SYSCTLS = ("net.ipv4.ip_local_port_range=1024 65535",)
"""New connections per second by the thousand: the range must not be what is measured."""

_REDIRECT = f"""
table ip bench {{
    chain output {{
        type nat hook output priority -100;
        meta mark {proxies.SIDECAR_MARK:#x} return
        oifname "lo" return
        meta l4proto tcp redirect to :{OUTBOUND}
    }}
    chain prerouting {{
        type nat hook prerouting priority -100;
        meta l4proto tcp redirect to :{INBOUND}
    }}
}}
"""
_TPROXY = f"""
table ip bench {{
    chain prerouting {{
        type filter hook prerouting priority mangle;
        meta l4proto tcp socket transparent 1 meta mark set 1 accept
        iifname "lxc-client" tcp dport {{ {server.HTTP1}, {server.HTTP2} }} tproxy to 127.0.0.1:{TPROXY} meta mark set 1 accept
    }}
}}
"""


class ArmError(RuntimeError):
    """An arm could not be built."""


class ConfinedNode(Node):
    """A Tidegate that takes its arm's cgroup for the whole machine.

    It attaches its sock_ops program to the root of the cgroup hierarchy, so it would run for the sockets of every arm.
    """

    def command(self, *arguments: str) -> list[str]:
        """Run it where the arm's cgroup stands in the place of the root."""
        words = super().command(*arguments)
        if arguments[0] != "run":
            return words
        mount = f'mount --bind {own_cgroup()} {mount_point()} && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mount, "sh", *words]

    def start(self) -> None:
        """Start ``tidegate run``, confined. bpffs is mounted outside: there what it pins is looked for."""
        mount_bpffs(str(self.pin_root))
        with self.log_file.open("ab") as log:
            command = self.command("run")
            self._child = self.cluster.popen_in(
                self.cluster.node_netns, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


@dataclass
class Arm:
    """One way between the pods. ``envoys``: pids by what they are; ``agents``: pids of Tidegate's own processes;
    ``programs``: where BPF programs are pinned.
    """

    name: str
    cluster: Cluster
    client: Pod
    server: Pod
    host: str
    """The address that the client dials."""
    envoys: dict[str, int] = field(default_factory=dict)
    agents: tuple[int, ...] = ()
    programs: Path | None = None
    cgroup: Path = Path()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in the arm's cgroup: what is started meanwhile stays in it."""
        before = own_cgroup()
        move_to(self.cgroup)
        try:
            yield
        finally:
            move_to(before)

    @property
    def judges_http(self) -> bool:
        """Whether a request that no rule allows is refused."""
        return bool(self.envoys)


@dataclass(frozen=True)
class Description:
    """An arm that can be built."""

    name: str
    text: str
    build: Callable[[ExitStack, Arm, Path], None]


def policy(*, http: bool) -> str:
    """Return the policy of an arm with Tidegate, as a user would write it."""
    numbers = (server.HTTP1, server.HTTP2) if http else (server.HTTP1, server.HTTP2, server.TCP, server.TCP + 1)
    port: dict[str, object] = {"ports": [{"port": str(number), "protocol": "TCP"} for number in numbers]}
    if http:
        port["rules"] = {"http": [{"method": proxies.ALLOWED_METHOD, "path": proxies.ALLOWED_PATH}]}
    ingress = {"fromEndpoints": [{"matchLabels": CLIENT}], "toPorts": [port]}
    documents = [_document("bench", {"endpointSelector": {"matchLabels": SERVER}, "ingress": [ingress]})]
    if not http:
        # Both ends are policed: the dearest case for the programs.
        egress = {"toEndpoints": [{"matchLabels": SERVER}], "toPorts": [port]}
        documents.append(_document("bench-client", {"endpointSelector": {"matchLabels": CLIENT}, "egress": [egress]}))
    return yaml.safe_dump_all(documents, sort_keys=False)


def _document(name: str, spec: dict[str, object]) -> dict[str, object]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec}


# ---- cgroups ------------------------------------------------------------------------------------------------------


def own_cgroup() -> Path:
    """Return the directory of this process' cgroup in the hierarchy of cgroup v2."""
    (line,) = (line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    return mount_point() / line[3:].strip("/")


def move_to(cgroup: Path) -> None:
    """Move this process."""
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))


@contextmanager
def own_cgroup_for(arm: str) -> Iterator[Path]:
    """Make a cgroup, and remove it when all that was in it has ended. Those of runs that crashed go first."""
    for old in mount_point().glob(f"{PREFIX}-*"):
        if not Path(f"/proc/{old.name.split('-')[1]}").exists():
            _remove_cgroup(old)
    made = mount_point() / f"{PREFIX}-{os.getpid()}-{arm}"
    made.mkdir()
    try:
        yield made
    finally:
        _remove_cgroup(made)


def _remove_cgroup(cgroup: Path) -> None:
    deadline = time.monotonic() + CGROUP_EMPTY_SECONDS
    while True:
        try:
            cgroup.rmdir()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ArmError(f"{cgroup} can't be removed: {error}") from error
            time.sleep(0.05)


# ---- building -----------------------------------------------------------------------------------------------------


@contextmanager
def build(description: Description, binary: Path) -> Iterator[Arm]:
    """Build an arm; at the end nothing of it is left."""
    with ExitStack() as stack:
        cgroup = stack.enter_context(own_cgroup_for(description.name))
        cluster = stack.enter_context(Cluster(prefix=PREFIX))
        cluster.directory.chmod(0o755)  # nginx' worker reads beneath it
        client, serving = cluster.pod("client", CLIENT), cluster.pod("server", SERVER)
        for netns in (client.netns, serving.netns, cluster.node_netns):
            sysctl(netns, POD_SYSCTLS)
        arm = Arm(description.name, cluster, client, serving, host=serving.ipv4, cgroup=cgroup)
        with arm.entered():
            server.start(serving, cluster.directory / "nginx")
            description.build(stack, arm, binary)
        yield arm


def _direct(_stack: ExitStack, _arm: Arm, _binary: Path) -> None:
    """Nothing between the pods but the node's routing."""


def _one_hop(arm: Arm, binary: Path, *, lean: bool) -> None:
    settings = EnvoySettings(transparent=False, ipv6=False)
    listeners, clusters = [], []
    for port in (server.HTTP1, server.HTTP2):
        name = f"port-{port}"
        listeners.append(proxies.listener_at(name, NODE_V4, port, name, settings, captured=False, lean=lean))
        clusters.append(proxies.fixed_cluster(name, arm.server.ipv4, port, settings))
    arm.host = NODE_V4
    arm.envoys["node"] = proxies.start(arm.cluster.host, "node", binary, listeners, clusters, settings)


def _envoy_only(_stack: ExitStack, arm: Arm, binary: Path) -> None:
    _one_hop(arm, binary, lean=False)


def _envoy_lean(_stack: ExitStack, arm: Arm, binary: Path) -> None:
    _one_hop(arm, binary, lean=True)


def _sidecars(_stack: ExitStack, arm: Arm, binary: Path) -> None:
    settings = EnvoySettings(transparent=False, ipv6=False)
    for pod in (arm.client, arm.server):
        listeners = [
            proxies.listener_at(name, "0.0.0.0", port, "destination", settings, captured=True)
            for name, port in (("outbound", OUTBOUND), ("inbound", INBOUND))
        ]
        clusters = [proxies.destination_cluster("destination", settings, proxies.SIDECAR_MARK)]
        arm.envoys[pod.name] = proxies.start(pod, pod.name, binary, listeners, clusters, settings)
        _nft(arm.cluster, pod.netns, _REDIRECT)


def _node_tproxy(_stack: ExitStack, arm: Arm, binary: Path) -> None:
    settings = EnvoySettings(ipv6=False)
    node = arm.cluster.node_netns
    listeners = [proxies.listener_at("node", "127.0.0.1", TPROXY, "destination", settings, captured=True)]
    clusters = [proxies.destination_cluster("destination", settings)]
    arm.envoys["node"] = proxies.start(arm.cluster.host, "node", binary, listeners, clusters, settings)
    ip_batch(node, f"rule add fwmark 1 lookup {TPROXY_TABLE}", f"route add local 0.0.0.0/0 dev lo table {TPROXY_TABLE}")
    # 127.0.0.1 as the place of the listener of packets that come from a veth.
    sysctl(node, ("net.ipv4.conf.all.route_localnet=1",))
    _nft(arm.cluster, node, _TPROXY)


def _tidegate(stack: ExitStack, arm: Arm, *, http: bool, counts: bool = True, allowed_sample: float | None = None) -> None:
    # Envoy's shared memory is the machine's, not the namespace's.
    base_id = os.getpid() % 30000 * 10 + int(arm.cluster.tag.rpartition("-")[2]) % 10
    envoy: dict[str, object] = {"baseId": base_id, "concurrency": proxies.CONCURRENCY}
    config: dict[str, object] = {"envoy": envoy if counts else {**envoy, "nativeModule": "none"}}
    if allowed_sample is not None:
        config["flows"] = {"allowedSample": allowed_sample}
    node = stack.enter_context(ConfinedNode(arm.cluster, {"bench": policy(http=http)}, config))
    arm.programs = node.pin_root
    arm.agents = tuple(pid for pid in node.processes("tidegate") if pid != node.envoy_pid())
    if http:
        arm.envoys["node"] = node.envoy_pid()


def _with_http_policy(stack: ExitStack, arm: Arm, _binary: Path) -> None:
    _tidegate(stack, arm, http=True)


def _without_counts(stack: ExitStack, arm: Arm, _binary: Path) -> None:
    _tidegate(stack, arm, http=True, counts=False, allowed_sample=0)


def _with_counts_only(stack: ExitStack, arm: Arm, _binary: Path) -> None:
    _tidegate(stack, arm, http=True, allowed_sample=0)


def _with_all_records(stack: ExitStack, arm: Arm, _binary: Path) -> None:
    _tidegate(stack, arm, http=True, allowed_sample=1)


def _with_l4_policy(stack: ExitStack, arm: Arm, _binary: Path) -> None:
    _tidegate(stack, arm, http=False)


def _nft(cluster: Cluster, netns: str, rules: str) -> None:
    command = [*cluster.command_in(netns), "nft", "-f", "-"]
    result = subprocess.run(command, input=rules, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode != 0:
        raise ArmError(f"nft in {netns}: {result.stderr.strip()}")


DESCRIPTIONS = {
    each.name: each
    for each in (
        Description("direct", "no proxy, no program: the node routes between the veths", _direct),
        Description("l4", "tidegate run, L3/L4 policy at both ends: the BPF programs alone", _with_l4_policy),
        Description("envoy-lean", "one Envoy dialled directly; connection manager, one RBAC and router only", _envoy_lean),
        Description("envoy-only", "one Envoy dialled directly; the same filters as Tidegate's", _envoy_only),
        Description("node-tproxy", "one Envoy in the node's namespace, nftables TPROXY, original source address", _node_tproxy),
        Description(
            "tidegate", "tidegate run, HTTP policy on the server: BPF redirect, original source address", _with_http_policy
        ),
        Description("counts-none", "as tidegate, without the module: neither counts nor records", _without_counts),
        Description("counts-only", "as tidegate: every request counted, none recorded", _with_counts_only),
        Description("records-all", "as tidegate: every request counted and recorded", _with_all_records),
        Description("sidecars", "an Envoy in each pod, nftables REDIRECT to 15001 and 15006", _sidecars),
    )
}
"""In the order of tables and plots."""
