"""All that is known of a cluster, as one thing that takes changes and says what follows. Pure.

Owns: which kind's changes go where (people.py, papers.py), and which parts changed. ``ClusterState`` is what the agent hears.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from l7filters.documents import SecretStore
from l7filters.world import Node
from tidegate.sources.endpoints import EndpointsState
from tidegate.sources.kubernetes import objects
from tidegate.sources.kubernetes.kinds import KINDS, Kind, Role
from tidegate.sources.kubernetes.papers import Papers, Vault, secret_refs
from tidegate.sources.kubernetes.people import VOLATILE_LABELS, People, Unmanaged
from tidegate.sources.kubernetes.reflector import Changes
from tidegate.sources.kubernetes.server import Tree
from tidegate.sources.kubernetes.verdict import PolicyObject
from tidegate.sources.ledger import DirectoryState

_SERVICE_NAME_LABEL = "kubernetes.io/service-name"
_OF_DOCUMENTS = frozenset({Role.POLICY, Role.CIDR_GROUP, Role.SERVICE, Role.SLICE})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """What the API server says, as far as it counts on this node. Equal parts are the same objects as before."""

    policies: DirectoryState = field(default_factory=DirectoryState)
    endpoints: EndpointsState = field(default_factory=EndpointsState)
    secrets: SecretStore = field(default_factory=SecretStore)
    node_labels: Mapping[str, str] = field(default_factory=dict)
    remote_nodes: tuple[Node, ...] = ()
    unmanaged: tuple[Unmanaged, ...] = ()
    problems: tuple[str, ...] = ()
    """Why something of the API server is not followed at the moment, one line each."""


class Cluster:
    """The copy of the cluster."""

    def __init__(self, node_name: str) -> None:
        self.people = People(node_name)
        self.papers = Papers(VOLATILE_LABELS)
        self.vault = Vault()
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._nodes: dict[str, Node] = {}
        self._pods: dict[str, objects.Pod] = {}
        self._secrets = SecretStore()
        self.policies: dict[str, PolicyObject] = {}
        """Every policy object by ``WORD/NAMESPACE/NAME``."""
        self.unsaved: set[Role] = set()
        """The kinds of which something changed since ``saved_form`` was last asked for them."""

    def take(self, kind: Kind, changes: Changes) -> None:
        """Take in what happened to the objects of one kind."""
        self.unsaved.add(kind.role)
        if kind.role in _OF_DOCUMENTS:
            self._take_documents(kind, changes)
        elif kind.role is Role.POD:
            present = [pod for tree in changes.present.values() if (pod := objects.read_pod(tree)) is not None]
            self._pods |= {pod.key: pod for pod in present}
            for key in changes.gone:
                self._pods.pop(key, None)
            self.people.take_pods(present, changes.gone)
        elif kind.role is Role.NAMESPACE:
            labels = {name: objects.namespace_labels(tree) for name, tree in changes.present.items()}
            self._namespaces |= labels
            for name in changes.gone:
                self._namespaces.pop(name, None)
            self.people.take_namespaces(labels, changes.gone)
        elif kind.role is Role.NODE:
            nodes = {node.name: node for tree in changes.present.values() if (node := objects.read_node(tree)) is not None}
            self._nodes |= nodes
            for name in changes.gone:
                self._nodes.pop(name, None)
            self.people.take_nodes(nodes.values(), changes.gone)

    def take_secret(self, changes: Changes) -> None:
        """Take in what happened to a Secret that is followed."""
        for name, tree in changes.present.items():
            self.vault.put(name, objects.secret_document(tree))
        for name in changes.gone:
            self.vault.drop(name)

    def wanted_secrets(self) -> frozenset[tuple[str, str]]:
        """Return (namespace, name) of the Secrets that rules in force name."""
        return secret_refs(self.papers.state.policies)

    def state(self, problems: tuple[str, ...] = ()) -> ClusterState:
        """Return what follows from all that was taken in."""
        secrets = self.vault.store()
        if secrets != self._secrets:
            self._secrets = secrets
        return ClusterState(
            policies=self.papers.state,
            endpoints=self.people.state,
            secrets=self._secrets,
            node_labels=self.people.node_labels,
            remote_nodes=self.people.remote_nodes,
            unmanaged=self.people.unmanaged(),
            problems=problems,
        )

    def saved_form(self, kind: Kind) -> dict[str, Tree]:
        """Return the objects of a kind, by key, in a form that ``take`` takes."""
        match kind.role:
            case Role.POD:
                return {key: objects.pod_tree(pod) for key, pod in self._pods.items()}
            case Role.NODE:
                return {name: objects.node_tree(node) for name, node in self._nodes.items()}
            case Role.NAMESPACE:
                return {name: objects.namespace_tree(name, labels) for name, labels in self._namespaces.items()}
            case Role.POLICY | Role.CIDR_GROUP | Role.SERVICE | Role.SLICE:
                trees = self.papers.trees(frozenset((kind.word,)))
                return {name.partition("/")[2]: tree for name, tree in trees.items()}
            case _:
                assert_never(kind.role)

    def _take_documents(self, kind: Kind, changes: Changes) -> None:
        for key in changes.gone:
            self.papers.drop(f"{kind.word}/{key}")
            self.policies.pop(f"{kind.word}/{key}", None)
        for key, tree in changes.present.items():
            name = f"{kind.word}/{key}"
            document = _document(kind, tree)
            if document is None:
                continue
            self.papers.put(name, document)
            if kind.role is Role.POLICY:
                self.policies[name] = self._policy_object(name, kind, tree)
        self.people.take_mentioned(self.papers.mentioned)

    def _policy_object(self, name: str, kind: Kind, tree: Tree) -> PolicyObject:
        metadata = tree.get("metadata") or {}
        known = self.policies.get(name)
        generation = int(metadata.get("generation") or 0)
        good = known.good_generation if known is not None else 0
        if not self.papers.errors_of(name):
            good = generation
        return PolicyObject(
            kind=kind,
            name=str(metadata.get("name") or ""),
            namespace=str(metadata.get("namespace") or ""),
            uid=str(metadata.get("uid") or ""),
            generation=generation,
            good_generation=good,
            status=dict(tree.get("status") or {}) if kind.has_status else {},
        )


def _document(kind: Kind, tree: Tree) -> Tree | None:
    match kind.role:
        case Role.SERVICE:
            return objects.service_document(tree)
        case Role.SLICE:
            document = objects.slice_document(tree)
            return document if _SERVICE_NAME_LABEL in document["metadata"].get("labels", {}) else None
        case _:
            return objects.policy_document(tree, kind.api_version, kind.kind)


__all__ = ["KINDS", "Cluster", "ClusterState", "Unmanaged"]
