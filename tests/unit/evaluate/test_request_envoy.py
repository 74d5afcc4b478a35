"""What http.py says of paths and headers is what the real Envoy does, with the connection manager that slots have."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from envoy.config.rbac.v3.rbac_pb2 import RBAC as RBACRules
from envoy.config.rbac.v3.rbac_pb2 import Permission, Policy, Principal
from envoy.config.route.v3.route_components_pb2 import DirectResponseAction, HeaderMatcher, Route, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from l7filters.envoy.message import packed
from l7filters.envoy.route import AMBIGUOUS_PATH
from l7filters.http import HttpRequest, normalise_path
from tests.support.spellings import SPELLINGS
from tests.support.static_envoy import StaticEnvoy, slot_manager

pytestmark = pytest.mark.envoy

RANDOM_PATHS = 3000
_PIECES = (
    *("/", "/", "//", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", ";", ";x", "..;", ".;", ";..", "?", "=", "&", "+"),
    *("a", "b", "A", "~", "%61", "%41", "%7e", "%20", "%c3%a9", "%3b", "%3F", "%00", "%7f", '"', "^", "{", "|"),
    *("%", "%%", "%2", "%36", "%32", "%66", "%25"),
)

# (headers sent, name asked for)
HEADERS: tuple[tuple[tuple[tuple[str, str], ...], str], ...] = (
    ((("X-Role", "a"),), "x-role"),
    ((("x-role", "  a  "),), "x-role"),
    ((("X-Role", "a"), ("x-role", "b")), "x-role"),
    ((("x-role", ""), ("x-role", "b")), "x-role"),
    ((("x-role", "b"), ("x-role", "")), "x-role"),
    ((("x-role", "a , b"), ("x-role", "c")), "x-role"),
    ((("x-role", ""),), "x-role"),
    ((("cookie", "a=1"), ("Cookie", "b=2")), "cookie"),
    ((("accept", ""), ("accept", "b")), "accept"),
    ((("user-agent", "a"), ("User-Agent", "b")), "user-agent"),
    ((("user-agent", "b"), ("user-agent", "")), "user-agent"),
    ((("authorization", "a"), ("authorization", "b")), "authorization"),
    ((("authorization", ""), ("authorization", "b")), "authorization"),
    ((("content-type", "b"), ("content-type", "")), "content-type"),
    ((("via", ""), ("via", "b")), "via"),
    ((("accept-language", ""), ("accept-language", "b")), "accept-language"),
    ((("x-forwarded-for", ""), ("x-forwarded-for", "b")), "x-forwarded-for"),
    ((("x-forwarded-host", ""), ("x-forwarded-host", "b")), "x-forwarded-host"),
    ((("x-request-id", ""), ("x-request-id", "b")), "x-request-id"),
    ((("x-caf", "caf\u00e9"),), "x-caf"),
    ((), "host"),
)
GONE = (
    ((("connection", "x-role"), ("x-role", "a")), "x-role"),
    ((("connection", "close"),), "connection"),
    ((("keep-alive", "1"),), "keep-alive"),
    ((("proxy-connection", "1"),), "proxy-connection"),
    ((), "x-role"),
)


def _answer(match: RouteMatch, status: int) -> Route:
    return Route(match=match, direct_response=DirectResponseAction(status=status))


ROUTES = RouteConfiguration(
    name="slot-1",
    virtual_hosts=[
        VirtualHost(
            name="all",
            domains=["*"],
            routes=[
                _answer(RouteMatch(safe_regex=RegexMatcher(regex=AMBIGUOUS_PATH)), 400),
                _answer(RouteMatch(prefix="/"), 200),
            ],
        )
    ],
)


def _request(headers: tuple[tuple[str, str], ...], number: int) -> HttpRequest:
    stripped = tuple((name, value.strip()) for name, value in headers)
    return HttpRequest(method="GET", path=f"/{number}", authority="web.test", headers=stripped)


def _header_filter() -> HttpFilter:
    """Return RBAC that lets request number N pass if the header has the value that http.py says; any for the paths tested."""
    policies = {"paths": Policy(permissions=[_at("/p/", prefix=True)], principals=[Principal(any=True)])}
    for number, (headers, name) in enumerate(HEADERS):
        value = _request(headers, number).header(name)
        assert value is not None
        held = Permission(header=HeaderMatcher(name=name, string_match=StringMatcher(exact=value)))
        both = Permission.Set(rules=[_at(f"/{number}"), held])
        policies[str(number)] = Policy(permissions=[Permission(and_rules=both)], principals=[Principal(any=True)])
    for number, (_, name) in enumerate(GONE, start=len(HEADERS)):
        absent = Permission(header=HeaderMatcher(name=name, present_match=True, invert_match=True))
        both = Permission.Set(rules=[_at(f"/{number}"), absent])
        policies[str(number)] = Policy(permissions=[Permission(and_rules=both)], principals=[Principal(any=True)])
    return HttpFilter(name="headers", typed_config=packed(RBAC(rules=RBACRules(policies=policies))))


def _at(path: str, *, prefix: bool = False) -> Permission:
    matcher = StringMatcher(prefix=path) if prefix else StringMatcher(exact=path)
    return Permission(url_path=PathMatcher(path=matcher))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StaticEnvoy]:
    with StaticEnvoy(tmp_path_factory.mktemp("paths"), [slot_manager(ROUTES)]) as envoy:
        yield envoy


@pytest.fixture(scope="module")
def judging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StaticEnvoy]:
    with StaticEnvoy(tmp_path_factory.mktemp("headers"), [slot_manager(ROUTES, filters=[_header_filter()])]) as envoy:
        yield envoy


def _seen_by(envoy: StaticEnvoy, spelled: str) -> str | None:
    answer = envoy.ask("GET", spelled)
    assert answer.status in (200, 400), (spelled, answer)
    return answer.headers["x-path"][1:-1] if answer.status == 200 else None


def test_envoy_sees_every_spelling_as_we_do(plain: StaticEnvoy) -> None:
    assert {spelled: _seen_by(plain, spelled) for spelled, _ in SPELLINGS} == dict(SPELLINGS)


def test_envoy_sees_random_spellings_as_we_do(plain: StaticEnvoy) -> None:
    random = Random(7)
    for _ in range(RANDOM_PATHS):
        spelled = "/" + "".join(random.choice(_PIECES) for _ in range(random.randint(1, 9)))
        assert _seen_by(plain, spelled) == normalise_path(spelled), spelled


def test_envoy_sees_every_byte_of_a_path_as_we_do(plain: StaticEnvoy) -> None:
    for code in [*range(0x21, 0x80), *range(0x20)]:
        if chr(code) in "\r\n ":
            continue  # These end a request line or a part of it.
        for spelled in (f"/a{chr(code)}b", f"/a%{code:02x}b", f"/a?{chr(code)}b"):
            assert _seen_by(plain, spelled) == normalise_path(spelled), spelled


@pytest.mark.parametrize("number", range(len(HEADERS)))
def test_envoy_joins_header_lines_as_we_do(judging: StaticEnvoy, number: int) -> None:
    assert judging.ask("GET", f"/{number}", HEADERS[number][0]).status == 200


@pytest.mark.parametrize("number", range(len(GONE)))
def test_headers_of_the_connection_are_gone_before_rules(judging: StaticEnvoy, number: int) -> None:
    assert judging.ask("GET", f"/{len(HEADERS) + number}", GONE[number][0]).status == 200
    assert HttpRequest(method="GET", path="/", headers=GONE[number][0]).header(GONE[number][1]) is None
