"""Translated HTTP slots in the real Envoy: who gets through, what is said to whom, and when an edit takes effect."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator

import pytest

from l7filters.envoy import EnvoySettings, Stage, StageVerdict, proxy_port, read_mismatches, read_verdicts
from l7filters.envoy.names import HTTP_RBAC_NAMESPACE
from l7filters.envoy.secrets import Secrets, SecretValue
from l7filters.ir import RuleSet, Slot
from l7filters.model import Direction, MismatchAction, QueryMatch, SecretRef, StringMatch
from proxylib.dns.rules import NameSelector
from tests.support.pod import Response, WebSocket
from tests.support.slots import allowing, everything, exact, header, origin, prefix, regex, rule, slot
from tests.support.translation_node import TranslationNode, eventually
from xds_server import AccessRecord

pytestmark = [pytest.mark.envoy, pytest.mark.root]

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
SETTINGS = EnvoySettings(proxy_port_min=8000, denied_header="x-denied-by", denied_body="No entry, 100 %\n")
FAMILIES = (4, 6)
SLOTS = range(1, 4)
TOKEN = SecretRef("default", "tokens", "token")
SECRETS: Secrets = {TOKEN: SecretValue("s3cret\n")}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TranslationNode]:
    with TranslationNode(tmp_path_factory.mktemp("http"), SETTINGS, base_id=8400 + 10 * WORKER) as running:
        for number in SLOTS:
            running.backend.serve_http(proxy_port(number, SETTINGS))
        yield running


@pytest.fixture(autouse=True)
def _log_of_envoy(node: TranslationNode) -> Iterator[None]:
    """Envoy warns of nothing that it is given."""
    yield
    complaints = [line for line in node.log_path.read_text().splitlines() if "[warning]" in line or "[error]" in line]
    assert complaints == []


def serve(node: TranslationNode, one: Slot, number: int = 1) -> int:
    """Serve one slot and return its port."""
    node.publish({number: one}, SECRETS)
    return proxy_port(number, SETTINGS)


def ask(
    node: TranslationNode, path: str = "/", headers: tuple[tuple[str, str], ...] = (), *, family: int = 4, **how: str
) -> Response:
    """One request to slot 1."""
    url = node.backend.url(proxy_port(1, SETTINGS), family=family)
    return node.client.http(url, path=path, headers=headers, **how)  # type: ignore[no-any-return]  # Pod passes on by name


def statuses(node: TranslationNode, paths: list[str], **how: str) -> dict[str, int]:
    return {path: ask(node, path, **how).status for path in paths}


def records_of(node: TranslationNode, path: str) -> list[AccessRecord]:
    return node.records(lambda record: record.path == path)


# ---- who gets through ---------------------------------------------------------------------------------------------

HOSTS = {
    "a.example.com": 200,
    "A.Example.com.:80": 200,
    "a.example.com:8080": 200,
    "x.wild.example.com": 200,
    "bad.wild.example.com": 403,
    "bad.wild.example.com:80": 403,
    "x.y.wild.example.com": 403,
    "b.example.com": 403,
    "a.example.com.evil.org": 403,
}
NAMES = (NameSelector("a.example.com"), NameSelector(None, "*.wild.example.com", ("bad.*.example.com",)))


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_server_reached_by_name_is_asked_for_that_host(node: TranslationNode, protocol: str) -> None:
    serve(node, slot(allowing(rule(names=NAMES))))
    found = {host: ask(node, headers=(("host", host),), protocol=protocol).status for host in HOSTS}
    assert found == HOSTS


def test_deny_rule_of_a_name_denies_for_that_name_only(node: TranslationNode) -> None:
    rules = RuleSet(allow_all=(origin(1),), deny=(rule(0, path=prefix("/private"), names=NAMES),))
    serve(node, slot(rules))
    hosts = ("a.example.com", "A.EXAMPLE.COM.:80", "b.example.com")
    assert [ask(node, "/private", (("host", host),)).status for host in hosts] == [403, 403, 200]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_method_and_path_are_judged_alike_in_both_versions_and_families(
    node: TranslationNode, family: int, protocol: str
) -> None:
    serve(node, slot(allowing(rule(0, method="GET", path=prefix("/public")), rule(1, path=exact("/login")))))
    asked = [
        ("GET", "/public"),
        ("GET", "/public/x?y"),
        ("GET", "/publicx"),
        ("POST", "/public"),
        ("POST", "/login"),
        ("GET", "/login/"),
    ]
    got = [ask(node, path, family=family, protocol=protocol, method=method).status for method, path in asked]
    assert got == [200, 200, 403, 403, 200, 403]


def test_server_sees_the_client_and_the_request_as_they_are(node: TranslationNode) -> None:
    serve(node, slot(everything()))
    sent = (
        ("Host", "web.example:8001"),
        ("X-Camel-Case", "1"),
        ("x-envoy-retry-on", "5xx"),
        ("x-request-id", "mine"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("accept-encoding", "br"),
    )
    for family in FAMILIES:
        seen = json.loads(ask(node, "/a?b=c", sent, family=family).body)
        assert seen["peer"][0] == node.client.address(family)
        assert seen["authority"] == "web.example:8001"
        assert seen["path"] == "/a?b=c"
        names = {name.lower(): value for name, value in sent}
        assert dict(seen["headers"]) == names


def test_forwarded_proto_is_the_clients_own_or_none(node: TranslationNode) -> None:
    serve(node, slot(everything()))
    kept = "x-tidegate-envoy-kept-proto"
    for sent, seen in (((), None), ((("x-forwarded-proto", "https"),), "https"), (((kept, "forged"),), None)):
        headers = dict(json.loads(ask(node, "/", sent).body)["headers"])
        assert headers.get("x-forwarded-proto") == seen
        assert kept not in headers


def test_header_names_keep_their_case_on_the_wire(node: TranslationNode) -> None:
    serve(node, slot(everything()))
    reply = b"HTTP/1.1 200 OK\\r\\nX-Server-Case: 1\\r\\nServer: Mine\\r\\nContent-Length: %d\\r\\n\\r\\n%b"
    server = textwrap.dedent(f"""
        import socket
        listening = socket.create_server(("", 8003))
        print("up", flush=True)
        peer, _ = listening.accept()
        data = b""
        while b"\\r\\n\\r\\n" not in data:
            data += peer.recv(65536)
        peer.sendall({reply!r}.replace(b"\\\\r\\\\n", b"\\r\\n") % (len(data), data))
    """)
    node.backend.stop_http(8003)
    process = node.backend.popen(["python3", "-c", server], stdout=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    node.publish({3: slot(everything())})
    answer = node.client.raw(
        node.backend.ipv4, 8003, b"GET / HTTP/1.1\r\nHost: x\r\nX-Client-CASE: 1\r\nConnection: close\r\n\r\n"
    )
    process.wait(5)
    node.backend.serve_http(8003)
    assert b"X-Client-CASE: 1" in answer
    assert b"X-Server-Case: 1" in answer
    assert b"Server: Mine" in answer
    assert b"envoy" not in answer.lower()


@pytest.mark.parametrize(
    "value, yes, no",
    [
        (exact("a.example"), ["a.example"], ["b.example", "a.example:80", "a.exampleX"]),
        (regex(r"(a|b)\.example(:[0-9]+)?"), ["a.example", "b.example:80"], ["c.example", "xa.example"]),
        (exact("A.example", ignore_case=True), ["a.EXAMPLE"], ["b.example"]),
    ],
)
def test_host_is_the_authority_with_its_port(node: TranslationNode, value: StringMatch, yes: list[str], no: list[str]) -> None:
    serve(node, slot(allowing(rule(0, host=value))))
    for protocol in ("h1", "h2"):
        assert {ask(node, "/", (("host", host),), protocol=protocol).status for host in yes} == {200}
        assert {ask(node, "/", (("host", host),), protocol=protocol).status for host in no} == {403}


def test_headers_are_compared_as_a_whole_when_allowing(node: TranslationNode) -> None:
    rules = allowing(
        rule(0, path=exact("/exact"), headers=(header("x", "a"),)),
        rule(1, path=exact("/regex"), headers=(header("x", regex("a+")),)),
        rule(2, path=exact("/prefix"), headers=(header("x", prefix("a")),)),
        rule(3, path=exact("/present"), headers=(header("x"),)),
        rule(4, path=exact("/not"), headers=(header("x", "a", invert=True),)),
        rule(5, path=exact("/absent"), headers=(header("x", invert=True),)),
        rule(6, path=exact("/case"), headers=(header("x", exact("A", ignore_case=True)),)),
        rule(7, path=exact("/secret"), headers=(header("x", secret=TOKEN),)),
    )
    serve(node, slot(rules))
    cases: dict[str, dict[tuple[str, ...], int]] = {
        "/exact": {("a",): 200, ("b",): 403, (): 403, ("a", "b"): 403, ("a,b",): 403, ("a", "a"): 403},
        "/regex": {("aaa",): 200, ("ab",): 403, ("a", "b"): 403},
        "/prefix": {("abc",): 200, ("ba",): 403, (): 403},
        "/present": {("",): 200, ("b",): 200, (): 403},
        "/not": {("a",): 403, ("b",): 200, (): 200, ("b", "a"): 403, ("b, a",): 403},
        "/absent": {(): 200, ("b",): 403},
        "/case": {("a",): 200, ("A",): 200, ("b",): 403},
        "/secret": {("s3cret",): 200, ("s3cre",): 403, ("",): 403, (): 403},
    }
    for path, expected in cases.items():
        got = {values: ask(node, path, tuple(("x", value) for value in values)).status for values in expected}
        assert got == expected, path


def test_denied_header_value_cannot_hide_behind_another(node: TranslationNode) -> None:
    serve(node, slot(RuleSet(allow_all=(origin(9),), deny=(rule(0, headers=(header("x-role", "admin"),)),))))
    for values, status in {
        ("admin",): 403,
        ("user", "admin"): 403,
        ("admin", "user"): 403,
        ("user, admin",): 403,
        ("administrator",): 200,
        (): 200,
    }.items():
        assert ask(node, "/", tuple(("x-role", value) for value in values)).status == status, values


def test_query_parameter_is_judged_decoded_at_any_position_and_once(node: TranslationNode) -> None:
    rules = allowing(
        rule(0, path=exact("/exact"), query=(QueryMatch("role", exact("user")),)),
        rule(1, path=exact("/regex"), query=(QueryMatch("role", regex("u.*r")),)),
        rule(2, path=exact("/prefix"), query=(QueryMatch("role", prefix("us")),)),
        rule(3, path=exact("/present"), query=(QueryMatch("role"),)),
        rule(4, path=exact("/two"), query=(QueryMatch("role", exact("user")), QueryMatch("x", exact("")))),
    )
    serve(node, slot(rules))
    expected = {
        "/exact?role=user": 200,
        "/exact?x=1&role=user&y": 200,
        "/exact?r%6Fle=%75ser": 200,
        "/exact": 403,
        "/exact?role": 403,
        "/exact?role=admin": 403,
        "/exact?roles=user": 403,
        "/exact?x=role=user": 403,
        "/exact?role=user&role=admin": 403,
        "/exact?role=user&r%6fle=admin": 403,
        "/exact?role=user%26role=admin": 403,
        "/regex?role=u&x=r": 403,
        "/regex?role=uXr": 200,
        "/prefix?role=user": 200,
        "/prefix?role=sus": 403,
        "/present?a&role": 200,
        "/present?role=": 200,
        "/present?arole=1": 403,
        "/two?x=&role=user": 200,
        "/two?x&role=user": 200,
        "/two?role=user": 403,
        "/two?role=user&x=1": 403,
    }
    assert statuses(node, list(expected)) == expected


def test_denied_query_value_cannot_hide(node: TranslationNode) -> None:
    serve(node, slot(RuleSet(allow_all=(origin(9),), deny=(rule(0, query=(QueryMatch("role", exact("admin")),)),))))
    expected = {
        "/?role=admin": 403,
        "/?r%6fle=%61dmin": 403,
        "/?role=user&role=admin": 403,
        "/?role=user&%72ole=admin": 403,
        "/?role=user": 200,
        "/?xrole=admin": 200,
        "/": 200,
    }
    assert statuses(node, list(expected)) == expected


SPELLINGS_OF_ADMIN = [
    "/admin",
    "/admin/",
    "/admin?x",
    "//admin",
    "///admin//x",
    "/x/../admin",
    "/x/%2e%2e/admin",
    "/x/%2E./admin",
    "/%61dmin",
    "/%61%64%6d%69%6e/x",
    "/x%2f..%2fadmin",
    "/x%2F..%2Fadmin",
    "/x/..%5cadmin",
    "/x\\..\\admin",
    "/./admin",
    "/.//admin",
    "/x/..;/admin",
    "/a/b/../../admin",
    "/../admin",
]


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_no_spelling_of_a_path_gets_round_a_deny_rule(node: TranslationNode, protocol: str) -> None:
    serve(node, slot(RuleSet(allow_all=(origin(9),), deny=(rule(0, path=prefix("/admin")),))))
    got = statuses(node, SPELLINGS_OF_ADMIN, protocol=protocol)
    assert {path: status for path, status in got.items() if status != 403} == {}
    assert ask(node, "/administration").status == 200


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_no_spelling_of_a_path_gets_out_of_an_allowed_prefix(node: TranslationNode, protocol: str) -> None:
    serve(node, slot(allowing(rule(0, path=prefix("/public")))))
    escapes = [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public%2f..%2fadmin",
        "/public/..;/admin",
        "/public\\..\\admin",
        "/publicx",
    ]
    assert set(statuses(node, escapes, protocol=protocol).values()) == {403}
    seen = [json.loads(ask(node, path, protocol=protocol).body)["path"] for path in ("/public/./a//b", "/x/../public/%61")]
    assert seen == ["/public/a/b", "/public/a"], "the server sees the path that was judged"


def test_both_directions_of_a_pair_have_to_allow(node: TranslationNode) -> None:
    pair = slot(egress=allowing(rule(0, path=prefix("/a"))), ingress=allowing(rule(1, method="GET")))
    serve(node, pair)
    asked = [("GET", "/a"), ("POST", "/a"), ("GET", "/b"), ("POST", "/b")]
    assert [ask(node, path, method=method).status for method, path in asked] == [200, 403, 403, 403]


def test_missing_secret_allows_nothing_and_the_other_rules_go_on(node: TranslationNode) -> None:
    gone = SecretRef("default", "gone", "k")
    serve(node, slot(allowing(rule(0, path=exact("/a"), headers=(header("x", secret=gone),)), rule(1, path=exact("/b")))))
    assert [error.closed for error in node.errors] == [False]
    assert [ask(node, path, (("x", ""),)).status for path in ("/a", "/b")] == [403, 200]


# ---- what is said -------------------------------------------------------------------------------------------------


def test_denied_request_gets_the_configured_body_and_the_rule(node: TranslationNode) -> None:
    serve(node, slot(RuleSet(allow=(rule(1, method="GET"),), deny=(rule(0, path=prefix("/admin")),))))
    by_rule, by_default = ask(node, "/admin"), ask(node, "/", method="POST")
    assert by_rule.body == by_default.body == b"No entry, 100 %\n"
    assert by_rule.header("content-type") == "text/plain; charset=utf-8"
    assert by_rule.header("x-denied-by") == f"rbac_access_denied_matched_policy[{origin(0)}]"
    assert by_default.header("x-denied-by") == "rbac_access_denied_matched_policy[none]"
    assert ask(node, "/admin", method="HEAD").body == b""


def test_denied_grpc_call_gets_permission_denied(node: TranslationNode) -> None:
    node.backend.serve_grpc(8004)
    node.publish({4: slot(allowing(rule(0, method="POST", path=exact("/pkg.Service/Say"), grpc=True)))})
    target = node.backend.authority(8004)
    assert node.client.grpc(target, "/pkg.Service/Say", b"hi").code == 0
    assert node.client.grpc(target, "/pkg.Service/Say", b"hi", stream=True).code == 0
    denied = node.client.grpc(target, "/pkg.Service/Delete", b"hi")
    assert denied.code == 7
    assert "No entry" in denied.details
    (record,) = node.records(lambda record: record.path == "/pkg.Service/Delete")
    assert record.grpc_status == 7


def test_websocket_goes_through_where_its_request_is_allowed(node: TranslationNode) -> None:
    port = serve(node, slot(allowing(rule(0, method="GET", path=prefix("/ws")))))
    opened = node.client.websocket(f"ws://{node.backend.authority(port)}/ws")
    assert isinstance(opened, WebSocket)
    assert opened.exchange("hello") == "hello"
    opened.close()
    assert node.client.websocket(f"ws://{node.backend.authority(port)}/other") == 403


CONNECT_REQUEST = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n"


def connect(node: TranslationNode, port: int, authority: bytes, more: bytes = b"") -> bytes:
    answer: bytes = node.client.raw(node.backend.ipv4, port, CONNECT_REQUEST % (authority, authority) + more)
    return answer


def test_connect_is_refused_even_where_everything_is_allowed(node: TranslationNode) -> None:
    port = serve(node, slot(everything()))
    assert connect(node, port, b"foo:80").startswith(b"HTTP/1.1 403 ")
    assert ask(node, "foo:80", method="CONNECT", protocol="h2").status == 403
    assert node.records(lambda record: record.method == "CONNECT" and record.status == 403, 2)


def test_connect_goes_through_where_a_rule_names_it(node: TranslationNode) -> None:
    server = textwrap.dedent("""
        import socket
        listening = socket.create_server(("", 8003))
        print("up", flush=True)
        peer, _ = listening.accept()
        data = b""
        while b"\\r\\n\\r\\n" not in data:
            data += peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        peer.sendall(b"tunnel:" + data.split()[0])
        peer.recv(1)
    """)
    node.backend.stop_http(8003)
    process = node.backend.popen(["python3", "-c", server], stdout=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    node.publish({3: slot(allowing(rule(0), rule(1, method="CONNECT", host=exact("foo:80"))))})
    assert connect(node, 8003, b"bar:80").startswith(b"HTTP/1.1 403 "), "the rule without a method doesn't mean CONNECT"
    assert connect(node, 8003, b"foo:80").endswith(b"tunnel:CONNECT")
    process.wait(5)
    node.backend.serve_http(8003)


# ---- header mismatches --------------------------------------------------------------------------------------------


def headers_seen(node: TranslationNode, path: str, *sent: tuple[str, str]) -> list[tuple[str, str]]:
    """What the server sees of the ``x-`` headers, sorted."""
    answer = ask(node, path, sent)
    assert answer.status == 200
    return sorted((name, value) for name, value in json.loads(answer.body)["headers"] if name.startswith("x-"))


def test_each_mismatch_does_what_it_says_and_the_rule_still_matches(node: TranslationNode) -> None:
    actions = (
        header("x-add", "v", mismatch=MismatchAction.ADD),
        header("x-delete", "v", mismatch=MismatchAction.DELETE),
        header("x-log", "v", mismatch=MismatchAction.LOG),
        header("x-replace", "50%", mismatch=MismatchAction.REPLACE),
    )
    serve(node, slot(allowing(rule(0, headers=actions))))
    right = (("x-add", "v"), ("x-delete", "v"), ("x-log", "v"), ("x-replace", "50%"))
    assert headers_seen(node, "/right", *right) == sorted(right)
    assert headers_seen(node, "/none") == [("x-add", "v"), ("x-replace", "50%")]
    wrong = (("x-add", "w"), ("x-delete", "w"), ("x-log", "w"), ("x-replace", "w"))
    assert headers_seen(node, "/wrong", *wrong) == [("x-add", "v"), ("x-add", "w"), ("x-log", "w"), ("x-replace", "50%")]
    told = {
        path: [(each.header, each.action) for each in read_mismatches(records_of(node, path)[0].route_name)]
        for path in ("/right", "/wrong")
    }
    assert told == {"/right": [], "/wrong": [(each.name, each.mismatch) for each in actions]}


def test_actions_of_every_matching_rule_apply_and_of_no_other(node: TranslationNode) -> None:
    rules = allowing(
        rule(0, path=prefix("/a"), headers=(header("x-one", "1", mismatch=MismatchAction.ADD),)),
        rule(1, method="GET", headers=(header("x-two", "2", mismatch=MismatchAction.REPLACE),)),
        rule(
            2,
            path=prefix("/a/b"),
            headers=(header("x-in", mismatch=MismatchAction.LOG), header("x-three", "3", mismatch=MismatchAction.ADD)),
        ),
        rule(3, headers=(header("x-key", "k"), header("x-four", "4", mismatch=MismatchAction.ADD))),
        rule(4, path=prefix("/c"), headers=(header("x-five", secret=TOKEN, mismatch=MismatchAction.REPLACE),)),
    )
    serve(node, slot(rules))
    assert headers_seen(node, "/") == [("x-two", "2")]
    assert headers_seen(node, "/a") == [("x-one", "1"), ("x-two", "2")]
    assert headers_seen(node, "/a/b") == [("x-one", "1"), ("x-three", "3"), ("x-two", "2")]
    assert headers_seen(node, "/x", ("x-key", "k")) == [("x-four", "4"), ("x-key", "k"), ("x-two", "2")]
    assert headers_seen(node, "/c") == [("x-five", "s3cret"), ("x-two", "2")]


def test_most_actions_that_a_slot_can_have_are_accepted(node: TranslationNode) -> None:
    rules = [rule(number, headers=(header(f"x-{number}", "v", mismatch=MismatchAction.ADD),)) for number in range(8)]
    serve(node, slot(allowing(*rules)))
    assert headers_seen(node, "/") == [(f"x-{number}", "v") for number in range(8)]
    assert headers_seen(node, "/", ("x-3", "v")) == [(f"x-{number}", "v") for number in range(8)]


# ---- what the agent is told ---------------------------------------------------------------------------------------


def verdicts(node: TranslationNode, path: str) -> tuple[StageVerdict, ...]:
    return read_verdicts(records_of(node, path)[0].metadata.get(HTTP_RBAC_NAMESPACE, {}))


def test_record_names_the_deciding_rule_of_each_stage(node: TranslationNode) -> None:
    pair = slot(
        egress=allowing(rule(0, path=prefix("/t"))), ingress=RuleSet(allow=(rule(1),), deny=(rule(2, path=exact("/t/no")),))
    )
    serve(node, pair)
    assert [ask(node, path).status for path in ("/t/yes", "/t/no", "/u")] == [200, 403, 403]
    out, into = Direction.EGRESS, Direction.INGRESS
    allowed_out = StageVerdict(out, Stage.ALLOW, True, str(origin(0)), True, str(origin(0)))
    assert verdicts(node, "/t/yes") == (
        allowed_out,
        StageVerdict(into, Stage.DENY, True, None, True, None),
        StageVerdict(into, Stage.ALLOW, True, str(origin(1)), True, str(origin(1))),
    )
    assert verdicts(node, "/t/no") == (allowed_out, StageVerdict(into, Stage.DENY, False, str(origin(2)), False, str(origin(2))))
    assert verdicts(node, "/u") == (StageVerdict(out, Stage.ALLOW, False, None, False, None),)


def test_audit_is_told_and_does_nothing(node: TranslationNode) -> None:
    shadow = RuleSet(allow=(rule(1, method="POST"),), deny=(rule(2, path=exact("/audit/no")),))
    node.publish({1: slot(everything(), ingress_shadow=shadow)}, allowed_sample=0.0)
    assert [ask(node, path, method="POST").status for path in ("/audit/yes", "/audit/no")] == [200, 200]
    assert ask(node, "/audit/get").status == 200
    denied = node.records(lambda record: record.path.startswith("/audit/"), 2)
    assert sorted(record.path for record in denied) == ["/audit/get", "/audit/no"], "would-be denials are told, the rest isn't"
    denying, verdict = verdicts(node, "/audit/get")
    assert (denying.stage, denying.allowed, denying.shadow_allowed) == (Stage.DENY, True, True)
    assert (verdict.allowed, verdict.rule, verdict.shadow_allowed, verdict.shadow_rule) == (True, str(origin(99)), False, None)
    first, _ = verdicts(node, "/audit/no")
    assert (first.allowed, first.shadow_allowed, first.shadow_rule) == (True, False, str(origin(2)))


def test_share_of_allowed_requests_that_are_told_changes_at_run_time(node: TranslationNode) -> None:
    one = slot(allowing(rule(0, method="GET")))
    node.publish({1: one}, allowed_sample=0.0)
    node.forget_records()
    for _ in range(20):
        assert ask(node, "/quiet").status == 200
    assert ask(node, "/quiet", method="POST").status == 403
    assert [record.method for record in node.records(lambda record: record.path == "/quiet")] == ["POST"]
    node.publish({1: one}, allowed_sample=1.0)
    assert ask(node, "/loud").status == 200
    assert node.records(lambda record: record.path == "/loud")


def test_failure_of_the_proxy_itself_is_always_told(node: TranslationNode) -> None:
    settings_slot = 2
    node.publish({settings_slot: slot(everything())}, allowed_sample=0.0)
    node.backend.stop_http(8002)
    assert node.client.http(node.backend.url(8002, "/unreachable")).status == 503
    assert node.records(lambda record: record.path == "/unreachable" and "upstream_connection_failure" in record.response_flags)
    node.backend.serve_http(8002)


# ---- edits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_edit_reaches_the_next_request_of_an_open_connection(node: TranslationNode, protocol: str) -> None:
    before, after = slot(allowing(rule(0, path=prefix("/a")))), slot(allowing(rule(0, path=prefix("/b"))))
    port = serve(node, before)
    connection = node.client.connect(node.backend.url(port), protocol)
    for turn in range(5):
        for one, expected in ((before, [200, 403]), (after, [403, 200])):
            node.publish({1: one}, SECRETS)
            eventually(lambda: connection.request("/b").status == expected[1], "the edit never took effect")  # noqa: B023
            assert [connection.request(path).status for path in ("/a", "/b")] == expected, turn
    assert connection.is_open


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_edits_under_load_fail_no_request(node: TranslationNode, protocol: str) -> None:
    port = serve(node, slot(allowing(rule(0, path=prefix("/a")))))
    load = node.client.load(node.backend.url(port, "/a"), connections=4, protocol=protocol)
    for number in range(20):
        rules = allowing(
            rule(0, path=prefix("/a")), rule(1, path=exact(f"/{number}"), headers=(header("x", mismatch=MismatchAction.LOG),))
        )
        node.publish({1: slot(rules)}, SECRETS)
    counts = load.stop()
    assert counts.failures == {}
    assert set(counts.statuses) == {200}
    assert counts.opened_count == 4


def test_dialling_the_proxy_port_itself_is_closed(node: TranslationNode) -> None:
    serve(node, slot(everything()))
    dial = (
        "import socket; s = socket.create_connection((%r, 8001)); "
        "s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print(s.recv(99))"
    )
    for address in ("127.0.0.1", "::1"):
        answer = node.cluster.host.run(["python3", "-c", dial % address])
        assert "HTTP/1.1" not in answer.stdout
