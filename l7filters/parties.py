"""Who the two ends of a flow are, and whom a rule's peers name.

Owns: from an address or an endpoint's key to a party; the meaning of every kind of Peer for one party, in words and in truth.
Must not know identities, ports or verdicts: ``population.py`` says the same for whole label sets at once.

Whose an address is, first match decides: this node, another node, an endpoint (a local one first), else the world outside.
So a CIDR never means a pod or a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import assert_never

from l7filters.identity import Network
from l7filters.labels import RESERVED_PREFIX, Labels, LabelSelector, Operator
from l7filters.model import (
    CidrGroupPeer,
    CidrPeer,
    EndpointPeer,
    Entity,
    EntityPeer,
    FqdnPeer,
    NodePeer,
    Peer,
    ServicePeer,
)
from l7filters.world import Address, Endpoint, NamedPort, Node, Service, World

HOST_WORD = "host"
"""Stands for this node where an endpoint's key or an address is asked for."""


class UnknownPartyError(ValueError):
    """Neither an address nor an endpoint of this world."""


class PartyKind(StrEnum):
    """What stands behind an address."""

    ENDPOINT = "endpoint"
    HOST = "host"
    REMOTE_NODE = "remote-node"
    WORLD = "world"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One end of a flow, as the other end sees it (``kind``, ``labels``) and as this node enforces it (``subject``).

    A workload that is known by its cgroup alone has the node's address: others see the host, but its own policy holds for
    what it sends.
    """

    kind: PartyKind
    name: str
    labels: Labels
    address: Address | None = None
    node: Node | None = None
    subject: Endpoint | None = None

    @property
    def is_host(self) -> bool:
        """Whether others see this node."""
        return self.kind is PartyKind.HOST


def find_party(world: World, who: Address | str) -> Party:
    """Return who ``who`` is: an address, an endpoint's key or ``host``. Raises UnknownPartyError."""
    if isinstance(who, str):
        for endpoint in world.endpoints:
            if endpoint.key == who:
                return _endpoint_party(world, endpoint)
        if who == HOST_WORD:
            return _node_party(world.node, PartyKind.HOST, None)
        try:
            who = ip_address(who)
        except ValueError:
            raise UnknownPartyError(f"there is no endpoint {who}; name one as NAMESPACE/NAME, or give an address") from None
    return _party_at(world, canonical(who))


def canonical(address: Address) -> Address:
    """Return an IPv4-mapped IPv6 address as the IPv4 address that it is."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _party_at(world: World, address: Address) -> Party:
    if address in map(canonical, world.node.addresses):
        return _node_party(world.node, PartyKind.HOST, address)
    for node in world.remote_nodes:
        if address in map(canonical, node.addresses):
            return _node_party(node, PartyKind.REMOTE_NODE, address)
    at = [endpoint for endpoint in world.endpoints if address in map(canonical, endpoint.addresses)]
    if at:
        endpoint = min(at, key=lambda one: (not one.is_local, one.key))
        return _as_endpoint(endpoint, address)
    family = "world-ipv4" if isinstance(address, IPv4Address) else "world-ipv6"
    labels = {f"{RESERVED_PREFIX}world": "", RESERVED_PREFIX + family: ""}
    return Party(kind=PartyKind.WORLD, name=str(address), labels=labels, address=address)


def _endpoint_party(world: World, endpoint: Endpoint) -> Party:
    if endpoint.addresses or endpoint.cgroup is None:
        return _as_endpoint(endpoint, None)
    host = _node_party(world.node, PartyKind.HOST, None)
    return Party(kind=host.kind, name=endpoint.key, labels=host.labels, node=host.node, subject=endpoint)


def _as_endpoint(endpoint: Endpoint, address: Address | None) -> Party:
    return Party(
        kind=PartyKind.ENDPOINT,
        name=endpoint.key,
        labels=endpoint.labels,
        address=address,
        subject=endpoint if endpoint.is_local else None,
    )


def _node_party(node: Node, kind: PartyKind, address: Address | None) -> Party:
    own = {} if kind is PartyKind.HOST else node.labels
    labels = {**own, RESERVED_PREFIX + kind: ""}
    return Party(kind=kind, name=f"{kind} {node.name}", labels=labels, address=address, node=node)


def named_ports(world: World, labels: Labels, *, local: bool) -> tuple[NamedPort, ...]:
    """Return what endpoints with exactly ``labels`` call their ports; ``local``: those of this node only.

    Policy is per label set, not per pod: where two pods of one label set give a name to different ports, both have both.
    """
    return tuple(
        named
        for endpoint in world.endpoints
        if endpoint.labels == labels and (endpoint.is_local or not local)
        for named in endpoint.named_ports
    )


# ---- peers --------------------------------------------------------------------------------------------------------


def peer_holds(world: World, peer: Peer, party: Party) -> bool:
    """Tell whether ``peer`` names ``party``."""
    match peer:
        case EndpointPeer(selector=selector):
            return (party.kind is PartyKind.ENDPOINT or _names_reserved(selector)) and selector.matches(party.labels)
        case EntityPeer(entity=entity):
            return _entity_holds(entity, party)
        case CidrPeer(cidr=cidr, excepts=excepts):
            return _outside_in(party, (cidr,), excepts)
        case CidrGroupPeer(excepts=excepts):
            return _outside_in(party, _group_networks(world, peer), excepts)
        case ServicePeer():
            return any(_service_holds(world, service, party) for service in _services(world, peer))
        case NodePeer(selector=selector):
            return party.kind in (PartyKind.HOST, PartyKind.REMOTE_NODE) and selector.matches(
                party.node.labels if party.node else {}
            )
        case FqdnPeer():
            # Not by whose address it is: by what DNS said of it (evaluate.py).
            return False
        case _:
            assert_never(peer)


def mean_world(world: World, peers: tuple[Peer, ...]) -> bool:
    """Tell whether ``peers`` name every address outside the cluster, IPv4 and IPv6."""
    return all(any(_means_family(world, peer, version) for peer in peers) for version in (4, 6))


def _means_family(world: World, peer: Peer, version: int) -> bool:
    match peer:
        case EntityPeer(entity=entity):
            return entity in (Entity.ALL, Entity.WORLD, Entity.WORLD_IPV4 if version == 4 else Entity.WORLD_IPV6)
        case CidrPeer(cidr=cidr, excepts=()):
            return _is_everything(cidr, version)
        case CidrGroupPeer(excepts=()):
            return any(_is_everything(cidr, version) for cidr in _group_networks(world, peer))
        case EndpointPeer(selector=selector):
            labels = {f"{RESERVED_PREFIX}world": "", f"{RESERVED_PREFIX}world-ipv{version}": ""}
            return _names_reserved(selector) and selector.matches(labels)
        case _:
            return False


def _is_everything(network: Network, version: int) -> bool:
    return str(network) in (("0.0.0.0/0", "::ffff:0:0/96") if version == 4 else ("::/0",))


def _names_reserved(selector: LabelSelector) -> bool:
    """Tell whether a selector asks for a reserved label: only then it is about more than endpoints."""
    return any(
        requirement.key.startswith(RESERVED_PREFIX) and requirement.operator in (Operator.IN, Operator.EXISTS)
        for requirement in selector.requirements
    )


def _entity_holds(entity: Entity, party: Party) -> bool:
    match entity:
        case Entity.ALL:
            return True
        case Entity.WORLD:
            return party.kind is PartyKind.WORLD
        case Entity.WORLD_IPV4 | Entity.WORLD_IPV6:
            version = 4 if entity is Entity.WORLD_IPV4 else 6
            return party.kind is PartyKind.WORLD and party.address is not None and party.address.version == version
        case Entity.CLUSTER | Entity.CLUSTER_MESH:
            return party.kind is not PartyKind.WORLD
        case Entity.HOST:
            return party.kind is PartyKind.HOST
        case Entity.REMOTE_NODE:
            return party.kind is PartyKind.REMOTE_NODE
        case Entity.NONE | Entity.INIT | Entity.INGRESS | Entity.UNMANAGED | Entity.HEALTH | Entity.KUBE_APISERVER:
            # Nothing in a world is known to be one of these.
            return False
        case _:
            assert_never(entity)


def _outside_in(party: Party, cidrs: tuple[Network, ...], excepts: tuple[Network, ...]) -> bool:
    if party.kind is not PartyKind.WORLD or party.address is None:
        return False
    return any(_contains(cidr, party.address) for cidr in cidrs) and not any(_contains(hole, party.address) for hole in excepts)


def _contains(network: Network, address: Address) -> bool:
    """Tell whether ``network`` holds the canonical ``address``; an IPv4-mapped network holds IPv4 addresses."""
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None and network.prefixlen >= 96:
        network = ip_network(f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}")
    return address in network


def _group_networks(world: World, peer: CidrGroupPeer) -> tuple[Network, ...]:
    return tuple(
        cidr
        for group in world.cidr_groups
        if (group.name == peer.name if peer.selector is None else peer.selector.matches(group.labels))
        for cidr in group.cidrs
    )


def _services(world: World, peer: ServicePeer) -> tuple[Service, ...]:
    return tuple(
        service
        for service in world.services
        if peer.namespace in (None, service.namespace)
        and peer.name in (None, service.name)
        and (peer.selector is None or peer.selector.matches(service.labels))
    )


def _service_holds(world: World, service: Service, party: Party) -> bool:
    """Tell whether ``party`` is a backend, or an endpoint that no label tells from one."""
    if service.selector is not None and party.kind is PartyKind.ENDPOINT and service.selector.matches(party.labels):
        return True
    for address in map(canonical, service.addresses):
        backend = _party_at(world, address)
        if backend.kind is not party.kind:
            continue
        same_labels = backend.kind is PartyKind.ENDPOINT and backend.labels == party.labels
        if same_labels or backend.is_host or address == party.address:
            return True
    return False


def peer_words(peer: Peer) -> str:
    """Return whom ``peer`` names, in words."""
    match peer:
        case EndpointPeer(selector=selector):
            return f"endpoints {selector}" if selector.requirements else "any endpoint"
        case EntityPeer(entity=entity):
            return str(entity)
        case CidrPeer(cidr=cidr, excepts=excepts):
            return str(cidr) + _except_words(excepts)
        case CidrGroupPeer(name=name, selector=selector, excepts=excepts):
            return (
                f"CIDR groups {selector}{_except_words(excepts)}"
                if name is None
                else f"CIDR group {name}{_except_words(excepts)}"
            )
        case ServicePeer(namespace=namespace, name=name, selector=selector):
            return f"backends of service {namespace or '*'}/{name if name is not None else selector or '*'}"
        case NodePeer(selector=selector):
            return f"nodes {selector}"
        case FqdnPeer(match_name=name, match_pattern=pattern):
            return f"addresses of {name or pattern}"
        case _:
            assert_never(peer)


def _except_words(excepts: tuple[Network, ...]) -> str:
    return f" except {', '.join(map(str, excepts))}" if excepts else ""
