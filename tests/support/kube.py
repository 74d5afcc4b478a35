"""Objects of a test's API server: written as users, kubelets and controllers would."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests.support.control_plane import ApiFailure, ControlPlane, Tree
from tests.support.netns import Cluster, Pod
from tests.support.node import Node

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
PATHS = {
    "Namespace": ("/api/v1", "namespaces", False),
    "Node": ("/api/v1", "nodes", False),
    "Pod": ("/api/v1", "pods", True),
    "Service": ("/api/v1", "services", True),
    "Secret": ("/api/v1", "secrets", True),
    "Event": ("/api/v1", "events", True),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices", True),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies", True),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "TidegatePolicy": ("/apis/policy.tidegate.dev/v1alpha1", "tidegatepolicies", True),
    "ClusterTidegatePolicy": ("/apis/policy.tidegate.dev/v1alpha1", "clustertidegatepolicies", False),
    "CiliumNetworkPolicy": ("/apis/cilium.io/v2", "ciliumnetworkpolicies", True),
    "CiliumClusterwideNetworkPolicy": ("/apis/cilium.io/v2", "ciliumclusterwidenetworkpolicies", False),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings", True),
    "DaemonSet": ("/apis/apps/v1", "daemonsets", True),
    "Job": ("/apis/batch/v1", "jobs", True),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets", True),
}


class Kube:
    """What a test does with the API server."""

    def __init__(self, control: ControlPlane) -> None:
        self.control = control

    def path(self, kind: str, name: str = "", namespace: str = "default") -> str:
        """The path of an object, or of a collection."""
        root, plural, namespaced = PATHS[kind]
        place = f"/namespaces/{namespace}" if namespaced else ""
        return f"{root}{place}/{plural}" + (f"/{name}" if name else "")

    def apply(self, document: Mapping[str, Any] | str, **query: str) -> Tree:
        """Server-side apply, as ``kubectl apply --server-side`` does."""
        tree: Tree = yaml.safe_load(document) if isinstance(document, str) else dict(document)
        metadata = tree["metadata"]
        path = self.path(tree["kind"], metadata["name"], metadata.get("namespace", "default"))
        asked = {"fieldManager": "test", "force": "true", "fieldValidation": "Strict", **query}
        return dict(self.control.request("PATCH", path, tree, asked, APPLY))

    def get(self, kind: str, name: str, namespace: str = "default") -> Tree:
        """One object."""
        return dict(self.control.request("GET", self.path(kind, name, namespace)))

    def list(self, kind: str, namespace: str = "default") -> list[Tree]:
        """All objects of a namespace."""
        return list(self.control.request("GET", self.path(kind, "", namespace))["items"])

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        """Delete at once; fine if it is not there."""
        try:
            self.control.request("DELETE", self.path(kind, name, namespace), query={"gracePeriodSeconds": "0"})
        except ApiFailure as failure:
            if failure.status != 404:
                raise

    def delete_all(self, kind: str, namespace: str = "default") -> None:
        """Delete every object of a namespace (or of a kind without one)."""
        try:
            self.control.request("DELETE", self.path(kind, "", namespace), query={"gracePeriodSeconds": "0"})
        except ApiFailure as failure:
            if failure.status != 404:
                raise

    # ---- what a cluster has -----------------------------------------------------------------------------------------

    def install_crds(self, *directories: Path) -> None:
        """Install CRDs and wait until the server knows them."""
        names = []
        for directory in directories:
            for path in sorted(directory.glob("*.yaml")):
                for document in yaml.safe_load_all(path.read_text()):
                    names.append(self.apply(document)["metadata"]["name"])
        for name in names:
            wait_for(lambda name=name: self._is_established(name), 30, f"CRD {name}")

    def _is_established(self, name: str) -> bool:
        conditions = self.get("CustomResourceDefinition", name).get("status", {}).get("conditions") or []
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Make a namespace, or change its labels."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})

    def add_node(self, name: str, cluster: Cluster, labels: Mapping[str, str] | None = None) -> None:
        """A Node, as its kubelet registers it."""
        document = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": dict(labels or {})}}
        self.apply(document)
        addresses = [{"type": "InternalIP", "address": cluster.host.address(family)} for family in (4, 6)]
        self.control.request("PATCH", self.path("Node", name) + "/status", {"status": {"addresses": addresses}}, kind=MERGE)

    def create_pod(self, pod: Pod, node: str, *, host_network: bool = False) -> Tree:
        """A Pod that is assigned to a node and has not been started."""
        ports = [{"name": one["name"], "containerPort": one["port"], "protocol": one["protocol"]} for one in pod.ports]
        spec: Tree = {"nodeName": node, "containers": [{"name": "main", "image": "none", "ports": ports}]}
        if host_network:
            spec["hostNetwork"] = True
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": dict(pod.labels)},
            "spec": spec | {"terminationGracePeriodSeconds": 0},
        }
        return dict(self.control.request("POST", self.path("Pod", namespace=pod.namespace), document))

    def report_running(self, pod: Pod, addresses: Sequence[str] | None = None, **status: Any) -> None:
        """Patch a Pod's status as its kubelet does when the sandbox has its addresses."""
        given = [pod.ipv4, pod.ipv6] if addresses is None else list(addresses)
        body = {
            "phase": "Running",
            "podIP": given[0] if given else None,
            "podIPs": [{"ip": address} for address in given],
            "startTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **status,
        }
        path = self.path("Pod", pod.name, pod.namespace) + "/status"
        self.control.request("PATCH", path, {"status": body}, kind=MERGE)

    def run_pod(self, pod: Pod, node: str) -> None:
        """A Pod that runs."""
        self.create_pod(pod, node)
        self.report_running(pod)

    def relabel(self, pod: Pod, labels: Mapping[str, str | None]) -> None:
        """Change a Pod's labels."""
        self.control.request(
            "PATCH", self.path("Pod", pod.name, pod.namespace), {"metadata": {"labels": dict(labels)}}, kind=MERGE
        )

    def condition(self, kind: str, name: str, condition: str, namespace: str = "default") -> Tree | None:
        """One condition of an object's status."""
        conditions = self.get(kind, name, namespace).get("status", {}).get("conditions", [])
        return next((dict(one) for one in conditions if one["type"] == condition), None)


class KubeNode(Node):
    """A node whose Tidegate follows an API server."""

    def __init__(self, cluster: Cluster, name: str, kubeconfig: Path, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(cluster, config=config)
        self.name = name
        self._kubeconfig = kubeconfig

    def write_files(self) -> None:
        """Write node.yaml: there is nothing else to read."""
        self.directory.mkdir(parents=True)
        sources = {"node": {"name": self.name}, "kubernetes": {"kubeconfig": str(self._kubeconfig)}}
        self.config_file.write_text(yaml.safe_dump({**sources, **self.common_config(), **self._config}))

    def run_arguments(self) -> list[str]:
        """What ``tidegate`` is started with."""
        return ["run", "--kubernetes", "--config", str(self.config_file)]


def wait_for(predicate: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """Poll until ``predicate`` gives something true, and return it. Fails the test at the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := predicate()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or predicate}"
        time.sleep(0.02)
    return found
