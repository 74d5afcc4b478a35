"""A policy taken apart: its clauses with their ports and peers, before and after the peers are resolved.

Owns: the step from the model to placements (clause + port prefixes) and from peers to identity numbers. Must not know subjects,
precedence or entries.

Named ports belong to whoever listens: on ingress to the subject (resolved per subject, see resolution.py), on egress to the
peer (resolved here: a placement per set of meanings; a rule without peers reaches those peers that have the name).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from l7filters.identity import IdentityNumber, Network
from l7filters.ir import PolicyProblem
from l7filters.model import (
    CidrGroupPeer,
    CidrPeer,
    Direction,
    FqdnPeer,
    L7Protocol,
    Mode,
    NodePeer,
    Peer,
    Policy,
    PortRule,
    PortSpec,
    Protocol,
    Rule,
    ServicePeer,
)
from l7filters.population import Numbers, PeerResolver, group_networks, host_network, selected_services
from l7filters.ports import ANY_PORT, PortNumber, PortPrefix, is_named, spec_prefixes
from l7filters.precedence import Clause
from l7filters.trie import Placement
from l7filters.world import CidrGroup, Service
from proxylib.dns.rules import NameSelector


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One clause of one rule, with whom and what it covers. ``named`` are the ports that need somebody's names."""

    clause: Clause
    direction: Direction
    peers: tuple[Peer, ...] | None
    prefixes: tuple[PortPrefix, ...]
    named: tuple[PortSpec, ...] = ()

    def prefixes_with(self, names: Iterable[PortNumber]) -> tuple[PortPrefix, ...]:
        """Return all ports covered, ``names`` being the names where they belong."""
        resolved = (prefix for spec in self.named for prefix in spec_prefixes(spec, names))
        return _judgeable(self.clause, (*self.prefixes, *resolved))


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """One policy of the world, taken apart. Compared by identity: the same policy gives the same program."""

    policy: Policy
    items: tuple[Item, ...]
    networks: tuple[Network, ...]
    """Prefixes that rules spell out, with their excepts."""
    references: tuple[CidrGroupPeer | ServicePeer, ...]
    """Peers that stand for prefixes kept elsewhere in the world."""
    selects_peer_nodes: bool
    selectors: frozenset[NameSelector]
    """Names that rules allow servers by."""

    @property
    def audit(self) -> bool:
        """Whether the policy only reports."""
        return self.policy.mode is Mode.AUDIT


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """A placement and the identities it is about (None: any); those of a clause with names are identities of names.

    ``item`` is kept where the subject's port names are missing.
    """

    placement: Placement
    peers: Numbers | None
    item: Item | None = None
    outside: bool = False
    """Whether it holds for all of the world: then also for what is reached by name."""


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedProgram:
    """A program whose peers are numbers. Compared by identity; rebuilt only when some number changed."""

    program: Program
    egress: tuple[Statement, ...]
    ingress: tuple[Statement, ...]
    problems: tuple[PolicyProblem, ...]
    names_matter: bool
    """Whether the subject's port names matter on ingress."""

    @property
    def speaks_of_names(self) -> bool:
        """Whether some rule allows servers by their DNS name."""
        return bool(self.program.selectors)

    def statements(self, direction: Direction) -> tuple[Statement, ...]:
        """Return those of one direction."""
        return self.egress if direction is Direction.EGRESS else self.ingress


def take_apart(policy: Policy, taken: Mapping[str, Clause]) -> Program:
    """Return the program of ``policy``; ``taken`` are the clauses of earlier policies with the same key, by name.

    A name that is taken by another content gets a number: slots are known by their clauses' names, and two contents under
    one name would judge one flow by the rules of another.
    """
    items: list[Item] = []
    names = dict(taken)
    for rule in policy.rules:
        for part in _by_kind_of_peer(rule):
            clause = Clause(
                rule.origin,
                str(rule.origin),
                rule.deny,
                policy.mode is Mode.AUDIT,
                names=_selectors(part),
                offload=policy.offload,
            )
            if not rule.to_ports:
                items.append(Item(_named(clause, names), rule.direction, part.peers, (ANY_PORT,)))
            for port_rule in rule.to_ports:
                items.append(_item(part, port_rule, _named(_clause(clause, port_rule), names)))
    for observation in policy.observe:
        ports = observation.ports
        watcher = Clause(
            ports.origin, str(ports.origin), deny=False, audit=False, l7=ports.l7, observes=True, sample=observation.sample
        )
        items.append(_item(Rule(ports.origin, observation.direction), ports, _named(watcher, names)))
    peers = [peer for rule in policy.rules for peer in rule.peers or ()]
    cidrs = [peer for peer in peers if isinstance(peer, CidrPeer | CidrGroupPeer)]
    networks = [peer.cidr for peer in cidrs if isinstance(peer, CidrPeer)]
    return Program(
        policy,
        tuple(items),
        networks=tuple(dict.fromkeys([*networks, *(hole for peer in cidrs for hole in peer.excepts)])),
        references=tuple(peer for peer in peers if isinstance(peer, CidrGroupPeer | ServicePeer)),
        selects_peer_nodes=any(isinstance(peer, NodePeer) for peer in peers),
        selectors=frozenset(selector for item in items for selector in item.clause.names),
    )


def mentioned_networks(program: Program, groups: tuple[CidrGroup, ...], services: tuple[Service, ...]) -> Iterable[Network]:
    """Yield every prefix that a rule of ``program`` speaks of; a Service's listed addresses count as prefixes."""
    yield from program.networks
    for peer in program.references:
        if isinstance(peer, CidrGroupPeer):
            yield from group_networks(groups, peer)
        else:
            for service in selected_services(services, peer):
                yield from map(host_network, service.addresses)


def resolve_program(
    program: Program,
    resolver: PeerResolver,
    names: Mapping[IdentityNumber, tuple[PortNumber, ...]],
    previous: ResolvedProgram | None,
) -> ResolvedProgram:
    """Resolve the peers of ``program``; ``names`` are the named ports of every peer that has some.

    Returns ``previous`` itself when nothing came out differently.
    """
    egress: list[Statement] = []
    ingress: list[Statement] = []
    for item in program.items:
        peers = resolver.resolve(item.peers)
        if item.direction is Direction.INGRESS:
            placement = Placement(item.clause, item.prefixes)
            ingress.append(Statement(placement, peers, item if item.named else None))
        else:
            outside = item.peers is not None and resolver.means_world(item.peers)
            egress.extend(_egress_statements(item, peers, names, outside))
    problems = tuple(_missing_references(program, resolver))
    if previous is not None and previous.program is program and previous.problems == problems:
        same = _same(previous.egress, egress) and _same(previous.ingress, ingress)
        if same:
            return previous
    names_matter = any(statement.item is not None for statement in ingress)
    return ResolvedProgram(program, tuple(egress), tuple(ingress), problems, names_matter)


def _egress_statements(
    item: Item, peers: Numbers | None, names: Mapping[IdentityNumber, tuple[PortNumber, ...]], outside: bool
) -> Iterable[Statement]:
    if item.prefixes:
        yield Statement(Placement(item.clause, item.prefixes), peers, outside=outside)
    if not item.named:
        return
    numbers_by_prefixes: dict[tuple[PortPrefix, ...], list[IdentityNumber]] = {}
    named_only = Item(item.clause, item.direction, None, (), item.named)
    for number, owned in names.items():
        if peers is None or number in peers:
            prefixes = named_only.prefixes_with(owned)
            if prefixes:
                numbers_by_prefixes.setdefault(prefixes, []).append(number)
    for prefixes in sorted(numbers_by_prefixes):
        yield Statement(Placement(item.clause, prefixes), frozenset(numbers_by_prefixes[prefixes]))


def _same(before: tuple[Statement, ...], after: list[Statement]) -> bool:
    return len(before) == len(after) and all(
        (old.peers, old.outside) == (new.peers, new.outside)
        and old.placement.clause is new.placement.clause
        and old.placement.prefixes == new.placement.prefixes
        for old, new in zip(before, after, strict=True)
    )


def _named(clause: Clause, names: dict[str, Clause]) -> Clause:
    """Return ``clause`` under a name that no other content has, and note the name."""
    name, number = clause.name, 1
    while (known := names.get(name)) is not None and not known.says_the_same(clause):
        number += 1
        name = f"{clause.name}#{number}"
    if known is not None:
        return known
    names[name] = clause if name == clause.name else replace(clause, name=name)
    return names[name]


def _by_kind_of_peer(rule: Rule) -> Iterable[Rule]:
    """Yield ``rule`` once for its peers by name and once for its others: both come to the same ports by different ways.

    Names can't be denied, and nobody is known by name on ingress: the parsers refuse both.
    """
    named = tuple(peer for peer in rule.peers or () if isinstance(peer, FqdnPeer))
    if not named:
        yield rule
        return
    others = tuple(peer for peer in rule.peers or () if not isinstance(peer, FqdnPeer))
    if others:
        yield replace(rule, peers=others)
    if rule.direction is Direction.EGRESS and not rule.deny:
        yield replace(rule, peers=named)


def _selectors(rule: Rule) -> tuple[NameSelector, ...]:
    """Return the names that ``rule`` is about; none if it is about others."""
    return tuple(dict.fromkeys(peer.selector for peer in rule.peers or () if isinstance(peer, FqdnPeer)))


def _is_dns(clause: Clause) -> bool:
    return clause.l7 is not None and clause.l7.protocol is L7Protocol.DNS


def _clause(rule: Clause, port_rule: PortRule) -> Clause:
    assert not (rule.deny and (port_rule.l7 or port_rule.server_names)), "deny rules carry no L7"
    return replace(
        rule,
        origin=port_rule.origin,
        name=str(port_rule.origin),
        l7=port_rule.l7,
        server_names=port_rule.server_names,
        terminating_tls=port_rule.terminating_tls,
        originating_tls=port_rule.originating_tls,
        lists_udp=any(spec.protocol is Protocol.UDP for spec in port_rule.ports),
    )


def _item(rule: Rule, port_rule: PortRule, clause: Clause) -> Item:
    prefixes = tuple(prefix for spec in port_rule.ports if not is_named(spec) for prefix in spec_prefixes(spec, ()))
    named = tuple(spec for spec in port_rule.ports if is_named(spec))
    return Item(clause, rule.direction, rule.peers, _judgeable(clause, prefixes), named)


def _judgeable(clause: Clause, prefixes: tuple[PortPrefix, ...]) -> tuple[PortPrefix, ...]:
    """Drop ports on which nothing can speak what the clause wants spoken: L7 is TCP's, but for DNS also UDP's."""
    if not clause.redirects:
        return prefixes
    allowed = {int(Protocol.TCP)}
    if _is_dns(clause):
        allowed.add(int(Protocol.UDP))
    return tuple(prefix for prefix in prefixes if prefix.protocol in allowed)


def _missing_references(program: Program, resolver: PeerResolver) -> Iterable[PolicyProblem]:
    """Yield a problem per rule that names a CIDR group or Service that isn't there; it then stands for nobody."""
    if not program.references:
        return
    for rule in program.policy.rules:
        for peer in rule.peers or ():
            missing = _missing(peer, resolver)
            if missing:
                message = f"there is no {missing}"
                yield PolicyProblem(rule.origin.policy, rule.origin.path, message, "create it, or correct the name")


def _missing(peer: Peer, resolver: PeerResolver) -> str:
    """Return what ``peer`` names and the world lacks, or nothing."""
    population = resolver.population
    if isinstance(peer, CidrGroupPeer) and peer.name is not None:
        return "" if any(group.name == peer.name for group in population.cidr_groups) else f"CiliumCIDRGroup {peer.name}"
    if isinstance(peer, ServicePeer) and peer.name is not None:
        return "" if selected_services(population.services, peer) else f"Service {peer.namespace or '*'}/{peer.name}"
    return ""
