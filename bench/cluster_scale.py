"""``python -m bench.cluster_scale``: what following a large cluster costs a node's agent.

A real API server holds the pods of a cluster, their label sets and policies; one node runs the whole of Tidegate. While pods
come and go elsewhere, the time from an API write to its being in force here is measured on real packets (a policy that opens a
port, then closes it), and the agent's memory, CPU seconds and xDS responses are read. Needs root, ``deploy/setup/kubernetes.sh``
and minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import threading
import time
from typing import Any

from tests.support.control_plane import ControlPlane, inside
from tests.support.crowd import Crowd
from tests.support.kube import Kube, KubeNode
from tests.support.kube_stage import OWN_CRDS
from tests.support.netns import Cluster
from tests.support.node import process_command
from tests.support.stage import DEATHSTAR, TIEFIGHTER

PORT = 7100
TICKS = os.sysconf("SC_CLK_TCK")
POLL_S = 0.004


def agent_pid(node: KubeNode) -> int:
    """The agent's process."""
    (pid,) = (pid for pid in node.processes("tidegate.agent") if "tidegate.agent" in process_command(pid))
    return pid


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()  # noqa: SIM115
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    text = open(f"/proc/{pid}/status").read()  # noqa: SIM115
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))


class Knocker:
    """Sends datagrams to a port and hears whether they arrive."""

    def __init__(self, client: Any, server: Any) -> None:
        with inside(server.netns):
            self._ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ear.bind(("0.0.0.0", PORT))
        self._ear.setblocking(False)
        with inside(client.netns):
            self._mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._mouth.connect((server.ipv4, PORT))

    def arrives(self) -> bool:
        """Whether a datagram gets through now."""
        self._drain()
        self._mouth.send(b"x")
        time.sleep(POLL_S)
        return self._drain() > 0

    def _drain(self) -> int:
        count = 0
        while True:
            try:
                self._ear.recv(16)
                count += 1
            except BlockingIOError:
                return count


def wait_until(holds: Any, seconds: float = 60.0) -> float:
    """Return how long it took."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > seconds:
            raise TimeoutError
    return time.monotonic() - start


def churn(crowd: Crowd, per_second: float, stop: threading.Event, done: list[int]) -> None:
    """Replace pods, so many changes a second (a creation or a deletion each)."""
    number = crowd.pods_count
    connection = crowd.control.open_connection()
    due = time.monotonic()
    while not stop.is_set():
        if done[0] % 2 == 0:
            crowd.create_one(connection, number)
            number += 1
        else:
            crowd.delete_one(connection, number - crowd.pods_count)
        done[0] += 1
        due += 1 / per_second
        stop.wait(max(0.0, due - time.monotonic()))
    connection.close()


def guard(open_it: bool) -> dict[str, Any]:
    """A policy that opens the port, or does not."""
    port = PORT if open_it else PORT + 1
    rule = {"fromEndpoints": [{"matchLabels": TIEFIGHTER}], "toPorts": [{"ports": [{"port": str(port), "protocol": "UDP"}]}]}
    return {
        "apiVersion": "policy.tidegate.dev/v1alpha1",
        "kind": "TidegatePolicy",
        "metadata": {"name": "knock", "namespace": "default"},
        "spec": {"endpointSelector": {"matchLabels": DEATHSTAR}, "ingress": [rule]},
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build, measure, and return the figures."""
    with Cluster(prefix="tgscale") as cluster, ControlPlane(cluster) as control:
        kube = Kube(control)
        kube.install_crds(OWN_CRDS)
        crowd = Crowd(control, options.pods, options.label_sets)
        begun = time.monotonic()
        crowd.create(range(options.pods))
        crowd.create_policies(options.policies)
        print(f"objects written in {time.monotonic() - begun:.0f} s", file=sys.stderr)
        server, client = cluster.pod("deathstar", DEATHSTAR), cluster.pod("tiefighter", TIEFIGHTER)
        kube.add_node("node-a", cluster)
        for pod in (server, client):
            kube.run_pod(pod, "node-a")
        kube.apply(guard(False))
        with KubeNode(cluster, "node-a", control.kubeconfig()) as node:
            node.wait_ready(300)
            pid = agent_pid(node)
            figures: dict[str, Any] = {"pods": options.pods, "policies": options.policies, "label_sets": options.label_sets}
            figures["memory_mib_after_start"] = round(memory_mib(pid))
            figures["cpu_seconds_of_start"] = round(cpu_seconds(pid), 1)
            knocker = Knocker(client, server)
            figures["idle"] = phase(options, kube, knocker, pid, node, None)
            figures["churn"] = phase(options, kube, knocker, pid, node, crowd)
            figures["memory_mib"] = round(memory_mib(pid))
        return figures


def phase(
    options: argparse.Namespace, kube: Kube, knocker: Knocker, pid: int, node: KubeNode, crowd: Crowd | None
) -> dict[str, Any]:
    """Measure for a while, with pods that come and go or without."""
    stop, done = threading.Event(), [0]
    thread = None
    if crowd is not None:
        thread = threading.Thread(target=churn, args=(crowd, options.per_second, stop, done), daemon=True)
        thread.start()
        quiet_pushes, quiet_cpu, quiet_at = node.status()["xds"]["resources"], cpu_seconds(pid), time.monotonic()
        time.sleep(options.seconds)
        used = cpu_seconds(pid) - quiet_cpu
        figures: dict[str, Any] = {
            "changes_per_second": round(done[0] / (time.monotonic() - quiet_at), 1),
            "agent_cores": round(used / (time.monotonic() - quiet_at), 3),
            "agent_cpu_ms_per_change": round(used * 1000 / max(1, done[0]), 1),
            "xds_resources_sent": node.status()["xds"]["resources"] - quiet_pushes,
        }
    else:
        start, at = cpu_seconds(pid), time.monotonic()
        time.sleep(options.seconds / 3)
        figures = {"agent_cores": round((cpu_seconds(pid) - start) / (time.monotonic() - at), 3)}
    times = []
    for _ in range(options.edits):
        for wanted in (True, False):
            written = time.monotonic()
            kube.apply(guard(wanted))
            wait_until(lambda wanted=wanted: knocker.arrives() == wanted)
            times.append((time.monotonic() - written) * 1000)
    stop.set()
    if thread is not None:
        thread.join()
    times.sort()
    figures["write_to_enforced_ms"] = {
        "p50": round(statistics.median(times)),
        "p99": round(times[min(len(times) - 1, int(len(times) * 0.99))]),
        "max": round(times[-1]),
        "edits": len(times),
    }
    return figures


def main() -> int:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="bench.cluster_scale", description=__doc__)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--label-sets", type=int, default=500)
    parser.add_argument("--policies", type=int, default=1000)
    parser.add_argument("--per-second", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--edits", type=int, default=25)
    print(json.dumps(measure(parser.parse_args()), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
