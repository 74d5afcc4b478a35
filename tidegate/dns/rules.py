"""From compiled policy to what the DNS proxy judges by. Pure.

Owns: which slots, selectors, roles and subjects follow from a compiled policy, and what holds while the kernel goes over from one
to the next. Must not know files or processes (dns/side.py).

A role stands for an identity. While the kernel may still send packets by what was before, both hold: the slots of both
are listened for, and who had a slot or selector keeps it until the maps speak of it no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from l7filters.identity import IdentityNumber
from l7filters.ir import CompiledPolicy, Redirect, RuleSet, Slot, SlotKey
from l7filters.model import Direction, DnsRule, L7Protocol
from l7filters.slots import SlotTable
from proxylib.dns.policy import AllowRule, DnsRules, Role, Roster, SlotRules, Subject
from proxylib.dns.rules import NameSelector
from tidegate.config.dns import DnsSection

MIXED_ROLES_MIN = 1 << 31
"""Roles of those whose identity changes are numbered from here; identities stay below."""


def dns_content(
    ours: Content, theirs: Content | None, interfaces: Mapping[str, int], section: DnsSection
) -> tuple[DnsRules, Roster]:
    """Return the rules and the roster, of revision 0. ``theirs``: what the kernel may still go by."""
    slots, selectors, roles = dict(ours.slots), dict(ours.selectors), dict(ours.roles)
    if theirs is not None:
        # A slot that both have was changed in place: its content is the new one.
        slots = theirs.slots | slots
        selectors = theirs.selectors | selectors
        roles = {
            number: _united(ours.roles.get(number), theirs.roles.get(number)) for number in theirs.roles.keys() | roles.keys()
        }
    mixed: dict[tuple[IdentityNumber, IdentityNumber], int] = {}
    subjects = []
    for endpoint in ours.endpoints:
        role: int = endpoint.identity
        was = theirs.identities.get(endpoint.key, endpoint.identity) if theirs is not None else endpoint.identity
        if was != endpoint.identity and theirs is not None:
            pair = (was, endpoint.identity)
            role = mixed.setdefault(pair, MIXED_ROLES_MIN + len(mixed))
            roles[role] = _united(ours.roles.get(endpoint.identity), theirs.roles.get(was))
        addresses = ours.addresses.get(endpoint.key, ())
        if role in roles and addresses:
            subjects.append(Subject(endpoint.key, addresses, role, interfaces.get(endpoint.key, 0)))
    rules = DnsRules(
        reject=section.reject,
        ttl_seconds_min=section.ttl_floor_seconds,
        addresses_per_name_max=section.addresses_per_name_max,
        slots=slots,
        selectors=selectors,
        roles=roles,
    )
    return rules, Roster(subjects=tuple(subjects))


def _united(one: Role | None, other: Role | None) -> Role:
    one, other = one or Role(), other or Role()
    return Role(tuple(sorted({*one.slots, *other.slots})), tuple(sorted({*one.selectors, *other.selectors})))


class Content:
    """What follows from one compiled policy and the numbering of its slots."""

    def __init__(self, compiled: CompiledPolicy, table: SlotTable) -> None:
        ids = table.ids
        self.endpoints = compiled.endpoints
        self.slots = {
            ids[slot.key]: _slot_rules(slot)
            for slot in compiled.slots
            if slot.key.protocol is L7Protocol.DNS and slot.key in ids and slot.egress is not None
        }
        self.selectors: dict[int, NameSelector] = {
            number: labels.fqdn for labels, number in compiled.identities.numbers.items() if labels.fqdn is not None
        }
        self.identities = {endpoint.key: endpoint.identity for endpoint in compiled.endpoints}
        self.roles = _roles(compiled, ids, frozenset(self.identities.values()), frozenset(self.selectors))
        self.addresses: dict[str, tuple[str, ...]] = {}
        for entry in compiled.ipcache:
            if entry.endpoint is not None:
                known = self.addresses.get(entry.endpoint, ())
                self.addresses[entry.endpoint] = (*known, str(entry.prefix.network_address))


def _slot_rules(slot: Slot) -> SlotRules:
    assert slot.egress is not None, "DNS rules are for egress"
    shadow = slot.egress.shadow
    return SlotRules(_allowed(slot.egress.enforced), None if shadow is None else _allowed(shadow))


def _allowed(rules: RuleSet) -> tuple[AllowRule, ...]:
    anything = [AllowRule(str(origin)) for origin in rules.allow_all]
    listed = [
        AllowRule(str(rule.origin), NameSelector(rule.match_name, rule.match_pattern, rule.excepts), rule.query_types)
        for rule in rules.allow
        if isinstance(rule, DnsRule)
    ]
    # Those that name names come first: they say more about why a question was allowed.
    return (*listed, *anything)


def _roles(
    compiled: CompiledPolicy, ids: Mapping[SlotKey, int], local: frozenset[IdentityNumber], selectors: Iterable[int]
) -> dict[int, Role]:
    """Identity -> what its members have; only those that have anything."""
    names = frozenset(selectors)
    slots: dict[int, set[int]] = {}
    granted: dict[int, set[int]] = {}
    for entry in compiled.entries:
        key = entry.key
        if key.subject not in local or key.direction is not Direction.EGRESS:
            continue
        if isinstance(entry.verdict, Redirect) and entry.verdict.slot.protocol is L7Protocol.DNS and entry.verdict.slot in ids:
            slots.setdefault(key.subject, set()).add(ids[entry.verdict.slot])
        if key.peer in names:
            granted.setdefault(key.subject, set()).add(key.peer)
    return {
        number: Role(tuple(sorted(slots.get(number, ()))), tuple(sorted(granted.get(number, ()))))
        for number in sorted(slots.keys() | granted.keys())
    }
