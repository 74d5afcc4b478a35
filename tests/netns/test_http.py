"""Verdicts on requests: what may be said, over HTTP/1.1, HTTP/2, gRPC and WebSocket, and what a refusal looks like."""

from __future__ import annotations

import re

import pytest

from tests.support.pod import Failed
from tests.support.stage import (
    DEATHSTAR,
    GRPC,
    HTTP,
    HTTP_OTHER,
    TIEFIGHTER,
    XWING,
    Stage,
    cnp,
    from_endpoints,
    http,
    ports,
    reach,
)

pytestmark = [pytest.mark.root, pytest.mark.envoy]
PROTOCOLS = pytest.mark.parametrize("protocol", ["h1", "h2"])

LANDING = cnp(
    "rule1",
    DEATHSTAR,
    ingress=[
        {
            "fromEndpoints": from_endpoints({"org": "empire"}),
            "toPorts": http({"method": "POST", "path": "/v1/request-landing"}, {"method": "GET", "path": "/v1/.*"}),
        }
    ],
)


@PROTOCOLS
def test_rules_decide_each_request_and_the_server_sees_the_clients_address(stage: Stage, protocol: str, family: int) -> None:
    stage.enforce(LANDING)
    url = stage.deathstar.url(HTTP, family=family)
    allowed = stage.tiefighter.http(url, "POST", path="/v1/request-landing", protocol=protocol)
    assert (allowed.status, allowed.json["server"]) == (200, "deathstar")
    assert allowed.json["peer"][0] == stage.tiefighter.address(family)
    assert stage.tiefighter.http(url, path="/v1/status", protocol=protocol).status == 200
    assert stage.tiefighter.http(url, "PUT", path="/v1/exhaust-port", protocol=protocol).status == 403
    # A rule that names no path matches the whole value: more before or after it is another path.
    assert stage.tiefighter.http(url, "POST", path="/v1/request-landing/x", protocol=protocol).status == 403


@PROTOCOLS
def test_denied_request_never_reaches_the_server_and_the_connection_lives_on(stage: Stage, protocol: str, family: int) -> None:
    stage.enforce(LANDING)
    connection = stage.tiefighter.connect(stage.deathstar.url(HTTP, family=family), protocol)
    assert connection.request("/v1/a").status == 200
    before = stage.deathstar.server_counts(HTTP)["requests"]
    denied = connection.request("/v1/exhaust-port", "PUT")
    assert (denied.status, denied.body) == (403, b"Access denied\r\n")
    assert stage.deathstar.server_counts(HTTP)["requests"] == before
    assert connection.request("/v1/b").status == 200
    connection.close()


@PROTOCOLS
def test_denied_upload_is_answered_before_its_body_and_ends_an_http1_connection_politely(stage: Stage, protocol: str) -> None:
    stage.enforce(LANDING)
    before = stage.deathstar.server_counts(HTTP)["requests"]
    denied = stage.tiefighter.http(stage.deathstar.url(HTTP), "PUT", body=b"torpedo", protocol=protocol)
    # HTTP/1.1 can't go on while a body that nobody wants is under way, so the response says that the connection ends.
    assert (denied.status, denied.header("connection")) == (403, "close" if protocol == "h1" else None)
    assert stage.deathstar.server_counts(HTTP)["requests"] == before


def test_refusal_tells_nothing_about_the_policy(stage: Stage) -> None:
    stage.enforce(LANDING)
    denied = stage.tiefighter.http(stage.deathstar.url(HTTP), "PUT")
    assert not [name for name, _ in denied.headers if "envoy" in name or "tidegate" in name or "policy" in name]


@PROTOCOLS
def test_request_arrives_as_it_was_sent(stage: Stage, protocol: str, family: int) -> None:
    stage.enforce(LANDING)
    sent = {"user-agent": "probe", "x-custom": "a, b", "accept": "*/*"}
    url = stage.deathstar.url(HTTP, "/v1/a?x=1&y=%20", family)
    response = stage.tiefighter.http(url, headers={"host": "deathstar.empire:8080", **sent}, protocol=protocol)
    assert response.json["path"] == "/v1/a?x=1&y=%20"
    assert response.json["authority"] == "deathstar.empire:8080"
    seen = {name: value for name, value in response.seen_headers.items() if name != "host"}
    added = {name for name in seen if name not in sent}
    assert {name: seen[name] for name in sent} == sent
    # What Envoy itself needs to say on an HTTP/1.1 hop; nothing that a user did not ask for.
    assert added <= {"connection", "content-length"}
    assert response.header("server") == "deathstar"
    assert response.header("x-envoy-upstream-service-time") is None


def test_pod_without_permission_is_dropped_before_any_request(stage: Stage, family: int) -> None:
    stage.enforce(LANDING)
    accepted = stage.deathstar.server_counts(HTTP)["accepted"]
    assert reach(stage.xwing, stage.deathstar, [HTTP, HTTP_OTHER], family) == {HTTP: False, HTTP_OTHER: False}
    assert reach(stage.tiefighter, stage.deathstar, [HTTP_OTHER], family) == {HTTP_OTHER: False}
    assert stage.deathstar.server_counts(HTTP)["accepted"] == accepted


@PROTOCOLS
def test_rules_of_several_policies_add_up(stage: Stage, protocol: str, family: int) -> None:
    more = cnp("more", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(TIEFIGHTER), "toPorts": http({"method": "PUT"})}])
    stage.enforce(LANDING, more)
    url = stage.deathstar.url(HTTP, family=family)
    answers = [stage.tiefighter.http(url, method, path="/v1/x", protocol=protocol).status for method in ("GET", "PUT", "DELETE")]
    assert answers == [200, 200, 403]


def test_l4_allow_beside_http_rules_lets_its_peers_say_anything(stage: Stage, family: int) -> None:
    plain = cnp("plain", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(XWING), "toPorts": ports(HTTP)}])
    anyone = cnp("anyone", DEATHSTAR, ingress=[{"toPorts": http({"method": "GET"})}])
    stage.enforce(plain, anyone)
    url = stage.deathstar.url(HTTP, family=family)
    assert stage.xwing.http(url, "DELETE").status == 200
    assert [stage.tiefighter.http(url, method).status for method in ("GET", "DELETE")] == [200, 403]


@PROTOCOLS
def test_local_pair_with_rules_on_both_sides_needs_both_and_passes_one_proxy(stage: Stage, protocol: str, family: int) -> None:
    egress = cnp("egress", TIEFIGHTER, egress=[{"toEndpoints": from_endpoints(DEATHSTAR), "toPorts": http({"path": "/v1/.*"})}])
    stage.enforce(LANDING, egress)
    url = stage.deathstar.url(HTTP, family=family)
    response = stage.tiefighter.http(url, path="/v1/a", protocol=protocol)
    assert (response.status, response.json["peer"][0]) == (200, stage.tiefighter.address(family))
    # Allowed by one side only, either way round.
    assert stage.tiefighter.http(url, "DELETE", path="/v1/a", protocol=protocol).status == 403
    assert stage.tiefighter.http(url, "GET", path="/v2", protocol=protocol).status == 403


def test_egress_rules_alone_judge_a_local_server(stage: Stage, family: int) -> None:
    stage.enforce(cnp("egress", XWING, egress=[{"toEndpoints": from_endpoints(DEATHSTAR), "toPorts": http({"path": "/ok"})}]))
    assert stage.xwing.http(stage.deathstar.url(HTTP, "/ok", family)).status == 200
    assert stage.xwing.http(stage.deathstar.url(HTTP, "/no", family)).status == 403
    assert stage.tiefighter.http(stage.deathstar.url(HTTP, "/no", family)).status == 200


@PROTOCOLS
def test_host_and_headers_are_judged(stage: Stage, protocol: str) -> None:
    rules = ({"host": "public[.]empire(:8080)?"}, {"headers": ["x-token: s3cret", "x-trace"]})
    stage.enforce(cnp("headers", DEATHSTAR, ingress=[{"toPorts": http(*rules)}]))
    url = stage.deathstar.url(HTTP)

    def status(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return int(stage.xwing.http(url, headers=named, protocol=protocol).status)

    assert status(host="public.empire") == 200
    assert status(host="public.empire:8080") == 200
    assert status(host="public.empire.evil") == 403
    assert status(x_token="s3cret", x_trace="any") == 200
    assert status(x_token="s3cret") == 403
    assert status(x_token="s3cret2", x_trace="any") == 403


def test_header_match_actions_change_the_request(stage: Stage) -> None:
    def rule(path: str, **match: str) -> dict[str, object]:
        return {"path": path, "headerMatches": [{"name": "x-rank", "value": "lord", **match}]}

    rules = (
        rule("/fail", mismatch="FAIL"),
        rule("/log", mismatch="LOG"),
        rule("/add", mismatch="ADD"),
        rule("/delete", mismatch="DELETE"),
        rule("/replace", mismatch="REPLACE"),
    )
    stage.enforce(cnp("actions", DEATHSTAR, ingress=[{"toPorts": http(*rules)}]))
    url = stage.deathstar.url(HTTP)

    def ranks(path: str, rank: str) -> list[str]:
        response = stage.xwing.http(url, path=path, headers={"x-rank": rank})
        if response.status != 200:
            return [f"status {response.status}"]
        return [each.strip() for name, value in response.json["headers"] if name == "x-rank" for each in value.split(",")]

    assert [ranks(path, "lord") for path in ("/fail", "/log", "/add", "/delete", "/replace")] == [["lord"]] * 5
    assert ranks("/fail", "rebel") == ["status 403"]
    assert ranks("/log", "rebel") == ["rebel"]
    assert sorted(ranks("/add", "rebel")) == ["lord", "rebel"]
    assert ranks("/delete", "rebel") == []
    assert ranks("/replace", "rebel") == ["lord"]


SPELLINGS = [
    "/admin",
    "/admin/",
    "//admin",
    "/./admin",
    "/x/../admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/public/../admin",
    "/public/%2e%2e/admin",
    "/public/%2E%2E/admin",
    "/public/..%2fadmin",
    "/public/..%2Fadmin",
    "/public/..%5cadmin",
    "/public/..\\admin",
    "/public//../admin",
    "/public/.%2e/admin",
    "/public/%2e./admin",
    "/public/x/../../admin",
    "/public/..;/admin",
    "/public/../admin#frag",
    "/public/../admin?x=/public/",
    "/public%2f..%2fadmin",
    "http://deathstar/admin",
    "/public/%252e%252e/admin",
]


@PROTOCOLS
def test_no_spelling_of_a_path_gets_round_a_rule(stage: Stage, protocol: str) -> None:
    stage.enforce(cnp("paths", DEATHSTAR, ingress=[{"toPorts": http({"path": "/public/.*"})}]))
    url = stage.deathstar.url(HTTP)
    assert stage.xwing.http(url, path="/public/x", protocol=protocol).status == 200
    for spelling in SPELLINGS:
        try:
            response = stage.xwing.http(url, path=spelling, protocol=protocol)
        except Failed as failed:
            # HTTP/2 refuses what is no path at all by a reset of the stream.
            assert failed.kind.startswith("stream reset"), (spelling, failed)  # noqa: PT017
            continue
        if response.status == 200:
            # What got through is judged by what the server was told: a plain path below /public/ that says the same to everyone.
            path = response.json["path"].partition("?")[0]
            assert path.startswith("/public/"), (spelling, path)
            assert ".." not in path.split("/"), (spelling, path)
            assert "\\" not in path, (spelling, path)
            lowered = path.lower()
            assert not [code for code in ("%2e", "%2f", "%5c") if code in lowered], (spelling, path)


@pytest.mark.parametrize(
    "request_bytes", [b"GET /public/\0x HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01\x02\x00", b"hello\r\n\r\n"]
)
def test_bytes_that_are_no_http_never_reach_the_server(stage: Stage, request_bytes: bytes, family: int) -> None:
    stage.enforce(cnp("paths", DEATHSTAR, ingress=[{"toPorts": http({"path": "/public/.*"})}]))
    before = stage.deathstar.server_counts(HTTP)
    answer = stage.xwing.raw(stage.deathstar.address(family), HTTP, request_bytes)
    assert b"200 OK" not in answer
    assert stage.deathstar.server_counts(HTTP) == before


def test_slow_request_line_is_judged_like_a_fast_one(stage: Stage) -> None:
    stage.enforce(cnp("paths", DEATHSTAR, ingress=[{"toPorts": http({"path": "/public/.*"})}]))
    before = stage.deathstar.server_counts(HTTP)
    request = b"GET /admin HTTP/1.1\r\nhost: deathstar\r\n\r\n"
    answer = stage.xwing.raw(stage.deathstar.ipv4, HTTP, request, pause=1.5, quiet=1.0)
    assert answer.startswith(b"HTTP/1.1 403")
    assert stage.deathstar.server_counts(HTTP) == before


def test_smuggled_second_request_is_judged_too(stage: Stage) -> None:
    stage.enforce(cnp("paths", DEATHSTAR, ingress=[{"toPorts": http({"path": "/public/.*"})}]))
    before = stage.deathstar.server_counts(HTTP)["requests"]
    inner = b"GET /admin HTTP/1.1\r\nhost: a\r\n\r\n"
    conflicting = (
        b"POST /public/x HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        % (len(inner) + 5)
        + inner
    )
    pipelined = b"GET /public/x HTTP/1.1\r\nhost: a\r\n\r\n" + inner
    assert b"200 OK" not in stage.xwing.raw(stage.deathstar.ipv4, HTTP, conflicting)
    answer = stage.xwing.raw(stage.deathstar.ipv4, HTTP, pipelined)
    assert re.findall(rb"HTTP/1[.]1 (\d{3})", answer) == [b"200", b"403"]
    assert stage.deathstar.server_counts(HTTP)["requests"] == before + 1


def test_connect_is_refused_unless_allowed(stage: Stage, family: int) -> None:
    stage.enforce(cnp("paths", DEATHSTAR, ingress=[{"toPorts": http({"path": "/public/.*"})}]))
    accepted = stage.deathstar.server_counts(HTTP_OTHER)["accepted"]
    target = stage.deathstar.authority(HTTP_OTHER, family)
    answer = stage.xwing.raw(
        stage.deathstar.address(family), HTTP, f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode()
    )
    assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 404"))
    connection = stage.xwing.connect(stage.deathstar.url(HTTP, family=family), "h2")
    assert connection.request(target, "CONNECT").status in (403, 404)
    connection.close()
    assert stage.deathstar.server_counts(HTTP_OTHER)["accepted"] == accepted


def test_websocket_passes_where_its_path_is_allowed(stage: Stage, family: int) -> None:
    stage.enforce(cnp("chat", DEATHSTAR, ingress=[{"toPorts": http({"path": "/chat"})}]))
    socket = stage.xwing.websocket(stage.deathstar.url(HTTP, "/chat", family, scheme="ws"))
    assert not isinstance(socket, int)
    assert [socket.exchange(text) for text in ("one", "two")] == ["one", "two"]
    socket.close()
    assert stage.xwing.websocket(stage.deathstar.url(HTTP, "/other", family, scheme="ws")) == 403


def test_grpc_refusal_is_permission_denied(stage: Stage, family: int) -> None:
    rules = ({"method": "POST", "path": "/empire.Deathstar/GetStatus"}, {"method": "POST", "path": "/empire.Deathstar/Stream.*"})
    stage.enforce(cnp("grpc", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(XWING), "toPorts": http(*rules, port=GRPC)}]))
    target = stage.deathstar.authority(GRPC, family)
    allowed = stage.xwing.grpc(target, "/empire.Deathstar/GetStatus", b"hi", {"x-a": "b"})
    assert (allowed.code, allowed.messages[0]["data"]) == (0, "hi")
    assert stage.xwing.address(family) in allowed.messages[0]["peer"].replace("%5B", "").replace("%5D", "")
    denied = stage.xwing.grpc(target, "/empire.Deathstar/Fire")
    assert (denied.code, denied.messages) == (7, ())
    assert stage.xwing.grpc(target, "/empire.Deathstar/StreamPlans", stream=True).code == 0
    assert stage.xwing.grpc(target, "/empire.Deathstar/FireStream", stream=True).code == 7


@PROTOCOLS
def test_large_bodies_pass_both_ways_without_a_limit_of_ours(stage: Stage, protocol: str) -> None:
    stage.enforce(cnp("upload", DEATHSTAR, ingress=[{"toPorts": http({"method": "POST"})}]))
    response = stage.xwing.http(stage.deathstar.url(HTTP), "POST", body=b"x" * 3_000_000, protocol=protocol, timeout=20)
    assert (response.status, response.json["body_bytes"]) == (200, 3_000_000)


def test_server_error_is_passed_on_once_and_never_retried(stage: Stage) -> None:
    stage.enforce(cnp("any", DEATHSTAR, ingress=[{"toPorts": http({})}]))
    before = stage.deathstar.server_counts(HTTP)["requests"]
    assert stage.xwing.http(stage.deathstar.url(HTTP), headers={"x-echo-status": "503"}).status == 503
    assert stage.deathstar.server_counts(HTTP)["requests"] == before + 1


def test_one_empty_http_rule_allows_every_request(stage: Stage, family: int) -> None:
    stage.enforce(cnp("any", DEATHSTAR, ingress=[{"toPorts": http({})}]))
    for method in ("GET", "POST", "DELETE", "PATCH"):
        assert stage.xwing.http(stage.deathstar.url(HTTP, "/x", family), method).status == 200


def test_closed_server_port_is_an_error_and_not_a_pass(stage: Stage, family: int) -> None:
    stage.enforce(cnp("closed", DEATHSTAR, ingress=[{"toPorts": http({}, port=8099)}]))
    assert stage.xwing.http(stage.deathstar.url(8099, family=family)).status == 503
