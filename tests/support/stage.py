"""The stage of the scenario tests: one cluster with its servers, one running node, and policies that change with each test.

Who is there (all in namespace ``default`` unless said)::

    deathstar   org=empire class=deathstar   HTTP 8080 (port name "http") and 8081, gRPC 50051, TCP 7000, UDP 7001
    tiefighter  org=empire class=tiefighter
    xwing       org=alliance class=xwing
    falcon      org=alliance class=falcon    remote: on another node; HTTP 8080
    internet    an address outside the cluster: HTTP 8080, TCP 7000, UDP 7001
    host        the node itself: HTTP 9090
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import yaml

from tests.support.netns import Cluster, Pod
from tests.support.node import Node
from tests.support.pod import Failed

HTTP, HTTP_OTHER, GRPC, TCP, UDP, HOST_HTTP = 8080, 8081, 50051, 7000, 7001, 9090

DENIED_SECONDS = 0.5
"""How long a probe that should be dropped waits. Allowed ones take milliseconds, and wait ten times longer."""


@dataclass(frozen=True)
class Document:
    """A policy document to be."""

    name: str
    text: str


def policy(
    name: str,
    spec: Mapping[str, Any],
    *,
    kind: str = "CiliumNetworkPolicy",
    api_version: str = "cilium.io/v2",
    namespace: str | None = "default",
) -> Document:
    """A policy document of any kind."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    document = {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": dict(spec)}
    return Document(name, yaml.safe_dump(document, sort_keys=False))


def cnp(name: str, subject: Mapping[str, str], **spec: Any) -> Document:
    """A CiliumNetworkPolicy for the pods with these labels."""
    return policy(name, {"endpointSelector": {"matchLabels": dict(subject)}, **spec})


def tidegate_policy(name: str, subject: Mapping[str, str], **spec: Any) -> Document:
    """A TidegatePolicy for the pods with these labels."""
    spec = {"endpointSelector": {"matchLabels": dict(subject)}, **spec}
    return policy(name, spec, kind="TidegatePolicy", api_version="policy.tidegate.dev/v1alpha1")


def network_policy(name: str, subject: Mapping[str, str], **spec: Any) -> Document:
    """A Kubernetes NetworkPolicy for the pods with these labels."""
    spec = {"podSelector": {"matchLabels": dict(subject)}, **spec}
    return policy(name, spec, kind="NetworkPolicy", api_version="networking.k8s.io/v1")


def from_endpoints(*labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Peers by labels; for ``toEndpoints`` too."""
    return [{"matchLabels": dict(each)} for each in labels]


def ports(*numbers: int | str, protocol: str = "TCP", **rest: Any) -> list[dict[str, Any]]:
    """``toPorts`` with one item."""
    return [{"ports": [{"port": str(number), "protocol": protocol} for number in numbers], **rest}]


def http(*rules: Mapping[str, Any], port: int | str = HTTP) -> list[dict[str, Any]]:
    """``toPorts`` with HTTP rules."""
    return ports(port, rules={"http": [dict(rule) for rule in rules]})


DEATHSTAR = {"org": "empire", "class": "deathstar"}
TIEFIGHTER = {"org": "empire", "class": "tiefighter"}
XWING = {"org": "alliance", "class": "xwing"}
FALCON = {"org": "alliance", "class": "falcon"}


class Stage:
    """The cluster, its servers and the node that enforces."""

    def __init__(self, prefix: str, config: Mapping[str, Any] | None = None) -> None:
        self.cluster = Cluster(prefix=prefix)
        self.node = Node(self.cluster, config=config)
        self._enforced: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.cluster.__enter__()
        try:
            self._build()
            self.node.__enter__()
        except BaseException:
            self.cluster.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.node.__exit__(kind, error, trace)
        finally:
            self.cluster.close()

    def _build(self) -> None:
        cluster = self.cluster
        named = [{"name": "http", "port": HTTP, "protocol": "TCP"}]
        self.deathstar = cluster.pod("deathstar", DEATHSTAR, ports=named)
        self.tiefighter = cluster.pod("tiefighter", TIEFIGHTER)
        self.xwing = cluster.pod("xwing", XWING)
        self.falcon = cluster.remote("falcon", FALCON)
        self.internet = cluster.world("internet")
        self.host = cluster.host
        # Started together: each property access starts a process, the commands then wait for them.
        for pod in (self.deathstar, self.tiefighter, self.xwing, self.falcon, self.internet, self.host):
            _ = pod.process
        for port in (HTTP, HTTP_OTHER):
            self.deathstar.serve_http(port)
        self.deathstar.serve_grpc(GRPC)
        self.deathstar.serve_tcp(TCP)
        self.deathstar.serve_udp(UDP)
        for pod in (self.falcon, self.internet, self.xwing):
            pod.serve_http(HTTP)
        self.internet.serve_tcp(TCP)
        self.internet.serve_udp(UDP)
        self.host.serve_http(HOST_HTTP)

    def enforce(self, *documents: Document) -> None:
        """Put exactly these policies in force and wait until they are."""
        wanted = {document.name: document.text for document in documents}
        if wanted != self._enforced:
            self.node.set_policies(wanted)
            self._enforced = wanted

    def forget(self) -> None:
        """The policies on disk were changed by other means: the next ``enforce`` does everything anew."""
        self._enforced = {"": ""}


def reach(pod: Pod, server: Pod, numbers: Sequence[int], family: int, protocol: str = "TCP") -> dict[int, bool]:
    """Which ports of ``server`` the pod reaches; a drop is told from an answer by ``DENIED_SECONDS`` of silence."""
    address = server.address(family)
    if protocol == "TCP":
        commands = {port: pod.start("tcp", 1, host=address, port=port, timeout=DENIED_SECONDS) for port in numbers}
        outcomes = {port: command.result() for port, command in commands.items()}
        unexpected = set(outcomes.values()) - {"connected", "timeout"}
        assert not unexpected, outcomes
        return {port: outcome == "connected" for port, outcome in outcomes.items()}
    return {port: answers_udp(pod, address, port) for port in numbers}


def answers_udp(pod: Pod, address: str, port: int) -> bool:
    """Whether a UDP echo comes back."""
    try:
        return bool(pod.udp(address, port, timeout=DENIED_SECONDS)["data"] == "hello")
    except Failed as failed:
        if failed.kind != "timeout":
            raise
        return False
