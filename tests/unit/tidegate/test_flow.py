"""The flow record and its JSON."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from l7filters.model import Direction, PolicyKey, Protocol, RuleOrigin
from tests.unit.tidegate.fakes import RULE, denied_request, packet
from tidegate.flows.record import (
    REDACTED,
    DnsPart,
    FlowEnd,
    HttpPart,
    KafkaPart,
    L7Type,
    MatchType,
    Redaction,
    TlsPart,
    Verdict,
    parse_origin,
    protocol_name,
)

NAMED = {name: {"pod_name": name, "workloads": [{"name": name}]} for name in ("xwing", "deathstar")}


def test_denied_request_reads_like_hubbles() -> None:
    assert denied_request().to_json() == {
        "time": "2026-01-01T12:00:00.123456789Z",
        "uuid": "00000000-0000-4000-8000-000000000001",
        "verdict": "DROPPED",
        "drop_reason_desc": "POLICY_DENIED",
        "IP": {"source": "10.0.0.2", "destination": "10.0.0.3", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 51234, "destination_port": 80}},
        "source": {"identity": 256, "namespace": "default", "labels": ["k8s:org=alliance"], **NAMED["xwing"]},
        "destination": {"identity": 257, "namespace": "default", "labels": ["k8s:org=empire"], **NAMED["deathstar"]},
        "Type": "L7",
        "node_name": "node-a",
        "l7": {
            "type": "RESPONSE",
            "latency_ns": "120000",
            "http": {
                "code": 403,
                "method": "PUT",
                "url": "http://deathstar.default/v1/exhaust-port",
                "protocol": "HTTP/1.1",
            },
        },
        "traffic_direction": "INGRESS",
        "is_reply": False,
        "Summary": "HTTP/1.1 PUT http://deathstar.default/v1/exhaust-port 403",
        "tidegate": {
            "verdict": "denied",
            "revision": 7,
            "nearest_miss": "cnp/default/rule1:spec.ingress[0].toPorts[0].rules.http[0]: method PUT is not POST",
            "slot": 3,
        },
    }


def test_packet_reads_like_hubbles() -> None:
    flow = packet(rule=RULE, match_type=MatchType.L3_L4, is_reply=True)
    assert flow.to_json() == {
        "time": "2026-01-01T12:00:00.000000000Z",
        "uuid": "00000000-0000-4000-8000-000000000002",
        "verdict": "FORWARDED",
        "IP": {"source": "10.0.0.2", "destination": "10.0.0.3", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 51234, "destination_port": 80, "flags": {"SYN": True}}},
        "source": {"identity": 256, "namespace": "default", "labels": ["k8s:org=alliance"], **NAMED["xwing"]},
        "destination": {"identity": 257, "namespace": "default", "labels": ["k8s:org=empire"], **NAMED["deathstar"]},
        "Type": "L3_L4",
        "node_name": "node-a",
        "policy_match_type": 2,
        "traffic_direction": "EGRESS",
        "is_reply": True,
        "Summary": "TCP Flags: SYN",
        "egress_allowed_by": [
            {"name": "rule1", "namespace": "default", "revision": "7", "kind": "CiliumNetworkPolicy"},
        ],
        "tidegate": {
            "verdict": "forwarded",
            "policy": "cnp/default/rule1",
            "rule": "spec.ingress[0].toPorts[0].rules.http[0]",
            "revision": 7,
        },
    }


@pytest.mark.parametrize(
    ("verdict", "hubble", "field"),
    [
        (Verdict.FORWARDED, "FORWARDED", "ingress_allowed_by"),
        (Verdict.REDIRECTED, "REDIRECTED", "ingress_allowed_by"),
        (Verdict.AUDITED, "AUDIT", "ingress_allowed_by"),
        (Verdict.DENIED, "DROPPED", "ingress_denied_by"),
        (Verdict.DROPPED, "DROPPED", None),
        (Verdict.ERROR, "ERROR", None),
    ],
)
def test_verdict_in_hubbles_words_and_the_field_that_names_the_policy(verdict: Verdict, hubble: str, field: str | None) -> None:
    record = packet(verdict=verdict, rule=RULE, direction=Direction.INGRESS).to_json()
    assert record["verdict"] == hubble
    assert [key for key in record if key.endswith("_by")] == ([field] if field else [])
    assert record["tidegate"].get("audited", False) is (verdict is Verdict.AUDITED)


@pytest.mark.parametrize(
    ("flow", "name", "l4", "summary"),
    [
        (packet(protocol=Protocol.UDP), "udp", {"UDP": {"source_port": 51234, "destination_port": 80}}, "UDP"),
        (packet(protocol=Protocol.ICMP, icmp_type=8), "icmp", {"ICMPv4": {"type": 8}}, "ICMPv4 type 8 code 0"),
        (packet(protocol=Protocol.ICMPV6, icmp_type=128), "icmpv6", {"ICMPv6": {"type": 128}}, "ICMPv6 type 128 code 0"),
        (packet(protocol=Protocol.GRE), "gre", {}, "GRE"),
        (packet(protocol=200), "200", {}, "200"),
        (denied_request(l7=TlsPart(server_name="a.example")), "tls", None, "TLS a.example"),
        (denied_request(l7=DnsPart(query="a.example.", query_types=("A",))), "dns", None, "DNS A a.example."),
        (denied_request(l7=KafkaPart(api_key="fetch", api_version=11, topics=("t",))), "kafka", None, "Kafka fetch v11 t"),
    ],
)
def test_each_protocol_has_its_name_part_and_summary(flow: object, name: str, l4: object, summary: str) -> None:
    record = flow.to_json()  # type: ignore[attr-defined]
    assert protocol_name(flow) == name  # type: ignore[arg-type]
    assert l4 is None or record.get("l4", {}) == l4
    assert record["Summary"] == summary


def test_grpc_request_carries_service_method_and_status_zero() -> None:
    part = HttpPart(method="POST", path="/pkg.Service/Method", protocol="HTTP/2", code=200, grpc_status=0)
    flow = denied_request(verdict=Verdict.FORWARDED, reason="", l7=part, l7_type=L7Type.RESPONSE)
    assert protocol_name(flow) == "grpc"
    assert flow.to_json()["tidegate"]["grpc"] == {"service": "pkg.Service", "method": "Method", "status": 0}


def test_kafka_topics_beyond_hubbles_one_are_kept() -> None:
    part = KafkaPart(api_key="produce", api_version=9, client_id="c", topics=("a", "b"), correlation_id=5)
    record = denied_request(l7=part).to_json()
    assert record["l7"]["kafka"] == {"api_version": 9, "api_key": "produce", "correlation_id": 5, "topic": "a"}
    assert record["tidegate"]["kafka"] == {"client_id": "c", "topics": ["a", "b"]}


SECRETIVE = HttpPart(
    method="GET",
    path="/login?password=hunter2",
    host="alice:hunter2@shop.example",
    headers=(("authorization", "Bearer hunter2"),),
)


def test_redaction_takes_out_query_user_information_and_header_values() -> None:
    text = json.dumps(denied_request(l7=Redaction().apply(SECRETIVE)).to_json())
    assert "hunter2" not in text
    assert "http://shop.example/login" in text
    assert REDACTED in text
    assert "authorization" in text


def test_redaction_that_is_switched_off_keeps_them_but_never_user_information() -> None:
    part = Redaction(query=False, headers=False).apply(SECRETIVE)
    assert (part.path, part.headers, part.host) == (SECRETIVE.path, SECRETIVE.headers, "shop.example")


@pytest.mark.parametrize(
    "origin",
    [
        RULE,
        RuleOrigin(PolicyKey("ccnp/everywhere"), "spec.egressDeny[0]"),
        RuleOrigin(PolicyKey("tp/default/with.dots-and_more"), 'spec.ingress[0]["odd:key"]'),
    ],
)
def test_origin_survives_being_written_as_text(origin: RuleOrigin) -> None:
    assert parse_origin(str(origin)) == origin


@pytest.mark.parametrize("text", ["", "none", "cnp", "cnp/default/rule1", "a:b"])
def test_text_that_is_no_origin_is_none(text: str) -> None:
    assert parse_origin(text) is None


def test_end_without_endpoint_is_shown_by_address_or_reserved_name() -> None:
    assert FlowEnd(address=ip_address("192.0.2.1"), labels=("reserved:world",)).key == "192.0.2.1"
    assert FlowEnd(labels=("reserved:host",)).key == "host"
    assert FlowEnd().key == "?"
