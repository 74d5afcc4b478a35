"""From a world to what kernel and Envoy shall do: the one pure function between policy and data plane.

Owns: the order of the stages, subjects, and what is remembered from one compile to the next. Must not know BPF, Envoy or slots'
numbers. The stages, each in its own module::

    endpoints -> groups, numbers, ipcache     census.py
    policies  -> programs                     program.py       clauses with ports, peers still selectors
    peers     -> numbers                      population.py
    programs  -> resolved programs            program.py       peers as numbers
    subject x direction -> tries              resolution.py, trie.py, precedence.py
    tries     -> entries, slots               (here)
    local ends that both redirect -> pairs    pairs.py

Subjects are the identities of local endpoints, and HOST. A subject's direction that no policy selects, and every one under
Enforcement.NEVER, has one explicit entry: any peer, any protocol, Allow. Under Enforcement.ALWAYS every direction is in default
deny, also with policies that set ``enableDefaultDeny: false``.

Host policies (``selects_nodes``) have the subject HOST, the identity of every address of this node. Enforcement.ALWAYS does not
reach HOST: a node is closed only by a policy that selects it. The proxy is not in the way of the host's own packets, so L7 rules
of host policies are closed and reported; so are ingress L7 rules of workloads that are known by cgroup alone.

Every stage hands on the object of the last compile when nothing in it changed, so that a change costs what it touches: a new
pod with a known label set an ipcache entry, an edited policy the subjects it selects. The ``Memo`` that makes this possible is
a value: any memo, or none, gives the same CompiledPolicy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from l7filters.census import (
    Census,
    Claim,
    GroupTraits,
    Numbering,
    Resident,
    general_claims,
    number_everyone,
    resident_claims,
    settle_claims,
    take_census,
)
from l7filters.identity import IdentityNumber, IdentityTable, Network, Reserved
from l7filters.ir import (
    CompiledPolicy,
    EntryKey,
    IpcacheEntry,
    LocalEndpoint,
    PolicyEntry,
    PolicyProblem,
    Slot,
    SlotKey,
    SlotPair,
)
from l7filters.model import Direction, Policy, PolicyKey, ServicePeer
from l7filters.pairs import End, Meetings, Pairing, meetings, pair_up
from l7filters.population import (
    Numbers,
    PeerResolver,
    Population,
    canonical_address,
    host_network,
    network_order,
    selected_services,
)
from l7filters.ports import PortNumber
from l7filters.precedence import Clause
from l7filters.program import Program, ResolvedProgram, mentioned_networks, resolve_program, take_apart
from l7filters.resolution import Resolution, SubjectTraits, TrieKey, entry_rows, resolve_direction
from l7filters.trie import Trie
from l7filters.world import Address, Enforcement, Node, World
from proxylib.dns.rules import NameSelector

HOST = IdentityNumber(int(Reserved.HOST))
TRIES_SPARE_MAX = 4096
"""How many tries no longer in use a memo keeps, in case they come back, before it is swept."""

_HOST_UNREDIRECTABLE = "L7 rules can't be enforced on the host's own traffic"
_HOST_NAMELESS = "toFQDNs and DNS rules can't be enforced on the host's own traffic: they allow nothing"
_CGROUP_NAMELESS = "toFQDNs and DNS rules can't be enforced for a workload known only by its cgroup: they allow nothing"
_CGROUP_UNREDIRECTABLE = "ingress L7 rules can't be enforced for a workload known only by its cgroup"

Names = Mapping[IdentityNumber, tuple[PortNumber, ...]]
Programs = Mapping[PolicyKey, tuple[Program, ...]]
ResolutionKey = tuple[Direction, tuple[ResolvedProgram, ...], SubjectTraits]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A local identity, the policies that select it, and its entries. Compared by identity."""

    number: IdentityNumber
    selecting: tuple[ResolvedProgram, ...]
    egress_traits: SubjectTraits
    ingress_traits: SubjectTraits
    egress: Resolution
    ingress: Resolution
    entries: tuple[PolicyEntry, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Addresses:
    """The stage of addresses: what each resident contributes, and the ipcache of them all."""

    claims: Mapping[Resident, tuple[IdentityNumber, tuple[Claim, ...], LocalEndpoint | None]] = field(default_factory=dict)
    ipcache: Mapping[tuple[int, int, int], IpcacheEntry] = field(default_factory=dict)
    endpoints: tuple[LocalEndpoint, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Rules:
    """The stage of policies: resolved programs and whom they select."""

    resolver: PeerResolver | None = None
    names: Names = field(default_factory=dict)
    resolved: Mapping[Program, ResolvedProgram] = field(default_factory=dict)
    subjects_of: Mapping[Program, Numbers] = field(default_factory=dict)
    selecting: Mapping[IdentityNumber, tuple[ResolvedProgram, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Verdicts:
    """The stage of subjects: their entries, and the slots those redirect to."""

    subjects: Mapping[IdentityNumber, Subject] = field(default_factory=dict)
    resolutions: Mapping[ResolutionKey, Resolution] = field(default_factory=dict)
    tries: Mapping[TrieKey, Trie] = field(default_factory=dict)
    tries_max: int = TRIES_SPARE_MAX
    meetings: Mapping[tuple[Trie, Trie], Meetings] = field(default_factory=dict)
    entries: tuple[PolicyEntry, ...] = ()
    slots: tuple[Slot, ...] = ()
    pairs: tuple[SlotPair, ...] = ()
    problems: tuple[PolicyProblem, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Memo:
    """What one compile leaves for the next. Opaque; holds nothing that the last world does not, but for a few spare tries."""

    world: World | None = None
    census: Census = field(default_factory=Census)
    programs: Programs = field(default_factory=dict)
    mentioned: frozenset[Network] = frozenset()
    nodes_selected: tuple[Node, ...] = ()
    selectors: frozenset[NameSelector] = frozenset()
    numbering: Numbering = field(default_factory=Numbering)
    addresses: _Addresses = field(default_factory=_Addresses)
    rules: _Rules = field(default_factory=_Rules)
    verdicts: _Verdicts = field(default_factory=_Verdicts)


def compile(world: World, identities: IdentityTable) -> CompiledPolicy:
    """Return all that follows from ``world``. ``identities`` is the numbering so far; the result holds the new one."""
    return recompile(world, identities, Memo())[0]


def recompile(world: World, identities: IdentityTable, memo: Memo) -> tuple[CompiledPolicy, Memo]:
    """Do what ``compile`` does, from where ``memo`` was left; pass on the memo returned.

    The result does not depend on ``memo``, only the cost does. Unchanged policies and endpoints should be the same objects as
    before; equal ones cost a comparison each.
    """
    census = take_census(world.endpoints, memo.census)
    programs = _take_apart_all(world.policies, memo.programs)
    everything = tuple(chain.from_iterable(programs.values()))
    mentioned, nodes_selected = memo.mentioned, memo.nodes_selected
    if programs is not memo.programs or not _same_surroundings(world, memo.world):
        mentioned = _mentioned(everything, world)
        nodes_selected = world.remote_nodes if any(program.selects_peer_nodes for program in everything) else ()
    selectors = memo.selectors
    if programs is not memo.programs:
        selectors = frozenset(selector for program in everything for selector in program.selectors)
    same_people = census.traits is memo.census.traits and identities is memo.numbering.table
    same_mentions = (mentioned, nodes_selected, selectors) == (memo.mentioned, memo.nodes_selected, memo.selectors)
    if same_people and same_mentions:
        numbering = memo.numbering
    else:
        numbering = number_everyone(census, mentioned, nodes_selected, selectors, identities, memo.numbering)
    addresses = _address(world, census, numbering, memo)
    rules = _resolve_rules(world, census, everything, numbering, addresses, memo)
    verdicts = _judge(world, census, numbering, rules, memo)
    compiled = CompiledPolicy(
        revision=world.revision,
        identities=numbering.table,
        ipcache=tuple(addresses.ipcache.values()),
        entries=verdicts.entries,
        slots=verdicts.slots,
        pairs=verdicts.pairs,
        endpoints=addresses.endpoints,
        problems=(*verdicts.problems, *_half_enforced(world)),
    )
    return compiled, Memo(world, census, programs, mentioned, nodes_selected, selectors, numbering, addresses, rules, verdicts)


def _half_enforced(world: World) -> tuple[PolicyProblem, ...]:
    """Return a problem for every policy that selects this node: only what local endpoints send to it is judged."""
    message = "traffic between this node and anything but its own workloads is not judged by this version"
    hint = "what the node's workloads send to it is judged; for the rest use the node's firewall"
    return tuple(
        PolicyProblem(policy.key, "spec.nodeSelector", message, hint)
        for policy in world.policies
        if policy.selects_nodes and policy.subject.matches(world.node.labels)
    )


def _same_surroundings(world: World, previous: World | None) -> bool:
    """Tell whether all is as it was but endpoints and policies."""
    return previous is not None and (
        world.node,
        world.services,
        world.cidr_groups,
        world.remote_nodes,
        world.enforcement,
    ) == (previous.node, previous.services, previous.cidr_groups, previous.remote_nodes, previous.enforcement)


def _take_apart_all(policies: Iterable[Policy], previous: Programs) -> Programs:
    """Return every policy's program; those of unchanged policies are the previous ones."""
    by_key: dict[PolicyKey, list[Policy]] = {}
    for policy in policies:
        by_key.setdefault(policy.key, []).append(policy)
    programs: dict[PolicyKey, tuple[Program, ...]] = {}
    changed = len(by_key) != len(previous)
    for key in sorted(by_key):
        known = previous.get(key, ())
        if _are_programs_of(known, by_key[key]):
            programs[key] = known
            continue
        changed = True
        clauses: dict[str, Clause] = {}
        fresh: list[Program] = []
        for policy in by_key[key]:
            program = take_apart(policy, clauses)
            clauses.update({item.clause.name: item.clause for item in program.items})
            fresh.append(program)
        programs[key] = tuple(fresh)
    return programs if changed else previous


def _are_programs_of(programs: tuple[Program, ...], policies: list[Policy]) -> bool:
    return len(programs) == len(policies) and all(
        program.policy is policy or program.policy == policy for program, policy in zip(programs, policies, strict=True)
    )


def _mentioned(programs: Iterable[Program], world: World) -> frozenset[Network]:
    return frozenset(
        network for program in programs for network in mentioned_networks(program, world.cidr_groups, world.services)
    )


def _address(world: World, census: Census, numbering: Numbering, memo: Memo) -> _Addresses:
    """Return the ipcache and the local endpoints."""
    previous = memo.addresses
    if census is memo.census and numbering is memo.numbering and _same_surroundings(world, memo.world):
        return previous
    claims: dict[Resident, tuple[IdentityNumber, tuple[Claim, ...], LocalEndpoint | None]] = {}
    for resident in census.residents.values():
        number = numbering.groups[resident.group]
        known = previous.claims.get(resident)
        if known is None or known[0] != number:
            endpoint = resident.endpoint
            local = LocalEndpoint(endpoint.key, number, endpoint.interface, endpoint.cgroup) if endpoint.is_local else None
            known = (number, resident_claims(resident, number), local)
        claims[resident] = known
    every_claim = general_claims(world.node, world.remote_nodes, numbering)
    for _, some, _ in claims.values():
        every_claim.extend(some)
    endpoints = sorted((local for _, _, local in claims.values() if local is not None), key=lambda local: local.key)
    return _Addresses(claims, settle_claims(every_claim), tuple(endpoints))


def _service_backends(world: World, programs: Iterable[Program], addresses: _Addresses) -> dict[Address, IdentityNumber]:
    """Return whose each address is that a Service in force lists."""
    references = {peer for program in programs for peer in program.references if isinstance(peer, ServicePeer)}
    services = (service for peer in references for service in selected_services(world.services, peer))
    return {
        address: addresses.ipcache[network_order(host_network(address))].identity
        for service in services
        for address in map(canonical_address, service.addresses)
    }


def _population(world: World, numbering: Numbering, backends: Mapping[Address, IdentityNumber]) -> Population:
    return Population(
        endpoints={number: group.labels for group, number in numbering.groups.items()},
        cidrs=numbering.cidrs,
        node=world.node,
        remote_nodes=numbering.remote_nodes,
        services=world.services,
        cidr_groups=world.cidr_groups,
        service_backends=backends,
        fqdns=numbering.fqdns,
    )


def _resolve_rules(
    world: World, census: Census, programs: tuple[Program, ...], numbering: Numbering, addresses: _Addresses, memo: Memo
) -> _Rules:
    """Return every program with its peers as numbers, and whom it selects."""
    previous = memo.rules
    backends = _service_backends(world, programs, addresses)
    same_people = census.traits is memo.census.traits and numbering is memo.numbering
    resolver = previous.resolver
    same_peers = (
        resolver is not None
        and same_people
        and backends == resolver.population.service_backends
        and _same_surroundings(world, memo.world)
    )
    if same_peers and programs == tuple(previous.resolved):
        return previous
    population = _population(world, numbering, backends)
    if resolver is None or resolver.population != population:
        resolver = PeerResolver.of(population)
    names: Names = {
        numbering.groups[group]: tuple(sorted(traits.names)) for group, traits in census.traits.items() if traits.names
    }
    same_peers = resolver is previous.resolver and names == previous.names
    local = frozenset(numbering.groups[group] for group, traits in census.traits.items() if traits.local)
    resolved: dict[Program, ResolvedProgram] = {}
    subjects_of: dict[Program, Numbers] = {}
    for program in programs:
        known = previous.resolved.get(program)
        if known is None or not same_peers:
            known = resolve_program(program, resolver, names, known)
        resolved[program] = known
        subjects_of[program] = _subjects_of(program, world.node, resolver, local)
    selecting: dict[IdentityNumber, list[ResolvedProgram]] = {number: [] for number in sorted({*local, HOST})}
    for program, numbers in subjects_of.items():
        for number in numbers:
            selecting[number].append(resolved[program])
    return _Rules(resolver, names, resolved, subjects_of, {number: tuple(some) for number, some in selecting.items()})


def _subjects_of(program: Program, node: Node, resolver: PeerResolver, local: Numbers) -> Numbers:
    policy = program.policy
    if policy.selects_nodes:
        return frozenset((HOST,)) if policy.subject.matches(node.labels) else frozenset()
    return resolver.index.select(policy.subject) & local


def _judge(world: World, census: Census, numbering: Numbering, rules: _Rules, memo: Memo) -> _Verdicts:
    """Return the entries of all subjects, their slots and pairs."""
    previous = memo.verdicts
    same_world = memo.world is not None and (world.enforcement, world.fqdn_ports) == (
        memo.world.enforcement,
        memo.world.fqdn_ports,
    )
    if rules is memo.rules and same_world:
        return previous
    groups = {number: group for group, number in numbering.groups.items()}
    resolutions = dict(previous.resolutions)
    tries = dict(previous.tries)
    subjects: dict[IdentityNumber, Subject] = {}
    for number, selecting in rules.selecting.items():
        traits = census.traits[groups[number]] if number in groups else None
        egress, ingress = _traits(world, traits, selecting)
        known = previous.subjects.get(number)
        if known is None or (known.selecting, known.egress_traits, known.ingress_traits) != (selecting, egress, ingress):
            known = _subject(number, selecting, egress, ingress, resolutions, tries)
        subjects[number] = known
    if subjects == previous.subjects and rules.resolved == memo.rules.resolved:
        return previous
    return _assemble(subjects, rules, tries, previous)


def _traits(
    world: World, traits: GroupTraits | None, selecting: tuple[ResolvedProgram, ...]
) -> tuple[SubjectTraits, SubjectTraits]:
    """Return the traits for egress and ingress; ``traits`` None: the host."""
    enforcement = world.enforcement
    if traits is None:
        if enforcement is Enforcement.ALWAYS:
            enforcement = Enforcement.DEFAULT
        host = SubjectTraits(enforcement, unredirectable=_HOST_UNREDIRECTABLE)
        return replace(host, nameless=_HOST_NAMELESS), host
    names_matter = any(program.names_matter for program in selecting)
    ingress = SubjectTraits(
        enforcement,
        names=tuple(sorted(traits.local_names)) if names_matter else (),
        unredirectable=_CGROUP_UNREDIRECTABLE if traits.by_cgroup_only else "",
    )
    nameless = _CGROUP_NAMELESS if traits.by_cgroup_only else ""
    return SubjectTraits(enforcement, nameless=nameless, ports=world.fqdn_ports), ingress


def _subject(
    number: IdentityNumber,
    selecting: tuple[ResolvedProgram, ...],
    egress_traits: SubjectTraits,
    ingress_traits: SubjectTraits,
    resolutions: dict[ResolutionKey, Resolution],
    tries: dict[TrieKey, Trie],
) -> Subject:
    found: list[Resolution] = []
    for direction, traits in ((Direction.EGRESS, egress_traits), (Direction.INGRESS, ingress_traits)):
        key = (direction, selecting, traits)
        if key not in resolutions:
            resolutions[key] = resolve_direction(direction, selecting, traits, tries)
        found.append(resolutions[key])
    egress, ingress = found
    entries = tuple(
        PolicyEntry(EntryKey(number, peer, direction, prefix.protocol, prefix.port, prefix.bits), verdict)
        for peer, direction, prefix, verdict in entry_rows(egress, ingress)
    )
    return Subject(number, selecting, egress_traits, ingress_traits, egress, ingress, entries)


def _assemble(
    subjects: Mapping[IdentityNumber, Subject], rules: _Rules, tries: dict[TrieKey, Trie], previous: _Verdicts
) -> _Verdicts:
    """Put together what all subjects say."""
    distinct = {resolution for subject in subjects.values() for resolution in (subject.egress, subject.ingress)}
    slots: dict[SlotKey, Slot] = {}
    problems: dict[PolicyProblem, None] = {}
    for resolution in distinct:
        slots.update(resolution.slots())
        problems.update(dict.fromkeys(resolution.problems()))
    for resolved in rules.resolved.values():
        problems.update(dict.fromkeys(resolved.problems))
    known_meetings = dict(previous.meetings)
    ends = [End(subject.number, subject.egress, subject.ingress) for subject in subjects.values() if subject.number != HOST]
    pairing: Pairing = pair_up(meetings(ends, known_meetings), slots)
    problems.update(dict.fromkeys(pairing.problems))
    slots.update({slot.key: slot for slot in pairing.slots})
    tries_max = previous.tries_max
    if len(tries) > tries_max:
        live = {trie for resolution in distinct for trie in resolution.tries()}
        tries = {key: trie for key, trie in tries.items() if trie in live}
        known_meetings = {both: met for both, met in known_meetings.items() if live.issuperset(both)}
        tries_max = 2 * len(tries) + TRIES_SPARE_MAX
    resolutions: dict[ResolutionKey, Resolution] = {}
    for subject in subjects.values():
        resolutions[(Direction.EGRESS, subject.selecting, subject.egress_traits)] = subject.egress
        resolutions[(Direction.INGRESS, subject.selecting, subject.ingress_traits)] = subject.ingress
    return _Verdicts(
        subjects=subjects,
        resolutions=resolutions,
        tries=tries,
        tries_max=tries_max,
        meetings=known_meetings,
        entries=tuple(chain.from_iterable(subject.entries for subject in subjects.values())),
        slots=tuple(slots[key] for key in sorted(slots, key=_slot_order)),
        pairs=tuple(sorted(pairing.pairs, key=lambda pair: (_slot_order(pair.egress), _slot_order(pair.ingress)))),
        problems=tuple(sorted(problems, key=lambda problem: (problem.policy, problem.path, problem.message))),
    )


def _slot_order(key: SlotKey) -> tuple[str, bool, tuple[str, ...], bool, tuple[str, ...]]:
    return (key.protocol, key.egress is not None, key.egress or (), key.ingress is not None, key.ingress or ())
