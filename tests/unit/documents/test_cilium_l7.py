"""rules.http, rules.kafka and rules.dns in Cilium's dialect."""

from __future__ import annotations

import pytest

from l7filters.model import (
    DnsRule,
    HeaderMatch,
    HttpRule,
    KafkaRole,
    KafkaRule,
    L7Protocol,
    MatchKind,
    MismatchAction,
    PolicyKey,
    RuleOrigin,
    SecretRef,
    StringMatch,
)
from tests.support.documents import CNP, document, l7, only, port_rule

EXACT, REGEX = MatchKind.EXACT, MatchKind.REGEX


def origin(name: str, direction: str = "ingress") -> RuleOrigin:
    return RuleOrigin(PolicyKey("cnp/default/p"), f"spec.{direction}[0].toPorts[0].rules.{name}[0]")


def http(rule: str) -> HttpRule:
    found = l7(CNP, f"{{http: [{rule}]}}")
    assert (found.protocol, found.deny, found.deny_only) == (L7Protocol.HTTP, (), False)
    (only_rule,) = found.allow
    assert isinstance(only_rule, HttpRule)
    return only_rule


def test_empty_rule_matches_everything() -> None:
    assert http("{}") == HttpRule(origin("http"))


def test_fields_are_regular_expressions() -> None:
    assert http('{method: "GET|HEAD", path: "/v1/.*", host: "[^:]+"}') == HttpRule(
        origin("http"),
        path=StringMatch(REGEX, "/v1/.*"),
        method=StringMatch(REGEX, "GET|HEAD"),
        host=StringMatch(REGEX, "[^:]+"),
    )


def test_empty_strings_are_as_absent() -> None:
    assert http('{method: "", path: "", host: ""}') == HttpRule(origin("http"))


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ("X-Key: true", HeaderMatch("x-key", StringMatch(EXACT, "true"))),
        ("X-Key true", HeaderMatch("x-key", StringMatch(EXACT, "true"))),
        ("X-Key: a b: c", HeaderMatch("x-key", StringMatch(EXACT, "a b: c"))),
        ("X-Key", HeaderMatch("x-key")),
    ],
)
def test_header_line(header: str, match: HeaderMatch) -> None:
    assert http(f'{{headers: ["{header}"]}}').headers == (match,)


@pytest.mark.parametrize(
    ("item", "match"),
    [
        ("{name: X-Key}", HeaderMatch("x-key")),
        ("{name: X-Key, value: 'a.b'}", HeaderMatch("x-key", StringMatch(EXACT, "a.b"))),
        ("{name: X-Key, value: '', mismatch: ''}", HeaderMatch("x-key")),
        ("{name: X-Key, value: v, mismatch: LOG}", HeaderMatch("x-key", StringMatch(EXACT, "v"), mismatch=MismatchAction.LOG)),
        ("{name: X-Key, value: v, mismatch: FAIL}", HeaderMatch("x-key", StringMatch(EXACT, "v"))),
        (
            "{name: X-Key, secret: {name: s, namespace: n}, mismatch: REPLACE}",
            HeaderMatch("x-key", None, SecretRef("n", "s", ""), MismatchAction.REPLACE),
        ),
        (
            "{name: X-Key, secret: {name: s}, value: fallback}",
            HeaderMatch("x-key", StringMatch(EXACT, "fallback"), SecretRef("default", "s", "")),
        ),
    ],
)
def test_header_match(item: str, match: HeaderMatch) -> None:
    assert http(f"{{headerMatches: [{item}]}}").headers == (match,)


@pytest.mark.parametrize("rules", ["{}", "{http: []}", "{dns: []}", "{kafka: []}"])
def test_no_list_or_an_empty_one_restricts_nothing(rules: str) -> None:
    assert port_rule(CNP, f"{{ports: [{{port: '80', protocol: TCP}}], rules: {rules}}}").l7 is None


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        ("{}", KafkaRule(origin("kafka"))),
        (
            "{role: produce, topic: empire-announce}",
            KafkaRule(origin("kafka"), KafkaRole.PRODUCE, topics=(StringMatch(EXACT, "empire-announce"),)),
        ),
        (
            "{apiKey: Fetch, apiVersion: '4', clientID: c, topic: t}",
            KafkaRule(origin("kafka"), None, "fetch", 4, "c", (StringMatch(EXACT, "t"),)),
        ),
        ("{apiKey: ListOffsets}", KafkaRule(origin("kafka"), None, "listoffsets")),
        ("{apiKey: offsets}", KafkaRule(origin("kafka"), None, "listoffsets")),
        ("{role: '', apiKey: '', apiVersion: '', clientID: '', topic: ''}", KafkaRule(origin("kafka"))),
        ("{role: '', apiKey: produce}", KafkaRule(origin("kafka"), None, "produce")),
    ],
)
def test_kafka_rule(item: str, rule: KafkaRule) -> None:
    found = l7(CNP, f"{{kafka: [{item}]}}")
    assert (found.protocol, found.allow) == (L7Protocol.KAFKA, (rule,))


@pytest.mark.parametrize("port", ["{port: '53'}", "{port: '53', protocol: UDP}", "{port: '5353', protocol: TCP}"])
@pytest.mark.parametrize(
    ("item", "name", "pattern"),
    [
        ("{matchName: Example.com.}", "example.com", None),
        ("{matchPattern: '*'}", None, "*"),
        ("{matchPattern: '**.Example.com'}", None, "**.example.com"),
        ("{matchName: _srv._tcp.example.com}", "_srv._tcp.example.com", None),
    ],
)
def test_dns_rule(port: str, item: str, name: str | None, pattern: str | None) -> None:
    found = l7(CNP, f"{{dns: [{item}]}}", "egress", port)
    assert found.protocol is L7Protocol.DNS
    assert found.allow == (DnsRule(origin("dns", "egress"), name, pattern),)


def test_l7_beside_terminated_tls_and_server_names() -> None:
    found = port_rule(
        CNP,
        "{ports: [{port: '443', protocol: TCP}], serverNames: [a.io], terminatingTLS: {secret: {name: s}}, rules: {http: [{}]}}",
        "egress",
    )
    assert found.l7 is not None
    assert found.server_names == ("a.io",)


def test_host_policy_may_use_dns_on_egress() -> None:
    spec = """
    nodeSelector: {}
    egress: [{toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*'}]}}]}]
    """
    policy = only(document(("cilium.io/v2", "CiliumClusterwideNetworkPolicy"), spec))
    assert policy.rules[0].to_ports[0].l7 is not None
