"""The request as rules see it."""

from __future__ import annotations

import pytest

from l7filters.http import PATH_BYTES_MAX, HttpRequest, normalise_path
from tests.support.spellings import SPELLINGS


@pytest.mark.parametrize(("spelled", "seen"), SPELLINGS)
def test_path_is_seen_in_one_spelling(spelled: str, seen: str | None) -> None:
    assert normalise_path(spelled) == seen


def test_path_longer_than_envoy_reads_is_refused() -> None:
    assert normalise_path("/" + "a" * (PATH_BYTES_MAX - 1)) is not None
    assert normalise_path("/" + "a" * PATH_BYTES_MAX) is None


@pytest.mark.parametrize(
    ("headers", "name", "value"),
    [
        ((("X-Role", "a"),), "x-role", "a"),
        ((("x-role", "a"), ("X-ROLE", "b")), "x-role", "a,b"),
        ((("x-role", ""), ("x-role", "b")), "x-role", ",b"),
        ((("accept", ""), ("accept", "b")), "accept", "b"),
        ((("accept", ""),), "accept", ""),
        ((("cookie", "a=1"), ("cookie", "b=2")), "cookie", "a=1,b=2"),
        ((), "x-role", None),
        ((), "host", "web.test"),
        ((("connection", "x-role"), ("x-role", "a")), "x-role", None),
        ((("connection", "close"),), "connection", None),
        ((("keep-alive", "1"),), "keep-alive", None),
    ],
)
def test_header_lines_of_one_name_are_one_value(headers: tuple[tuple[str, str], ...], name: str, value: str | None) -> None:
    assert HttpRequest(method="GET", path="/", authority="web.test", headers=headers).header(name) == value


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("", ()),
        ("?tenant=a", ("a",)),
        ("?x=1&tenant=a&y", ("a",)),
        ("?tenant", ("",)),
        ("?tenant=", ("",)),
        ("?tenant=a=b", ("a=b",)),
        ("?tenant=a&tenant=b", ("a", "b")),
        ("?ten%61nt=%61%2B+", ("a++",)),
        ("?tenant=%zz", ("%zz",)),
        ("?Tenant=a", ()),
        ("?a?tenant=b", ()),
        ("?tenant=%c3%a9", ("\u00e9",)),
    ],
)
def test_query_parameters_are_decoded_and_none_is_dropped(query: str, values: tuple[str, ...]) -> None:
    assert HttpRequest(method="GET", path="/" + query).query_values("tenant") == values


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("GET /a?b", HttpRequest(method="GET", path="/a?b", authority="web.test")),
        ("GET http://other.test:8080/a", HttpRequest(method="GET", path="/a", authority="other.test:8080")),
        ("GET http://other.test", HttpRequest(method="GET", path="/", authority="other.test")),
    ],
)
def test_request_is_read_from_its_first_line(line: str, expected: HttpRequest) -> None:
    assert HttpRequest.parse(line, authority="web.test") == expected


def test_host_header_is_the_authority_where_there_is_no_other() -> None:
    request = HttpRequest.parse("GET /", headers=(("Host", "web.test"), ("x-role", "a")))
    assert request == HttpRequest(method="GET", path="/", authority="web.test", headers=(("x-role", "a"),))


@pytest.mark.parametrize("line", ["", "GET", "GET ", " /", "GET / HTTP/1.1"])
def test_what_is_no_request_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="METHOD PATH"):
        HttpRequest.parse(line)


def test_connect_has_no_path_and_is_not_refused_for_it() -> None:
    request = HttpRequest(method="CONNECT", path="", authority="web.test:443")
    assert (request.is_connect, request.is_refused, request.location) == (True, False, None)
    assert HttpRequest(method="CONNECT", path="", authority="web.test").is_refused
