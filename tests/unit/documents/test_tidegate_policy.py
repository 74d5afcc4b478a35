"""TidegatePolicy: what it adds to Cilium's spec, and what of that is refused."""

from __future__ import annotations

import pytest

from l7filters.model import (
    Direction,
    DnsRule,
    FqdnPeer,
    HeaderMatch,
    HttpRule,
    KafkaRule,
    L7Protocol,
    MatchKind,
    Mode,
    Offload,
    PortSpec,
    Protocol,
    QueryMatch,
    SecretRef,
    StringMatch,
)
from tests.support.documents import CTP, TP, document, l7, only, refused, rule_of

EXACT, PREFIX, REGEX = MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX
P80 = "{port: '80', protocol: TCP}"


def http(rule: str) -> HttpRule:
    (found,) = l7(TP, f"{{http: [{rule}]}}").allow
    assert isinstance(found, HttpRule)
    return found


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("/v1/.*", StringMatch(REGEX, "/v1/.*")),
        ("{regex: '/v1/.*'}", StringMatch(REGEX, "/v1/.*")),
        ("{exact: /v1}", StringMatch(EXACT, "/v1")),
        ("{exact: /v1/}", StringMatch(EXACT, "/v1/")),
        ("{prefix: /}", StringMatch(PREFIX, "/")),
        ("{prefix: /v1}", StringMatch(PREFIX, "/v1")),
        ("{prefix: /v1/}", StringMatch(PREFIX, "/v1")),
        ("{exact: /v1, ignoreCase: true}", StringMatch(EXACT, "/v1", True)),
        ("{exact: '/a%20b'}", StringMatch(EXACT, "/a%20b")),
        ("{exact: '/caf%C3%A9/~x'}", StringMatch(EXACT, "/caf%C3%A9/~x")),
        ("{exact: /...}", StringMatch(EXACT, "/...")),
    ],
)
def test_path(path: str, match: StringMatch) -> None:
    assert http(f"{{path: {path}}}").path == match


@pytest.mark.parametrize(
    ("path", "at", "message", "hint"),
    [
        ("{exact: v1}", "", "must begin with '/'", '"/v1"'),
        ("{prefix: '*'}", "", "must begin with '/'", ""),
        ("{exact: '/a?b=c'}", "", "must not hold a query", "query:"),
        ("{exact: //a}", "", "can never match: paths are normalised", 'write "/a"'),
        ("{prefix: /a//}", "", "can never match: paths are normalised", 'write "/a/"'),
        ("{exact: /a%2Fb}", "", "can never match: paths are normalised", 'write "/a/b"'),
        ("{exact: '/a\\b'}", "", "can never match: paths are normalised", 'write "/a/b"'),
        ("{exact: /a/../b}", "", "can never match: paths are normalised", 'write "/b"'),
        ("{exact: /a/.}", "", "can never match: paths are normalised", 'write "/a/"'),
        ("{exact: /%61dmin}", "", "can never match: paths are normalised", 'write "/admin"'),
        ("{exact: /a%00}", "", "can never match: requests with such a path are refused", ""),
        ("{exact: /café}", "", "must be percent-encoded ASCII", "/caf%C3%A9"),
        ("{exact: /a b}", "", "must be percent-encoded ASCII", "/a%20b"),
        ("{}", "", "needs exactly one of exact, prefix, regex", ""),
        ("{exact: /a, prefix: /b}", "", "needs exactly one of exact, prefix, regex", ""),
        ("{exakt: /a}", ".exakt", "unknown field", '"exact"'),
        ("{regex: '('}", ".regex", "is not a regular expression", ""),
        ("{regex: '/a', ignoreCase: true}", "", "ignoreCase does not go with regex", "(?i)"),
        ("{exact: ''}", ".exact", "must not be empty", ""),
        ("''", "", "must not be empty", ""),
        ("5", "", "must be a string, not a number (5)", "quotes"),
    ],
)
def test_path_that_cannot_match_is_refused(path: str, at: str, message: str, hint: str) -> None:
    from l7filters.documents import parse_documents

    text = document(
        TP, f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{P80}], rules: {{http: [{{path: {path}}}]}}}}]}}]"
    )
    refused(text, f"spec.ingress[0].toPorts[0].rules.http[0].path{at}", message)
    assert any(hint in error.hint for error in parse_documents(text, "test").errors)


def test_all_http_fields_together() -> None:
    rule = http(
        """{
        method: {exact: GET}, host: {regex: "api[.]example[.]com(:80)?"}, path: {prefix: /v1},
        headers: ["X-Tenant: blue"],
        headerMatches: [
            {name: X-Id, value: {regex: "[0-9]+"}}, {name: X-Env, value: {prefix: dev, ignoreCase: true}},
            {name: X-Debug, invert: true}, {name: X-Mode, value: fast, invert: true},
            {name: X-Key, secret: {name: keys, key: api}}],
        query: [{name: q}, {name: page, value: "1"}, {name: sort, value: {regex: "asc|desc"}}]}"""
    )
    assert rule.method == StringMatch(EXACT, "GET")
    assert rule.host == StringMatch(REGEX, "api[.]example[.]com(:80)?")
    assert rule.headers == (
        HeaderMatch("x-tenant", StringMatch(EXACT, "blue")),
        HeaderMatch("x-id", StringMatch(REGEX, "[0-9]+")),
        HeaderMatch("x-env", StringMatch(PREFIX, "dev", True)),
        HeaderMatch("x-debug", invert=True),
        HeaderMatch("x-mode", StringMatch(EXACT, "fast"), invert=True),
        HeaderMatch("x-key", secret=SecretRef("default", "keys", "api")),
    )
    assert rule.query == (
        QueryMatch("q"),
        QueryMatch("page", StringMatch(EXACT, "1")),
        QueryMatch("sort", StringMatch(REGEX, "asc|desc")),
    )


@pytest.mark.parametrize(
    ("rule", "path", "match"),
    [
        ("{}", None, None),
        ("{service: pkg.Hangar}", PREFIX, "/pkg.Hangar"),
        ("{service: pkg.Hangar, method: Open}", EXACT, "/pkg.Hangar/Open"),
    ],
)
def test_grpc_rule_is_a_post_to_its_path(rule: str, path: MatchKind | None, match: str | None) -> None:
    rules = l7(TP, f"{{grpc: [{rule}]}}")
    (found,) = rules.allow
    assert isinstance(found, HttpRule)
    assert rules.protocol is L7Protocol.HTTP
    assert (found.grpc, found.method) == (True, StringMatch(EXACT, "POST"))
    assert found.path == (None if path is None or match is None else StringMatch(path, match))


def test_deny_lists_stand_beside_allow_lists() -> None:
    rules = l7(TP, "{http: [{path: /a}], grpc: [{service: a.B}], httpDeny: [{path: /b}], grpcDeny: [{service: a.C}]}")
    assert [rule.origin.path.rpartition(".")[2] for rule in rules.allow] == ["http[0]", "grpc[0]"]
    assert [rule.origin.path.rpartition(".")[2] for rule in rules.deny] == ["httpDeny[0]", "grpcDeny[0]"]
    assert not rules.deny_only


@pytest.mark.parametrize("rules", ["{httpDeny: [{}]}", "{grpcDeny: [{}]}", "{kafkaDeny: [{}]}"])
def test_deny_list_alone_is_deny_only(rules: str) -> None:
    found = l7(TP, rules)
    assert (found.allow, len(found.deny), found.deny_only) == ((), 1, True)


@pytest.mark.parametrize(
    ("item", "topics", "groups"),
    [
        ("{topic: a}", [StringMatch(EXACT, "a")], []),
        ("{topicPrefix: a.}", [StringMatch(PREFIX, "a.")], []),
        ("{topicRegex: 'a|b'}", [StringMatch(REGEX, "a|b")], []),
        (
            "{topics: [a, {prefix: b}, {regex: 'c+'}]}",
            [StringMatch(EXACT, "a"), StringMatch(PREFIX, "b"), StringMatch(REGEX, "c+")],
            [],
        ),
        ("{group: g}", [], [StringMatch(EXACT, "g")]),
        ("{groupPrefix: g-}", [], [StringMatch(PREFIX, "g-")]),
        ("{groups: [g, {regex: h.*}]}", [], [StringMatch(EXACT, "g"), StringMatch(REGEX, "h.*")]),
    ],
)
def test_kafka_topics_and_groups(item: str, topics: list[StringMatch], groups: list[StringMatch]) -> None:
    (found,) = l7(TP, f"{{kafka: [{item}]}}").allow
    assert isinstance(found, KafkaRule)
    assert (found.topics, found.groups) == (tuple(topics), tuple(groups))


def test_dns_query_types_and_exceptions() -> None:
    (found,) = l7(
        TP,
        "{dns: [{matchPattern: '*.Example.com', queryTypes: [a, AAAA], except: ['Bad.example.com']}]}",
        "egress",
        "{port: '53'}",
    ).allow
    assert isinstance(found, DnsRule)
    assert (found.match_pattern, found.query_types, found.excepts) == ("*.example.com", ("A", "AAAA"), ("bad.example.com",))


def test_fqdn_exceptions() -> None:
    rule = rule_of(TP, "{toFQDNs: [{matchPattern: '**.example.com', except: ['*.bad.example.com']}]}", "egress")
    assert rule.peers == (FqdnPeer(None, "**.example.com", ("*.bad.example.com",)),)


def test_mode_and_offload() -> None:
    policy = only(document(TP, "endpointSelector: {}\ningress: [{}]\nmode: audit\noffload: {deniesPerSecond: 100, seconds: 30}"))
    assert (policy.mode, policy.offload) == (Mode.AUDIT, Offload(100, 30))
    policy = only(document(CTP, "nodeSelector: {}\ningress: [{}]"))
    assert (policy.key, policy.mode, policy.offload) == ("ctp/p", Mode.ENFORCE, None)


def test_policy_may_do_nothing_but_observe() -> None:
    item = f"{{direction: egress, ports: [{P80}], protocol: http, sample: 0.1}}"
    policy = only(document(TP, f"endpointSelector: {{}}\nobserve: [{item}]"))
    (found,) = policy.observe
    assert (found.direction, found.sample, str(found.ports.origin)) == (Direction.EGRESS, 0.1, "tp/default/p:spec.observe[0]")
    assert found.ports.ports == (PortSpec(Protocol.TCP, 80),)
    assert (policy.rules, policy.default_deny) == ((), frozenset())


def test_policy_on_nodes_cant_observe() -> None:
    item = f"{{direction: egress, ports: [{P80}], protocol: http}}"
    refused(document(CTP, f"nodeSelector: {{}}\nobserve: [{item}]"), "spec.observe[0]", "a policy on nodes can't observe")


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ("mode: dryrun", "spec.mode", 'unknown value "dryrun"'),
        ("offload: {seconds: 3}", "spec.offload.deniesPerSecond", "is required"),
        ("offload: {deniesPerSecond: 0, seconds: 3}", "spec.offload.deniesPerSecond", "must be between 1 and"),
        ("offload: {deniesPerSecond: 1, seconds: 3601}", "spec.offload.seconds", "must be between 1 and 3600"),
        (f"observe: [{{ports: [{P80}], protocol: http}}]", "spec.observe[0].direction", "is required"),
        (f"observe: [{{direction: ingress, ports: [{P80}]}}]", "spec.observe[0].protocol", "is required"),
        (f"observe: [{{direction: ingress, ports: [{P80}], protocol: kafka}}]", "spec.observe[0].protocol", "unknown value"),
        (
            f"observe: [{{direction: ingress, ports: [{P80}], protocol: http, sample: 1.5}}]",
            "spec.observe[0].sample",
            "must be a number between 0 and 1",
        ),
        ("observe: [{direction: ingress, ports: [], protocol: http}]", "spec.observe[0]", "needs at least one port"),
        (
            "observe: [{direction: ingress, ports: [{port: '0'}], protocol: http}]",
            "spec.observe[0]",
            "every port can't be observed",
        ),
        ("observe: [{direction: ingress, ports: [{port: '53', protocol: UDP}], protocol: http}]", "spec.observe[0]", "only TCP"),
    ],
)
def test_spec_rejects(spec: str, path: str, message: str) -> None:
    refused(document(TP, f"endpointSelector: {{}}\ningress: [{{}}]\n{spec}"), path, message)


@pytest.mark.parametrize(
    ("rules", "path", "message"),
    [
        ("{http: []}", ".http", "must not be empty"),
        ("{kafkaDeny: []}", ".kafkaDeny", "must not be empty"),
        ("{http: [{}], kafkaDeny: [{}]}", "", "one port can't speak http and kafka"),
        (
            "{httpDeny: [{headerMatches: [{name: a, value: b, mismatch: LOG}]}]}",
            ".httpDeny[0]",
            "header actions do not go with a deny rule",
        ),
        ("{http: [{method: {prefix: G}}]}", ".http[0].method", "needs exactly one of exact, regex"),
        (
            "{http: [{headerMatches: [{name: a, value: {regex: b}, mismatch: ADD}]}]}",
            ".http[0].headerMatches[0]",
            "mismatch ADD needs an exact value",
        ),
        (
            "{http: [{headerMatches: [{name: a, invert: true, mismatch: LOG}]}]}",
            ".http[0].headerMatches[0]",
            "invert does not go with mismatch",
        ),
        (
            "{http: [{headerMatches: [{name: a, invert: true, secret: {name: s}}]}]}",
            ".http[0].headerMatches[0]",
            "invert does not go with a secret",
        ),
        ("{http: [{headerMatches: [{name: a, value: ' b'}]}]}", ".http[0].headerMatches[0].value", "begins or ends with a space"),
        ("{http: [{query: [{value: b}]}]}", ".http[0].query[0].name", "is required"),
        ("{http: [{query: {a: b}}]}", ".http[0].query", "must be a list, not a mapping"),
        ("{grpc: [{method: Get}]}", ".grpc[0]", "method needs a service"),
        ("{grpc: [{service: /pkg.S}]}", ".grpc[0].service", '"/pkg.S" is not a gRPC service'),
        ("{grpc: [{service: pkg.S, method: 'Get*'}]}", ".grpc[0].method", '"Get*" is not a gRPC method'),
        ("{grpc: [{path: /a}]}", ".grpc[0].path", "unknown field"),
        ("{kafka: [{topic: a, topicPrefix: b}]}", ".kafka[0]", "topic and topicPrefix exclude each other"),
        ("{kafka: [{topics: []}]}", ".kafka[0].topics", "must not be empty"),
        ("{kafka: [{topicPrefix: 'a b'}]}", ".kafka[0].topicPrefix", '"a b" is not a topic name'),
        ("{kafka: [{topicRegex: '['}]}", ".kafka[0].topicRegex", "is not a regular expression"),
        ("{kafka: [{topics: [{exact: a, ignoreCase: true}]}]}", ".kafka[0].topics[0]", "ignoreCase does not go with Kafka"),
    ],
)
def test_rules_rejects(rules: str, path: str, message: str) -> None:
    text = document(TP, f"endpointSelector: {{}}\ningress: [{{toPorts: [{{ports: [{P80}], rules: {rules}}}]}}]")
    refused(text, f"spec.ingress[0].toPorts[0].rules{path}", message)


def test_unknown_query_type_is_refused() -> None:
    item = "{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*', queryTypes: [AAA]}]}}"
    text = document(TP, f"endpointSelector: {{}}\negress: [{{toPorts: [{item}]}}]")
    refused(text, "spec.egress[0].toPorts[0].rules.dns[0].queryTypes[0]", 'unknown query type "AAA"')
