"""What TidegatePolicy adds: L7 deny, prefixes, queries, header expressions, gRPC rules and audit mode."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.node import eventually
from tests.support.stage import (
    DEATHSTAR,
    DENIED_SECONDS,
    GRPC,
    HTTP,
    TCP,
    XWING,
    Stage,
    cnp,
    from_endpoints,
    ports,
    reach,
    tidegate_policy,
)

pytestmark = [pytest.mark.root, pytest.mark.envoy]


def rules(port: int = HTTP, **lists: Any) -> list[dict[str, Any]]:
    return [{"toPorts": ports(port, rules=lists)}]


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_http_deny_rule_beats_every_http_allow_rule(stage: Stage, protocol: str, family: int) -> None:
    allow, deny = [{"path": {"prefix": "/v1"}}], [{"path": {"prefix": "/v1/admin"}}]
    stage.enforce(
        tidegate_policy("allow", DEATHSTAR, ingress=rules(http=allow)),
        tidegate_policy("both", DEATHSTAR, ingress=rules(http=allow, httpDeny=deny)),
    )
    url = stage.deathstar.url(HTTP, family=family)

    def status(path: str) -> int:
        return int(stage.xwing.http(url, path=path, protocol=protocol).status)

    assert [status(path) for path in ("/v1", "/v1/a", "/v1/admin", "/v1/admin/x", "/v1/a/../admin", "/v2", "/v1x")] == [
        200, 200, 403, 403, 403, 403, 403,
    ]  # fmt: skip
    assert status("/v1/administrator") == 200


def test_deny_list_alone_lets_everything_else_pass(stage: Stage, family: int) -> None:
    stage.enforce(tidegate_policy("deny", DEATHSTAR, ingress=rules(httpDeny=[{"method": {"exact": "DELETE"}}])))
    url = stage.deathstar.url(HTTP, family=family)
    assert [stage.xwing.http(url, method).status for method in ("GET", "POST", "DELETE")] == [200, 200, 403]


def test_exact_path_ignores_the_query_and_queries_have_rules_of_their_own(stage: Stage) -> None:
    rule = {"path": {"exact": "/search"}, "query": [{"name": "q", "value": {"regex": "[a-z]+"}}]}
    stage.enforce(tidegate_policy("query", DEATHSTAR, ingress=rules(http=[rule, {"path": {"exact": "/plain"}}])))
    url = stage.deathstar.url(HTTP)
    paths = ("/search?q=abc", "/search?x=1&q=abc", "/search?q=ABC", "/search", "/plain", "/plain?any=1", "/plain/")
    assert [stage.xwing.http(url, path=path).status for path in paths] == [200, 200, 403, 403, 200, 200, 403]


def test_header_values_can_be_matched_by_expression_and_inverted(stage: Stage) -> None:
    matches = [{"name": "x-tenant", "value": {"regex": "t-[0-9]+"}}, {"name": "x-debug", "invert": True}]
    stage.enforce(tidegate_policy("headers", DEATHSTAR, ingress=rules(http=[{"headerMatches": matches}])))
    url = stage.deathstar.url(HTTP)
    headers: tuple[dict[str, str], ...] = ({"x-tenant": "t-12"}, {"x-tenant": "t-12x"}, {}, {"x-tenant": "t-1", "x-debug": "1"})
    assert [stage.xwing.http(url, headers=each).status for each in headers] == [200, 403, 403, 403]


def test_grpc_rules_name_service_and_method(stage: Stage, family: int) -> None:
    allow = [{"service": "empire.Hangar", "method": "GetStatus"}, {"service": "empire.Radio"}]
    stage.enforce(
        tidegate_policy(
            "grpc", DEATHSTAR, ingress=rules(GRPC, grpc=allow, grpcDeny=[{"service": "empire.Radio", "method": "Jam"}])
        )
    )
    target = stage.deathstar.authority(GRPC, family)
    methods = (
        "/empire.Hangar/GetStatus",
        "/empire.Radio/Say",
        "/empire.Radio/Jam",
        "/empire.Hangar/OpenDoors",
        "/empire.RadioTower/Say",
    )
    results = [stage.xwing.grpc(target, method) for method in methods]
    assert [result.code for result in results] == [0, 0, 7, 7, 7]


def audits(stage: Stage) -> int:
    return sum(flow.get("tidegate", {}).get("audited", False) for flow in stage.node.flows("--last", "200"))


def test_audit_mode_reports_and_lets_requests_pass(stage: Stage, family: int) -> None:
    stage.enforce(tidegate_policy("audit", DEATHSTAR, mode="audit", ingress=rules(http=[{"method": {"exact": "GET"}}])))
    before = audits(stage)
    url = stage.deathstar.url(HTTP, family=family)
    assert [stage.xwing.http(url, method).status for method in ("GET", "DELETE")] == [200, 200]
    eventually(lambda: audits(stage) > before, what="a record of what would have been denied")


def test_audit_mode_reports_and_lets_connections_pass(stage: Stage, family: int) -> None:
    stage.enforce(
        tidegate_policy(
            "audit", DEATHSTAR, mode="audit", ingress=[{"fromEndpoints": from_endpoints(XWING), "toPorts": ports(HTTP)}]
        )
    )
    before = audits(stage)
    assert reach(stage.tiefighter, stage.deathstar, [HTTP, TCP], family) == {HTTP: True, TCP: True}
    assert stage.tiefighter.ping(stage.deathstar.address(family), timeout=DENIED_SECONDS)
    eventually(lambda: audits(stage) > before, what="a record of what would have been denied")


def test_enforced_policy_holds_beside_an_audited_one(stage: Stage, family: int) -> None:
    stage.enforce(
        tidegate_policy("audit", DEATHSTAR, mode="audit", ingress=rules(http=[{"method": {"exact": "GET"}}])),
        cnp("enforced", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(XWING), "toPorts": ports(HTTP)}]),
    )
    assert stage.xwing.http(stage.deathstar.url(HTTP, family=family), "DELETE").status == 200
    assert reach(stage.tiefighter, stage.deathstar, [HTTP], family) == {HTTP: False}


def test_clusterwide_tidegate_policy_is_enforced(stage: Stage) -> None:
    document = tidegate_policy("wide", DEATHSTAR, ingress=rules(http=[{"path": {"prefix": "/v1"}}]))
    wide = type(document)(
        "wide", document.text.replace("kind: TidegatePolicy", "kind: ClusterTidegatePolicy").replace("  namespace: default\n", "")
    )
    stage.enforce(wide)
    assert [stage.xwing.http(stage.deathstar.url(HTTP), path=path).status for path in ("/v1/x", "/v2")] == [200, 403]
