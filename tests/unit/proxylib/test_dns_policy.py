"""The rules file, and judging by it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from l7filters.documents.dns import QUERY_TYPES
from proxylib.dns.message import RecordType
from proxylib.dns.name import WireName
from proxylib.dns.policy import AllowRule, CompiledRules, DnsRules, Reject, Subject, dump_rules, load_rules
from proxylib.dns.rules import NameSelector
from proxylib.errors import SavedStateError

RULES = DnsRules(
    revision=7,
    reject=Reject.NXDOMAIN,
    ttl_seconds_min=30,
    addresses_per_name_max=500,
    slots={
        5: (
            AllowRule("first", NameSelector(match_name="a.test"), ("AAAA", "HTTPS")),
            AllowRule("second", NameSelector(match_pattern="*.test", excepts=("x.test",))),
        ),
        6: (),
    },
    selectors={
        31: NameSelector(match_name="a.test"),
        32: NameSelector(match_pattern="**.test"),
        40: NameSelector(match_name="b.test"),
    },
    subjects=(Subject("default/a", ("10.0.0.1", "fd00::1"), (5, 6), (32, 31)), Subject("default/b", ("10.0.0.2",), (6,), ())),
)


def wire(text: str) -> WireName:
    return WireName(b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0")


def test_rules_come_back_from_their_json() -> None:
    assert load_rules(dump_rules(RULES)) == RULES


def test_names_and_addresses_are_read_into_canonical_form() -> None:
    document = json.loads(dump_rules(RULES))
    document["slots"]["5"][0]["matchName"] = "A.Test."
    document["subjects"][0]["addresses"] = ["10.0.0.1", "FD00:0::1"]
    assert load_rules(json.dumps(document)) == RULES


@pytest.mark.parametrize(
    "path, value",
    [
        (("version",), 2),
        (("revision",), -1),
        (("reject",), "maybe"),
        (("ttl_seconds_min",), True),
        (("slots", "5", 0, "matchName"), None),
        (("slots", "5", 0, "matchPattern"), "*"),
        (("slots", "5", 0, "queryTypes"), ["A", "BOGUS"]),
        (("slots",), {"9999": []}),
        (("subjects", 0, "addresses"), ["10.0.0.300"]),
        (("subjects", 0, "addresses"), ["10.0.0.2"]),
        (("subjects", 0, "slots"), [7]),
        (("subjects", 0, "selectors"), [99]),
    ],
)
def test_a_rules_file_with_a_fault_is_refused_as_a_whole(path: tuple[str | int, ...], value: object) -> None:
    document = json.loads(dump_rules(RULES))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(SavedStateError):
        load_rules(json.dumps(document))


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
    party = CompiledRules(RULES).parties["fd00::1"]
    for _ in range(2):
        assert party.slots[5].judge(wire(name), query_type) == rule
    assert party.slots[6].judge(wire(name), query_type) is None, "no rules allow nothing"


def test_a_label_with_a_dot_is_no_border_between_labels() -> None:
    party = CompiledRules(replace(RULES, slots={5: (AllowRule("r", NameSelector(match_name="a.test")),), 6: ()})).parties[
        "10.0.0.1"
    ]
    assert party.slots[5].judge(wire("a.test"), 1) == "r"
    assert party.slots[5].judge(WireName(b"\x06a.test\0"), 1) is None


def test_selectors_that_cover_a_name_are_the_subjects_own() -> None:
    compiled = CompiledRules(RULES)
    assert compiled.parties["10.0.0.1"].selectors.covering("a.test") == (31, 32)
    assert compiled.parties["10.0.0.1"].selectors.covering("b.test") == (32,)
    assert compiled.parties["10.0.0.2"].selectors.covering("a.test") == ()


def test_a_pod_of_the_same_name_at_another_address_is_another_one() -> None:
    before, after = Subject("default/a", ("10.0.0.1",)), Subject("default/a", ("10.0.0.9",))
    assert before.key != after.key


def test_every_query_type_that_policies_may_name_has_its_number() -> None:
    assert set(QUERY_TYPES) <= set(RecordType.__members__)
