"""Who is where: endpoints grouped by label set, their numbers, and the ipcache that follows.

Owns: grouping, the numbering of everything in a world, and the content of the ipcache (its precedence is stated in
population.py). Must not know rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from l7filters.identity import IdentityNumber, IdentityTable, LabelSet, Network, Reserved
from l7filters.ir import IpcacheEntry
from l7filters.labels import Labels
from l7filters.population import (
    WORLD_PREFIXES,
    cidr_label_sets,
    host_network,
    network_order,
    remote_node_label_set,
)
from l7filters.ports import PortNumber
from l7filters.world import Endpoint, Node
from proxylib.dns.rules import NameSelector

REMOTE_NODE = IdentityNumber(int(Reserved.REMOTE_NODE))

# Ranks of the ipcache: of two claims to one prefix the lower wins.
_RANK_NODE, _RANK_REMOTE_NODE, _RANK_LOCAL, _RANK_REMOTE, _RANK_CIDR, _RANK_WORLD = range(6)

Claim = tuple[tuple[tuple[int, int, int], int, str], IpcacheEntry]
"""((prefix order, rank, endpoint), entry): sorts into ipcache order with the winner of each prefix first."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """All endpoints with one label set. Compared by identity: one object per label set for as long as it is in use."""

    label_set: LabelSet
    labels: Labels


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """An endpoint, its group and its addresses as prefixes."""

    endpoint: Endpoint
    group: Group
    networks: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class GroupTraits:
    """What a group's members have in common or add up to. ``local_names`` are those of local members only."""

    local: bool = False
    by_cgroup_only: bool = True
    names: frozenset[PortNumber] = frozenset()
    local_names: frozenset[PortNumber] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """Every endpoint by key, and every group in use. Compared by identity."""

    residents: Mapping[str, Resident] = field(default_factory=dict)
    groups: Mapping[LabelSet, Group] = field(default_factory=dict)
    traits: Mapping[Group, GroupTraits] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Numbering:
    """The numbers of one world. Compared by identity."""

    table: IdentityTable = field(default_factory=IdentityTable)
    groups: Mapping[Group, IdentityNumber] = field(default_factory=dict)
    cidrs: Mapping[Network, tuple[IdentityNumber, LabelSet]] = field(default_factory=dict)
    remote_nodes: tuple[tuple[Node, IdentityNumber], ...] = ()
    """Empty while all other nodes are REMOTE_NODE."""
    fqdns: Mapping[NameSelector, IdentityNumber] = field(default_factory=dict)


def take_census(endpoints: Iterable[Endpoint], previous: Census) -> Census:
    """Group ``endpoints``; returns ``previous`` itself when they are the same."""
    groups = dict(previous.groups)
    residents: dict[str, Resident] = {}
    touched: set[Group] = set()
    for endpoint in endpoints:
        key = endpoint.key
        known = previous.residents.get(key)
        if known is None or (known.endpoint is not endpoint and known.endpoint != endpoint):
            known = _resident(endpoint, groups)
            touched.add(known.group)
        residents[key] = known
    if not touched and len(residents) == len(previous.residents):
        return previous
    touched.update(known.group for key, known in previous.residents.items() if residents.get(key) is not known)
    traits = _traits(residents.values(), touched, previous.traits)
    if traits == previous.traits:
        return Census(residents, previous.groups, previous.traits)
    return Census(residents, {group.label_set: group for group in traits}, traits)


def number_everyone(
    census: Census,
    mentioned: frozenset[Network],
    nodes_selected: tuple[Node, ...],
    selectors: frozenset[NameSelector],
    identities: IdentityTable,
    previous: Numbering,
) -> Numbering:
    """Give every group, mentioned prefix, selected node and selector of names a number; known label sets keep theirs."""
    cidr_sets = cidr_label_sets(mentioned)
    node_sets = [(node, remote_node_label_set(node)) for node in nodes_selected]
    wanted = {group.label_set for group in census.traits}
    wanted.update(cidr_sets.values())
    wanted.update(label_set for _, label_set in node_sets)
    wanted.update(LabelSet(fqdn=selector) for selector in selectors)
    if wanted == identities.numbers.keys():
        table = identities
    else:
        known = [label_set for label_set in identities.numbers if label_set in wanted]
        new = sorted((label_set for label_set in wanted if label_set not in identities.numbers), key=_label_set_order)
        table = identities.allocate([*known, *new])
    groups = {group: table.numbers[group.label_set] for group in census.traits}
    cidrs = {network: (table.numbers[cidr_sets[network]], cidr_sets[network]) for network in sorted(cidr_sets, key=network_order)}
    remote = tuple((node, table.numbers[label_set]) for node, label_set in node_sets)
    fqdns = {selector: table.numbers[LabelSet(fqdn=selector)] for selector in sorted(selectors, key=_selector_order)}
    numbering = Numbering(table, groups, cidrs, remote, fqdns)
    return previous if _same(numbering, previous) else numbering


def resident_claims(resident: Resident, number: IdentityNumber) -> tuple[Claim, ...]:
    """Return what one endpoint contributes to the ipcache."""
    endpoint = resident.endpoint
    rank, name = (_RANK_LOCAL, endpoint.key) if endpoint.is_local else (_RANK_REMOTE, None)
    return tuple(
        ((network_order(network), rank, endpoint.key), IpcacheEntry(network, number, name)) for network in resident.networks
    )


def general_claims(node: Node, remote_nodes: Iterable[Node], numbering: Numbering) -> list[Claim]:
    """Return what nodes, mentioned prefixes and the world contribute to the ipcache."""
    claims = [_claim(host_network(address), _RANK_NODE, IdentityNumber(int(Reserved.HOST))) for address in node.addresses]
    numbered = numbering.remote_nodes or tuple((other, REMOTE_NODE) for other in remote_nodes)
    for other, number in numbered:
        claims.extend(_claim(host_network(address), _RANK_REMOTE_NODE, number) for address in other.addresses)
    claims.extend(_claim(network, _RANK_CIDR, number) for network, (number, _) in numbering.cidrs.items())
    claims.extend(_claim(network, _RANK_WORLD, IdentityNumber(int(number))) for network, number in WORLD_PREFIXES)
    return claims


def settle_claims(claims: list[Claim]) -> dict[tuple[int, int, int], IpcacheEntry]:
    """Return the ipcache by ``network_order`` of the prefix and in that order: the strongest claim to each prefix."""
    claims.sort(key=_claim_order)
    winners: dict[tuple[int, int, int], IpcacheEntry] = {}
    for order, entry in claims:
        winners.setdefault(order[0], entry)
    return winners


def _resident(endpoint: Endpoint, groups: dict[LabelSet, Group]) -> Resident:
    label_set = LabelSet.of(endpoint.labels)
    group = groups.get(label_set)
    if group is None:
        group = groups[label_set] = Group(label_set, dict(endpoint.labels))
    return Resident(endpoint, group, tuple(dict.fromkeys(map(host_network, endpoint.addresses))))


def _traits(
    residents: Iterable[Resident], touched: set[Group], previous: Mapping[Group, GroupTraits]
) -> dict[Group, GroupTraits]:
    """Return the traits of every group that has members, those of untouched groups as they were."""
    members: dict[Group, list[Endpoint]] = {}
    for resident in residents:
        if resident.group in touched:
            members.setdefault(resident.group, []).append(resident.endpoint)
    traits = {group: one for group, one in previous.items() if group not in touched or group in members}
    for group, endpoints in members.items():
        local = [endpoint for endpoint in endpoints if endpoint.is_local]
        one = GroupTraits(
            local=bool(local),
            by_cgroup_only=bool(local) and all(endpoint.interface is None for endpoint in local),
            names=_names(endpoints),
            local_names=_names(local),
        )
        if traits.get(group) != one:
            traits[group] = one
    return traits


def _names(endpoints: Iterable[Endpoint]) -> frozenset[PortNumber]:
    return frozenset(
        PortNumber(named.name, int(named.protocol), named.port) for endpoint in endpoints for named in endpoint.named_ports
    )


def _same(one: Numbering, other: Numbering) -> bool:
    return (one.table, one.groups, one.cidrs, one.remote_nodes, one.fqdns) == (
        other.table,
        other.groups,
        other.cidrs,
        other.remote_nodes,
        other.fqdns,
    )


def _selector_order(selector: NameSelector) -> tuple[str, str, tuple[str, ...]]:
    return (selector.match_name or "", selector.match_pattern or "", selector.excepts)


def _label_set_order(label_set: LabelSet) -> tuple[object, ...]:
    names = () if label_set.fqdn is None else _selector_order(label_set.fqdn)
    return (bool(label_set.cidrs), names, label_set.labels, sorted(map(network_order, label_set.cidrs)))


def _claim(network: Network, rank: int, number: IdentityNumber) -> Claim:
    return ((network_order(network), rank, ""), IpcacheEntry(network, number))


def _claim_order(claim: Claim) -> tuple[tuple[int, int, int], int, str]:
    return claim[0]
