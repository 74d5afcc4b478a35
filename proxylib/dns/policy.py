"""The proxy's rules as a value: who may ask for which names, and which answers count.

Owns: the value, its JSON form (``STATE/dns/rules.json``: the agent writes it, the proxy reads it) and its compiled form. Must
not know how policies are written. Which servers a pod may ask is decided before: only what policy redirects gets here, and the
slot that it was redirected to stands for the rules that apply.

JSON form (version 1)::

    {"version": 1, "revision": 7, "reject": "refused", "ttl_seconds_min": 0, "addresses_per_name_max": 1000,
     "slots": {"5": [{"rule": "cnp/default/a:spec.egress[0]...", "matchPattern": "*.example.com", "queryTypes": ["A"],
                      "except": ["secret.example.com"]}]},
     "selectors": {"31": {"matchName": "www.example.com"}},
     "subjects": [{"endpoint": "default/xwing", "addresses": ["10.0.0.2", "fd00::2"], "slots": [5], "selectors": [31]}]}

Fail closed: a query from an address that is no subject's, or at a slot that its subject doesn't have, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from proxylib.dns.cache import ADDRESSES_PER_NAME_MAX, EndpointKey, address_text, parse_address
from proxylib.dns.message import Rcode, RecordType
from proxylib.dns.name import WireName, to_text
from proxylib.dns.rules import NameMatcher, NameSelector, PatternError, normalised
from proxylib.errors import SavedStateError

FORMAT_VERSION = 1
SLOT_MAX = 2047
SELECTOR_MAX = (1 << 32) - 1
TTL_SECONDS_MAX = 604_800
"""A week (RFC 8767 4): longer ones are cut to it."""
JUDGEMENTS_MAX = 8192
"""Remembered judgements of one rule set; all are forgotten at once when there are more."""


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
    """Names that may be asked for. ``rule`` says where it stands; ``query_types`` empty: any type."""

    rule: str
    names: NameSelector
    query_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.query_types if name not in RecordType.__members__]
        if unknown:
            raise ValueError(f"unknown query types {', '.join(unknown)}")


@dataclass(frozen=True, slots=True)
class Subject:
    """An endpoint: its addresses (text, canonical), the slots it is redirected to, the selectors that its answers may fill."""

    endpoint: str
    addresses: tuple[str, ...]
    slots: tuple[int, ...] = ()
    selectors: tuple[int, ...] = ()

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
    slots: Mapping[int, tuple[AllowRule, ...]] = field(default_factory=dict)
    selectors: Mapping[int, NameSelector] = field(default_factory=dict)
    subjects: tuple[Subject, ...] = ()

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        for subject in self.subjects:
            for address in subject.addresses:
                if owners.setdefault(address, subject.endpoint) != subject.endpoint:
                    raise ValueError(f"{address} is both {owners[address]}'s and {subject.endpoint}'s")
            if not self.slots.keys() >= set(subject.slots) or not self.selectors.keys() >= set(subject.selectors):
                raise ValueError(f"{subject.endpoint} has a slot or selector that is not there")


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
                str(slot): [
                    {"rule": rule.rule, **_selector_json(rule.names)}
                    | ({"queryTypes": list(rule.query_types)} if rule.query_types else {})
                    for rule in allowed
                ]
                for slot, allowed in sorted(rules.slots.items())
            },
            "selectors": {str(number): _selector_json(names) for number, names in sorted(rules.selectors.items())},
            "subjects": [
                {
                    "endpoint": subject.endpoint,
                    "addresses": list(subject.addresses),
                    "slots": list(subject.slots),
                    "selectors": list(subject.selectors),
                }
                for subject in rules.subjects
            ],
        }
    )


def load_rules(text: str) -> DnsRules:
    """Return the rules that ``dump_rules`` wrote; raises SavedStateError."""
    try:
        document = json.loads(text)
        if document["version"] != FORMAT_VERSION:
            raise SavedStateError(f"rules have version {document['version']!r}, not {FORMAT_VERSION}")
        return DnsRules(
            revision=_number(document["revision"], 0, 1 << 63),
            reject=Reject(document["reject"]),
            ttl_seconds_min=_number(document["ttl_seconds_min"], 0, TTL_SECONDS_MAX),
            addresses_per_name_max=_number(document["addresses_per_name_max"], 1, 1 << 20),
            slots={
                _number(int(slot), 1, SLOT_MAX): tuple(_allow_rule(item) for item in items)
                for slot, items in document["slots"].items()
            },
            selectors={_number(int(n), 0, SELECTOR_MAX): _selector(item) for n, item in document["selectors"].items()},
            subjects=tuple(_subject(item) for item in document["subjects"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SavedStateError(f"rules can't be read: {error!r}") from error


def _number(value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{value!r} is not a number from {low} to {high}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no string")
    return value


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


def _allow_rule(item: Any) -> AllowRule:
    return AllowRule(_text(item["rule"]), _selector(item), tuple(_text(each) for each in item.get("queryTypes", ())))


def _subject(item: Any) -> Subject:
    return Subject(
        _text(item["endpoint"]),
        tuple(address_text(parse_address(_text(address))) for address in item["addresses"]),
        tuple(_number(slot, 1, SLOT_MAX) for slot in item["slots"]),
        tuple(_number(number, 0, SELECTOR_MAX) for number in item["selectors"]),
    )


# ---- judging ------------------------------------------------------------------------------------------------------


class CompiledSlot:
    """One slot's rules, compiled."""

    def __init__(self, rules: tuple[AllowRule, ...]) -> None:
        self._rules = [(rule.rule, frozenset(int(RecordType[name]) for name in rule.query_types)) for rule in rules]
        self._matcher = NameMatcher([rule.names for rule in rules])
        self._judged: dict[tuple[WireName, int], str | None] = {}

    def judge(self, name: WireName, query_type: int) -> str | None:
        """Return the first rule that allows asking for ``name``; None: no rule does."""
        key = (name, query_type)
        try:
            return self._judged[key]
        except KeyError:
            pass
        found = None
        for index in self._matcher.matches(to_text(name)):
            rule, types = self._rules[index]
            if not types or query_type in types:
                found = rule
                break
        if len(self._judged) >= JUDGEMENTS_MAX:
            self._judged.clear()
        self._judged[key] = found
        return found


class CompiledSelectors:
    """One set of selectors, compiled; subjects with the same set share it."""

    def __init__(self, numbers: tuple[int, ...], selectors: Mapping[int, NameSelector]) -> None:
        self._numbers = numbers
        self._matcher = NameMatcher([selectors[number] for number in numbers])
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
    """Rules in force. Raises SavedStateError if they can't be compiled."""

    def __init__(self, rules: DnsRules) -> None:
        self.rules = rules
        self.parties: dict[str, Party] = {}
        """Address (text) -> whose it is."""
        try:
            slots = {slot: CompiledSlot(allowed) for slot, allowed in rules.slots.items()}
            shared: dict[tuple[int, ...], CompiledSelectors] = {}
            for subject in rules.subjects:
                numbers = tuple(sorted(set(subject.selectors)))
                if numbers not in shared:
                    shared[numbers] = CompiledSelectors(numbers, rules.selectors)
                party = Party(subject, subject.key, {slot: slots[slot] for slot in subject.slots}, shared[numbers])
                self.parties.update(dict.fromkeys(subject.addresses, party))
        except PatternError as error:
            raise SavedStateError(str(error)) from error
