"""What one policy does: whom it selects, what each of its rules says, which slots carry it, what it decided of late.

Owns: that view of a policy, as JSON for the page and scripts. Pure. Must not know how a rule is judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, assert_never

from l7filters.explain import port_words
from l7filters.ir import SlotKey
from l7filters.model import DnsRule, HeaderMatch, HttpRule, KafkaRule, L7Rule, PortRule, Rule
from l7filters.parties import peer_words
from l7filters.predicates import wanted_words
from l7filters.world import World
from tidegate.flows.filter import policy_of
from tidegate.flows.record import Flow

SELECTED_MAX = 200
"""Endpoints that are named; beyond it only their number."""
SlotStates = Mapping[SlotKey, tuple[int, bool]]
"""Slot -> its id, and whether Envoy serves it."""


def policy_effect(world: World, key: str, slots: SlotStates, recent: Iterable[Flow]) -> dict[str, Any] | None:
    """Return the effect of the policy with ``key``; None if there is none."""
    specs = [policy for policy in world.policies if policy.key == key]
    if not specs:
        return None
    selected = [
        {"key": endpoint.key, "local": endpoint.is_local}
        for endpoint in world.endpoints
        if any(not spec.selects_nodes and spec.subject.matches(endpoint.labels) for spec in specs)
    ]
    selected.sort(key=lambda each: (not each["local"], each["key"]))
    verdicts, misses = _recent(key, recent)
    return {
        "key": key,
        "description": next((spec.description for spec in specs if spec.description), ""),
        "mode": str(specs[0].mode),
        "selects": {
            "subject": [("nodes " if spec.selects_nodes else "endpoints ") + (str(spec.subject) or "all") for spec in specs],
            "count": len(selected),
            "endpoints": selected[:SELECTED_MAX],
        },
        "default_deny": sorted({str(direction) for spec in specs for direction in spec.default_deny}),
        "rules": [_rule_json(rule, verdicts) for spec in specs for rule in spec.rules],
        "slots": sorted(_slots(key, slots), key=lambda each: each["id"]),
        "recent": _total(verdicts),
        "nearest_misses": misses,
    }


def _recent(key: str, recent: Iterable[Flow]) -> tuple[dict[str, Counter[str]], int]:
    """Return verdicts of recorded flows by rule, and on how many denials a rule of this policy came nearest."""
    verdicts: dict[str, Counter[str]] = {}
    misses = 0
    for flow in recent:
        if flow.rule is not None and flow.rule.policy == key:
            verdicts.setdefault(flow.rule.path, Counter())[flow.verdict.value] += 1
        elif flow.rule is None and flow.nearest_miss and policy_of(flow) == key:
            misses += 1
    return verdicts, misses


def _total(verdicts: Mapping[str, Counter[str]]) -> dict[str, int]:
    return dict(sum(verdicts.values(), Counter[str]()))


def _rule_json(rule: Rule, verdicts: Mapping[str, Counter[str]]) -> dict[str, Any]:
    inside = [counts for path, counts in verdicts.items() if path == rule.origin.path or path.startswith(f"{rule.origin.path}.")]
    return {
        "path": rule.origin.path,
        "direction": str(rule.direction),
        "effect": "deny" if rule.deny else "allow",
        "peers": ["anyone"] if rule.peers is None else [peer_words(peer) for peer in rule.peers] or ["nobody"],
        "ports": [_port_rule_json(port_rule, verdicts) for port_rule in rule.to_ports],
        "recent": dict(sum(inside, Counter[str]())),
    }


def _port_rule_json(port_rule: PortRule, verdicts: Mapping[str, Counter[str]]) -> dict[str, Any]:
    l7 = port_rule.l7
    messages: list[dict[str, Any]] = []
    if l7 is not None:
        messages = [_message_json(one, "deny", verdicts) for one in l7.deny]
        messages += [_message_json(one, "allow", verdicts) for one in l7.allow]
    return {
        "path": port_rule.origin.path,
        "ports": [port_words(spec) for spec in port_rule.ports] or ["any port"],
        "protocol": str(l7.protocol) if l7 is not None else "",
        "server_names": list(port_rule.server_names),
        "messages": messages,
    }


def _message_json(rule: L7Rule, effect: str, verdicts: Mapping[str, Counter[str]]) -> dict[str, Any]:
    return {
        "path": rule.origin.path,
        "effect": effect,
        "words": _message_words(rule) or "every message",
        "recent": dict(verdicts.get(rule.origin.path, {})),
    }


def _message_words(rule: L7Rule) -> str:
    match rule:
        case HttpRule():
            parts = [
                (name, match)
                for name, match in (("method", rule.method), ("path", rule.path), ("host", rule.host))
                if match is not None
            ]
            words = [f"{name} {wanted_words(match)}" for name, match in parts]
            words += [_header_words(header) for header in rule.headers]
            words += [
                f"query parameter {query.name} {wanted_words(query.value) if query.value else 'must be there'}"
                for query in rule.query
            ]
            return ", ".join(words)
        case KafkaRule():
            named = (rule.role, rule.api_key, rule.client_id and f"client id {rule.client_id}")
            words = [str(each) for each in named if each]
            words += [f"topic {wanted_words(topic)}" for topic in rule.topics]
            words += [f"group {wanted_words(group)}" for group in rule.groups]
            return ", ".join(words)
        case DnsRule():
            types = f" ({', '.join(rule.query_types)})" if rule.query_types else ""
            excepts = f" except {', '.join(rule.excepts)}" if rule.excepts else ""
            return f"name {rule.match_name or rule.match_pattern}{excepts}{types}"
        case _:
            assert_never(rule)


def _header_words(header: HeaderMatch) -> str:
    if header.secret is not None:
        wanted = f"must be secret {header.secret.namespace}/{header.secret.name}"
    else:
        wanted = wanted_words(header.value) if header.value is not None else "must be there"
    return f"header {header.name} {'NOT ' if header.invert else ''}{wanted}"


def _slots(key: str, slots: SlotStates) -> Iterable[dict[str, Any]]:
    for slot, (number, is_ready) in slots.items():
        origins = (*(slot.egress or ()), *(slot.ingress or ()))
        if any(origin.partition(":")[0] == key for origin in origins):
            yield {"id": number, "protocol": str(slot.protocol), "ready": is_ready, "rules": list(origins)}
