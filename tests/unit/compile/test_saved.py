"""Numberings as text."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from l7filters.identity import IdentityNumber, IdentityTable, LabelSet
from l7filters.ir import SlotKey
from l7filters.model import L7Protocol
from l7filters.saved import SavedTableError, dump_identities, dump_slots, load_identities, load_slots
from l7filters.slots import SlotTable

IDENTITIES = IdentityTable(
    {
        LabelSet.of({"app": "web", "ünïcode": 'quote"'}): IdentityNumber(256),
        LabelSet(cidrs=frozenset([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])): IdentityNumber(300),
        LabelSet(): IdentityNumber(301),
    },
    302,
)
SLOTS = SlotTable(
    {
        SlotKey(L7Protocol.HTTP, egress=("a:x", "b:y")): 1,
        SlotKey(L7Protocol.TLS, ingress=()): 7,
        SlotKey(L7Protocol.HTTP, egress=("a:x",), ingress=("c:z",)): 9,
    },
    frozenset({2, 3}),
    10,
)


def test_tables_survive_their_text() -> None:
    assert load_identities(dump_identities(IDENTITIES)) == IDENTITIES
    assert load_slots(dump_slots(SLOTS)) == SLOTS


def test_text_does_not_depend_on_insertion_order() -> None:
    backwards = IdentityTable(dict(reversed(list(IDENTITIES.numbers.items()))), IDENTITIES.next_number)
    assert dump_identities(backwards) == dump_identities(IDENTITIES)
    assert dump_slots(SlotTable(dict(reversed(list(SLOTS.ids.items()))), SLOTS.resting, 10)) == dump_slots(SLOTS)


IDENTITY = {"number": 256, "labels": {}, "cidrs": []}
SLOT = {"id": 1, "protocol": "http", "egress": ["a:x"], "ingress": None}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"version": 2, "next": 256, "identities": []},
        {"version": 1, "next": 256},
        {"version": 1, "next": "256", "identities": []},
        {"version": 1, "next": 256, "identities": [IDENTITY]},
        {"version": 1, "next": 300, "identities": [{**IDENTITY, "number": 9}]},
        {"version": 1, "next": 300, "identities": [{**IDENTITY, "labels": {"a": 1}}]},
        {"version": 1, "next": 300, "identities": [{**IDENTITY, "cidrs": ["10.0.0.1/8"]}]},
        {"version": 1, "next": 300, "identities": [{**IDENTITY, "cidrs": [10]}]},
        {"version": 1, "next": 300, "identities": [IDENTITY, IDENTITY]},
        {"version": 1, "next": 300, "identities": [IDENTITY, {**IDENTITY, "labels": {"a": "b"}}]},
        {"version": 1, "next": 300, "identities": ["x"]},
        {"version": 1, "next": 1 << 25, "identities": []},
    ],
    ids=str,
)
def test_identities_that_make_no_sense_are_refused(document: object) -> None:
    with pytest.raises(SavedTableError):
        load_identities(json.dumps(document))


@pytest.mark.parametrize(
    "document",
    [
        {"version": 1, "next": 1, "resting": [], "slots": [{**SLOT, "id": 0}]},
        {"version": 1, "next": 1, "resting": [], "slots": [{**SLOT, "id": True}]},
        {"version": 1, "next": 1, "resting": [], "slots": [{**SLOT, "id": 2048}]},
        {"version": 1, "next": 1, "resting": [], "slots": [{**SLOT, "protocol": "smtp"}]},
        {"version": 1, "next": 1, "resting": [], "slots": [{**SLOT, "egress": None}]},
        {"version": 1, "next": 1, "resting": [], "slots": [{**SLOT, "egress": [1]}]},
        {"version": 1, "next": 1, "resting": [], "slots": [SLOT, SLOT]},
        {"version": 1, "next": 1, "resting": [], "slots": [SLOT, {**SLOT, "egress": ["b:x"]}]},
        {"version": 1, "next": 1, "resting": [1], "slots": [SLOT]},
        {"version": 1, "next": 1, "resting": [0], "slots": []},
        {"version": 1, "next": 0, "resting": [], "slots": []},
    ],
    ids=str,
)
def test_slots_that_make_no_sense_are_refused(document: object) -> None:
    with pytest.raises(SavedTableError):
        load_slots(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 100_000], ids=["empty", "cut off", "null", "deep"])
def test_text_that_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(SavedTableError):
        load_slots(text)
