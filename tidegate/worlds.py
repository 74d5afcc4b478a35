"""From what the sources say to a World. Pure.

Owns: joining policies, endpoints, namespaces, services and the node into one value. Must not know where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from l7filters.documents import SecretStore
from l7filters.envoy.secrets import SecretValue
from l7filters.model import SecretRef
from l7filters.world import Address, Node, World
from tidegate.config.node import NodeConfig
from tidegate.sources import DirectoryState, EndpointsState, SecretsState, with_backends, with_namespaces
from tidegate.sources.kubernetes import ClusterState


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The latest of every source."""

    policies: DirectoryState = field(default_factory=DirectoryState)
    endpoints: EndpointsState = field(default_factory=EndpointsState)
    secrets: SecretsState = field(default_factory=SecretsState)
    cluster: ClusterState | None = None
    """All that an API server says, if there is one; policies, endpoints and secrets are then its."""
    addresses: tuple[Address, ...] = ()


def build_world(config: NodeConfig, inputs: Inputs, revision: int) -> World:
    """Return the world of ``inputs``."""
    addresses = config.node.addresses if config.node.addresses is not None else inputs.addresses
    cluster = inputs.cluster or ClusterState()
    labels = {**cluster.node_labels, **config.node.labels}
    return World(
        revision=revision,
        node=Node(name=config.node.name, labels=labels, addresses=addresses),
        remote_nodes=cluster.remote_nodes,
        endpoints=with_namespaces(inputs.endpoints.endpoints, inputs.policies.namespaces),
        policies=inputs.policies.policies,
        services=with_backends(inputs.policies.services, inputs.endpoints.entries),
        cidr_groups=inputs.policies.cidr_groups,
        enforcement=config.enforcement,
        fqdn_ports=config.fqdn.ports,
    )


class StoredSecrets(Mapping[SecretRef, SecretValue]):
    """Secrets of several stores, the first that has it, as the translation reads them. Looks up; does not enumerate."""

    def __init__(self, *stores: SecretStore) -> None:
        self._stores = stores

    def __getitem__(self, ref: SecretRef) -> SecretValue:
        for store in self._stores:
            value = store.value(ref)
            if value is not None:
                return SecretValue(value)
        raise KeyError(f"{ref.namespace}/{ref.name}")

    def __iter__(self) -> Iterator[SecretRef]:
        return iter(())

    def __len__(self) -> int:
        return sum(len(store) for store in self._stores)
