"""What of the API server's objects counts here. Pure.

Owns: the reduction of Pods and Nodes to values and of policy and support objects to the documents that ``l7filters.documents``
reads. What an API server adds (managedFields, status, fields of versions to come) is left out before anything is parsed, so that
it can neither make a support object unreadable nor cost memory; the spec of a policy is read whole and strictly, like any
document's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from l7filters.labels import NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX
from l7filters.model import Protocol
from l7filters.world import Address, NamedPort, Node
from tidegate.sources.endpoints import METADATA_NAME_LABEL
from tidegate.sources.kubernetes.server import Tree

PORTS_MAX = 256
"""Named ports of one pod; the rest can't be named by rules."""
_TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A Pod as far as policy needs it. ``addresses`` is empty until it has some, and again when it has ended."""

    namespace: str
    name: str
    uid: str = ""
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[Address, ...] = ()
    host_network: bool = False
    named_ports: tuple[NamedPort, ...] = ()
    quality: str = ""
    """Its QoS class, which is part of its cgroup's name."""
    created: str = ""
    ending: bool = False
    """Being deleted; a newer pod may have its address already."""
    ended: bool = False

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


def read_pod(tree: Tree) -> Pod | None:
    """Return the Pod of an API object; None if it is none."""
    metadata, spec, status = _mapping(tree, "metadata"), _mapping(tree, "spec"), _mapping(tree, "status")
    namespace, name = _text(metadata, "namespace"), _text(metadata, "name")
    if not namespace or not name:
        return None
    ended = _text(status, "phase") in _TERMINAL_PHASES
    return Pod(
        namespace=namespace,
        name=name,
        uid=_text(metadata, "uid"),
        node=_text(spec, "nodeName"),
        labels=_strings(metadata.get("labels")),
        addresses=() if ended else _pod_addresses(status),
        host_network=spec.get("hostNetwork") is True,
        named_ports=_named_ports(spec),
        quality=_text(status, "qosClass"),
        created=_text(metadata, "creationTimestamp"),
        ending=bool(metadata.get("deletionTimestamp")),
        ended=ended,
    )


def pod_labels(pod: Pod, namespace_labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels by which rules know the pod: its own, its namespace and that namespace's labels."""
    return {
        **{NAMESPACE_LABELS_PREFIX + key: value for key, value in namespace_labels.items()},
        **pod.labels,
        NAMESPACE_LABEL: pod.namespace,
        NAMESPACE_LABELS_PREFIX + METADATA_NAME_LABEL: pod.namespace,
    }


def read_node(tree: Tree) -> Node | None:
    """Return the Node of an API object."""
    metadata, status = _mapping(tree, "metadata"), _mapping(tree, "status")
    name = _text(metadata, "name")
    if not name:
        return None
    texts = [
        _text(item, "address") for item in _items(status.get("addresses")) if _text(item, "type") in ("InternalIP", "ExternalIP")
    ]
    return Node(name=name, labels=_strings(metadata.get("labels")), addresses=_addresses(texts))


def namespace_labels(tree: Tree) -> dict[str, str]:
    """Return the labels of a Namespace."""
    return _strings(_mapping(tree, "metadata").get("labels"))


# ---- documents ------------------------------------------------------------------------------------------------------


def policy_document(tree: Tree, api_version: str, kind: str) -> Tree:
    """Return a policy (or a CIDR group) as a document: all it says, without what the server adds.

    Items of a list don't carry their kind, hence the parameters.
    """
    document = {key: value for key, value in tree.items() if key not in ("metadata", "status", "apiVersion", "kind")}
    return {"apiVersion": api_version, "kind": kind, "metadata": _who(tree), **document}


def service_document(tree: Tree) -> Tree:
    """Return a Service with its selector alone."""
    chosen = _strings(_mapping(tree, "spec").get("selector"))
    return {"apiVersion": "v1", "kind": "Service", "metadata": _who(tree), "spec": {"selector": chosen} if chosen else {}}


def slice_document(tree: Tree) -> Tree:
    """Return an EndpointSlice (of either version) with its addresses and whether they are ready."""
    endpoints = [
        {
            "addresses": item.get("addresses") or [],
            "conditions": {"ready": _mapping(item, "conditions").get("ready") is not False},
        }
        for item in _items(tree.get("endpoints"))
    ]
    if tree.get("addressType") == "FQDN":
        endpoints = []
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": _who(tree), "endpoints": endpoints}


def secret_document(tree: Tree) -> Tree:
    """Return a Secret with its data."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": _who(tree), "data": _strings(tree.get("data"))}


def _who(tree: Tree) -> Tree:
    metadata = _mapping(tree, "metadata")
    return {key: metadata[key] for key in ("name", "namespace", "labels") if metadata.get(key)}


# ---- reading what may be anything -----------------------------------------------------------------------------------


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(tree: Mapping[str, Any], key: str) -> str:
    value = tree.get(key)
    return value if isinstance(value, str) else ""


def _strings(value: object) -> dict[str, str]:
    return {key: item for key, item in value.items() if isinstance(item, str)} if isinstance(value, dict) else {}


def _pod_addresses(status: Mapping[str, Any]) -> tuple[Address, ...]:
    texts = [_text(item, "ip") for item in _items(status.get("podIPs"))]
    return _addresses(texts or [_text(status, "podIP")])


def _addresses(texts: Iterable[str]) -> tuple[Address, ...]:
    found: dict[Address, None] = {}
    for text in texts:
        try:
            found[ip_address(text)] = None
        except ValueError:
            continue
    return tuple(found)


def _named_ports(spec: Mapping[str, Any]) -> tuple[NamedPort, ...]:
    """Return the named ports of the containers, and of the init containers that go on beside them."""
    beside = [item for item in _items(spec.get("initContainers")) if item.get("restartPolicy") == "Always"]
    found: dict[tuple[str, Protocol], NamedPort] = {}
    for container in (*_items(spec.get("containers")), *beside):
        for item in _items(container.get("ports")):
            name, number = _text(item, "name").lower(), item.get("containerPort")
            protocol = _text(item, "protocol") or "TCP"
            if name and isinstance(number, int) and 0 < number < 65536 and protocol in ("TCP", "UDP", "SCTP"):
                found.setdefault((name, Protocol[protocol]), NamedPort(name, number, Protocol[protocol]))
    return tuple(found.values())[:PORTS_MAX]


# ---- as they are saved ----------------------------------------------------------------------------------------------


def pod_tree(pod: Pod) -> Tree:
    """Return an object that ``read_pod`` reads as ``pod``."""
    ports = [{"name": port.name, "containerPort": port.port, "protocol": port.protocol.name} for port in pod.named_ports]
    return {
        "metadata": {
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "labels": dict(pod.labels),
            "creationTimestamp": pod.created,
            **({"deletionTimestamp": "then"} if pod.ending else {}),
        },
        "spec": {"nodeName": pod.node, "hostNetwork": pod.host_network, "containers": [{"ports": ports}] if ports else []},
        "status": {
            "podIPs": [{"ip": str(address)} for address in pod.addresses],
            "qosClass": pod.quality,
            **({"phase": "Succeeded"} if pod.ended else {}),
        },
    }


def node_tree(node: Node) -> Tree:
    """Return an object that ``read_node`` reads as ``node``."""
    addresses = [{"type": "InternalIP", "address": str(address)} for address in node.addresses]
    return {"metadata": {"name": node.name, "labels": dict(node.labels)}, "status": {"addresses": addresses}}


def namespace_tree(name: str, labels: Mapping[str, str]) -> Tree:
    """Return an object that ``namespace_labels`` reads as ``labels``."""
    return {"metadata": {"name": name, "labels": dict(labels)}}
