"""Predicates mean in Envoy's words what they mean in the policy's."""

from __future__ import annotations

import pytest
import re2
from envoy.config.rbac.v3.rbac_pb2 import Permission
from hypothesis import given
from hypothesis import strategies as st

from l7filters.envoy.matching import (
    QUERY_NAME,
    REGEX_PROGRAM_SIZE_MAX,
    Stance,
    check_query_name,
    header_permission,
    host_permission,
    path_permission,
    path_regex,
    query_occurs_regex,
    query_principals,
    query_repeats_regex,
    regex_matcher,
    regex_problem,
)
from l7filters.envoy.resource import RuleProblem
from l7filters.envoy.server_name import server_name_regex
from l7filters.http import HttpRequest
from l7filters.model import HttpRule, PolicyKey, QueryMatch, RuleOrigin, StringMatch
from l7filters.predicates import http_holds
from tests.support.slots import exact, prefix, regex


def matches(pattern: str, text: str) -> bool:
    return re2.fullmatch(pattern, text) is not None


def path_holds(permission: Permission, path: str) -> bool:
    """Evaluate a path permission as Envoy does: ``url_path`` without the query, ``:path`` with it."""
    kind = permission.WhichOneof("rule")
    if kind == "or_rules":
        return any(path_holds(each, path) for each in permission.or_rules.rules)
    if kind == "header":
        assert permission.header.name == ":path"
        return matches(permission.header.string_match.safe_regex.regex, path)
    matcher, location = permission.url_path.path, path.partition("?")[0]
    wanted = getattr(matcher, matcher.WhichOneof("match_pattern"))
    if matcher.ignore_case:
        wanted, location = wanted.lower(), location.lower()
    return location == wanted if matcher.WhichOneof("match_pattern") == "exact" else location.startswith(wanted)


PATHS = [
    (exact("/api"), ["/api", "/api?x=/y"], ["/api/", "/apis", "/", "/API", "/api/x"]),
    (exact("/a.b"), ["/a.b"], ["/aXb"]),
    (exact("/Api", ignore_case=True), ["/api", "/API?x"], ["/api/"]),
    (prefix("/api"), ["/api", "/api/", "/api/x?y", "/api?x"], ["/apis", "/ap", "/x/api", "/API"]),
    (prefix("/api", ignore_case=True), ["/API/x", "/api"], ["/apis"]),
    (prefix("/"), ["/", "/x", "/x/y?z"], []),
    (regex("/api/.*"), ["/api/", "/api/x?y=z"], ["/api", "/x/api/"]),
    (regex("/a|/b"), ["/a", "/b"], ["/a/b", "/ab", "/a?x"]),
]


@pytest.mark.parametrize("path, yes, no", PATHS, ids=[f"{path.kind}-{path.value}" for path, _, _ in PATHS])
def test_path_predicates_in_both_dialects(path: StringMatch, yes: list[str], no: list[str]) -> None:
    for each in yes:
        assert path_holds(path_permission(path), each), each
        assert matches(path_regex(path), each), each
    for each in no:
        assert not path_holds(path_permission(path), each), each
        assert not matches(path_regex(path), each), each


@given(st.sampled_from(PATHS), st.text(alphabet="/apbix?=%.", max_size=12))
def test_both_dialects_agree_on_every_path(case: tuple[StringMatch, list[str], list[str]], tail: str) -> None:
    path = "/" + tail
    assert path_holds(path_permission(case[0]), path) == matches(path_regex(case[0]), path)


OCCURS = ["/?role", "/?role=", "/?role=x", "/a?x=1&role=x", "/?r%6Fle=x", "/?%72%6f%6c%65", "/?x&role&y", "/?a?role=1&role=2"]
ABSENT = ["/", "/role=x", "/?roles=x", "/?xrole=x", "/?x=role", "/?x=role=y", "/?r%6Fles", "/?"]


@pytest.mark.parametrize("path", OCCURS)
def test_parameter_is_found_at_any_position_and_in_any_spelling(path: str) -> None:
    assert matches(query_occurs_regex("role"), path)


@pytest.mark.parametrize("path", ABSENT)
def test_parameter_is_not_found_where_it_is_not(path: str) -> None:
    assert not matches(query_occurs_regex("role"), path)


@pytest.mark.parametrize(
    "path", ["/?role=a&role=b", "/?role&role", "/?role&x=1&r%6fle=b&y", "/?role=a&role=b&role=c", "/?x&role&role="]
)
def test_repeated_parameter_is_seen(path: str) -> None:
    assert matches(query_repeats_regex("role"), path)


@pytest.mark.parametrize("path", ["/?role=a", "/?role=role&x", "/?role=a&roles=b", "/role&role?role=1", "/?x=role&role=1"])
def test_single_parameter_does_not_look_repeated(path: str) -> None:
    assert not matches(query_repeats_regex("role"), path)


@given(
    st.lists(
        st.tuples(st.sampled_from(["role", "r%6fle", "rol", "roles", "x"]), st.sampled_from([None, "", "a", "role"])), max_size=6
    )
)
def test_occurrences_are_counted_right(parameters: list[tuple[str, str | None]]) -> None:
    path = "/p?" + "&".join(name if value is None else f"{name}={value}" for name, value in parameters)
    count = sum(name in ("role", "r%6fle") for name, _ in parameters)
    assert matches(query_occurs_regex("role"), path) == (count >= 1)
    assert matches(query_repeats_regex("role"), path) == (count >= 2)


def test_longest_parameter_name_fits_the_program_size() -> None:
    name = "x" * 128
    assert QUERY_NAME.fullmatch(name)
    assert regex_problem(query_repeats_regex(name)) is None


@pytest.mark.parametrize("name", ["", "a b", "a)", "a%", "a&b", "a=b", "a:b", "a?b", "ä", "x" * 129])
def test_parameter_name_that_envoy_cannot_be_asked_for_is_a_problem(name: str) -> None:
    with pytest.raises(RuleProblem, match="can't be judged"):
        check_query_name(name)


def test_allowing_wants_one_occurrence_and_denying_takes_two_for_a_match() -> None:
    query = QueryMatch("role", exact("admin"))
    narrow = query_principals(query, Stance.NARROW)
    assert [each.WhichOneof("identifier") for each in narrow] == ["header", "not_id", "filter_state"]
    broad = query_principals(query, Stance.BROAD)
    assert [each.WhichOneof("identifier") for each in broad] == ["header", "or_ids"]
    assert [each.WhichOneof("identifier") for each in broad[1].or_ids.ids] == ["header", "filter_state"]


ELEMENTS = [
    (exact("admin"), ["admin", "user,admin", "admin, user", "a ,  admin , b", ",admin"], ["administrator", "user", "ad,min", ""]),
    (prefix("adm"), ["admin", "user,admin,x"], ["user", "xadm"]),
    (regex("a+"), ["aa", "b,aaa", "b, a ,c"], ["ab", "b,ab"]),
    (exact("a.b", ignore_case=True), ["A.B", "x,a.B"], ["axb"]),
]


@pytest.mark.parametrize("value, yes, no", ELEMENTS, ids=[str(value.value) for value, _, _ in ELEMENTS])
def test_denying_finds_a_value_anywhere_in_a_list(value: StringMatch, yes: list[str], no: list[str]) -> None:
    permission = header_permission("x", value, Stance.BROAD)
    pattern = permission.header.string_match.safe_regex.regex
    assert all(matches(pattern, each) for each in yes)
    assert not any(matches(pattern, each) for each in no)


@pytest.mark.parametrize(
    "value, literal", [("GET", True), ("/v1/items", True), ("GET|PUT", False), ("/a.b", False), ("a+", False), ("", True)]
)
def test_regex_without_an_operator_is_compared(value: str, literal: bool) -> None:
    matcher = header_permission("x", regex(value), Stance.NARROW).header.string_match
    assert matcher.WhichOneof("match_pattern") == ("exact" if literal else "safe_regex")


def test_bytes_that_are_no_text_hide_nothing_from_a_deny_rule() -> None:
    pattern = header_permission("x", exact("admin"), Stance.BROAD).header.string_match.safe_regex.regex
    assert re2.fullmatch(pattern, b"\xff,admin,\xfe") is not None


def test_allowing_compares_the_whole_value() -> None:
    assert header_permission("x", exact("a"), Stance.NARROW).header.string_match.exact == "a"


def test_inverted_predicate_swaps_the_stance() -> None:
    inverted = header_permission("x", exact("a"), Stance.NARROW, invert=True)
    assert matches(inverted.not_rule.header.string_match.safe_regex.regex, "b,a")
    assert header_permission("x", exact("a"), Stance.BROAD, invert=True).not_rule.header.string_match.exact == "a"


def test_regex_above_the_program_size_is_a_problem() -> None:
    with pytest.raises(RuleProblem, match=f"the most is {REGEX_PROGRAM_SIZE_MAX}"):
        regex_matcher("(abc){1000}")


def test_regex_that_re2_refuses_is_a_problem() -> None:
    with pytest.raises(RuleProblem, match="refused"):
        regex_matcher("(?=x)")


SERVER_NAMES = [
    ("example.com", ["example.com", "EXAMPLE.com"], ["a.example.com", "exampleXcom", "", "example.com."]),
    ("*.example.com", ["a.example.com", "A.Example.Com"], ["example.com", "a.b.example.com", ".example.com"]),
    ("**.example.com", ["a.example.com", "a.b.example.com"], ["example.com", "xexample.com"]),
    ("sub.**.example.com", ["sub.a.example.com", "sub.a.b.example.com"], ["sub.example.com", "a.sub.a.example.com"]),
    ("sub*.example.com", ["sub.example.com", "sub1.example.com"], ["sub1.a.example.com", "xsub.example.com"]),
    ("*", ["a", "a.b.c"], [""]),
    ("**", ["a", "a.b.c"], [""]),
]


@pytest.mark.parametrize("pattern, yes, no", SERVER_NAMES, ids=[pattern for pattern, _, _ in SERVER_NAMES])
def test_server_name_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    found = server_name_regex(pattern)
    assert [name for name in yes if not matches(found, name)] == []
    assert [name for name in no if matches(found, name)] == []


@pytest.mark.parametrize(
    ("host", "spelled", "denied"),
    [
        (exact("admin.local"), "admin.local", True),
        (exact("admin.local"), "ADMIN.Local", True),
        (exact("admin.local"), "admin.local.", True),
        (exact("admin.local"), "admin.local:8080", True),
        (exact("admin.local"), "admin.local.:", True),
        (exact("admin.local"), "x, admin.local:80,y", True),
        (exact("admin.local"), "admin.local.net", False),
        (exact("admin.local"), "admin.local:x", False),
        (exact("admin.local:80"), "Admin.local:80", True),
        (exact("admin.local:80"), "admin.local:81", False),
        (regex(r"(a|b)[.]local"), "B.local:1", True),
        (regex(r"(a|b)[.]local"), "c.local", False),
    ],
)
def test_denying_a_host_denies_every_spelling_and_the_evaluator_agrees(host: StringMatch, spelled: str, denied: bool) -> None:
    permission = host_permission(host, Stance.BROAD)
    assert matches(permission.header.string_match.safe_regex.regex, spelled) is denied
    rule = HttpRule(RuleOrigin(PolicyKey("p"), "r"), host=host)
    request = HttpRequest(method="GET", path="/", authority=spelled)
    assert http_holds(rule, request, {}, denies=True) is denied
    assert http_holds(rule, request, {}, denies=False) is (spelled == host.value)
