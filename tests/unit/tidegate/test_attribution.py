"""From kernel events and access records to flows."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from l7filters.compile import compile
from l7filters.identity import IdentityTable
from l7filters.model import Direction, Protocol
from tests.support.worlds import To, allow, cidr, deny, endpoint, entity, fqdn, http, origin, pods, policy, world
from tests.unit.tidegate.fakes import NOON_NS
from tidegate.flows.attribution import POLICY_DENIED, POLICY_DENY, WorldIndex, flow_from_access, flow_from_event
from tidegate.flows.nearest import nearest_miss_of
from tidegate.flows.record import REDACTED, Flow, HttpPart, L7Type, MatchType, Redaction, TlsPart, Verdict
from xds_server.access_log import AccessRecord, HttpVersion, RecordKind, SocketAddress

EMPIRE = endpoint("deathstar", "org=empire", ip=("10.0.0.3", "fd00::3"))
XWING = endpoint("xwing", "org=alliance", ip=("10.0.0.2", "fd00::2"))
REMOTE = endpoint("db", "app=db", ip="10.0.9.7", remote=True)
RULE = policy(
    "rule1",
    "org=empire",
    ingress=[
        allow(pods("org=alliance"), To("80", http=(http("GET", "/public"), http("POST", "/v1/.*")))),
        allow(cidr("192.0.2.0/24"), "443"),
        deny(entity("world"), "22"),
    ],
)
AUDIT = policy("watch", "org=alliance", egress=[allow(pods("app=db"), "5432")], audit=True)
WORLD = world(RULE, AUDIT, endpoints=(EMPIRE, XWING, REMOTE), revision=9)
COMPILED = compile(WORLD, IdentityTable())
INDEX = WorldIndex(WORLD, COMPILED)
HTTP_ITEM = "spec.ingress[0].toPorts[0]"


def event(source: str, destination: str, port: int, verdict: Verdict, **more: Any) -> Flow:
    settings: dict[str, Any] = {
        "node": "node-a",
        "uuid": "u",
        "time_ns": NOON_NS,
        "verdict": verdict,
        "reason": "POLICY_DENIED" if verdict is Verdict.DENIED else "",
        "source": ip_address(source),
        "destination": ip_address(destination),
        "protocol": Protocol.TCP,
        "source_port": 40000,
        "destination_port": port,
        "nearest_miss": nearest_miss_of(WORLD),
    }
    return flow_from_event(INDEX, **{**settings, **more})


def test_ends_are_named_by_address() -> None:
    flow = event("10.0.0.2", "10.0.0.3", 80, Verdict.REDIRECTED, slot=3)
    assert (flow.source.key, flow.destination.key) == ("default/xwing", "default/deathstar")
    assert "k8s:org=alliance" in flow.source.labels
    assert flow.source.identity == INDEX.identity_of(ip_address("fd00::2")) >= 256
    assert (flow.source.port, flow.destination.port, flow.slot, flow.revision) == (40000, 80, 3, 9)


def test_stranger_is_told_by_the_prefixes_that_policies_name() -> None:
    assert event("192.0.2.9", "10.0.0.3", 443, Verdict.FORWARDED).source.labels == ("cidr:192.0.2.0/24", "reserved:world")
    assert event("198.51.100.1", "10.0.0.3", 443, Verdict.DENIED).source.labels == ("reserved:world-ipv4",)
    assert event("2001:db8::1", "fd00::3", 443, Verdict.DENIED).source.labels == ("reserved:world-ipv6",)


def test_verdict_by_a_name_is_the_name_s_rule() -> None:
    named = world(policy("names", "org=alliance", egress=[allow(fqdn("*.example.com"), "8443")]), endpoints=(XWING,))
    compiled = compile(named, IdentityTable())
    (name,) = (number for label_set, number in compiled.identities.numbers.items() if label_set.fqdn is not None)
    for is_reply in (False, True):
        ends = {"source": "10.0.0.2", "destination": "198.51.100.1", "source_port": 40000, "destination_port": 8443}
        if is_reply:
            ends = {"source": "198.51.100.1", "destination": "10.0.0.2", "source_port": 8443, "destination_port": 40000}
        flow = flow_from_event(
            WorldIndex(named, compiled),
            node="node-a",
            uuid="u",
            time_ns=NOON_NS,
            verdict=Verdict.FORWARDED,
            reason="",
            source=ip_address(ends["source"]),
            destination=ip_address(ends["destination"]),
            protocol=Protocol.TCP,
            source_port=int(ends["source_port"]),
            destination_port=int(ends["destination_port"]),
            is_reply=is_reply,
            name_identity=name,
        )
        assert flow.rule == origin("names", "spec.egress[0].toPorts[0]")
        far = flow.source if is_reply else flow.destination
        assert far.labels == ("reserved:world-ipv4", "fqdn:*.example.com")


def test_host_is_told_as_such() -> None:
    assert event("192.168.0.1", "10.0.0.3", 80, Verdict.FORWARDED).source.labels == ("reserved:host",)


@pytest.mark.parametrize(
    ("source", "port", "verdict", "rule", "match"),
    [
        ("10.0.0.2", 80, Verdict.REDIRECTED, HTTP_ITEM, MatchType.L3_L4),
        ("192.0.2.9", 443, Verdict.FORWARDED, "spec.ingress[1].toPorts[0]", MatchType.L3_L4),
        ("198.51.100.1", 22, Verdict.DENIED, "spec.ingressDeny[0].toPorts[0]", MatchType.L3_L4),
    ],
)
def test_deciding_rule_of_an_ingress_verdict(source: str, port: int, verdict: Verdict, rule: str, match: MatchType) -> None:
    flow = event(source, "10.0.0.3", port, verdict)
    assert (flow.direction, flow.rule, flow.match_type) == (Direction.INGRESS, origin("rule1", rule), match)
    assert flow.reason == (POLICY_DENY if verdict is Verdict.DENIED else "")
    assert flow.nearest_miss == ""


def test_default_deny_names_no_rule_but_the_nearest_miss() -> None:
    flow = event("10.0.0.2", "10.0.0.3", 81, Verdict.DENIED)
    assert (flow.rule, flow.reason, flow.direction) == (None, POLICY_DENIED, Direction.INGRESS)
    assert flow.nearest_miss.startswith(f"cnp/default/rule1:{HTTP_ITEM} would allow it, but port 81/TCP is not 80/TCP")


def test_audited_egress_is_of_the_side_that_would_have_denied() -> None:
    flow = event("10.0.0.2", "10.0.0.3", 81, Verdict.AUDITED)
    assert (flow.direction, flow.reason) == (Direction.EGRESS, "")


def test_reply_is_judged_by_the_connection_it_belongs_to() -> None:
    flow = event("10.0.0.3", "10.0.0.2", 40000, Verdict.REDIRECTED, source_port=80, is_reply=True)
    assert (flow.source.key, flow.destination.key, flow.is_reply) == ("default/deathstar", "default/xwing", True)
    assert flow.rule == origin("rule1", HTTP_ITEM)


def test_icmp_has_a_type_instead_of_ports() -> None:
    flow = event("10.0.0.2", "10.0.0.3", 8, Verdict.DENIED, protocol=Protocol.ICMP, source_port=0)
    assert (flow.icmp_type, flow.source.port, flow.destination.port) == (8, 0, 0)


def test_drop_that_is_not_policys_blames_no_rule() -> None:
    flow = event("10.0.0.2", "10.0.0.3", 80, Verdict.DROPPED, reason="SPOOFED")
    assert (flow.reason, flow.rule, flow.nearest_miss, flow.match_type) == ("SPOOFED", None, "", None)


def test_verdict_that_the_policy_of_now_does_not_explain_blames_no_rule() -> None:
    flow = event("10.0.0.2", "10.0.0.3", 80, Verdict.FORWARDED, destination_identity=999)
    assert flow.rule is None


def test_before_anything_was_compiled_ends_still_have_names() -> None:
    index = WorldIndex(WORLD, None)
    assert index.end(ip_address("10.0.0.2"), 1).key == "default/xwing"
    assert index.end(ip_address("192.0.2.1"), 1).labels == ()


# ---- access records -------------------------------------------------------------------------------------------------


RECORD = AccessRecord(
    kind=RecordKind.HTTP,
    node_id="node-a",
    log_name="slot-3",
    start_ns=NOON_NS,
    duration_ns=5000,
    downstream_remote=SocketAddress("10.0.0.2", 40000),
    downstream_local=SocketAddress("10.0.0.3", 80),
    upstream_remote=SocketAddress("10.0.0.3", 80),
    upstream_cluster="original-dst",
    route_name="",
    response_flags=(),
    metadata={},
    custom_tags={},
    requested_server_name="",
    tls_version="",
    received_bytes=0,
    sent_bytes=0,
    termination_details="",
    stream_id="",
    is_final=True,
    method="GET",
    scheme="http",
    authority="deathstar.default",
    path="/public",
    http_version=HttpVersion.HTTP11,
    status=200,
    response_code_details="via_upstream",
)
FIRST_RULE = f"cnp/default/rule1:{HTTP_ITEM}.rules.http[0]"


def rbac(**results: str) -> dict[str, dict[str, str]]:
    """RBAC metadata: ``ingress_allow_enforced_engine_result="allowed"``, and the like."""
    return {"envoy.filters.http.rbac": results}


def access(redaction: Redaction | None = None, **changes: Any) -> Flow:
    return flow_from_access(
        INDEX,
        replace(RECORD, **changes),
        node="node-a",
        uuid="u",
        redaction=redaction or Redaction(),
        nearest_miss=nearest_miss_of(WORLD),
    )


def test_allowed_request_names_its_rule_and_slot() -> None:
    flow = access(
        metadata=rbac(ingress_allow_enforced_engine_result="allowed", ingress_allow_enforced_effective_policy_id=FIRST_RULE)
    )
    assert (flow.verdict, flow.direction, str(flow.rule), flow.slot) == (Verdict.FORWARDED, Direction.INGRESS, FIRST_RULE, 3)
    assert (flow.source.key, flow.destination.key, flow.destination.port) == ("default/xwing", "default/deathstar", 80)
    assert flow.l7 == HttpPart(
        method="GET", path="/public", host="deathstar.default", scheme="http", protocol="HTTP/1.1", code=200
    )
    assert (flow.l7_type, flow.latency_ns, flow.time_ns, flow.revision) == (L7Type.RESPONSE, 5000, NOON_NS, 9)


def test_second_policy_made_of_one_rule_is_that_rule() -> None:
    flow = access(
        metadata=rbac(
            ingress_allow_enforced_engine_result="allowed", ingress_allow_enforced_effective_policy_id=f"{FIRST_RULE}#2"
        )
    )
    assert str(flow.rule) == FIRST_RULE


def test_denied_request_names_the_nearest_miss() -> None:
    flow = access(
        method="PUT",
        path="/v1/exhaust-port",
        status=403,
        response_code_details="rbac_access_denied_matched_policy[none]",
        response_flags=("unauthorized",),
        metadata=rbac(ingress_allow_enforced_engine_result="denied"),
    )
    assert (flow.verdict, flow.reason, flow.rule, flow.l7_type) == (Verdict.DENIED, POLICY_DENIED, None, L7Type.REQUEST)
    assert flow.nearest_miss == (
        f"cnp/default/rule1:{HTTP_ITEM}.rules.http[1] would allow it, but method is PUT, must match POST"
    )


def test_request_denied_by_a_deny_rule_names_it() -> None:
    rule = "tp/default/no:spec.egress[0].toPorts[0].rules.httpDeny[0]"
    flow = access(
        metadata=rbac(
            egress_deny_enforced_engine_result="denied",
            egress_deny_enforced_effective_policy_id=rule,
        )
    )
    assert (flow.verdict, flow.reason, flow.direction, str(flow.rule)) == (Verdict.DENIED, POLICY_DENY, Direction.EGRESS, rule)
    assert flow.nearest_miss == ""


def test_pair_is_denied_by_the_side_that_said_no() -> None:
    flow = access(
        metadata=rbac(
            egress_allow_enforced_engine_result="allowed",
            egress_allow_enforced_effective_policy_id=FIRST_RULE,
            ingress_allow_enforced_engine_result="denied",
        )
    )
    assert (flow.verdict, flow.direction, flow.rule) == (Verdict.DENIED, Direction.INGRESS, None)


def test_request_that_only_an_audit_would_deny_is_audited() -> None:
    flow = access(
        metadata=rbac(
            ingress_allow_enforced_engine_result="allowed",
            ingress_allow_enforced_effective_policy_id=FIRST_RULE,
            ingress_allow_shadow_engine_result="denied",
        )
    )
    assert (flow.verdict, flow.rule, flow.reason) == (Verdict.AUDITED, None, "")
    assert flow.to_json()["verdict"] == "AUDIT"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": 503, "response_flags": ("upstream_connection_failure",)}, "UPSTREAM_CONNECTION_FAILURE"),
        ({"status": 400, "response_code_details": "path_normalization_failed"}, "PATH_NORMALIZATION_FAILED"),
        ({"status": 0, "response_code_details": "downstream_remote_disconnect{reset}"}, "DOWNSTREAM_REMOTE_DISCONNECT"),
    ],
)
def test_exchange_that_broke_is_an_error_and_no_denial(changes: dict[str, Any], reason: str) -> None:
    flow = access(**changes)
    assert (flow.verdict, flow.reason) == (Verdict.ERROR, reason)


def test_500_from_the_server_is_the_servers_business() -> None:
    assert access(status=500).verdict is Verdict.FORWARDED


def test_secrets_of_a_request_do_not_enter_the_record() -> None:
    flow = access(
        method="PUT",
        path="/v1/x?token=hunter2",
        request_headers={"cookie": "hunter2"},
        metadata=rbac(ingress_allow_enforced_engine_result="denied"),
    )
    assert "hunter2" not in repr(flow)
    assert flow.l7 is not None
    assert flow.l7.headers == (("cookie", REDACTED),)  # type: ignore[union-attr]


def test_header_mismatches_are_told() -> None:
    flow = access(route_name=f"mismatch ADD x-a {FIRST_RULE}; DELETE x-b {FIRST_RULE}; LOG x-c {FIRST_RULE}")
    assert isinstance(flow.l7, HttpPart)
    assert (flow.l7.missing_headers, flow.l7.rejected_headers) == (("x-a", "x-c"), ("x-b",))


def test_tls_connection_is_judged_by_its_server_name() -> None:
    flow = access(
        kind=RecordKind.TCP,
        requested_server_name="evil.example",
        method="",
        status=0,
        metadata={"envoy.filters.network.rbac": {"egress_allow_enforced_engine_result": "denied"}},
    )
    assert (flow.verdict, flow.direction, flow.l7) == (Verdict.DENIED, Direction.EGRESS, TlsPart(server_name="evil.example"))


def test_record_without_a_destination_takes_the_upstreams() -> None:
    assert access(downstream_local=SocketAddress()).destination.key == "default/deathstar"
    assert access(downstream_local=SocketAddress(), upstream_remote=SocketAddress()).destination.key == "?"


def test_ipv4_address_that_is_spelled_as_ipv6_is_the_same_endpoint() -> None:
    assert access(downstream_remote=SocketAddress("::ffff:10.0.0.2", 1)).source.key == "default/xwing"


def test_log_value_of_the_deciding_policy_is_carried() -> None:
    logged = replace(RULE, log_value="ticket 42")
    index = WorldIndex(replace(WORLD, policies=(logged,)), COMPILED)
    metadata = rbac(ingress_allow_enforced_engine_result="allowed", ingress_allow_enforced_effective_policy_id=FIRST_RULE)
    flow = flow_from_access(index, replace(RECORD, metadata=metadata), node="n", uuid="u", redaction=Redaction())
    assert flow.to_json()["policy_log"] == ["ticket 42"]


def test_pass_is_attributed_to_the_side_whose_rule_allows_it_not_to_the_one_that_no_policy_selects() -> None:
    plain = policy("plain", "org=empire", ingress=[allow(pods("org=rebels"), "7000")])
    rebel = endpoint("rebel", "org=rebels", ip="10.0.0.9")
    given = world(plain, endpoints=(EMPIRE, rebel))
    index = WorldIndex(given, compile(given, IdentityTable()))
    flow = flow_from_event(
        index,
        node="node-a",
        uuid="u",
        time_ns=NOON_NS,
        verdict=Verdict.FORWARDED,
        reason="",
        source=ip_address("10.0.0.9"),
        destination=ip_address("10.0.0.3"),
        protocol=Protocol.TCP,
        destination_port=7000,
    )
    assert (flow.direction, flow.rule) == (Direction.INGRESS, origin("plain", "spec.ingress[0].toPorts[0]"))
