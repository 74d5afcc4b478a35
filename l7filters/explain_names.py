"""What an explanation says of DNS: why a question may not be asked, and what an answer would open.

Owns: those words. Must not know how the report is put together (explain.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from l7filters.decision import Flow, Reason, Side, Verdict
from l7filters.evaluate import peers_hold, policies_of
from l7filters.fqdn import DnsQuestion, names_hold, selector_holds
from l7filters.model import Direction, DnsRule, FqdnPeer, L7Protocol, Mode, PortSpec, Protocol, Rule
from l7filters.parties import PartyKind
from l7filters.predicates import host_name, selector_words, shown
from l7filters.world import World
from proxylib.dns.rules import NameSelector

OPENED_MAX: Final = 8
"""Rules that are named for what an answer opens."""


def reaches_by_name(rule: Rule, flow: Flow, side: Side) -> bool:
    """Tell whether a rule covers the destination by a name for which DNS gave it to the source."""
    return (
        side.direction is Direction.EGRESS
        and side.peer.kind is PartyKind.WORLD
        and not rule.deny
        and any(selector_holds(peer.selector, name) for peer in _by_name(rule) for name in flow.names)
    )


def name_failures(world: World, rule: Rule, flow: Flow, side: Side) -> list[str]:
    """Return why what is said means none of the names by which alone ``rule`` covers the destination; nothing if it does."""
    ruling = side.ruling if side.ruling.verdict is Verdict.DENIED else side.shadow
    if ruling.union is None or peers_hold(world, rule, side.peer) or not reaches_by_name(rule, flow, side):
        return []
    match ruling.union.protocol:
        case L7Protocol.TLS if flow.server_name is not None:
            topic, said = "server name", flow.server_name
        case L7Protocol.HTTP if flow.http is not None:
            topic, said = "host", host_name(flow.http.authority)
        case _:
            return []
    names = [peer.selector for peer in _by_name(rule)]
    if names_hold(names, said):
        return []
    return [f"{topic} is {shown(said) if said else 'not sent'}, must be {' or '.join(map(selector_words, names))}"]


def dns_failures(rule: DnsRule, question: DnsQuestion) -> tuple[str, ...]:
    """Return the predicates of ``rule`` that ``question`` fails, in words."""
    failures: list[str] = []
    selector = NameSelector(rule.match_name, rule.match_pattern, rule.excepts)
    if not selector_holds(selector, question.name):
        failures.append(f"name is {question.name}, must be {selector_words(selector)}")
    if rule.query_types and question.query_type.upper() not in rule.query_types:
        failures.append(f"type is {question.query_type}, must be {' or '.join(rule.query_types)}")
    return tuple(failures)


def dns_notes(world: World, flow: Flow, side: Side) -> Iterable[str]:
    """Yield what an answer to the question would open, and what the names of a connection mean."""
    if side.direction is not Direction.EGRESS:
        return
    if flow.dns is not None:
        yield from _opened(world, flow.dns, side)
    if side.ruling.reason is Reason.SERVER_NAME and flow.server_name == "":
        yield "a client that sends no server name, or hides it (Encrypted ClientHello), may mean any server at that address"
    if flow.names and side.peer.kind is not PartyKind.WORLD:
        yield f"{side.peer.name} is inside the cluster, where names that DNS gave open nothing"


def _opened(world: World, question: DnsQuestion, side: Side) -> Iterable[str]:
    found = [
        f"its answer would open {_ports(rule)} ({policy.key}:{rule.origin.path}{', in audit mode' * (policy.mode is Mode.AUDIT)})"
        for policy in policies_of(world, side.subject)
        for rule in policy.rules
        if rule.direction is Direction.EGRESS and not rule.deny and _covers(rule, question)
    ]
    yield from found[:OPENED_MAX]
    if len(found) > OPENED_MAX:
        yield f"... and {len(found) - OPENED_MAX} rules more"
    if not found:
        yield f"no toFQDNs rule covers {question.name}: its answer opens nothing"


def _covers(rule: Rule, question: DnsQuestion) -> bool:
    return any(selector_holds(peer.selector, question.name) for peer in _by_name(rule))


def _by_name(rule: Rule) -> list[FqdnPeer]:
    return [peer for peer in rule.peers or () if isinstance(peer, FqdnPeer)]


def _ports(rule: Rule) -> str:
    specs = [spec for port_rule in rule.to_ports for spec in port_rule.ports]
    return ", ".join(map(_port, specs)) if specs else "every port"


def _port(spec: PortSpec) -> str:
    protocol = "" if spec.protocol is Protocol.ANY else f"/{spec.protocol.name}"
    last = f"-{spec.end_port}" if spec.end_port and spec.end_port != spec.port else ""
    return f"{'every port' if spec.port == 0 else spec.port}{last}{protocol}"
