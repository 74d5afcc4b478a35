"""The proxy's rules and subjects as values: who may ask for which names, and which answers count.

Owns: the values, their JSON forms (the agent writes them, the proxy reads them) and their compiled form. Must not know how
policies are written. Which servers a pod may ask is decided before: only what policy redirects gets here, and the slot that it
was redirected to stands for the rules that apply.

Two files, since they change at different times. ``STATE/dns/rules.json`` is what people edit; a role is an identity of the
agent's, and says which slots and selectors its members have::

    {"version": 1, "revision": 7, "reject": "refused", "ttl_seconds_min": 0, "addresses_per_name_max": 1000,
     "slots": {"5": {"allow": [{"rule": "cnp/default/a:spec.egress[0]...", "matchPattern": "*.example.com", "queryTypes": ["A"],
                                "except": ["secret.example.com"]}], "shadow": null}},
     "selectors": {"31": {"matchName": "www.example.com"}},
     "roles": {"1234": {"slots": [5], "selectors": [31]}}}

``STATE/dns/subjects.json`` is who is there; a pod that comes or goes changes this file alone::

    {"version": 1, "revision": 12,
     "subjects": [{"endpoint": "default/xwing", "addresses": ["10.0.0.2", "fd00::2"], "interface": 9, "role": 1234}]}

Fail closed: a query from an address that is no subject's, or at a slot that its subject's role doesn't have, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from proxylib.dns.cache import ADDRESSES_PER_NAME_MAX, EndpointKey, address_text, parse_address
from proxylib.dns.message import Rcode, RecordType
from proxylib.dns.name import WireName, to_text
from proxylib.dns.rules import NameMatcher, NameSelector, PatternError, normalised
from proxylib.errors import SavedStateError

FORMAT_VERSION = 1
SLOT_MAX = 2047
NUMBER_MAX = (1 << 32) - 1
"""Of selectors, roles and interfaces."""
TTL_SECONDS_MAX = 604_800
"""A week (RFC 8767 4): longer ones are cut to it."""
JUDGEMENTS_MAX = 8192
"""Remembered judgements of one rule set; all are forgotten at once when there are more."""
EXPANSION_LABELS_MAX = 16
"""Labels of a refused name that are looked at for a search list's work; no search list makes more of a name."""


class Reject(StrEnum):
    """How a query that no rule allows is answered."""

    REFUSED = "refused"
    NXDOMAIN = "nxdomain"

    @property
    def rcode(self) -> Rcode:
        """As a response code."""
        return Rcode.REFUSED if self is Reject.REFUSED else Rcode.NXDOMAIN


@dataclass(frozen=True, slots=True)
class AllowRule:
    """Names that may be asked for. ``rule`` says where it stands; ``names`` None: every name; ``query_types`` empty: any type."""

    rule: str
    names: NameSelector | None = None
    query_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.query_types if name not in RecordType.__members__]
        if unknown:
            raise ValueError(f"unknown query types {', '.join(unknown)}")


@dataclass(frozen=True, slots=True)
class SlotRules:
    """One slot: what may be asked, and what might be if policies in audit mode were enforced (``shadow`` None: the same)."""

    allow: tuple[AllowRule, ...] = ()
    shadow: tuple[AllowRule, ...] | None = None


@dataclass(frozen=True, slots=True)
class Role:
    """What all subjects of one identity have: the slots they are redirected to, the selectors that their answers may fill."""

    slots: tuple[int, ...] = ()
    selectors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """An endpoint: its addresses (text, canonical), its role, and the index of its interface (0: none)."""

    endpoint: str
    addresses: tuple[str, ...]
    role: int
    interface: int = 0

    @property
    def key(self) -> EndpointKey:
        """Under which its answers are kept: a pod of the same name at another address is another one."""
        return EndpointKey(f"{self.endpoint}@{','.join(sorted(self.addresses))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsRules:
    """Everything that the proxy judges by, of one revision."""

    revision: int = 0
    reject: Reject = Reject.REFUSED
    ttl_seconds_min: int = 0
    addresses_per_name_max: int = ADDRESSES_PER_NAME_MAX
    slots: Mapping[int, SlotRules] = field(default_factory=dict)
    selectors: Mapping[int, NameSelector] = field(default_factory=dict)
    roles: Mapping[int, Role] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, role in self.roles.items():
            if not self.slots.keys() >= set(role.slots) or not self.selectors.keys() >= set(role.selectors):
                raise ValueError(f"role {number} has a slot or selector that is not there")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Who is there, of one revision. A subject whose role the rules don't have may ask for nothing."""

    revision: int = 0
    subjects: tuple[Subject, ...] = ()

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        for subject in self.subjects:
            for address in subject.addresses:
                if owners.setdefault(address, subject.endpoint) != subject.endpoint:
                    raise ValueError(f"{address} is both {owners[address]}'s and {subject.endpoint}'s")


# ---- JSON ---------------------------------------------------------------------------------------------------------


def dump_rules(rules: DnsRules) -> str:
    """Return ``rules`` as JSON."""
    return json.dumps(
        {
            "version": FORMAT_VERSION,
            "revision": rules.revision,
            "reject": str(rules.reject),
            "ttl_seconds_min": rules.ttl_seconds_min,
            "addresses_per_name_max": rules.addresses_per_name_max,
            "slots": {
                str(slot): {
                    "allow": [_rule_json(rule) for rule in found.allow],
                    "shadow": None if found.shadow is None else [_rule_json(rule) for rule in found.shadow],
                }
                for slot, found in sorted(rules.slots.items())
            },
            "selectors": {str(number): _selector_json(names) for number, names in sorted(rules.selectors.items())},
            "roles": {
                str(number): {"slots": list(role.slots), "selectors": list(role.selectors)}
                for number, role in sorted(rules.roles.items())
            },
        }
    )


def load_rules(text: str) -> DnsRules:
    """Return the rules that ``dump_rules`` wrote; raises SavedStateError."""
    try:
        document = _document(text, "rules")
        return DnsRules(
            revision=_number(document["revision"], 0, 1 << 63),
            reject=Reject(document["reject"]),
            ttl_seconds_min=_number(document["ttl_seconds_min"], 0, TTL_SECONDS_MAX),
            addresses_per_name_max=_number(document["addresses_per_name_max"], 1, 1 << 20),
            slots={_number(int(slot), 1, SLOT_MAX): _slot_rules(item) for slot, item in document["slots"].items()},
            selectors={_number(int(n), 0, NUMBER_MAX): _selector(item) for n, item in document["selectors"].items()},
            roles={_number(int(n), 0, NUMBER_MAX): _role(item) for n, item in document["roles"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SavedStateError(f"rules can't be read: {error!r}") from error


def dump_roster(roster: Roster) -> str:
    """Return ``roster`` as JSON."""
    subjects = [
        {"endpoint": each.endpoint, "addresses": list(each.addresses), "interface": each.interface, "role": each.role}
        for each in roster.subjects
    ]
    return json.dumps({"version": FORMAT_VERSION, "revision": roster.revision, "subjects": subjects})


def load_roster(text: str) -> Roster:
    """Return the roster that ``dump_roster`` wrote; raises SavedStateError."""
    try:
        document = _document(text, "subjects")
        return Roster(
            revision=_number(document["revision"], 0, 1 << 63), subjects=tuple(_subject(item) for item in document["subjects"])
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SavedStateError(f"subjects can't be read: {error!r}") from error


def _document(text: str, what: str) -> Any:
    document = json.loads(text)
    if document["version"] != FORMAT_VERSION:
        raise SavedStateError(f"{what} have version {document['version']!r}, not {FORMAT_VERSION}")
    return document


def _number(value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{value!r} is not a number from {low} to {high}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no string")
    return value


def _rule_json(rule: AllowRule) -> dict[str, object]:
    found: dict[str, object] = {"rule": rule.rule}
    found |= {"anyName": True} if rule.names is None else _selector_json(rule.names)
    if rule.query_types:
        found["queryTypes"] = list(rule.query_types)
    return found


def _selector_json(names: NameSelector) -> dict[str, object]:
    found: dict[str, object] = {}
    if names.match_name is not None:
        found["matchName"] = names.match_name
    if names.match_pattern is not None:
        found["matchPattern"] = names.match_pattern
    if names.excepts:
        found["except"] = list(names.excepts)
    return found


def _selector(item: Any) -> NameSelector:
    name, pattern = item.get("matchName"), item.get("matchPattern")
    excepts = tuple(normalised(_text(each)) for each in item.get("except", ()))
    return NameSelector(
        None if name is None else normalised(_text(name)), None if pattern is None else normalised(_text(pattern)), excepts
    )


def _slot_rules(item: Any) -> SlotRules:
    shadow = item["shadow"]
    return SlotRules(_allow_rules(item["allow"]), None if shadow is None else _allow_rules(shadow))


def _allow_rules(items: Any) -> tuple[AllowRule, ...]:
    if not isinstance(items, list):
        raise TypeError(f"{items!r} is no list of rules")
    return tuple(_allow_rule(item) for item in items)


def _allow_rule(item: Any) -> AllowRule:
    # An unknown key would be a restriction that is not kept.
    unknown = item.keys() - {"rule", "anyName", "matchName", "matchPattern", "except", "queryTypes"}
    if unknown:
        raise ValueError(f"a rule has unknown fields {sorted(unknown)}")
    names = None if item.get("anyName") is True else _selector(item)
    return AllowRule(_text(item["rule"]), names, tuple(_text(each) for each in item.get("queryTypes", ())))


def _role(item: Any) -> Role:
    return Role(
        tuple(_number(slot, 1, SLOT_MAX) for slot in item["slots"]),
        tuple(_number(number, 0, NUMBER_MAX) for number in item["selectors"]),
    )


def _subject(item: Any) -> Subject:
    return Subject(
        _text(item["endpoint"]),
        tuple(address_text(parse_address(_text(address))) for address in item["addresses"]),
        _number(item["role"], 0, NUMBER_MAX),
        _number(item["interface"], 0, NUMBER_MAX),
    )


# ---- judging ------------------------------------------------------------------------------------------------------


class Judgement(NamedTuple):
    """What a slot's rules say to a question."""

    rule: str | None
    """The first rule that allows it; None: no rule does."""
    shadow_allows: bool
    """Whether it would be allowed if policies in audit mode were enforced."""
    name_allowed: bool
    """Whether some rule allows the name for some type."""
    expands_allowed: bool
    """Whether the name is an allowed one with labels behind it: what a search list makes of it before the name itself."""


class _CompiledList:
    """One list of rules, compiled."""

    def __init__(self, rules: tuple[AllowRule, ...]) -> None:
        self._rules = [(rule.rule, frozenset(int(RecordType[name]) for name in rule.query_types)) for rule in rules]
        self._everywhere = [index for index, rule in enumerate(rules) if rule.names is None]
        named = [(index, rule.names) for index, rule in enumerate(rules) if rule.names is not None]
        self._indexes = [index for index, _ in named]
        self._matcher = NameMatcher([names for _, names in named])

    def covering(self, name: str) -> list[int]:
        return sorted([*self._everywhere, *(self._indexes[each] for each in self._matcher.matches(name))])

    def first(self, covering: Iterable[int], query_type: int) -> str | None:
        for index in covering:
            rule, types = self._rules[index]
            if not types or query_type in types:
                return rule
        return None


class CompiledSlot:
    """One slot's rules, compiled."""

    def __init__(self, rules: SlotRules) -> None:
        self.rules = rules
        self._allow = _CompiledList(rules.allow)
        self._shadow = None if rules.shadow is None else _CompiledList(rules.shadow)
        self._judged: dict[tuple[WireName, int], Judgement] = {}

    def judge(self, name: WireName, query_type: int) -> Judgement:
        """Return what the rules say to asking for ``name``."""
        key = (name, query_type)
        try:
            return self._judged[key]
        except KeyError:
            pass
        text = to_text(name)
        covering = self._allow.covering(text)
        rule = self._allow.first(covering, query_type)
        shadow_allows = self._shadow is None or self._shadow.first(self._shadow.covering(text), query_type) is not None
        expands = rule is None and not covering and self._expands_allowed(text)
        found = Judgement(rule, shadow_allows, bool(covering), expands)
        if len(self._judged) >= JUDGEMENTS_MAX:
            self._judged.clear()
        self._judged[key] = found
        return found

    def _expands_allowed(self, text: str) -> bool:
        labels = text.split(".")[: EXPANSION_LABELS_MAX + 1]
        return any(self._allow.covering(".".join(labels[:count])) for count in range(1, len(labels)))


class CompiledSelectors:
    """One set of selectors, compiled; roles with the same set share it."""

    def __init__(self, selectors: tuple[tuple[int, NameSelector], ...]) -> None:
        self.selectors = selectors
        self._numbers = tuple(number for number, _ in selectors)
        self._matcher = NameMatcher([names for _, names in selectors])
        self._found: dict[str, tuple[int, ...]] = {}

    def covering(self, name: str) -> tuple[int, ...]:
        """Return the numbers of the selectors that cover ``name``, ascending."""
        try:
            return self._found[name]
        except KeyError:
            pass
        found = tuple(self._numbers[index] for index in self._matcher.matches(name))
        if len(self._found) >= JUDGEMENTS_MAX:
            self._found.clear()
        self._found[name] = found
        return found


@dataclass(frozen=True, slots=True)
class Party:
    """A subject with all that its queries are judged by."""

    subject: Subject
    key: EndpointKey
    slots: Mapping[int, CompiledSlot]
    selectors: CompiledSelectors


class CompiledRules:
    """Rules in force. Raises SavedStateError if they can't be compiled. What did not change is taken from ``before``."""

    def __init__(self, rules: DnsRules, before: CompiledRules | None = None) -> None:
        self.rules = rules
        self._slots: dict[int, CompiledSlot] = {}
        self._shared: dict[tuple[tuple[int, NameSelector], ...], CompiledSelectors] = {}
        self._roles: dict[int, tuple[Mapping[int, CompiledSlot], CompiledSelectors]] = {}
        old_slots = {} if before is None else before._slots
        old_shared = {} if before is None else before._shared
        try:
            for number, found in rules.slots.items():
                old = old_slots.get(number)
                self._slots[number] = old if old is not None and old.rules == found else CompiledSlot(found)
            for number, role in rules.roles.items():
                selectors = tuple((each, rules.selectors[each]) for each in sorted(set(role.selectors)))
                if selectors not in self._shared:
                    self._shared[selectors] = old_shared.get(selectors) or CompiledSelectors(selectors)
                self._roles[number] = ({slot: self._slots[slot] for slot in role.slots}, self._shared[selectors])
        except PatternError as error:
            raise SavedStateError(str(error)) from error

    def parties(self, roster: Roster) -> dict[str, Party]:
        """Return whose each address (text) is. Subjects of unknown roles have no slots and no selectors."""
        nothing: tuple[Mapping[int, CompiledSlot], CompiledSelectors] = ({}, CompiledSelectors(()))
        found: dict[str, Party] = {}
        for subject in roster.subjects:
            party = Party(subject, subject.key, *self._roles.get(subject.role, nothing))
            found.update(dict.fromkeys(subject.addresses, party))
        return found
