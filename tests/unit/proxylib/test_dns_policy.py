"""The rules file, and judging by it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from l7filters.documents.dns import QUERY_TYPES
from proxylib.dns.message import RecordType
from proxylib.dns.name import WireName
from proxylib.dns.policy import (
    AllowRule,
    CompiledRules,
    CompiledSlot,
    DnsRules,
    Reject,
    Role,
    Roster,
    SlotRules,
    Subject,
    dump_roster,
    dump_rules,
    load_roster,
    load_rules,
)
from proxylib.dns.rules import NameSelector
from proxylib.errors import SavedStateError

RULES = DnsRules(
    revision=7,
    reject=Reject.NXDOMAIN,
    ttl_seconds_min=30,
    addresses_per_name_max=500,
    slots={
        5: SlotRules(
            (
                AllowRule("first", NameSelector(match_name="a.test"), ("AAAA", "HTTPS")),
                AllowRule("second", NameSelector(match_pattern="*.test", excepts=("x.test",))),
            )
        ),
        6: SlotRules(),
        7: SlotRules((AllowRule("any", None, ("A",)),), shadow=(AllowRule("strict", NameSelector(match_name="a.test")),)),
    },
    selectors={
        31: NameSelector(match_name="a.test"),
        32: NameSelector(match_pattern="**.test"),
        40: NameSelector(match_name="b.test"),
    },
    roles={300: Role((5, 6, 7), (32, 31)), 301: Role((6,))},
)
ROSTER = Roster(
    revision=12, subjects=(Subject("default/a", ("10.0.0.1", "fd00::1"), 300, 9), Subject("default/b", ("10.0.0.2",), 301))
)


def wire(text: str) -> WireName:
    return WireName(b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0")


def test_rules_come_back_from_their_json() -> None:
    assert load_rules(dump_rules(RULES)) == RULES
    assert load_roster(dump_roster(ROSTER)) == ROSTER


def test_names_and_addresses_are_read_into_canonical_form() -> None:
    document = json.loads(dump_rules(RULES))
    document["slots"]["5"]["allow"][0]["matchName"] = "A.Test."
    assert load_rules(json.dumps(document)) == RULES
    document = json.loads(dump_roster(ROSTER))
    document["subjects"][0]["addresses"] = ["10.0.0.1", "FD00:0::1"]
    assert load_roster(json.dumps(document)) == ROSTER


@pytest.mark.parametrize(
    "path, value",
    [
        (("version",), 2),
        (("revision",), -1),
        (("reject",), "maybe"),
        (("ttl_seconds_min",), True),
        (("slots", "5", "allow", 0, "matchName"), None),
        (("slots", "5", "allow", 0, "matchPattern"), "*"),
        (("slots", "5", "allow", 0, "queryTypes"), ["A", "BOGUS"]),
        (("slots", "5", "allow", 0), {"rule": "names nothing"}),
        (("slots", "5", "allow", 0, "deny"), True),
        (("slots",), {"9999": {"allow": [], "shadow": None}}),
        (("slots", "6"), {"allow": None, "shadow": None}),
        (("roles", "300", "slots"), [8]),
        (("roles", "300", "selectors"), [99]),
    ],
)
def test_a_rules_file_with_a_fault_is_refused_as_a_whole(path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(SavedStateError):
        load_rules(changed(dump_rules(RULES), path, value))


def changed(text: str, path: tuple[str | int, ...], value: object) -> str:
    document = json.loads(text)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    "path, value",
    [
        (("version",), 2),
        (("revision",), "1"),
        (("subjects", 0, "addresses"), ["10.0.0.300"]),
        (("subjects", 0, "addresses"), ["10.0.0.2"]),
        (("subjects", 0, "interface"), -1),
        (("subjects", 0, "role"), None),
    ],
)
def test_a_subjects_file_with_a_fault_is_refused_as_a_whole(path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(SavedStateError):
        load_roster(changed(dump_roster(ROSTER), path, value))


@pytest.mark.parametrize(
    "name, query_type, rule",
    [
        ("a.test", 28, "first"),
        ("a.test", 65, "first"),
        ("a.test", 1, "second"),
        ("b.test", 1, "second"),
        ("x.test", 1, None),
        ("y.x.test", 1, None),
    ],
)
def test_the_first_rule_that_covers_name_and_type_decides(name: str, query_type: int, rule: str | None) -> None:
    party = CompiledRules(RULES).parties(ROSTER)["fd00::1"]
    for _ in range(2):
        assert party.slots[5].judge(wire(name), query_type).rule == rule
    assert party.slots[6].judge(wire(name), query_type).rule is None, "no rules allow nothing"


def test_a_label_with_a_dot_is_no_border_between_labels() -> None:
    slot = CompiledSlot(SlotRules((AllowRule("r", NameSelector(match_name="a.test")),)))
    assert slot.judge(wire("a.test"), 1).rule == "r"
    assert slot.judge(WireName(b"\x06a.test\0"), 1).rule is None


def test_a_rule_without_names_covers_also_names_with_odd_bytes_and_the_root() -> None:
    slot = CompiledRules(RULES).parties(ROSTER)["10.0.0.1"].slots[7]
    assert [slot.judge(name, 1).rule for name in (wire("b.test"), WireName(b"\x03a b\0"), WireName(b"\0"))] == ["any"] * 3
    assert slot.judge(wire("b.test"), 28).rule is None


def test_shadow_rules_say_what_enforcing_them_would_refuse() -> None:
    slot = CompiledRules(RULES).parties(ROSTER)["10.0.0.1"].slots[7]
    assert [slot.judge(wire(name), 1).shadow_allows for name in ("a.test", "b.test")] == [True, False]


@pytest.mark.parametrize(
    "name, expands",
    [
        ("a.test.default.svc.cluster.local", True),
        ("b.test.lan", True),
        ("x.test.lan", False),
        ("c.example.lan", False),
        ("lan.a.test", False),
        ("test", False),
        (".".join(["n"] * 60), False),
    ],
)
def test_what_a_search_list_made_of_an_allowed_name_is_told_from_other_refused_names(name: str, expands: bool) -> None:
    judged = CompiledRules(RULES).parties(ROSTER)["10.0.0.1"].slots[5].judge(wire(name), 1)
    assert (judged.rule, judged.expands_allowed) == (None, expands)


def test_a_name_that_is_allowed_for_another_type_is_told_from_a_refused_one() -> None:
    slot = CompiledSlot(SlotRules((AllowRule("r", NameSelector(match_name="a.test"), ("A",)),)))
    assert [slot.judge(wire(name), 28).name_allowed for name in ("a.test", "b.test")] == [True, False]


def test_selectors_that_cover_a_name_are_the_subjects_own() -> None:
    parties = CompiledRules(RULES).parties(ROSTER)
    assert parties["10.0.0.1"].selectors.covering("a.test") == (31, 32)
    assert parties["10.0.0.1"].selectors.covering("b.test") == (32,)
    assert parties["10.0.0.2"].selectors.covering("a.test") == ()


def test_a_subject_of_an_unknown_role_has_nothing() -> None:
    party = CompiledRules(RULES).parties(Roster(subjects=(Subject("default/c", ("10.0.0.3",), 999),)))["10.0.0.3"]
    assert (dict(party.slots), party.selectors.covering("a.test")) == ({}, ())


def test_what_did_not_change_is_not_compiled_again() -> None:
    before = CompiledRules(RULES)
    after = CompiledRules(replace(RULES, revision=8, slots={**RULES.slots, 6: RULES.slots[7]}), before)
    old, new = before.parties(ROSTER)["10.0.0.1"], after.parties(ROSTER)["10.0.0.1"]
    assert (new.slots[5] is old.slots[5], new.slots[6] is old.slots[6], new.selectors is old.selectors) == (True, False, True)


def test_a_pod_of_the_same_name_at_another_address_is_another_one() -> None:
    before, after = Subject("default/a", ("10.0.0.1",), 1), Subject("default/a", ("10.0.0.9",), 1)
    assert before.key != after.key


def test_every_query_type_that_policies_may_name_has_its_number() -> None:
    assert set(QUERY_TYPES) <= set(RecordType.__members__)
