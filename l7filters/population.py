"""Who there is: identities and addresses of one world, and the peers of rules resolved to identity numbers.

Owns: which prefixes get an identity, the ipcache's content and its precedence, and the meaning of every kind of Peer. Must not
know ports, verdicts or slots.

Which identity an address has, first match decides:

1. an address of this node: HOST;
2. an address of another node: REMOTE_NODE; or, while some rule selects nodes by label, an identity for its label set;
3. an address of an endpoint: the endpoint's label set (a local endpoint before a remote one, then by name);
4. the longest prefix that some policy mentions: the set of mentioned prefixes that contain it;
5. WORLD_IPV4 or WORLD_IPV6.

So a CIDR never matches a pod or a node, as in Cilium. 0.0.0.0/0 and ::/0 are WORLD_IPV4 and WORLD_IPV6 themselves and not part
of any label set: a policy that begins to mention them renumbers nothing.

A FqdnPeer is an identity of its own that no address has: the DNS proxy tells the kernel for whom it stands behind which address
(``tg_names``), so its answer may differ from pod to pod. It is judged beside the identity of the address, and rules about all of
the world (both families; ``PeerResolver.means_world``) hold for it too.

An EndpointPeer matches endpoints; a selector that names a ``reserved:`` label also matches the reserved identity or node that
carries it (``reserved:host``), but no selector matches the world by leaving labels out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import assert_never

from l7filters.identity import IdentityNumber, LabelSet, Network, Reserved
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
from l7filters.world import Address, CidrGroup, Node, Service
from proxylib.dns.rules import NameSelector

Numbers = frozenset[IdentityNumber]
_NOBODY: Numbers = frozenset()
_V4_MAPPED = IPv6Network("::ffff:0:0/96")
_V4_MAPPED_BITS = 96
WORLD_PREFIXES: tuple[tuple[Network, Reserved], ...] = (
    (_V4_MAPPED, Reserved.WORLD_IPV4),
    (IPv6Network("::/0"), Reserved.WORLD_IPV6),
)
"""Always in the ipcache: what no other prefix covers."""

REMOTE_NODE_LABEL = f"{RESERVED_PREFIX}remote-node"
_CLUSTER_RESERVED = (
    Reserved.HOST,
    Reserved.REMOTE_NODE,
    Reserved.INIT,
    Reserved.INGRESS,
    Reserved.HEALTH,
    Reserved.UNMANAGED,
    Reserved.KUBE_APISERVER,
)
_RESERVED_LABELS: Mapping[Reserved, tuple[str, ...]] = {
    Reserved.HOST: ("host",),
    Reserved.UNMANAGED: ("unmanaged",),
    Reserved.HEALTH: ("health",),
    Reserved.INIT: ("init",),
    Reserved.REMOTE_NODE: ("remote-node",),
    Reserved.KUBE_APISERVER: ("kube-apiserver",),
    Reserved.INGRESS: ("ingress",),
    Reserved.WORLD_IPV4: ("world-ipv4", "world"),
    Reserved.WORLD_IPV6: ("world-ipv6", "world"),
}


def canonical_network(network: Network) -> Network:
    """Return ``network`` as IPv4 when it is an IPv6 spelling of IPv4 addresses: both are one key in the kernel."""
    if isinstance(network, IPv6Network) and network.prefixlen >= _V4_MAPPED_BITS and network.subnet_of(_V4_MAPPED):
        low = int(network.network_address) & 0xFFFFFFFF
        return IPv4Network((low, network.prefixlen - _V4_MAPPED_BITS))
    return network


def canonical_address(address: Address) -> Address:
    """Return ``address`` as IPv4 when it is an IPv4-mapped IPv6 address."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def host_network(address: Address) -> Network:
    """Return the prefix that holds ``address`` alone."""
    address = canonical_address(address)
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), 32))
    return IPv6Network((int(address), 128))


def cidr_label_sets(mentioned: Iterable[Network]) -> dict[Network, LabelSet]:
    """Return, for every mentioned prefix but the two /0, the set of mentioned prefixes that contain it."""
    prefixes = {network for network in map(canonical_network, mentioned) if network.prefixlen > 0}
    lengths = {version: sorted({p.prefixlen for p in prefixes if p.version == version}) for version in (4, 6)}
    label_sets: dict[Network, LabelSet] = {}
    for prefix in prefixes:
        containing = [
            outer
            for length in lengths[prefix.version]
            if length <= prefix.prefixlen and (outer := _supernet(prefix, length)) in prefixes
        ]
        label_sets[prefix] = LabelSet(cidrs=frozenset(containing))
    return label_sets


def remote_node_label_set(node: Node) -> LabelSet:
    """Return the label set of another node, for rules that select nodes."""
    return LabelSet.of({**node.labels, REMOTE_NODE_LABEL: ""})


def network_order(network: Network) -> tuple[int, int, int]:
    """Return a sort key over both families."""
    return (network.version, int(network.network_address), network.prefixlen)


def group_networks(groups: Iterable[CidrGroup], peer: CidrGroupPeer) -> tuple[Network, ...]:
    """Return the prefixes of the groups that ``peer`` names or selects."""
    return tuple(
        cidr
        for group in groups
        if (group.name == peer.name if peer.selector is None else peer.selector.matches(group.labels))
        for cidr in group.cidrs
    )


def selected_services(services: Iterable[Service], peer: ServicePeer) -> tuple[Service, ...]:
    """Return the Services that ``peer`` names or selects."""
    return tuple(
        service
        for service in services
        if (peer.namespace is None or service.namespace == peer.namespace)
        and (peer.name is None or service.name == peer.name)
        and (peer.selector is None or peer.selector.matches(service.labels))
    )


@dataclass(frozen=True, slots=True, eq=False)
class LabelIndex:
    """Label sets by number, indexed so that a selector looks at few of them."""

    labels: Mapping[IdentityNumber, Labels]
    with_pair: Mapping[tuple[str, str], Numbers]
    with_key: Mapping[str, Numbers]
    everyone: Numbers

    @classmethod
    def of(cls, labels: Mapping[IdentityNumber, Labels]) -> LabelIndex:
        """Index ``labels``."""
        with_pair: dict[tuple[str, str], set[IdentityNumber]] = {}
        with_key: dict[str, set[IdentityNumber]] = {}
        for number, one in labels.items():
            for pair in one.items():
                with_pair.setdefault(pair, set()).add(number)
                with_key.setdefault(pair[0], set()).add(number)
        return cls(
            labels,
            {pair: frozenset(numbers) for pair, numbers in with_pair.items()},
            {key: frozenset(numbers) for key, numbers in with_key.items()},
            frozenset(labels),
        )

    def select(self, selector: LabelSelector) -> Numbers:
        """Return the numbers whose labels ``selector`` matches."""
        candidates = self.everyone
        for requirement in selector.requirements:
            match requirement.operator:
                case Operator.IN:
                    having = (self.with_pair.get((requirement.key, value), _NOBODY) for value in requirement.values)
                    candidates &= _NOBODY.union(*having)
                case Operator.EXISTS:
                    candidates &= self.with_key.get(requirement.key, _NOBODY)
                case Operator.DOES_NOT_EXIST:
                    candidates -= self.with_key.get(requirement.key, _NOBODY)
                case Operator.NOT_IN:
                    having = (self.with_pair.get((requirement.key, value), _NOBODY) for value in requirement.values)
                    candidates = candidates.difference(*having)
                case _:
                    assert_never(requirement.operator)
        return candidates


@dataclass(frozen=True, slots=True)
class Population:
    """Everyone a rule may name as a peer. Equal values resolve peers equally."""

    endpoints: Mapping[IdentityNumber, Labels]
    cidrs: Mapping[Network, tuple[IdentityNumber, LabelSet]]
    node: Node
    remote_nodes: tuple[tuple[Node, IdentityNumber], ...]
    """Empty while no rule selects nodes: then all of them are REMOTE_NODE."""
    services: tuple[Service, ...]
    cidr_groups: tuple[CidrGroup, ...]
    service_backends: Mapping[Address, IdentityNumber]
    """The identity of every address that a Service in force lists."""
    fqdns: Mapping[NameSelector, IdentityNumber] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class PeerResolver:
    """Resolves peers against one population and remembers the answers."""

    population: Population
    index: LabelIndex
    reserved_index: LabelIndex
    inside: Mapping[Network, Numbers]
    """Mentioned prefix -> identities of ranges within it."""
    of_family: Mapping[int, Numbers]
    """IP version -> all identities outside the cluster."""
    answers: dict[Peer, Numbers | None] = field(default_factory=dict)

    @classmethod
    def of(cls, population: Population) -> PeerResolver:
        """Index ``population``."""
        inside: dict[Network, set[IdentityNumber]] = {}
        family: dict[int, set[IdentityNumber]] = {
            4: {IdentityNumber(int(Reserved.WORLD_IPV4))},
            6: {IdentityNumber(int(Reserved.WORLD_IPV6))},
        }
        for network, (number, label_set) in population.cidrs.items():
            family[network.version].add(number)
            for containing in label_set.cidrs:
                inside.setdefault(containing, set()).add(number)
        outside = {4: _RESERVED_LABELS[Reserved.WORLD_IPV4], 6: _RESERVED_LABELS[Reserved.WORLD_IPV6]}
        reserved: dict[IdentityNumber, Labels] = {
            IdentityNumber(int(number)): {RESERVED_PREFIX + name: "" for name in names}
            for number, names in _RESERVED_LABELS.items()
        }
        for network, (number, _) in population.cidrs.items():
            # Mentioning a prefix somewhere takes its addresses out of no rule about the world.
            reserved[number] = {RESERVED_PREFIX + name: "" for name in outside[network.version]}
        for node, number in population.remote_nodes:
            reserved[number] = {**node.labels, REMOTE_NODE_LABEL: ""}
        return cls(
            population,
            LabelIndex.of(population.endpoints),
            LabelIndex.of(reserved),
            {network: frozenset(numbers) for network, numbers in inside.items()},
            {version: frozenset(numbers) for version, numbers in family.items()},
        )

    def resolve(self, peers: Iterable[Peer] | None) -> Numbers | None:
        """Return the identities that ``peers`` name together; None: any peer at all."""
        if peers is None:
            return None
        union: Numbers = _NOBODY
        for peer in peers:
            if peer not in self.answers:
                self.answers[peer] = self._resolve_one(peer)
            numbers = self.answers[peer]
            if numbers is None:
                return None
            union |= numbers
        return union

    def means_world(self, peers: Iterable[Peer]) -> bool:
        """Tell whether ``peers`` hold for every address outside the cluster, of either family."""
        return {4, 6} <= {family for peer in peers for family in self._whole_families(peer)}

    def _whole_families(self, peer: Peer) -> Iterable[int]:
        """Yield the IP versions of which ``peer`` names every address outside the cluster."""
        match peer:
            case EntityPeer(entity=Entity.WORLD | Entity.ALL):
                yield from (4, 6)
            case EntityPeer(entity=Entity.WORLD_IPV4):
                yield 4
            case EntityPeer(entity=Entity.WORLD_IPV6):
                yield 6
            case CidrPeer(cidr=cidr, excepts=()):
                if canonical_network(cidr).prefixlen == 0:
                    yield canonical_network(cidr).version
            case CidrGroupPeer(excepts=()):
                yield from (
                    network.version
                    for network in map(canonical_network, group_networks(self.population.cidr_groups, peer))
                    if network.prefixlen == 0
                )
            case EndpointPeer(selector=selector) if _names_reserved(selector):
                numbers = self.reserved_index.select(selector)
                worlds = {4: Reserved.WORLD_IPV4, 6: Reserved.WORLD_IPV6}
                yield from (version for version, number in worlds.items() if IdentityNumber(int(number)) in numbers)
            case _:
                return

    def _resolve_one(self, peer: Peer) -> Numbers | None:
        match peer:
            case EndpointPeer(selector=selector):
                numbers = self.index.select(selector)
                if _names_reserved(selector):
                    numbers |= self.reserved_index.select(selector)
                return numbers
            case EntityPeer(entity=entity):
                return self._entity(entity)
            case CidrPeer(cidr=cidr, excepts=excepts):
                return self._cidr(cidr, excepts)
            case CidrGroupPeer(excepts=excepts):
                cidrs = group_networks(self.population.cidr_groups, peer)
                return _NOBODY.union(*(self._cidr(cidr, excepts) for cidr in cidrs))
            case ServicePeer():
                return self._services(peer)
            case NodePeer(selector=selector):
                return self._nodes(selector)
            case FqdnPeer():
                return frozenset((self.population.fqdns[peer.selector],))
            case _:
                assert_never(peer)

    def _entity(self, entity: Entity) -> Numbers | None:
        match entity:
            case Entity.ALL:
                return None
            case Entity.NONE:
                return _NOBODY
            case Entity.WORLD:
                return self.of_family[4] | self.of_family[6]
            case Entity.WORLD_IPV4:
                return self.of_family[4]
            case Entity.WORLD_IPV6:
                return self.of_family[6]
            case Entity.CLUSTER | Entity.CLUSTER_MESH:
                # One cluster is all that a world knows, so the mesh is that cluster.
                reserved = frozenset(IdentityNumber(int(number)) for number in _CLUSTER_RESERVED)
                return self.index.everyone | reserved | self._remote_nodes()
            case Entity.HOST:
                return _just(Reserved.HOST)
            case Entity.REMOTE_NODE:
                return _just(Reserved.REMOTE_NODE) | self._remote_nodes()
            case Entity.INIT:
                return _just(Reserved.INIT)
            case Entity.INGRESS:
                return _just(Reserved.INGRESS)
            case Entity.UNMANAGED:
                return _just(Reserved.UNMANAGED)
            case Entity.HEALTH:
                return _just(Reserved.HEALTH)
            case Entity.KUBE_APISERVER:
                return _just(Reserved.KUBE_APISERVER)
            case _:
                assert_never(entity)

    def _remote_nodes(self) -> Numbers:
        return frozenset(number for _, number in self.population.remote_nodes)

    def _cidr(self, cidr: Network, excepts: Iterable[Network]) -> Numbers:
        numbers = self._within(canonical_network(cidr))
        for hole in excepts:
            numbers -= self._within(canonical_network(hole))
        return numbers

    def _within(self, network: Network) -> Numbers:
        if network.prefixlen == 0:
            return self.of_family[network.version]
        return self.inside.get(network, _NOBODY)

    def _services(self, peer: ServicePeer) -> Numbers:
        numbers: set[IdentityNumber] = set()
        for service in selected_services(self.population.services, peer):
            if service.selector is not None:
                numbers |= self.index.select(service.selector)
            numbers.update(self.population.service_backends[canonical_address(address)] for address in service.addresses)
        return frozenset(numbers)

    def _nodes(self, selector: LabelSelector) -> Numbers:
        numbers = {number for node, number in self.population.remote_nodes if selector.matches(node.labels)}
        if selector.matches(self.population.node.labels):
            numbers.add(IdentityNumber(int(Reserved.HOST)))
        return frozenset(numbers)


def _names_reserved(selector: LabelSelector) -> bool:
    return any(
        requirement.key.startswith(RESERVED_PREFIX) and requirement.operator in (Operator.IN, Operator.EXISTS)
        for requirement in selector.requirements
    )


def _just(number: Reserved) -> Numbers:
    return frozenset((IdentityNumber(int(number)),))


def _supernet(network: Network, length: int) -> Network:
    """Return the prefix of ``length`` bits that contains ``network``; ipaddress' own takes ten times as long."""
    shift = network.max_prefixlen - length
    base = int(network.network_address) >> shift << shift
    return IPv4Network((base, length)) if isinstance(network, IPv4Network) else IPv6Network((base, length))
