"""Pods and nodes as endpoints: who is there, and which of them are this node's. Pure.

Owns: one ``Endpoint`` per pod that has an address, kept as the same object for as long as nothing about the pod changes, so that
a world of thousands of pods costs a change of one of them no more than that one. Must not know policies, nor how a pod's
interface is found: it is told.

Whose an address is when several Pod objects claim it (a pod that is being deleted keeps its address in its object for some
seconds after it was given to the next one): a pod that is not being deleted before one that is, then the newer one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from l7filters.labels import Labels
from l7filters.world import Address, Endpoint, Node
from tidegate.sources.endpoints import EndpointEntry, EndpointsState
from tidegate.sources.kubernetes.objects import Pod, pod_labels

VOLATILE_LABELS = frozenset(
    {
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/job-name",
        "controller-revision-hash",
        "controller-uid",
        "job-name",
        "pod-template-generation",
        "pod-template-hash",
        "statefulset.kubernetes.io/pod-name",
    }
)
"""Labels that controllers give to each pod or each rollout. Where no selector mentions one it is left out of the identity, or
every rollout and every pod of a StatefulSet would be a new identity, and cost work that grows with the policies."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """Where a local pod is reached: the host side of its veth, or its cgroup. For these ``addresses`` of the pod only."""

    addresses: tuple[Address, ...]
    interface: str | None = None
    cgroup: str | None = None


@dataclass(frozen=True, slots=True)
class Unmanaged:
    """A pod of this node whose traffic is not judged, and why."""

    key: str
    reason: str


class People:
    """All pods and nodes. ``take_*`` say what changed; ``endpoints`` and ``remote_nodes`` are what follows."""

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._pods: dict[str, Pod] = {}
        self._in_namespace: dict[str, set[str]] = {}
        self._namespace_labels: dict[str, Mapping[str, str]] = {}
        self._claims: dict[Address, set[str]] = {}
        self._attachments: dict[str, Attachment] = {}
        self._sandboxes: dict[str, tuple[str, Attachment]] = {}
        self._left: frozenset[str] = frozenset()
        self._mentioned: frozenset[str] = frozenset()
        self._entries: dict[str, EndpointEntry] = {}
        self._homes: dict[str, tuple[Labels, str]] = {}
        """The label set and the node under which each endpoint is counted in ``_spread``."""
        self._spread: dict[int, tuple[Labels, dict[str, int]]] = {}
        """Identity of a label set (shared by equal ones) -> it, and on which nodes how many pods have it."""
        self._label_sets: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
        self._state = EndpointsState()
        self._changed = True
        self._nodes: dict[str, Node] = {}
        self._remote_nodes: tuple[Node, ...] = ()

    # ---- what there is ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> EndpointsState:
        """All endpoints; the same object while nothing changed."""
        if self._changed:
            self._changed = False
            entries = tuple(self._entries.values())
            if entries != self._state.entries or self._state.revision == 0:
                self._state = EndpointsState(self._state.revision + 1, entries)
        return self._state

    @property
    def remote_nodes(self) -> tuple[Node, ...]:
        """Every node but this one, by name."""
        return self._remote_nodes

    @property
    def node_labels(self) -> Mapping[str, str]:
        """This node's labels."""
        mine = self._nodes.get(self._node_name)
        return {} if mine is None else mine.labels

    def pod(self, key: str) -> Pod | None:
        """One pod."""
        return self._pods.get(key)

    def local_pods(self) -> Iterator[Pod]:
        """The pods of this node that have not ended."""
        return (pod for pod in self._pods.values() if pod.node == self._node_name and not pod.ended)

    def attachment(self, key: str) -> Attachment | None:
        """Where a pod is reached, if that is known and still about the addresses it has."""
        pod, known = self._pods.get(key), self._attachments.get(key)
        if pod is None or known is None or known.addresses != self._addresses_of(pod):
            return None
        return known

    def wanting(self) -> tuple[tuple[Pod, tuple[Address, ...]], ...]:
        """The local pods, with the addresses they have now, of which is not known where they are reached."""
        return tuple(
            (pod, self._addresses_of(pod))
            for pod in self.local_pods()
            if pod.uid not in self._left and self.attachment(pod.key) is None and (pod.host_network or self._addresses_of(pod))
        )

    def nodes_of(self, selects: Callable[[Labels], bool]) -> frozenset[str]:
        """The nodes with a pod that ``selects`` holds for. Asks once per label set."""
        found: set[str] = set()
        for labels, nodes in self._spread.values():
            if not nodes.keys() <= found and selects(labels):
                found |= nodes.keys()
        return frozenset(found)

    def unmanaged(self) -> tuple[Unmanaged, ...]:
        """The pods of this node with an address whose traffic is not judged."""
        found = []
        for pod in self.local_pods():
            if pod.host_network or not self._addresses_of(pod):
                continue
            if pod.uid in self._left:
                found.append(Unmanaged(pod.key, "it ran before Tidegate did: it is managed from its next start on"))
            elif self.attachment(pod.key) is None:
                found.append(Unmanaged(pod.key, "no interface of this node leads to its address"))
        return tuple(found)

    # ---- what changes -----------------------------------------------------------------------------------------------

    def take_pods(self, present: Iterable[Pod], gone: Iterable[str] = ()) -> None:
        """Pods as they are now, and keys of pods that are no more."""
        affected: set[str] = set()
        for key in gone:
            affected |= self._forget(key)
        for pod in present:
            if self._pods.get(pod.key) == pod:
                continue
            affected |= self._forget(pod.key, keep_sandbox=True)
            self._pods[pod.key] = replace(pod, labels=self._shared(pod.labels))
            self._in_namespace.setdefault(pod.namespace, set()).add(pod.key)
            affected |= self._claim(pod.key)
        self._renew(affected)

    def take_namespaces(self, present: Mapping[str, Mapping[str, str]], gone: Iterable[str] = ()) -> None:
        """Labels of namespaces as they are now, and names of namespaces that are no more."""
        affected: set[str] = set()
        for name, labels in (*present.items(), *((name, None) for name in gone)):
            if self._namespace_labels.get(name) == labels:
                continue
            if labels is None:
                del self._namespace_labels[name]
            else:
                self._namespace_labels[name] = labels
            affected |= self._in_namespace.get(name, set())
        self._renew(affected)

    def take_nodes(self, present: Iterable[Node], gone: Iterable[str] = ()) -> None:
        """Nodes as they are now, and names of nodes that are no more."""
        before = dict(self._nodes)
        for name in gone:
            self._nodes.pop(name, None)
        for node in present:
            if self._nodes.get(node.name) != node:
                self._nodes[node.name] = node
        if self._nodes != before:
            self._remote_nodes = tuple(self._nodes[name] for name in sorted(self._nodes) if name != self._node_name)

    def take_mentioned(self, keys: frozenset[str]) -> None:
        """The volatile labels that some selector mentions now."""
        if keys != self._mentioned:
            self._mentioned = keys
            self._renew(self._pods.keys())

    def take_attachments(self, found: Mapping[str, Attachment]) -> None:
        """Where these pods are reached."""
        self._attachments |= found
        self._renew(found)

    def lose_attachments(self, keys: Iterable[str]) -> None:
        """It is no longer known where these are reached."""
        lost = [key for key in keys if self._attachments.pop(key, None) is not None]
        self._renew(lost)

    def take_sandbox(self, key: str, sandbox: Attachment, container: str) -> bool:
        """What the CNI plugin says of a pod before the API server says it. Returns whether that was news."""
        if self._sandboxes.get(key) == (container, sandbox):
            return False
        affected = self._unclaim(key)
        self._sandboxes[key] = (container, sandbox)
        self._attachments[key] = sandbox
        self._renew(affected | self._claim(key) | {key})
        return True

    def drop_sandbox(self, key: str, container: str) -> bool:
        """A sandbox is gone. Returns whether it was the pod's latest one."""
        known = self._sandboxes.get(key)
        if known is None or known[0] != container:
            return False
        affected = self._unclaim(key)
        del self._sandboxes[key]
        self._attachments.pop(key, None)
        self._renew(affected | self._claim(key) | {key})
        return True

    def leave_alone(self, uids: frozenset[str]) -> None:
        """These pods ran before we did and are not attached to."""
        self._left = uids
        self._renew({pod.key for pod in self._pods.values() if pod.uid in uids})

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _addresses_of(self, pod: Pod) -> tuple[Address, ...]:
        """A pod's addresses; until the API server has them, those that the CNI plugin told."""
        if pod.addresses or pod.ended or pod.host_network:
            return pod.addresses
        sandbox = self._sandboxes.get(pod.key)
        return () if sandbox is None else sandbox[1].addresses

    def _forget(self, key: str, *, keep_sandbox: bool = False) -> set[str]:
        affected = self._unclaim(key)
        pod = self._pods.pop(key, None)
        if pod is not None:
            self._in_namespace[pod.namespace].discard(key)
            if not self._in_namespace[pod.namespace]:
                del self._in_namespace[pod.namespace]
        if not keep_sandbox:
            self._sandboxes.pop(key, None)
            self._attachments.pop(key, None)
        return affected | {key}

    def _claim(self, key: str) -> set[str]:
        """Note the pod's addresses; return every pod that claims one of them."""
        pod = self._pods.get(key)
        if pod is None or pod.host_network:
            return {key}
        affected = {key}
        for address in self._addresses_of(pod):
            claimants = self._claims.setdefault(address, set())
            claimants.add(key)
            affected |= claimants
        return affected

    def _unclaim(self, key: str) -> set[str]:
        pod = self._pods.get(key)
        affected: set[str] = set()
        for address in () if pod is None else self._addresses_of(pod):
            claimants = self._claims.get(address, set())
            claimants.discard(key)
            affected |= claimants
            if not claimants:
                self._claims.pop(address, None)
        return affected

    def _owned(self, pod: Pod) -> tuple[Address, ...]:
        """The pod's addresses that no other pod has a better claim to."""
        return tuple(address for address in self._addresses_of(pod) if self._owner(address) == pod.key)

    def _owner(self, address: Address) -> str:
        claimants = self._claims.get(address, set())
        if len(claimants) == 1:
            return next(iter(claimants))
        pods = [self._pods[key] for key in claimants]
        return max(pods, key=lambda pod: (not pod.ending, pod.created, pod.key)).key if pods else ""

    def _renew(self, keys: Iterable[str]) -> None:
        for key in keys:
            pod = self._pods.get(key)
            endpoint = None if pod is None else self._endpoint(pod)
            known = self._entries.get(key)
            if endpoint == (None if known is None else known.endpoint):
                continue
            self._changed = True
            if known is not None:
                self._count(self._homes.pop(key), -1)
                del self._entries[key]
            if endpoint is not None and pod is not None:
                self._homes[key] = (endpoint.labels, pod.node)
                self._count(self._homes[key], 1)
                self._entries[key] = EndpointEntry(endpoint)

    def _count(self, home: tuple[Labels, str], change: int) -> None:
        """Note that a pod with these labels came to a node, or left it."""
        labels, node = home
        _, nodes = self._spread.setdefault(id(labels), (labels, {}))
        nodes[node] = nodes.get(node, 0) + change
        if nodes[node] == 0:
            del nodes[node]
            if not nodes:
                del self._spread[id(labels)]

    def _endpoint(self, pod: Pod) -> Endpoint | None:
        is_ours = pod.node == self._node_name and pod.uid not in self._left
        at = self.attachment(pod.key) if is_ours else None
        addresses = () if pod.host_network else self._owned(pod)
        if pod.ended or (not addresses and (at is None or at.cgroup is None)):
            return None
        return Endpoint(
            name=pod.name,
            namespace=pod.namespace,
            labels=self._identity_labels(pod),
            addresses=addresses,
            interface=None if at is None else at.interface,
            cgroup=None if at is None else at.cgroup,
            named_ports=pod.named_ports,
        )

    def _identity_labels(self, pod: Pod) -> Mapping[str, str]:
        left_out = VOLATILE_LABELS - self._mentioned
        labels = pod_labels(pod, self._namespace_labels.get(pod.namespace, {}))
        return self._shared({key: value for key, value in labels.items() if key not in left_out})

    def _shared(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        """Return one mapping for all equal ones: a cluster has far fewer label sets than pods."""
        if len(self._label_sets) > 4 * len(self._pods) + 1000:
            self._label_sets.clear()
        return self._label_sets.setdefault(tuple(sorted(labels.items())), labels)
