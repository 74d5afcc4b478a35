"""What every Envoy of this node should hold: an immutable, consistent set of named resources.

Owns: resource types and their order, versions, and the consistency of a set. Must not know streams, gRPC or policies.

A version is a hash of the content, so it means the same before and after a restart of this process: a reconnecting Envoy states
the versions it holds and is sent only what differs. Consistency is checked by the constructor: a Snapshot that exists has no
reference to a resource that it lacks.

Errors::

    XdsError
      InconsistentSnapshot     references that don't resolve, or kinds that can't refer to each other (the builder's fault)
      ResourceTooLarge         one resource above RESOURCE_BYTES_MAX
      SnapshotTooLarge         more than RESOURCES_MAX resources
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple, Protocol

from xds_server.shared_map import SharedMap

RESOURCE_BYTES_MAX = 8 * 1024 * 1024
"""A whole node's policy for 5,000 pods in one matcher tree is 6.4 MiB; one slot is a few KiB. Beyond this it is a mistake."""

RESOURCES_MAX = 20_000
"""There are at most 2,047 slots, with a listener and a route each; the rest is room for clusters and secrets."""

VERSION_BYTES = 8
"""64 bits: resources of one name differ in content, and nobody gains by a collision with their own resource."""


class XdsError(Exception):
    """Anything that this package raises on purpose."""


class ResourceTooLarge(XdsError):
    """One resource is larger than Envoy should be asked to take."""


class SnapshotTooLarge(XdsError):
    """There are more resources than one node can have."""


class TypeUrl(StrEnum):
    """The resource types served. **The order of the members is the order in which changes are sent**, so that what is referred
    to arrives before what refers to it (xDS protocol, "Eventual consistency considerations"); removals go the other way round.

    Extension configs and secrets come last: Envoy asks for each by name once a listener or a cluster refers to it, so an update
    of one that it already has depends on nothing. A runtime layer is asked for by name as the bootstrap says.
    """

    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
    SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    RUNTIME = "type.googleapis.com/envoy.service.runtime.v3.Runtime"


SEND_RANK: Mapping[TypeUrl, int] = {type_url: rank for rank, type_url in enumerate(TypeUrl)}

MAY_REFER_TO: Mapping[TypeUrl, frozenset[TypeUrl]] = {
    TypeUrl.CLUSTER: frozenset({TypeUrl.ENDPOINT, TypeUrl.SECRET}),
    TypeUrl.ENDPOINT: frozenset(),
    TypeUrl.LISTENER: frozenset({TypeUrl.CLUSTER, TypeUrl.ROUTE, TypeUrl.EXTENSION, TypeUrl.SECRET}),
    TypeUrl.ROUTE: frozenset({TypeUrl.CLUSTER}),
    TypeUrl.EXTENSION: frozenset({TypeUrl.CLUSTER, TypeUrl.SECRET}),
    TypeUrl.SECRET: frozenset(),
    TypeUrl.RUNTIME: frozenset(),
}
"""Which kinds can refer to which. It has no cycle, which is what lets removals wait for their referrers without a deadlock."""


class ResourceKey(NamedTuple):
    """What a resource is called: names are unique within a type."""

    type_url: TypeUrl
    name: str

    def __str__(self) -> str:
        return f"{self.type_url.rpartition('.')[2]} {self.name!r}"


class Message(Protocol):
    """The part of a protobuf message that is needed here."""

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One named resource. ``body`` is the serialised message, that is the ``value`` of the Any that carries it.

    ``references``: the resources of this server that the body names, as the builder knows them.
    """

    type_url: TypeUrl
    name: str
    version: str
    body: bytes = field(repr=False)
    references: frozenset[ResourceKey] = frozenset()
    key: ResourceKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", ResourceKey(self.type_url, self.name))
        if len(self.body) > RESOURCE_BYTES_MAX:
            raise ResourceTooLarge(f"{self.key} has {len(self.body)} bytes, the most is {RESOURCE_BYTES_MAX}")
        assert self.name, "a resource needs a name"
        assert self.name != "*", "'*' means every resource in the protocol"
        assert self.version, "the empty version means absence"

    @classmethod
    def of(cls, type_url: TypeUrl, name: str, message: Message, references: Iterable[ResourceKey] = ()) -> Resource:
        """Serialise ``message`` and hash it. Anys inside it must have been packed deterministically too."""
        body = message.SerializeToString(deterministic=True)
        version = blake2b(body, digest_size=VERSION_BYTES).hexdigest()
        return cls(type_url=type_url, name=name, version=version, body=body, references=frozenset(references))


@dataclass(frozen=True, slots=True)
class BadReference:
    """A reference that does not hold."""

    referrer: ResourceKey
    target: ResourceKey
    reason: str

    def __str__(self) -> str:
        return f"{self.referrer} refers to {self.target}: {self.reason}"


class InconsistentSnapshot(XdsError):
    """Some references don't resolve: ``faults`` lists each of them."""

    def __init__(self, faults: Iterable[BadReference]) -> None:
        self.faults = tuple(sorted(faults, key=str))
        super().__init__("; ".join(str(fault) for fault in self.faults))


class Snapshot(Mapping[ResourceKey, Resource]):
    """An immutable set of resources whose references resolve.

    ``Snapshot(resources)`` checks all of them; ``edited`` and ``replaced_by`` give a new snapshot that shares what has not
    changed and check only what has.
    """

    __slots__ = ("_referrer_counts", "_resources")

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self._resources: SharedMap[ResourceKey, Resource] = SharedMap()
        self._referrer_counts: SharedMap[ResourceKey, int] = SharedMap()
        self._become(*self._edit({resource.key: resource for resource in resources}, frozenset()))

    def __getitem__(self, key: ResourceKey) -> Resource:
        return self._resources[key]

    def __iter__(self) -> Iterator[ResourceKey]:
        return iter(self._resources)

    def __len__(self) -> int:
        return len(self._resources)

    def __repr__(self) -> str:
        return f"Snapshot({len(self)} resources)"

    def edited(self, put: Iterable[Resource] = (), drop: Iterable[ResourceKey] = ()) -> Snapshot:
        """This snapshot with ``put`` in it and without ``drop``. Costs O(changed)."""
        wanted = {resource.key: resource for resource in put}
        changed = {key: resource for key, resource in wanted.items() if self._resources.get(key) != resource}
        dropped = frozenset(key for key in drop if key in self._resources and key not in wanted)
        if not changed and not dropped:
            return self
        made = Snapshot()
        made._become(*self._edit(changed, dropped))
        return made

    def replaced_by(self, resources: Iterable[Resource]) -> Snapshot:
        """A snapshot of just ``resources``, sharing with this one whatever is equal; this one itself if all is."""
        wanted = {resource.key: resource for resource in resources}
        return self.edited(wanted.values(), [key for key in self._resources if key not in wanted])

    def changed_keys(self, other: Snapshot) -> frozenset[ResourceKey]:
        """The keys that differ between the two; cheap for neighbours."""
        return self._resources.changed_keys(other._resources)

    def versions(self, keys: Iterable[ResourceKey] | None = None) -> dict[ResourceKey, str]:
        """The version of each of ``keys``, or of every resource; what ``wait_acked`` takes."""
        return {key: self._resources[key].version for key in (self._resources if keys is None else keys)}

    def _become(self, resources: SharedMap[ResourceKey, Resource], referrer_counts: SharedMap[ResourceKey, int]) -> None:
        self._resources = resources
        self._referrer_counts = referrer_counts

    def _edit(
        self, changed: Mapping[ResourceKey, Resource], dropped: frozenset[ResourceKey]
    ) -> tuple[SharedMap[ResourceKey, Resource], SharedMap[ResourceKey, int]]:
        """The two maps after the edit, checked: new references resolve, and nothing that is dropped is still referred to."""
        resources = self._resources.edited(changed, dropped)
        if len(resources) > RESOURCES_MAX:
            raise SnapshotTooLarge(f"{len(resources)} resources, the most is {RESOURCES_MAX}")
        steps: Counter[ResourceKey] = Counter()
        for key in (*changed, *dropped):
            if (before := self._resources.get(key)) is not None:
                steps.subtract(before.references)
        for resource in changed.values():
            steps.update(resource.references)
        counts = {key: self._referrer_counts.get(key, 0) + step for key, step in steps.items() if step}
        referrer_counts = self._referrer_counts.edited(
            {key: count for key, count in counts.items() if count}, [key for key, count in counts.items() if not count]
        )
        faults = [
            BadReference(resource.key, target, reason)
            for resource in changed.values()
            for target in resource.references
            if (reason := _reference_fault(resource, target, resources))
        ]
        bereft = {key for key in dropped if key in referrer_counts}
        if bereft:
            faults += [
                BadReference(resource.key, target, "it is not in the snapshot any more")
                for resource in resources.values()
                if resource.key not in changed
                for target in resource.references & bereft
            ]
        if faults:
            raise InconsistentSnapshot(faults)
        return resources, referrer_counts


def _reference_fault(resource: Resource, target: ResourceKey, resources: Mapping[ResourceKey, Resource]) -> str | None:
    if target.type_url not in MAY_REFER_TO[resource.type_url]:
        return "a resource of this type can't refer to that type"
    if target not in resources:
        return "it is not in the snapshot"
    return None
