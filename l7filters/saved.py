"""Numberings as text, so that they outlive the agent: identities.json and slots.json of the state directory.

Owns: the two JSON shapes (versioned, sorted, one item a line when indented by a person) and their strict reading. Reading and
writing files is the caller's. A file that can't be read is a SavedTableError; starting from an empty table is then safe: every
number is new, so no old verdict can be taken for a new one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_network

from l7filters.identity import FIRST_DYNAMIC, IDENTITY_MAX, IdentityNumber, IdentityTable, LabelSet
from l7filters.ir import SlotKey
from l7filters.model import L7Protocol
from l7filters.population import network_order
from l7filters.slots import SLOT_MAX, SlotTable
from proxylib.dns.rules import NameSelector, PatternError

FORMAT_VERSION = 1


class SavedTableError(ValueError):
    """The text is not a table that this version wrote. The message says where it goes wrong."""


def dump_identities(table: IdentityTable) -> str:
    """Return ``table`` as JSON."""
    identities = [
        {
            "number": number,
            "labels": dict(label_set.labels),
            "cidrs": [str(network) for network in sorted(label_set.cidrs, key=network_order)],
            **({} if label_set.fqdn is None else {"fqdn": _fqdn_json(label_set.fqdn)}),
        }
        for label_set, number in sorted(table.numbers.items(), key=lambda item: item[1])
    ]
    return json.dumps({"version": FORMAT_VERSION, "next": table.next_number, "identities": identities})


def load_identities(text: str) -> IdentityTable:
    """Return the table that ``dump_identities`` wrote; raises SavedTableError."""
    document = _document(text)
    next_number = _integer(document, "next", FIRST_DYNAMIC, IDENTITY_MAX + 1)
    numbers: dict[LabelSet, IdentityNumber] = {}
    for item in _list(document, "identities"):
        identity = _mapping(item)
        number = _integer(identity, "number", FIRST_DYNAMIC, next_number - 1)
        labels = _mapping(identity.get("labels"))
        if not all(isinstance(value, str) for value in labels.values()):
            raise SavedTableError("a label's value is not a string")
        try:
            cidrs = frozenset(ip_network(_string(text)) for text in _list(identity, "cidrs"))
        except ValueError as error:
            raise SavedTableError(f"identity {number}: {error}") from error
        fqdn = _fqdn(identity["fqdn"]) if "fqdn" in identity else None
        numbers[LabelSet(tuple(sorted((key, str(value)) for key, value in labels.items())), cidrs, fqdn)] = IdentityNumber(number)
    if len(set(numbers.values())) != len(_list(document, "identities")):
        raise SavedTableError("a number or a label set is there twice")
    return IdentityTable(numbers, next_number)


def _fqdn_json(names: NameSelector) -> dict[str, object]:
    found: dict[str, object] = {"except": list(names.excepts)}
    if names.match_name is not None:
        found["matchName"] = names.match_name
    if names.match_pattern is not None:
        found["matchPattern"] = names.match_pattern
    return found


def _fqdn(item: object) -> NameSelector:
    names = _mapping(item)
    given = [_string(names[key]) if key in names else None for key in ("matchName", "matchPattern")]
    try:
        return NameSelector(given[0], given[1], tuple(_string(each) for each in _list(names, "except")))
    except PatternError as error:
        raise SavedTableError(str(error)) from error


def dump_slots(table: SlotTable) -> str:
    """Return ``table`` as JSON."""
    slots = [
        {"id": number, "protocol": str(key.protocol), "egress": key.egress, "ingress": key.ingress}
        for key, number in sorted(table.ids.items(), key=lambda item: item[1])
    ]
    return json.dumps({"version": FORMAT_VERSION, "next": table.next_id, "resting": sorted(table.resting), "slots": slots})


def load_slots(text: str) -> SlotTable:
    """Return the table that ``dump_slots`` wrote; raises SavedTableError."""
    document = _document(text)
    ids: dict[SlotKey, int] = {}
    items = _list(document, "slots")
    for item in items:
        slot = _mapping(item)
        number = _integer(slot, "id", 1, SLOT_MAX)
        egress, ingress = _origins(slot, "egress"), _origins(slot, "ingress")
        try:
            protocol = L7Protocol(_string(slot.get("protocol")))
        except ValueError as error:
            raise SavedTableError(f"slot {number}: {error}") from error
        if egress is None and ingress is None:
            raise SavedTableError(f"slot {number} judges neither direction")
        ids[SlotKey(protocol, egress, ingress)] = number
    resting = frozenset(_bounded(number, "resting", 1, SLOT_MAX) for number in _list(document, "resting"))
    if len(set(ids.values())) != len(items) or not resting.isdisjoint(ids.values()):
        raise SavedTableError("a slot's id or key is there twice")
    return SlotTable(ids, resting, _integer(document, "next", 1, SLOT_MAX))


def _document(text: str) -> Mapping[str, object]:
    try:
        document = _mapping(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise SavedTableError(f"not JSON: {error}") from error
    if document.get("version") != FORMAT_VERSION:
        raise SavedTableError(f"version is {document.get('version')!r}, not {FORMAT_VERSION}")
    return document


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise SavedTableError(f"{type(value).__name__} where an object is expected")
    return value


def _list(parent: Mapping[str, object], name: str) -> list[object]:
    value = parent.get(name)
    if not isinstance(value, list):
        raise SavedTableError(f"{name} is not a list")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise SavedTableError(f"{type(value).__name__} where a string is expected")
    return value


def _integer(parent: Mapping[str, object], name: str, low: int, high: int) -> int:
    return _bounded(parent.get(name), name, low, high)


def _bounded(value: object, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise SavedTableError(f"{name} is {value!r}, not a number from {low} to {high}")
    return value


def _origins(slot: Mapping[str, object], name: str) -> tuple[str, ...] | None:
    value = slot.get(name)
    if value is None:
        return None
    return tuple(_string(origin) for origin in _list(slot, name))
