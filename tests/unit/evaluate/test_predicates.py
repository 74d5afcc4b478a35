"""What single predicates mean."""

from __future__ import annotations

import pytest

from l7filters.http import HttpRequest
from l7filters.model import HeaderMatch, HttpRule, MatchKind, MismatchAction, QueryMatch, SecretRef, StringMatch
from l7filters.predicates import (
    NO_SECRETS,
    SecretTexts,
    header_actions,
    http_checks,
    http_holds,
    server_name_holds,
    string_holds,
)
from tests.support.slots import exact, header, origin, prefix, regex, rule

TOKEN = SecretRef("default", "tokens", "api")
TOKENS: SecretTexts = {TOKEN: "s3cr3t"}


def request(
    path: str = "/", method: str = "GET", headers: tuple[tuple[str, str], ...] = (), authority: str = "web.test"
) -> HttpRequest:
    return HttpRequest(method=method, path=path, authority=authority, headers=headers)


@pytest.mark.parametrize(
    ("match", "text", "holds"),
    [
        (exact("GET"), "GET", True),
        (exact("GET"), "get", False),
        (exact("GET", ignore_case=True), "get", True),
        (exact(""), "", True),
        (prefix("ad"), "admin", True),
        (prefix("AD", ignore_case=True), "admin", True),
        (prefix("ad"), "a", False),
        (regex("GET|HEAD"), "HEAD", True),
        (regex("a"), "ab", False),
        (regex("a"), "ba", False),
        (regex("a|ab"), "ab", True),
        (StringMatch(MatchKind.REGEX, "A.", True), "ab", True),
        (regex("a.b"), "a\nb", False),
        (regex(".*"), "caf\u00e9", True),
        (regex(".*"), "\udcff", False),
        (exact("\u212a", ignore_case=True), "k", False),
    ],
)
def test_string_is_matched_whole(match: StringMatch, text: str, holds: bool) -> None:
    assert string_holds(match, text) is holds


@pytest.mark.parametrize(
    ("match", "path", "holds"),
    [
        (regex("/public"), "/public", True),
        (regex("/public"), "/public/", False),
        (regex("/public"), "/public?x=1", False),
        (regex("/public.*"), "/public?x=1", True),
        (regex("/admin"), "/x/../%61dmin", True),
        (exact("/public"), "/public?x=1", True),
        (exact("/public"), "/public/", False),
        (prefix("/api"), "/api", True),
        (prefix("/api"), "/api?x", True),
        (prefix("/api"), "/api/x", True),
        (prefix("/api"), "/apix", False),
        (prefix("/api"), "/x/..//api/y", True),
        (prefix("/api/"), "/api", False),
        (prefix("/api/"), "/api/x", True),
        (prefix("/"), "/anything", True),
        (prefix("/API", ignore_case=True), "/api/x", True),
        (exact("/pkg.Service/Method"), "/pkg.Service/Method", True),
        (prefix("/pkg.Service"), "/pkg.Service/Other", True),
        (prefix("/pkg.Service"), "/pkg.ServiceX/Other", False),
    ],
)
def test_path_is_judged_normalised(match: StringMatch, path: str, holds: bool) -> None:
    assert http_holds(rule(path=match), request(path), NO_SECRETS, denies=False) is holds


A, B, AB = (("x-role", "a"),), (("x-role", "b"),), (("x-role", "a"), ("x-role", "b"))


@pytest.mark.parametrize(
    ("match", "headers", "allows", "denies"),
    [
        (header("x-role"), A, True, True),
        (header("x-role"), (), False, False),
        (header("x-role", invert=True), A, False, False),
        (header("x-role", invert=True), (), True, True),
        (header("x-role", "a"), A, True, True),
        (header("x-role", "a"), B, False, False),
        (header("x-role", "a"), (), False, False),
        # A second value doesn't smuggle the first past a rule that allows, nor hide it from one that denies.
        (header("x-role", "a"), AB, False, True),
        (header("x-role", "b"), AB, False, True),
        (header("x-role", "a,b"), AB, True, True),
        (header("x-role", "a"), (("x-role", "b , a"),), False, True),
        (header("x-role", "a", invert=True), AB, False, True),
        (header("x-role", "a", invert=True), A, False, False),
        (header("x-role", "a", invert=True), (), True, True),
        (header("x-role", regex("a.*")), (("x-role", "ab"),), True, True),
        (header("x-role", prefix("a")), (("x-role", "ab"),), True, True),
        (header("x-role", regex("[ab]")), (("x-role", "c"), ("x-role", "b")), False, True),
        (header("x-role", ""), (("x-role", ""),), True, True),
        (header("host", "web.test"), (), True, True),
    ],
)
def test_header_is_judged_narrowly_to_allow_and_broadly_to_deny(
    match: HeaderMatch, headers: tuple[tuple[str, str], ...], allows: bool, denies: bool
) -> None:
    asked = rule(headers=(match,))
    assert http_holds(asked, request(headers=headers), NO_SECRETS, denies=False) is allows
    assert http_holds(asked, request(headers=headers), NO_SECRETS, denies=True) is denies


def test_two_hosts_are_narrow_to_allow_and_broad_to_deny() -> None:
    asked = rule(host=exact("evil.test"))
    twice = request(authority="web.test,evil.test")
    assert not http_holds(asked, twice, NO_SECRETS, denies=False)
    assert http_holds(asked, twice, NO_SECRETS, denies=True)
    assert not http_holds(rule(host=exact("web.test")), request(authority="web.test:80"), NO_SECRETS, denies=False)


@pytest.mark.parametrize(
    ("query", "path", "allows", "denies"),
    [
        (QueryMatch("t"), "/?t", True, True),
        (QueryMatch("t"), "/?x&t=1", True, True),
        (QueryMatch("t"), "/?%74=1", True, True),
        (QueryMatch("t"), "/?tt=1", False, False),
        (QueryMatch("t"), "/?t=1&t=2", True, True),
        (QueryMatch("t", exact("a")), "/?t=a", True, True),
        (QueryMatch("t", exact("a")), "/?t=%61", True, True),
        (QueryMatch("t", exact("a")), "/?t=b", False, False),
        (QueryMatch("t", exact("a")), "/", False, False),
        (QueryMatch("t", exact("a")), "/?t=a&t=b", False, True),
        (QueryMatch("t", exact("a")), "/?t=b&%74=a", False, True),
        (QueryMatch("t", exact("")), "/?t", True, True),
        (QueryMatch("t", regex("[ab]")), "/?t=b", True, True),
        (QueryMatch("t", exact("a b")), "/?t=a+b", False, False),
        (QueryMatch("t", exact("a b")), "/?t=a%20b", True, True),
    ],
)
def test_query_parameter_is_judged_decoded_and_once(query: QueryMatch, path: str, allows: bool, denies: bool) -> None:
    asked = rule(query=(query,))
    assert http_holds(asked, request(path), NO_SECRETS, denies=False) is allows
    assert http_holds(asked, request(path), NO_SECRETS, denies=True) is denies


def test_rule_without_predicates_matches_everything_but_a_tunnel() -> None:
    assert http_holds(rule(), request("/x", "POST"), NO_SECRETS, denies=False)
    tunnel = request("", "CONNECT", authority="web.test:443")
    assert not http_holds(rule(), tunnel, NO_SECRETS, denies=False)
    assert http_holds(rule(), tunnel, NO_SECRETS, denies=True)
    assert not http_holds(rule(method=regex(".*")), tunnel, NO_SECRETS, denies=False)
    assert http_holds(rule(method=exact("CONNECT")), tunnel, NO_SECRETS, denies=False)
    assert not http_holds(rule(method=exact("CONNECT"), path=regex(".*")), tunnel, NO_SECRETS, denies=False)


SECRET_HEADER = header("x-token", secret=TOKEN)


@pytest.mark.parametrize(
    ("match", "token", "secrets", "allows", "denies"),
    [
        (SECRET_HEADER, "s3cr3t", TOKENS, True, True),
        (SECRET_HEADER, "guess", TOKENS, False, False),
        (SECRET_HEADER, "s3cr3t", NO_SECRETS, False, True),
        # The value stands in for a secret that is missing, and only then.
        (header("x-token", "fallback", secret=TOKEN), "fallback", NO_SECRETS, True, True),
        (header("x-token", "fallback", secret=TOKEN), "fallback", TOKENS, False, False),
        # A missing secret closes the rule, whatever should happen on a mismatch.
        (header("x-token", secret=TOKEN, mismatch=MismatchAction.LOG), "guess", NO_SECRETS, False, True),
        (header("x-token", secret=TOKEN, mismatch=MismatchAction.LOG), "guess", TOKENS, True, True),
    ],
)
def test_secret_that_is_missing_never_opens(
    match: HeaderMatch, token: str, secrets: SecretTexts, allows: bool, denies: bool
) -> None:
    asked, sent = rule(headers=(match,)), request(headers=(("x-token", token),))
    assert http_holds(asked, sent, secrets, denies=False) is allows
    assert http_holds(asked, sent, secrets, denies=True) is denies


@pytest.mark.parametrize("action", [action for action in MismatchAction if action is not MismatchAction.FAIL])
def test_mismatch_with_an_action_still_matches_and_tells_the_action(action: MismatchAction) -> None:
    asked = rule(headers=(header("x-role", "admin", mismatch=action),))
    due = header_actions([asked], request(headers=A), NO_SECRETS)
    assert http_holds(asked, request(headers=A), NO_SECRETS, denies=False)
    sets = action in (MismatchAction.ADD, MismatchAction.REPLACE)
    assert [(each.origin, each.header, each.action, each.value) for each in due] == [
        (origin(0), "x-role", action, "admin" if sets else None)
    ]
    assert header_actions([asked], request(headers=(("x-role", "admin"),)), NO_SECRETS) == ()


def test_actions_are_those_of_all_rules_that_match() -> None:
    first = rule(0, headers=(header("x-role", "admin", mismatch=MismatchAction.REPLACE),))
    other_path = rule(1, path=exact("/x"), headers=(header("x-team", mismatch=MismatchAction.LOG),))
    third = rule(2, headers=(header("x-token", secret=TOKEN, mismatch=MismatchAction.ADD),))
    due = header_actions([first, other_path, third], request("/"), TOKENS)
    assert [(each.origin, each.header) for each in due] == [(origin(0), "x-role"), (origin(2), "x-token")]
    assert "s3cr3t" not in repr(due)


@pytest.mark.parametrize(
    ("asked", "sent", "words"),
    [
        (rule(method=exact("GET")), request(method="POST"), "method is POST, must be GET"),
        (rule(method=regex("GET|HEAD")), request(method="POST"), "method is POST, must match GET|HEAD"),
        (rule(path=regex("/a.*")), request("//b?c"), "path is /b?c, must match /a.*"),
        (rule(path=prefix("/a")), request("/b?c"), "path is /b, must be /a or below"),
        (rule(host=exact("a.test")), request(), "host is web.test, must be a.test"),
        (rule(headers=(header("x-role"),)), request(), "header x-role is absent, must be present"),
        (rule(headers=(header("x-role", invert=True),)), request(headers=A), "header x-role is a, must not be present"),
        (rule(headers=(header("x-role", prefix("b")),)), request(headers=A), "header x-role is a, must begin with b"),
        (
            rule(headers=(header("x-role", exact("B", ignore_case=True)),)),
            request(headers=A),
            "header x-role is a, must be B, in any case",
        ),
        (
            rule(headers=(SECRET_HEADER,)),
            request(headers=(("x-token", "guess"),)),
            "header x-token is [redacted], must equal secret default/tokens, key api",
        ),
        (
            rule(headers=(header("authorization", "Basic zzz"),)),
            request(headers=(("authorization", "Basic yyy"),)),
            "header authorization is [redacted], must have the value that the rule gives",
        ),
        (rule(query=(QueryMatch("t"),)), request(), "query parameter t is absent, must be present"),
        (rule(query=(QueryMatch("t", exact("a")),)), request("/?t=b"), "query parameter t is b, must be a"),
        (
            rule(query=(QueryMatch("t", exact("a")),)),
            request("/?t=a&t=a"),
            "query parameter t occurs 2 times, must be a, once",
        ),
        (rule(), request("", "CONNECT", authority="web.test:443"), "method is CONNECT, a rule must name CONNECT to allow it"),
        (rule(path=regex("/" + "a" * 999)), request("/" + "b" * 999), f"path is /{'b' * 199}..., must match /{'a' * 999}"),
        (rule(headers=(header("x", "a"),)), request(headers=(("x", "\x1b[31m"),)), "header x is \ufffd[31m, must be a"),
    ],
)
def test_failing_predicate_is_put_into_words(asked: HttpRule, sent: HttpRequest, words: str) -> None:
    failing = [str(check) for check in http_checks(asked, sent, TOKENS, denies=False) if not check.holds]
    assert failing == [words]


def test_missing_secret_is_named_and_no_value_is() -> None:
    (check,) = http_checks(rule(headers=(SECRET_HEADER,)), request(headers=(("x-token", "guess"),)), NO_SECRETS, denies=False)
    assert str(check) == ("header x-token can't be judged: secret default/tokens, key api is missing, must equal that secret")


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("web.test", ("web.test", "WEB.Test"), ("", "a.web.test", "web.test.", "webxtest")),
        ("Web.Test", ("web.test",), ()),
        ("*.test", ("web.test",), ("test", ".test", "a.web.test")),
        ("w*.test", ("w.test", "web.test"), ("a.test", "w.b.test")),
        ("*b.test", ("b.test", "web.test"), ("be.test",)),
        ("w*b*x.test", ("wbx.test", "w1b2x.test"), ("wx.test", "wb.test")),
        ("aba*aba.test", ("abaaba.test", "ababaaba.test"), ("aba.test", "ababa.test")),
        ("**.test", ("web.test", "a.web.test"), ("test", ".test")),
        ("sub.**.test", ("sub.a.test", "sub.a.b.test"), ("sub.test", "a.test")),
        ("**.mid.**", ("a.mid.b", "a.b.mid.c.d"), ("mid.b", "a.mid")),
        ("a**.test", ("a.test", "abc.test"), ("a.b.test",)),
        ("*", ("anything", "a.b"), ("",)),
        ("**", ("anything", "a.b"), ("",)),
    ],
)
def test_server_name_patterns(pattern: str, names: tuple[str, ...], others: tuple[str, ...]) -> None:
    assert [name for name in (*names, *others) if server_name_holds(pattern, name)] == list(names)
