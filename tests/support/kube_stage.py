"""The stage of the Kubernetes tests: an API server, two nodes that each run Tidegate, and their pods.

Who is there (namespace ``default``; each a network namespace, and a Pod object with the status its kubelet would write)::

    node-a   deathstar    org=empire class=deathstar    HTTP 8080 (port name "http"), TCP 7000, UDP 7001
             tiefighter   org=empire class=tiefighter
             xwing        org=alliance class=xwing
    node-b   falcon       org=alliance class=falcon     HTTP 8080
             shuttle      org=empire class=shuttle
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.control_plane import ADMIN, ControlPlane
from tests.support.kube import Kube, KubeNode
from tests.support.netns import Cluster, Pod
from tests.support.pod import REPOSITORY
from tests.support.stage import DEATHSTAR, FALCON, HTTP, TCP, TIEFIGHTER, UDP, XWING, Document

SHUTTLE = {"org": "empire", "class": "shuttle"}
CRDS = REPOSITORY / "tests/kubernetes/crds"
OWN_CRDS = REPOSITORY / "deploy/crds"
POLICY_KINDS = ("NetworkPolicy", "CiliumNetworkPolicy", "TidegatePolicy")
CLUSTER_POLICY_KINDS = ("CiliumClusterwideNetworkPolicy", "ClusterTidegatePolicy")


class KubeStage:
    """The API server, the nodes and their pods."""

    def __init__(
        self,
        prefix: str,
        config: Mapping[str, Any] | None = None,
        flags: tuple[str, ...] = (),
        crds: tuple[Path, ...] = (CRDS, OWN_CRDS),
    ) -> None:
        self.cluster = Cluster(prefix=prefix)
        self.other = Cluster(prefix=prefix, joins=self.cluster)
        self.control = ControlPlane(self.cluster, flags)
        self.kube = Kube(self.control)
        self.nodes: dict[str, KubeNode] = {}
        self._config = config
        self._crds = crds
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.cluster)
            stack.enter_context(self.other)
            stack.enter_context(self.control)
            self.kube.install_crds(*self._crds)
            self._build()
            for name, cluster in (("node-a", self.cluster), ("node-b", self.other)):
                self.kube.add_node(name, cluster, {"zone": name[-1]})
                self.nodes[name] = KubeNode(cluster, name, self.control.kubeconfig(self.user), config=self._config)
            for node in self.nodes.values():
                stack.enter_context(node)
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.__exit__(kind, error, trace)

    @property
    def user(self) -> str:
        """Whom the agents ask as."""
        return ADMIN

    @property
    def node(self) -> KubeNode:
        """The first node."""
        return self.nodes["node-a"]

    @property
    def far(self) -> KubeNode:
        """The second node."""
        return self.nodes["node-b"]

    def _build(self) -> None:
        named = [{"name": "http", "port": HTTP, "protocol": "TCP"}]
        self.deathstar = self.cluster.pod("deathstar", DEATHSTAR, ports=named)
        self.tiefighter = self.cluster.pod("tiefighter", TIEFIGHTER)
        self.xwing = self.cluster.pod("xwing", XWING)
        self.falcon = self.other.pod("falcon", FALCON)
        self.shuttle = self.other.pod("shuttle", SHUTTLE)
        pods = {"node-a": (self.deathstar, self.tiefighter, self.xwing), "node-b": (self.falcon, self.shuttle)}
        for node, some in pods.items():
            for pod in some:
                _ = pod.process
                self.kube.run_pod(pod, node)
        self.deathstar.serve_http(HTTP)
        self.deathstar.serve_tcp(TCP)
        self.deathstar.serve_udp(UDP)
        self.falcon.serve_http(HTTP)

    def enforce(self, *documents: Document) -> None:
        """Write these policies and wait until every node has realised all that the API server holds."""
        for document in documents:
            self.kube.apply(document.text)
        self.wait_ready()

    def clear(self) -> None:
        """Delete every policy and wait until none is in force."""
        for kind in (*POLICY_KINDS, *CLUSTER_POLICY_KINDS):
            self.kube.delete_all(kind)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until every node has realised all that the API server holds."""
        for node in self.nodes.values():
            node.wait_ready()

    def pod_on(self, node: str, name: str, labels: Mapping[str, str]) -> Pod:
        """A pod that runs, on one of the nodes."""
        cluster = {"node-a": self.cluster, "node-b": self.other}[node]
        pod = cluster.pod(name, labels)
        self.kube.run_pod(pod, node)
        return pod

    def remove_pod(self, pod: Pod) -> None:
        """The end of a pod."""
        self.kube.delete("Pod", pod.name, pod.namespace)
        pod.cluster.remove_pod(pod.name)
