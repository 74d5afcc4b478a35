"""The verdict on one flow, straight from what the user wrote: slow, obvious, and what everything else is held against.

Owns: the judgement of a flow by policies as values. It shares no code with ``compile`` (which says the same for all flows at
once); the oracle tests hold both, the kernel's program and Envoy against each other. Must not know identities, slots or maps.

A flow has up to two sides: egress, judged by the policies of its source if this node enforces it, and ingress, judged by those
of its destination. Each side, in this order, first match decides:

1. A deny rule covers the flow: denied.
2. Rules that allow cover it and some have L7 rules, server names or TLS contexts: to the proxy, by the union of them all.
   Rules that can't be united close the flow. A message passes when no L7 deny rule matches it and some L7 allow rule does, or
   some covering rule has no L7 allow rules, or the side isn't in default deny; and the TLS server name is one of those that
   the rules list together, unless one lists none.
3. A rule that allows covers it, or the side isn't in default deny: allowed.
4. Otherwise denied, by default.

A side is in default deny when a policy that selects its endpoint says so. Both sides must allow. What this host sends to its
own endpoints always passes. Audit: a side is judged twice, by the enforcing policies (the verdict) and by all of them (the
shadow); a flow that passes the first and not the second is *audited*. A shadow that needs a TLS context which the enforcing
policies don't give is not judged: audit changes nothing that is sent. Observe: what a side allows without the proxy is led
through it where a policy observes the port, to a union that allows every message; where names are in play, nothing is observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from l7filters.decision import (
    Clause,
    Decision,
    Flow,
    Outcome,
    Problem,
    Reason,
    Ruling,
    Side,
    Union,
    Verdict,
    needs_proxy,
)
from l7filters.fqdn import DnsQuestion, dns_holds, names_hold, selector_holds
from l7filters.http import HttpRequest
from l7filters.ir import ServerNameRule
from l7filters.kafka import KafkaRequest, Place, kafka_holds
from l7filters.labels import Labels
from l7filters.model import (
    PORT_PROTOCOLS,
    Direction,
    DnsRule,
    FqdnPeer,
    HttpRule,
    KafkaRule,
    L7Protocol,
    L7Rule,
    Mode,
    Peer,
    Policy,
    PortRule,
    PortSpec,
    Protocol,
    Rule,
    RuleOrigin,
    TlsContext,
)
from l7filters.parties import Party, PartyKind, find_party, mean_world, named_ports, peer_holds
from l7filters.predicates import NO_SECRETS, SecretTexts, header_actions, http_holds, server_name_holds
from l7filters.world import Endpoint, Enforcement, World
from proxylib.dns.rules import NameSelector
from proxylib.kafka.authorization import AUTHORIZATIONS

DNS_PORT = 53


def evaluate(world: World, flow: Flow, secrets: SecretTexts = NO_SECRETS) -> Decision:
    """Return what becomes of ``flow`` in ``world``. Raises UnknownPartyError for an end that isn't there."""
    source, destination = find_party(world, flow.source), find_party(world, flow.destination)
    if destination.is_host:
        # Only addresses can be dialled, and a workload known by its cgroup has none of its own.
        destination = replace(destination, subject=None)
    verdict_on_host = _from_host(source, destination)
    if verdict_on_host is not None:
        return verdict_on_host
    sides: list[Side] = []
    if source.subject is not None or source.is_host:
        sides.append(_judge_side(world, flow, Direction.EGRESS, source, destination, secrets))
    if destination.subject is not None or destination.is_host:
        sides.append(_judge_side(world, flow, Direction.INGRESS, destination, source, secrets))
    return _combine(source, destination, _set_aside(sides))


def _from_host(source: Party, destination: Party) -> Decision | None:
    """Judge the host's own traffic to local endpoints; a workload's by cgroup is first judged by the workload's policy."""
    to_own = destination.subject is not None and destination.kind is PartyKind.ENDPOINT
    if not (source.is_host and source.subject is None and to_own):
        return None
    return Decision(
        verdict=Verdict.ALLOWED,
        outcome=Outcome.ALLOW,
        reason=Reason.FROM_HOST,
        audited=False,
        source=source,
        destination=destination,
    )


# ---- one side -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Way:
    """What says of one side how its peer is reached: by its address, or by one name of a rule. ``kin``: all rules by name."""

    covering: tuple[Clause, ...]
    kin: tuple[Clause, ...] = ()
    by_name: bool = False
    carries: L7Protocol | None = None


def _judge_side(world: World, flow: Flow, direction: Direction, subject: Party, peer: Party, secrets: SecretTexts) -> Side:
    selecting = tuple(policy for policy in policies_of(world, subject) if touches(policy, direction))
    enforced = _open_or_not(world, subject, selecting, direction, with_audit=False)
    shadow = _open_or_not(world, subject, selecting, direction, with_audit=True)
    from_host = direction is Direction.INGRESS and peer.is_host and subject.kind is PartyKind.ENDPOINT
    if from_host or world.enforcement is Enforcement.NEVER:
        selecting, enforced, shadow = (), True, True
    why_not = _unredirectable(direction, subject, world)
    ways = _ways(world, flow, direction, subject, peer, selecting)
    judged = [_judge_way(way, selecting, enforced, shadow, why_not) for way in ways]
    if from_host:
        judged = [(outcome, replace(ruling, reason=Reason.FROM_HOST), ruling) for outcome, ruling, _ in judged]
    outcome, ruling, shadowed = max(
        ((*one, way) for one, way in zip(judged, ways, strict=True)),
        key=lambda found: _weight(found[0], found[1], found[2], found[3]),
    )[:3]
    observing: tuple[RuleOrigin, ...] = ()
    if outcome is Outcome.ALLOW and why_not in (None, Problem.DNS_ON_CGROUP):
        observing = _observing(world, selecting, direction, subject, peer, flow)
    if observing:
        outcome, alike = Outcome.REDIRECT, shadowed.outcome is Outcome.ALLOW
        ruling = replace(ruling, union=Union(protocol=L7Protocol.HTTP, allow_all=ruling.rules, is_open=enforced))
        shadowed = ruling if alike else shadowed
    return Side(
        direction=direction,
        subject=subject,
        peer=peer,
        selected_by=tuple(dict.fromkeys(policy.key for policy in selecting)),
        default_deny=tuple(dict.fromkeys(p.key for p in selecting if direction in p.default_deny and p.mode is Mode.ENFORCE)),
        is_open=enforced,
        outcome=outcome,
        ruling=_l7(ruling, flow, secrets),
        shadow=_l7(shadowed, flow, secrets),
        observed_by=observing,
    )


def _ways(
    world: World, flow: Flow, direction: Direction, subject: Party, peer: Party, selecting: Sequence[Policy]
) -> tuple[_Way, ...]:
    """Return how the peer is reached: by its address, and by each name of a rule that DNS gave it to the subject for."""
    covering = [clause for policy in selecting for clause in covering_clauses(world, policy, direction, subject, peer, flow)]
    by_address = tuple(clause for clause in covering if not clause.names)
    if direction is Direction.INGRESS or _knows_no_names(world, subject):
        return (_Way(by_address),)
    named = {
        selector: None
        for policy in selecting
        for rule in policy.rules
        if rule.direction is direction and not rule.deny
        for selector in _selectors(rule)
    }
    asks = L7Protocol.DNS if named and _is_dns_port(flow) else None
    ways = [_Way(by_address, carries=asks)]
    if peer.kind is PartyKind.WORLD:
        kin = tuple(clause for clause in covering if clause.names)
        outside = tuple(c for c in by_address if c.rule.peers is None or mean_world(world, _others(c.rule)))
        # Where Kafka or DNS is spoken names have slots of their own, and of several the first decides.
        for selector in sorted(named, key=lambda one: (one.match_name or "", one.match_pattern or "", one.excepts)):
            if not any(selector_holds(selector, name) for name in flow.names):
                continue
            own = tuple(c for c in kin if selector in c.names and not (_is_quic(world, flow) and not _lists_udp(c)))
            ways.append(_Way((*outside, *own), kin, by_name=True, carries=asks or _carried(world, flow)))
    return tuple(ways)


def _observing(
    world: World, selecting: Sequence[Policy], direction: Direction, subject: Party, peer: Party, flow: Flow
) -> tuple[RuleOrigin, ...]:
    """Return who wants to see the flow; nobody does where servers are reached by name."""
    by_name = any(
        _selectors(rule) for policy in selecting for rule in policy.rules if rule.direction is direction and not rule.deny
    )
    if by_name and direction is Direction.EGRESS and not _knows_no_names(world, subject):
        return ()
    return tuple(
        dict.fromkeys(
            one.ports.origin
            for policy in selecting
            for one in policy.observe
            if one.direction is direction and ports_hold(world, one.ports, direction, subject, peer, flow)
        )
    )


def _is_dns_port(flow: Flow) -> bool:
    return flow.protocol in (Protocol.TCP, Protocol.UDP) and flow.destination_port == DNS_PORT


def _is_quic(world: World, flow: Flow) -> bool:
    """Tell whether a port is UDP's twin of one that carries TLS: nobody sees there which name is meant."""
    return flow.protocol == Protocol.UDP and flow.destination_port in world.fqdn_ports.tls


def _lists_udp(clause: Clause) -> bool:
    return clause.port_rule is not None and any(spec.protocol is Protocol.UDP for spec in clause.port_rule.ports)


def _carried(world: World, flow: Flow) -> L7Protocol | None:
    """Return what a port is known to carry, by the node's settings."""
    if flow.protocol == Protocol.TCP and flow.destination_port in world.fqdn_ports.tls:
        return L7Protocol.TLS
    return L7Protocol.HTTP if flow.protocol == Protocol.TCP and flow.destination_port in world.fqdn_ports.http else None


def _judge_way(
    way: _Way, selecting: Sequence[Policy], enforced: bool, shadow: bool, why_not: Problem | None
) -> tuple[Outcome, Ruling, Ruling]:
    """Return what becomes of the connection, the ruling and its shadow, if the peer were reached in this way alone."""
    enforcing = _with_kin([c for c in way.covering if _enforces(c)], [c for c in way.kin if _enforces(c)])
    ruling = _l3_l4(enforcing, selecting, enforced, why_not, way.carries)
    audit = any(policy.mode is Mode.AUDIT for policy in selecting)
    everything = _with_kin(way.covering, way.kin)
    shadowed = _l3_l4(everything, selecting, shadow, why_not, way.carries) if audit else ruling
    if shadowed.union is not None and (_tls(shadowed) != _tls(ruling) or _speaks_other(shadowed, ruling)):
        # Audit would have to change what is sent, or taken for what; such rules are not judged.
        shadowed = ruling
    outcome = ruling.outcome
    if outcome is Outcome.ALLOW and shadowed.outcome is Outcome.REDIRECT:
        # The proxy has to see the messages that audit policies want judged.
        assert shadowed.union is not None
        outcome = Outcome.REDIRECT
        passing = Union(protocol=shadowed.union.protocol, allow_all=ruling.rules, is_open=enforced)
        ruling = replace(ruling, union=passing)
    return outcome, ruling, shadowed


def _weight(outcome: Outcome, ruling: Ruling, shadow: Ruling, way: _Way) -> int:
    """Return how much one way's verdict counts beside the others': an explicit deny, an allow, a redirect, default deny."""
    match outcome:
        case Outcome.DENY:
            return 0 if ruling.reason is Reason.DEFAULT_DENY else 5
        case Outcome.ALLOW:
            return 3 if shadow.outcome is Outcome.DENY else 4
        case Outcome.REDIRECT:
            return 2 if way.by_name else 1
        case _:
            assert_never(outcome)


def _enforces(clause: Clause) -> bool:
    return clause.policy.mode is Mode.ENFORCE


def _with_kin(covering: Sequence[Clause], kin: Sequence[Clause]) -> tuple[Clause, ...]:
    """Return what counts where ``covering`` do: where some of them go by name, all that do and say which name is meant."""
    named = [clause for clause in covering if clause.names]
    if not named or not all(_says_its_name(clause) for clause in named):
        return tuple(covering)
    return (*(c for c in covering if not c.names), *(c for c in kin if _says_its_name(c)))


def _says_its_name(clause: Clause) -> bool:
    """Tell whether what is said on its ports can be held to its names: HTTP and TLS say which server is meant."""
    l7 = clause.port_rule.l7 if clause.port_rule is not None else None
    return l7 is None or l7.protocol in (L7Protocol.HTTP, L7Protocol.TLS)


def _speaks_other(shadow: Ruling, ruling: Ruling) -> bool:
    return ruling.union is not None and shadow.union is not None and ruling.union.protocol is not shadow.union.protocol


def _knows_no_names(world: World, subject: Party) -> bool:
    """Tell whether DNS can't be seen telling the subject names: the host, and workloads without a namespace of their own."""
    return subject.subject is None or _is_cgroup_only(world, subject.subject)


def _is_cgroup_only(world: World, endpoint: Endpoint) -> bool:
    return all(e.interface is None for e in world.endpoints if e.is_local and e.labels == endpoint.labels)


def _selectors(rule: Rule) -> tuple[NameSelector, ...]:
    return tuple(peer.selector for peer in rule.peers or () if isinstance(peer, FqdnPeer))


def _others(rule: Rule) -> tuple[Peer, ...]:
    return tuple(peer for peer in rule.peers or () if not isinstance(peer, FqdnPeer))


def _tls(ruling: Ruling) -> tuple[TlsContext | None, TlsContext | None]:
    return (None, None) if ruling.union is None else (ruling.union.terminating, ruling.union.originating)


def policies_of(world: World, subject: Party) -> tuple[Policy, ...]:
    """Return the policies, in any mode, that select ``subject`` as this node enforces it."""
    if subject.subject is not None:
        labels: Labels = subject.subject.labels
        return tuple(policy for policy in world.policies if not policy.selects_nodes and policy.subject.matches(labels))
    if subject.is_host:
        return tuple(p for p in world.policies if p.selects_nodes and p.subject.matches(world.node.labels))
    return ()


def touches(policy: Policy, direction: Direction) -> bool:
    """Tell whether a policy says anything about a direction."""
    said = {*(rule.direction for rule in policy.rules), *(one.direction for one in policy.observe)}
    return direction in policy.default_deny or direction in said


def _open_or_not(world: World, subject: Party, selecting: Iterable[Policy], direction: Direction, *, with_audit: bool) -> bool:
    """Tell whether what no rule covers passes. A host is closed only by a policy that selects it."""
    if world.enforcement is Enforcement.ALWAYS and subject.subject is not None:
        return False
    counting = (policy for policy in selecting if with_audit or policy.mode is Mode.ENFORCE)
    return not any(direction in policy.default_deny for policy in counting)


def _unredirectable(direction: Direction, subject: Party, world: World) -> Problem | None:
    if subject.subject is None:
        return Problem.ON_HOST
    if _is_cgroup_only(world, subject.subject):
        return Problem.ON_CGROUP if direction is Direction.INGRESS else Problem.DNS_ON_CGROUP
    return None


# ---- which rules cover a flow -------------------------------------------------------------------------------------


def covering_clauses(
    world: World, policy: Policy, direction: Direction, subject: Party, peer: Party, flow: Flow
) -> Iterable[Clause]:
    """Yield the clauses of ``policy``, which selects the subject, whose ports cover the flow; peers, too, unless by name."""
    for rule in policy.rules:
        if rule.direction is not direction:
            continue
        by_name = _selectors(rule) if direction is Direction.EGRESS and not rule.deny else ()
        for names in ([()] if peers_hold(world, rule, peer) else []) + ([by_name] if by_name else []):
            if not rule.to_ports:
                yield Clause(policy, rule, names=names)
            for port_rule in rule.to_ports:
                if ports_hold(world, port_rule, direction, subject, peer, flow):
                    yield Clause(policy, rule, port_rule, names)


def peers_hold(world: World, rule: Rule, peer: Party) -> bool:
    """Tell whether a rule is about ``peer``: no list means any peer, an empty one none."""
    return rule.peers is None or any(peer_holds(world, one, peer) for one in rule.peers)


def ports_hold(world: World, port_rule: PortRule, direction: Direction, subject: Party, peer: Party, flow: Flow) -> bool:
    """Tell whether a ``toPorts`` item covers the flow's protocol and port. What needs the proxy covers only what it can read."""
    if needs_proxy(port_rule) and flow.protocol not in _carriers(port_rule):
        return False
    names: set[tuple[str, int, int]] = set()
    if any(isinstance(spec.port, str) for spec in port_rule.ports):
        if direction is Direction.INGRESS:
            listener, local = subject.subject.labels if subject.subject else {}, True
        else:
            listener, local = peer.labels if peer.kind is PartyKind.ENDPOINT else {}, False
        names = {(named.name, int(named.protocol), named.port) for named in named_ports(world, listener, local=local)}
    return any(_port_holds(spec, names, flow) for spec in port_rule.ports)


def _carriers(port_rule: PortRule) -> tuple[Protocol, ...]:
    if port_rule.l7 is not None and port_rule.l7.protocol is L7Protocol.DNS:
        return (Protocol.TCP, Protocol.UDP)
    return (Protocol.TCP,)


def _port_holds(spec: PortSpec, names: set[tuple[str, int, int]], flow: Flow) -> bool:
    protocols = PORT_PROTOCOLS if spec.protocol is Protocol.ANY else (spec.protocol,)
    if flow.protocol not in protocols:
        return False
    if isinstance(spec.port, str):
        return (spec.port, flow.protocol, flow.destination_port) in names
    if flow.protocol in (Protocol.ICMP, Protocol.ICMPV6):
        return flow.destination_port == spec.port
    if flow.protocol not in PORT_PROTOCOLS or spec.port == 0:
        return True
    return spec.port <= flow.destination_port <= (spec.end_port or spec.port)


# ---- what they say together ---------------------------------------------------------------------------------------


def _l3_l4(
    covering: Sequence[Clause],
    selecting: Sequence[Policy],
    is_open: bool,
    why_not: Problem | None,
    carries: L7Protocol | None,
) -> Ruling:
    """Apply the numbered list down to the connection; the message is judged by ``_l7``."""
    denying = _origins(clause for clause in covering if clause.rule.deny)
    if denying:
        return Ruling(outcome=Outcome.DENY, verdict=Verdict.DENIED, reason=Reason.DENY_RULE, rules=denying, deciding=denying)
    rules = _origins(covering)
    redirecting = [clause for clause in covering if clause.redirects]
    by_name_only = bool(covering) and not is_open and all(clause.names for clause in covering)
    if redirecting or (by_name_only and carries in (L7Protocol.HTTP, L7Protocol.TLS)):
        hindered = why_not if why_not is not Problem.DNS_ON_CGROUP or any(map(_is_dns, redirecting)) else None
        united = hindered or _unite(covering, is_open, carries)
        if isinstance(united, Problem):
            return Ruling(
                outcome=Outcome.DENY,
                verdict=Verdict.DENIED,
                reason=Reason.UNREALISABLE,
                rules=rules,
                deciding=_origins(redirecting),
                problem=united,
            )
        return Ruling(outcome=Outcome.REDIRECT, verdict=Verdict.UNDECIDED, reason=Reason.L7_UNSTATED, rules=rules, union=united)
    if carries is L7Protocol.DNS and (rules or is_open):
        union = Union(protocol=L7Protocol.DNS, allow_all=rules, is_open=is_open)
        return Ruling(outcome=Outcome.REDIRECT, verdict=Verdict.UNDECIDED, reason=Reason.L7_UNSTATED, rules=rules, union=union)
    if rules:
        return Ruling(outcome=Outcome.ALLOW, verdict=Verdict.ALLOWED, reason=Reason.ALLOW_RULE, rules=rules, deciding=rules)
    if is_open:
        reason = Reason.NOT_DEFAULT_DENY if selecting else Reason.NOT_SELECTED
        return Ruling(outcome=Outcome.ALLOW, verdict=Verdict.ALLOWED, reason=reason)
    return Ruling(outcome=Outcome.DENY, verdict=Verdict.DENIED, reason=Reason.DEFAULT_DENY)


def _origins(clauses: Iterable[Clause]) -> tuple[RuleOrigin, ...]:
    return tuple(dict.fromkeys(clause.origin for clause in clauses))


def _is_dns(clause: Clause) -> bool:
    l7 = clause.port_rule.l7 if clause.port_rule is not None else None
    return l7 is not None and l7.protocol is L7Protocol.DNS


def _unite(covering: Sequence[Clause], is_open: bool, carries: L7Protocol | None) -> Union | Problem:
    """Return the union of clauses of which at least one needs the proxy, or that all go by name; or why there is none."""
    proxied = [clause.port_rule for clause in covering if clause.port_rule is not None and clause.redirects]
    terminating = {one.terminating_tls for one in proxied} - {None}
    originating = {one.originating_tls for one in proxied} - {None}
    if len(terminating) > 1 or len(originating) > 1:
        return Problem.TLS_CONTEXTS
    spoken = {one.l7.protocol for one in proxied if one.l7 is not None}
    if len(spoken) > 1:
        return Problem.PROTOCOLS
    if not spoken and (terminating or originating):
        return Problem.TLS_WITHOUT_L7
    protocol = spoken.pop() if spoken else L7Protocol.TLS
    if not proxied:
        assert carries is not None
        protocol = carries
    if protocol is not L7Protocol.TLS:
        sealed = any(one.server_names or one.l7 is None for one in proxied)
        if protocol is L7Protocol.DNS and (sealed or terminating or originating):
            return Problem.DNS_OVER_TLS
        if sealed and not terminating:
            return Problem.NAMES_BESIDE_HTTP
        if _names_differ(covering, is_open):
            return Problem.NAMES_DIFFER
    limited = [clause for clause in covering if clause.names and protocol in (L7Protocol.HTTP, L7Protocol.TLS)]
    listing = [clause for clause in covering if protocol is not L7Protocol.TLS or clause not in limited]
    any_name = is_open or any(not clause.server_names for clause in listing)
    rules_of = [(one, one.port_rule.l7) for one in covering if one.port_rule is not None and one.port_rule.l7 is not None]
    whole = [HttpRule(one.origin, names=one.names) for one in limited if one.allows_every_message and protocol is L7Protocol.HTTP]
    return Union(
        protocol=protocol,
        allow=tuple(dict.fromkeys([*(_held_to(rule, one) for one, l7 in rules_of for rule in l7.allow), *whole])),
        deny=tuple(dict.fromkeys(_held_to(rule, one) for one, l7 in rules_of for rule in l7.deny)),
        allow_all=_origins(clause for clause in covering if clause.allows_every_message and clause not in limited),
        is_open=is_open,
        server_names=None if any_name else tuple(sorted({n.lower() for clause in listing for n in clause.server_names})),
        by_name=tuple(
            ServerNameRule(one.origin, one.names, one.server_names)
            for one in limited
            if protocol is L7Protocol.TLS and not any_name
        ),
        terminating=next(iter(terminating), None),
        originating=next(iter(originating), None),
    )


def _held_to(rule: L7Rule, clause: Clause) -> L7Rule:
    """Return ``rule`` as it holds for the names of its clause."""
    return replace(rule, names=clause.names) if isinstance(rule, HttpRule) and clause.names else rule


def _names_differ(covering: Sequence[Clause], is_open: bool) -> bool:
    """Tell whether names and rules, united separately, would allow what no clause does."""
    if is_open or any(not clause.server_names and clause.allows_every_message and not clause.names for clause in covering):
        return False
    return len({frozenset(name.lower() for name in clause.server_names) for clause in covering}) > 1


# ---- the message --------------------------------------------------------------------------------------------------


def _l7(ruling: Ruling, flow: Flow, secrets: SecretTexts) -> Ruling:
    """Judge what the flow says by the union that the connection is redirected for."""
    union = ruling.union
    if union is None:
        return ruling
    by_server_name = _server_name(union, flow)
    if by_server_name is not None:
        return replace(ruling, verdict=by_server_name[0], reason=by_server_name[1], deciding=())
    match union.protocol:
        case L7Protocol.TLS:
            origins = union.allow_all or ruling.rules
            reason = Reason.L7_ALLOW_RULE if union.server_names is not None else ruling.reason
            if ruling.outcome is Outcome.REDIRECT and union.server_names is None:
                reason = Reason.NOT_DEFAULT_DENY if union.is_open else Reason.ALLOW_RULE
            by_name = tuple(rule.origin for rule in union.by_name if _is_named(rule, flow.server_name or ""))
            return replace(ruling, verdict=Verdict.ALLOWED, reason=reason, deciding=by_name or origins)
        case L7Protocol.HTTP:
            return _http(ruling, union, flow.http, secrets)
        case L7Protocol.KAFKA:
            return _kafka(ruling, union, flow.kafka)
        case L7Protocol.DNS:
            return _dns(ruling, union, flow.dns)
        case _:
            assert_never(union.protocol)


def _server_name(union: Union, flow: Flow) -> tuple[Verdict, Reason] | None:
    """Return the verdict of the server name, if it ends the matter."""
    if union.server_names is None:
        return None
    if flow.server_name is None:
        return Verdict.UNDECIDED, Reason.L7_UNSTATED
    if any(server_name_holds(pattern, flow.server_name) for pattern in union.server_names):
        return None
    if any(_is_named(rule, flow.server_name) for rule in union.by_name):
        return None
    return Verdict.DENIED, Reason.SERVER_NAME


def _is_named(rule: ServerNameRule, server_name: str) -> bool:
    listed = not rule.patterns or any(server_name_holds(pattern, server_name) for pattern in rule.patterns)
    return listed and names_hold(rule.names, server_name)


def _dns(ruling: Ruling, union: Union, question: DnsQuestion | None) -> Ruling:
    every = bool(union.allow_all) or union.is_open
    passing = Reason.ALLOW_RULE if union.allow_all else Reason.NOT_DEFAULT_DENY
    if question is None and not every:
        return replace(ruling, verdict=Verdict.UNDECIDED, reason=Reason.L7_UNSTATED)
    rules = tuple(rule for rule in union.allow if isinstance(rule, DnsRule))
    allowing = tuple(rule.origin for rule in rules if question is not None and dns_holds(rule, question))
    if allowing:
        return replace(ruling, verdict=Verdict.ALLOWED, reason=Reason.L7_ALLOW_RULE, deciding=allowing)
    if every:
        return replace(ruling, verdict=Verdict.ALLOWED, reason=passing, deciding=union.allow_all)
    return replace(ruling, verdict=Verdict.DENIED, reason=Reason.L7_DEFAULT_DENY, deciding=())


def _http(ruling: Ruling, union: Union, request: HttpRequest | None, secrets: SecretTexts) -> Ruling:
    every = bool(union.allow_all) or union.is_open
    if request is None:
        if every and not union.deny:
            reason = Reason.ALLOW_RULE if union.allow_all else Reason.NOT_DEFAULT_DENY
            return replace(ruling, verdict=Verdict.ALLOWED, reason=reason, deciding=union.allow_all)
        return replace(ruling, verdict=Verdict.UNDECIDED, reason=Reason.L7_UNSTATED)
    if request.is_refused:
        return replace(ruling, verdict=Verdict.DENIED, reason=Reason.REFUSED, deciding=())
    allow, deny = (tuple(rule for rule in rules if isinstance(rule, HttpRule)) for rules in (union.allow, union.deny))
    denying = tuple(rule.origin for rule in deny if http_holds(rule, request, secrets, denies=True))
    if denying:
        return replace(ruling, verdict=Verdict.DENIED, reason=Reason.L7_DENY_RULE, deciding=denying)
    actions = header_actions(allow, request, secrets)
    allowing = tuple(rule.origin for rule in allow if http_holds(rule, request, secrets, denies=False))
    if allowing:
        return replace(ruling, verdict=Verdict.ALLOWED, reason=Reason.L7_ALLOW_RULE, deciding=allowing, header_actions=actions)
    if every and not request.is_connect:
        reason = Reason.ALLOW_RULE if union.allow_all else Reason.NOT_DEFAULT_DENY
        return replace(ruling, verdict=Verdict.ALLOWED, reason=reason, deciding=union.allow_all)
    return replace(ruling, verdict=Verdict.DENIED, reason=Reason.L7_DEFAULT_DENY, deciding=())


def _kafka(ruling: Ruling, union: Union, request: KafkaRequest | None) -> Ruling:
    """Judge every place of a request; the first that is denied is what the whole is denied for."""
    every = bool(union.allow_all) or union.is_open
    passing = Reason.ALLOW_RULE if union.allow_all else Reason.NOT_DEFAULT_DENY
    if request is None:
        if every and not union.deny:
            return replace(ruling, verdict=Verdict.ALLOWED, reason=passing, deciding=union.allow_all)
        return replace(ruling, verdict=Verdict.UNDECIDED, reason=Reason.L7_UNSTATED)
    if not request.is_known:
        return replace(ruling, verdict=Verdict.DENIED, reason=Reason.UNKNOWN_API, deciding=())
    if not AUTHORIZATIONS[request.api].judged:
        return replace(ruling, verdict=Verdict.ALLOWED, reason=Reason.NEGOTIATION, deciding=())
    allowing: list[RuleOrigin] = []
    for place in request.places():
        denying = _matching_kafka(union.deny, request, place, denies=True)
        if denying and request.lists:
            return replace(ruling, verdict=Verdict.ALLOWED, reason=Reason.FILTERED, deciding=())
        if denying:
            return replace(ruling, verdict=Verdict.DENIED, reason=Reason.L7_DENY_RULE, deciding=denying)
        found = _matching_kafka(union.allow, request, place, denies=False)
        if not found and not every and request.lists:
            return replace(ruling, verdict=Verdict.ALLOWED, reason=Reason.FILTERED, deciding=())
        if not found and not every:
            return replace(ruling, verdict=Verdict.DENIED, reason=Reason.L7_DEFAULT_DENY, deciding=())
        allowing.extend(found)
    if allowing:
        deciding = tuple(dict.fromkeys(allowing))
        return replace(ruling, verdict=Verdict.ALLOWED, reason=Reason.L7_ALLOW_RULE, deciding=deciding)
    return replace(ruling, verdict=Verdict.ALLOWED, reason=passing, deciding=union.allow_all)


def _matching_kafka(rules: Iterable[L7Rule], request: KafkaRequest, place: Place, *, denies: bool) -> tuple[RuleOrigin, ...]:
    kafka = (rule for rule in rules if isinstance(rule, KafkaRule))
    return tuple(rule.origin for rule in kafka if kafka_holds(rule, request, place, denies=denies))


# ---- both sides ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Overall:
    verdict: Verdict
    reason: Reason
    problem: Problem | None = None


def _combine(source: Party, destination: Party, sides: tuple[Side, ...]) -> Decision:
    enforced = _together(tuple(side.ruling for side in sides), _ends_differ(sides))
    shadow = _together(tuple(side.shadow for side in sides), None)
    outcomes = {side.outcome for side in sides}
    if Outcome.DENY in outcomes or enforced.problem is Problem.ENDS_DIFFER:
        outcome = Outcome.DENY
    else:
        outcome = Outcome.REDIRECT if Outcome.REDIRECT in outcomes else Outcome.ALLOW
    return Decision(
        verdict=enforced.verdict,
        outcome=outcome,
        reason=enforced.reason,
        audited=enforced.verdict is not Verdict.DENIED and shadow.verdict is Verdict.DENIED,
        source=source,
        destination=destination,
        sides=sides,
        problem=enforced.problem,
    )


def _together(rulings: tuple[Ruling, ...], problem: Problem | None) -> _Overall:
    """Return the stricter of both sides: denied, else undecided, else allowed. A connection is denied before a message is."""
    at_l3_l4 = [ruling for ruling in rulings if ruling.outcome is Outcome.DENY]
    if not at_l3_l4 and problem is not None:
        return _Overall(Verdict.DENIED, Reason.UNREALISABLE, problem)
    for verdict in (Verdict.DENIED, Verdict.UNDECIDED):
        for ruling in (*at_l3_l4, *rulings):
            if ruling.verdict is verdict:
                return _Overall(verdict, ruling.reason, ruling.problem)
    deciding = [ruling for ruling in rulings if ruling.reason not in (Reason.NOT_SELECTED, Reason.FROM_HOST)]
    chosen = deciding or list(rulings)
    return _Overall(Verdict.ALLOWED, chosen[0].reason if chosen else Reason.NOT_SELECTED)


def _set_aside(sides: list[Side]) -> tuple[Side, ...]:
    """Take an end that passes everything out of the proxy's sight where one slot can't judge both; the egress end first."""
    if _differ(sides):
        for index, side in enumerate(sides):
            if _passes_all(side.ruling.union):
                rules = side.ruling.rules
                reason = Reason.ALLOW_RULE if rules else Reason.NOT_DEFAULT_DENY
                ruling = replace(side.ruling, verdict=Verdict.ALLOWED, reason=reason, deciding=rules, header_actions=())
                shadow = side.shadow if side.shadow.outcome is Outcome.DENY else ruling
                sides[index] = replace(side, ruling=ruling, shadow=shadow)
                break
    return tuple(sides)


def _differ(sides: Sequence[Side]) -> bool:
    """Tell whether both ends redirect, and to what no one slot can judge."""
    if len(sides) < 2 or any(side.outcome is not Outcome.REDIRECT for side in sides):
        return False
    egress, ingress = (_content(side) for side in sides)
    contexts = ((egress.terminating, ingress.terminating), (egress.originating, ingress.originating))
    return egress.protocol is not ingress.protocol or any(None not in pair and pair[0] != pair[1] for pair in contexts)


def _ends_differ(sides: tuple[Side, ...]) -> Problem | None:
    """Tell whether the two ends can't be judged in one pass. An end that passes everything need not be judged."""
    return Problem.ENDS_DIFFER if _differ(sides) and not any(_passes_all(side.ruling.union) for side in sides) else None


def _passes_all(union: Union | None) -> bool:
    if union is None or union.allow or union.deny or union.server_names is not None:
        return False
    return (union.is_open or bool(union.allow_all)) and union.terminating is None and union.originating is None


def _content(side: Side) -> Union:
    """Return what says what a side's slot speaks: all policies where audit policies add L7, else the enforcing ones."""
    union = side.shadow.union or side.ruling.union
    assert union is not None
    return union
