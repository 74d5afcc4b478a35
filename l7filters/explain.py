"""A decision in words: what decided, and for a denial which rule came nearest to allowing it and why it didn't.

Owns: the nearest miss and its ranking, notes, the report and its two forms (JSON by field names, text). Must not know who asks.
The JSON shape of ``Explanation.as_json`` is an interface that others script against: extend it compatibly.

How near a rule came, nearest first:

1. The message reached its L7 rules (fewest predicates that fail first).
2. Its ports cover the flow; its server names don't.
3. Its peers do; its ports don't.
4. Its policy selects the endpoint; its peers don't cover the flow (those whose ports do come first).
5. Its policy doesn't select the endpoint, but the rule covers the flow.

No value of a secret is ever in a report, nor of headers that usually hold one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, assert_never

from l7filters.decision import Decision, Flow, Outcome, Problem, Reason, Ruling, Side, Verdict, needs_proxy
from l7filters.evaluate import evaluate, peers_hold, policies_of, ports_hold
from l7filters.explain_names import dns_failures, dns_notes, name_failures, reaches_by_name
from l7filters.kafka import KafkaRequest, kafka_checks, kafka_holds
from l7filters.labels import NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX
from l7filters.model import (
    PORT_PROTOCOLS,
    Direction,
    DnsRule,
    HttpRule,
    KafkaRule,
    L7Protocol,
    Mode,
    Policy,
    PortRule,
    PortSpec,
    Protocol,
    Rule,
    RuleOrigin,
)
from l7filters.parties import Party, PartyKind, peer_words
from l7filters.predicates import NO_SECRETS, SecretTexts, http_checks, server_name_check
from l7filters.world import Enforcement, World

MISSES_MAX: Final = 5
"""Nearest misses in one report: more than a person reads, few enough for a flow record."""
_SPOKEN: Final = {L7Protocol.HTTP: "HTTP", L7Protocol.KAFKA: "Kafka", L7Protocol.DNS: "DNS"}
WORDS_MAX: Final = 8
"""Peers or ports of one rule put into words."""


class Nearness(IntEnum):
    """How far the flow got with a rule."""

    NOT_SELECTED = 1
    SELECTED = 2
    PEERS = 3
    PORTS = 4
    L7 = 5

    @property
    def word(self) -> str:
        """Its name in reports."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class NearMiss:
    """A rule that would allow the flow but for ``failures``, each a predicate in words."""

    direction: Direction
    origin: RuleOrigin
    nearness: Nearness
    failures: tuple[str, ...]
    fits: int = 0
    """How much of what was not reached would have held; breaks ties."""

    def __str__(self) -> str:
        return f"{self.origin} would allow it, but {' and '.join(self.failures)}"

    def as_json(self) -> dict[str, Any]:
        """Return the miss as JSON."""
        return {
            "direction": str(self.direction),
            **_origin_json(self.origin),
            "reached": self.nearness.word,
            "failures": list(self.failures),
            "text": str(self),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The report on one flow. ``nearest_misses`` is empty unless the flow is denied, or audited; nearest first."""

    revision: int
    flow: Flow
    decision: Decision
    nearest_misses: tuple[NearMiss, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def nearest_miss(self) -> NearMiss | None:
        """The rule that came nearest to allowing the flow."""
        return self.nearest_misses[0] if self.nearest_misses else None

    @property
    def summary(self) -> str:
        """The verdict and what decided, in a sentence."""
        return _summary(self.decision, self.nearest_miss)

    def as_json(self) -> dict[str, Any]:
        """Return the report as what the json module takes."""
        decision = self.decision
        return {
            "verdict": str(decision.verdict),
            "outcome": str(decision.outcome),
            "audited": decision.audited,
            "reason": str(decision.reason),
            "summary": self.summary,
            "revision": self.revision,
            "flow": _flow_json(self.flow, decision),
            "decidedBy": [_origin_json(origin) for origin in decision.deciding],
            "sides": [_side_json(side) for side in decision.sides],
            "nearestMisses": [miss.as_json() for miss in self.nearest_misses],
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """Return the report for people, without a trailing newline."""
        return "\n".join(_text_lines(self))


def explain(world: World, flow: Flow, secrets: SecretTexts = NO_SECRETS) -> Explanation:
    """Judge ``flow`` and say why. Raises UnknownPartyError as ``evaluate`` does."""
    decision = evaluate(world, flow, secrets)
    misses = nearest_misses(world, flow, decision, secrets)
    return Explanation(
        revision=world.revision,
        flow=flow,
        decision=decision,
        nearest_misses=misses,
        notes=(*_notes(world, decision), *(note for side in decision.sides for note in dns_notes(world, flow, side))),
    )


# ---- the nearest miss ---------------------------------------------------------------------------------------------


def nearest_misses(world: World, flow: Flow, decision: Decision, secrets: SecretTexts = NO_SECRETS) -> tuple[NearMiss, ...]:
    """Return the rules that came nearest to allowing what ``decision`` denies (or audit policies would), nearest first.

    None for what a deny rule or a conflict closes: no further rule could have allowed it.
    """
    found: list[NearMiss] = []
    for side in decision.sides:
        ruling = side.ruling if decision.verdict is Verdict.DENIED else side.shadow
        if ruling.verdict is Verdict.DENIED and ruling.reason in (
            Reason.DEFAULT_DENY,
            Reason.L7_DEFAULT_DENY,
            Reason.SERVER_NAME,
        ):
            with_audit = decision.verdict is not Verdict.DENIED
            found.extend(_misses_of_side(world, flow, side, secrets, with_audit=with_audit))
    found.sort(key=lambda miss: (-miss.nearness, len(miss.failures), -miss.fits, str(miss.origin)))
    return tuple(found[:MISSES_MAX])


def _misses_of_side(world: World, flow: Flow, side: Side, secrets: SecretTexts, *, with_audit: bool) -> Iterable[NearMiss]:
    selecting = policies_of(world, side.subject)
    for policy in world.policies:
        if policy.mode is Mode.AUDIT and not with_audit:
            continue
        for rule in policy.rules:
            if rule.deny or rule.direction is not side.direction:
                continue
            if policy in selecting:
                yield from _misses_of_rule(world, flow, side, rule, secrets)
            elif _covers(world, flow, side, rule):
                failure = _selection_words(policy, side)
                yield _miss(side, rule.origin, Nearness.NOT_SELECTED, [failure])


def _miss(side: Side, origin: RuleOrigin, nearness: Nearness, failures: Iterable[str], fits: int = 0) -> NearMiss:
    return NearMiss(direction=side.direction, origin=origin, nearness=nearness, failures=tuple(failures), fits=fits)


def _covers(world: World, flow: Flow, side: Side, rule: Rule) -> bool:
    """Tell whether a rule of a policy that doesn't select the subject covers the flow's peer and port."""
    return (peers_hold(world, rule, side.peer) or reaches_by_name(rule, flow, side)) and (
        not rule.to_ports or any(ports_hold(world, one, side.direction, side.subject, side.peer, flow) for one in rule.to_ports)
    )


def _misses_of_rule(world: World, flow: Flow, side: Side, rule: Rule, secrets: SecretTexts) -> Iterable[NearMiss]:
    peers = peers_hold(world, rule, side.peer) or reaches_by_name(rule, flow, side)
    if not rule.to_ports:
        if not peers:
            yield _miss(side, rule.origin, Nearness.SELECTED, [_peers_words(rule, side.peer, flow)], fits=1)
        elif unnamed := name_failures(world, rule, flow, side):
            yield _miss(side, rule.origin, Nearness.L7, unnamed)
        return
    for port_rule in rule.to_ports:
        ports = ports_hold(world, port_rule, side.direction, side.subject, side.peer, flow)
        if not peers:
            failures = [_peers_words(rule, side.peer, flow), *([] if ports else [_ports_words(port_rule, flow)])]
            yield _miss(side, port_rule.origin, Nearness.SELECTED, failures, fits=int(ports))
        elif not ports:
            yield _miss(side, port_rule.origin, Nearness.PEERS, [_ports_words(port_rule, flow)])
        else:
            yield from _misses_of_message(flow, side, port_rule, secrets, name_failures(world, rule, flow, side))


def _misses_of_message(
    flow: Flow, side: Side, port_rule: PortRule, secrets: SecretTexts, unnamed: list[str]
) -> Iterable[NearMiss]:
    """Yield what keeps the message from passing by a ``toPorts`` item that covers the connection; ``unnamed``: no name fits."""
    failures = list(unnamed)
    if port_rule.server_names and flow.server_name is not None:
        check = server_name_check(port_rule.server_names, flow.server_name)
        if not check.holds:
            failures.append(str(check))
    if port_rule.l7 is not None and port_rule.l7.protocol is L7Protocol.KAFKA and flow.kafka is not None:
        yield from _misses_of_kafka(flow.kafka, side, port_rule, failures)
        return
    if port_rule.l7 is not None and port_rule.l7.protocol is L7Protocol.DNS and flow.dns is not None:
        for dns_rule in port_rule.l7.allow:
            if isinstance(dns_rule, DnsRule) and (unfit := dns_failures(dns_rule, flow.dns)):
                yield _miss(side, dns_rule.origin, Nearness.L7, [*failures, *unfit], fits=2 - len(unfit))
        return
    if port_rule.l7 is None or port_rule.l7.protocol is not L7Protocol.HTTP or flow.http is None or flow.http.is_refused:
        if failures:
            yield _miss(side, port_rule.origin, Nearness.PORTS, failures)
        return
    if not port_rule.l7.allow and not port_rule.l7.deny_only:
        yield _miss(side, port_rule.origin, Nearness.PORTS, [*failures, "it lists no request that may pass"])
    if port_rule.l7.deny_only and flow.http.is_connect:
        yield _miss(side, port_rule.origin, Nearness.L7, ["method is CONNECT, a rule must name CONNECT to allow it"])
    for rule in port_rule.l7.allow:
        if isinstance(rule, HttpRule):
            checks = http_checks(rule, flow.http, secrets, denies=False)
            failing = [*failures, *(str(check) for check in checks if not check.holds)]
            if failing:
                holding = sum(check.holds for check in checks)
                yield _miss(side, rule.origin, Nearness.L7, failing, fits=holding)


def _misses_of_kafka(request: KafkaRequest, side: Side, port_rule: PortRule, failures: list[str]) -> Iterable[NearMiss]:
    """Yield what keeps the first place that no rule allows from passing by each rule of a ``toPorts`` item."""
    assert port_rule.l7 is not None
    if not port_rule.l7.allow and not port_rule.l7.deny_only:
        yield _miss(side, port_rule.origin, Nearness.PORTS, [*failures, "it lists no request that may pass"])
    ruling = side.ruling if side.ruling.verdict is Verdict.DENIED else side.shadow
    united = [rule for rule in (ruling.union.allow if ruling.union else ()) if isinstance(rule, KafkaRule)]
    denied = [place for place in request.places() if not any(kafka_holds(rule, request, place, denies=False) for rule in united)]
    for rule in port_rule.l7.allow:
        if isinstance(rule, KafkaRule) and denied:
            checks = kafka_checks(rule, request, denied[0], denies=False)
            failing = [*failures, *(str(check) for check in checks if not check.holds)]
            if failing:
                yield _miss(side, rule.origin, Nearness.L7, failing, fits=sum(check.holds for check in checks))


# ---- words --------------------------------------------------------------------------------------------------------


def _selection_words(policy: Policy, side: Side) -> str:
    if policy.selects_nodes:
        return f"its policy is for nodes {policy.subject}, not for {side.subject.name}"
    if side.subject.subject is None:
        return f"its policy is for endpoints, not for {side.subject.name}"
    failing = [str(one) for one in policy.subject.requirements if not one.matches(side.subject.subject.labels)]
    return f"its policy selects {', '.join(failing)}, which {side.subject.name} is not"


def _peers_words(rule: Rule, peer: Party, flow: Flow) -> str:
    wanted = [peer_words(one) for one in rule.peers or ()]
    whom = _listed(wanted) if wanted else "nobody (its peer list is empty)"
    told = f", which DNS gave for {' and '.join(flow.names)}," if flow.names else ""
    return f"{_party_words(peer)}{told} is not {whom}" if wanted else f"it is for {whom}"


def _party_words(party: Party) -> str:
    match party.kind:
        case PartyKind.ENDPOINT:
            # The name begins with the namespace already.
            own = sorted(
                pair for pair in party.labels.items() if not pair[0].startswith((NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX))
            )
            return f"{party.name} ({','.join(f'{key}={value}' for key, value in own)})"
        case PartyKind.WORLD:
            return f"{party.name} (world)"
        case PartyKind.HOST | PartyKind.REMOTE_NODE:
            return f"the {party.name}"
        case _:
            assert_never(party.kind)


def _ports_words(port_rule: PortRule, flow: Flow) -> str:
    wanted = _listed([port_words(spec) for spec in port_rule.ports]) if port_rule.ports else "any"
    if needs_proxy(port_rule) and flow.protocol != Protocol.TCP:
        return f"{_flow_port(flow)} can't carry its L7 rules (it covers {wanted})"
    return f"port {_flow_port(flow)} is not {wanted}"


def port_words(spec: PortSpec) -> str:
    """Return which ports ``spec`` covers, in words."""
    if spec.protocol in (Protocol.ICMP, Protocol.ICMPV6):
        return f"{spec.protocol.name} type {spec.port}"
    if spec.port == 0:
        return f"any {spec.protocol.name}" if spec.protocol is not Protocol.ANY else "any TCP, UDP or SCTP"
    last = f"-{spec.end_port}" if spec.end_port and spec.end_port != spec.port else ""
    return f"{spec.port}{last}/{spec.protocol.name}"


def _listed(words: list[str]) -> str:
    shown = words[:WORDS_MAX]
    return " or ".join(shown) + (f" or {len(words) - WORDS_MAX} more" if len(words) > WORDS_MAX else "")


def _protocol_name(number: int) -> str:
    return Protocol(number).name if number in Protocol.__members__.values() else f"protocol {number}"


def _flow_port(flow: Flow) -> str:
    name = _protocol_name(flow.protocol)
    if flow.protocol in (Protocol.ICMP, Protocol.ICMPV6):
        return f"{name} type {flow.destination_port}"
    return f"{flow.destination_port}/{name}" if flow.protocol in PORT_PROTOCOLS else name


def _summary(decision: Decision, miss: NearMiss | None) -> str:
    """Return the verdict, the reason and what decided, in a sentence."""
    why = f"{decision.reason}"
    if decision.problem is not None:
        why = f"{why}: {decision.problem}"
    by = ", ".join(str(origin) for origin in decision.deciding)
    closing = [side for side in decision.denied_by if side.ruling.reason is Reason.DEFAULT_DENY]
    if decision.verdict is Verdict.DENIED and not by and closing:
        policies = ", ".join(str(key) for side in closing for key in side.default_deny)
        by = f"default deny by {policies}" if policies else "default deny by the node's enforcement mode"
    sentence = f"{decision.verdict}: {why}" + (f" ({by})" if by else "")
    if decision.verdict is Verdict.DENIED and miss is not None:
        sentence += f"; nearest: {miss}"
    if decision.audited:
        sentence += "; audit: it would be denied"
        if miss is not None:
            sentence += f"; nearest: {miss}"
    return sentence


def _notes(world: World, decision: Decision) -> Iterable[str]:
    """Yield what a reader would otherwise wonder about."""
    for side in decision.sides:
        union = side.ruling.union
        if union is not None and union.protocol in _SPOKEN and union.allow:
            spoken = _SPOKEN[union.protocol]
            for origin in union.allow_all:
                yield f"{side.direction}: {origin} allows every request here, so the {spoken} rules beside it restrict nothing"
            if union.is_open and not union.allow_all:
                yield f"{side.direction}: not in default deny, so {spoken} rules that allow restrict nothing"
        if (
            union is not None
            and union.protocol is L7Protocol.KAFKA
            and any(isinstance(rule, KafkaRule) and rule.client_id is not None for rule in (*union.allow, *union.deny))
        ):
            yield f"{side.direction}: clientID is what the client says of itself; it proves nothing"
        for origin in side.observed_by:
            yield f"{side.direction}: observed by {origin}, which denies nothing"
        if (
            side.outcome is Outcome.REDIRECT
            and union is not None
            and side.ruling.outcome is Outcome.ALLOW
            and not side.observed_by
        ):
            yield f"{side.direction}: through the proxy only for policies in audit mode"
        if side.ruling.problem is not None:
            yield f"{side.direction}: {_problem_words(side.ruling)}"
        for action in side.ruling.header_actions if decision.verdict is not Verdict.DENIED else ():
            yield f"{side.direction}: {action.origin} does {action.action} on header {action.header}"
    if decision.problem is not None and decision.problem is Problem.ENDS_DIFFER:
        yield "egress and ingress rules of two local endpoints are judged in one pass: use one protocol and TLS context at both"
    if decision.reason is Reason.FROM_HOST:
        yield "traffic of this node's own processes (health checks) is not subject to its endpoints' policies"
    if not decision.sides and decision.reason is not Reason.FROM_HOST:
        yield f"neither end is enforced by node {world.node.name}"
    if world.enforcement is Enforcement.NEVER and decision.sides:
        yield "the node's enforcement mode is never: no policy is enforced"


def _problem_words(ruling: Ruling) -> str:
    return f"{', '.join(map(str, ruling.deciding))}: {ruling.problem}, so what they cover is closed"


# ---- the two forms ------------------------------------------------------------------------------------------------


def _origin_json(origin: RuleOrigin) -> dict[str, str]:
    return {"policy": str(origin.policy), "path": origin.path}


def _party_json(party: Party) -> dict[str, Any]:
    return {
        "kind": str(party.kind),
        "name": party.name,
        "address": str(party.address) if party.address is not None else None,
        "labels": dict(sorted(party.labels.items())),
        "local": party.subject is not None,
    }


def _flow_json(flow: Flow, decision: Decision) -> dict[str, Any]:
    request = None
    if flow.http is not None:
        request = {
            "method": flow.http.method,
            "path": flow.http.path,
            "normalisedPath": flow.http.normalised_path,
            "authority": flow.http.authority,
            "headerNames": sorted({name.lower() for name, _ in flow.http.headers}),
        }
    return {
        "source": _party_json(decision.source),
        "destination": _party_json(decision.destination),
        "protocol": _protocol_name(flow.protocol),
        "port": flow.destination_port,
        "http": request,
        "serverName": flow.server_name,
        "kafka": None if flow.kafka is None else _kafka_json(flow.kafka),
        "dns": None if flow.dns is None else {"name": flow.dns.name, "queryType": flow.dns.query_type},
        "names": list(flow.names),
    }


def _kafka_json(request: KafkaRequest) -> dict[str, Any]:
    return {
        "apiKey": request.name,
        "apiVersion": request.version,
        "clientId": request.client_id,
        "topics": list(request.topics),
        "groups": list(request.groups),
    }


def _ruling_json(ruling: Ruling) -> dict[str, Any]:
    return {
        "verdict": str(ruling.verdict),
        "outcome": str(ruling.outcome),
        "reason": str(ruling.reason),
        "problem": str(ruling.problem) if ruling.problem is not None else None,
        "decidedBy": [_origin_json(origin) for origin in ruling.deciding],
        "coveredBy": [_origin_json(origin) for origin in ruling.rules],
        "l7Protocol": str(ruling.union.protocol) if ruling.union is not None else None,
        "headerActions": [
            {"header": action.header, "action": str(action.action), **_origin_json(action.origin)}
            for action in ruling.header_actions
        ],
    }


def _side_json(side: Side) -> dict[str, Any]:
    return {
        "direction": str(side.direction),
        "subject": side.subject.name,
        "peer": side.peer.name,
        "selectedBy": [str(key) for key in side.selected_by],
        "defaultDenyBy": [str(key) for key in side.default_deny],
        "defaultDeny": not side.is_open,
        "audited": side.audited,
        "observedBy": [_origin_json(origin) for origin in side.observed_by],
        **_ruling_json(side.ruling),
        "outcome": str(side.outcome),
        "shadow": None if side.shadow == side.ruling else _ruling_json(side.shadow),
    }


def _text_lines(report: Explanation) -> Iterable[str]:
    decision, flow = report.decision, report.flow
    message = ""
    if flow.http is not None:
        message = f", {flow.http.method} {flow.http.path}"
        if flow.http.normalised_path is not None and flow.http.normalised_path != flow.http.path:
            message += f" (read as {flow.http.normalised_path})"
    if flow.kafka is not None:
        message += f", {flow.kafka}"
    if flow.dns is not None:
        message += f", {flow.dns}"
    if flow.names:
        message += f", which is {' and '.join(flow.names)}"
    if flow.server_name is not None:
        message += f", server name {flow.server_name or 'none'}"
    yield f"{decision.source.name} -> {decision.destination.name} {_flow_port(flow)}{message}"
    word = str(decision.verdict).upper() + (" (audited: it would be denied)" if decision.audited else "")
    yield f"{word}: {decision.reason}" + (f": {decision.problem}" if decision.problem is not None else "")
    for side in decision.sides:
        yield from _side_lines(side)
    if report.nearest_misses:
        yield "nearest misses:"
        for miss in report.nearest_misses:
            yield f"  {miss.direction}: {miss}"
    if report.notes:
        yield "notes:"
        for note in report.notes:
            yield f"  {note}"


def _side_lines(side: Side) -> Iterable[str]:
    yield f"{side.direction} of {side.subject.name}: {side.outcome}, {side.ruling.verdict}: {side.ruling.reason}"
    selected = ", ".join(map(str, side.selected_by)) or "no policy"
    yield f"  selected by {selected}; {'not in default deny' if side.is_open else 'in default deny'}"
    for origin in side.ruling.deciding:
        yield f"  decided by {origin}"
    if side.audited:
        deciding = "".join(f" ({origin})" for origin in side.shadow.deciding)
        yield f"  audit: it would be denied: {side.shadow.reason}{deciding}"
