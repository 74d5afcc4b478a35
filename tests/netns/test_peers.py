"""Peers that are no local pods: the host, other nodes' pods, the world, by entity and by CIDR."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.netns import GATEWAY_V4, GATEWAY_V6
from tests.support.stage import (
    DEATHSTAR,
    DENIED_SECONDS,
    HOST_HTTP,
    HTTP,
    HTTP_OTHER,
    TCP,
    UDP,
    XWING,
    Stage,
    cnp,
    from_endpoints,
    http,
    ports,
    reach,
)

pytestmark = [pytest.mark.root, pytest.mark.envoy]


def test_host_always_reaches_pods(stage: Stage, family: int) -> None:
    stage.enforce(cnp("lock", DEATHSTAR, ingress=[{}]))
    assert reach(stage.host, stage.deathstar, [HTTP, TCP], family) == {HTTP: True, TCP: True}
    assert stage.host.ping(stage.deathstar.address(family))
    assert stage.host.http(stage.deathstar.url(HTTP, "/healthz", family)).status == 200


def test_host_reaches_pods_past_their_http_rules(stage: Stage, family: int) -> None:
    stage.enforce(cnp("l7", DEATHSTAR, ingress=[{"toPorts": http({"method": "POST"})}]))
    assert stage.host.http(stage.deathstar.url(HTTP, "/healthz", family)).status == 200


def test_pod_reaches_the_host_only_by_entity(stage: Stage, family: int) -> None:
    stage.enforce(cnp("egress", XWING, egress=[{"toEntities": ["host"], "toPorts": ports(HOST_HTTP)}]))
    assert reach(stage.xwing, stage.host, [HOST_HTTP], family) == {HOST_HTTP: True}
    assert reach(stage.xwing, stage.internet, [HTTP], family) == {HTTP: False}
    stage.enforce(cnp("egress", XWING, egress=[{"toEntities": ["world"]}]))
    assert reach(stage.xwing, stage.host, [HOST_HTTP], family) == {HOST_HTTP: False}
    assert reach(stage.xwing, stage.internet, [HTTP], family) == {HTTP: True}


def test_the_gateway_address_is_the_host(stage: Stage) -> None:
    stage.enforce(cnp("egress", XWING, egress=[{"toEndpoints": from_endpoints(DEATHSTAR)}]))
    assert stage.xwing.tcp(GATEWAY_V4, HOST_HTTP, timeout=DENIED_SECONDS) == "timeout"
    # Neighbour discovery is no traffic that policy judges: without it the pod would reach nothing at all.
    assert reach(stage.xwing, stage.deathstar, [HTTP], 6) == {HTTP: True}
    assert stage.xwing.run(["ip", "-6", "neigh", "show", GATEWAY_V6]).stdout.split()[-1] != "FAILED"


def test_world_is_who_has_no_labels(stage: Stage, family: int) -> None:
    stage.enforce(cnp("world", DEATHSTAR, ingress=[{"fromEntities": ["world"], "toPorts": ports(HTTP)}]))
    assert reach(stage.internet, stage.deathstar, [HTTP, HTTP_OTHER], family) == {HTTP: True, HTTP_OTHER: False}
    assert reach(stage.xwing, stage.deathstar, [HTTP], family) == {HTTP: False}
    assert reach(stage.falcon, stage.deathstar, [HTTP], family) == {HTTP: False}


def test_world_of_one_family_excludes_the_other(stage: Stage) -> None:
    stage.enforce(cnp("world", DEATHSTAR, ingress=[{"fromEntities": ["world-ipv4"]}]))
    assert reach(stage.internet, stage.deathstar, [HTTP], 4) == {HTTP: True}
    assert reach(stage.internet, stage.deathstar, [HTTP], 6) == {HTTP: False}


def test_cluster_is_the_pods_of_every_node_and_the_host(stage: Stage, family: int) -> None:
    stage.enforce(cnp("cluster", DEATHSTAR, ingress=[{"fromEntities": ["cluster"]}]))
    assert reach(stage.xwing, stage.deathstar, [HTTP], family) == {HTTP: True}
    assert reach(stage.falcon, stage.deathstar, [HTTP], family) == {HTTP: True}
    assert reach(stage.internet, stage.deathstar, [HTTP], family) == {HTTP: False}


def test_remote_pod_is_known_by_its_labels(stage: Stage, family: int) -> None:
    stage.enforce(
        cnp("alliance", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints({"org": "alliance"}), "toPorts": ports(HTTP)}])
    )
    response = stage.falcon.http(stage.deathstar.url(HTTP, family=family))
    assert response.json["peer"][0] == stage.falcon.address(family)
    assert reach(stage.falcon, stage.deathstar, [HTTP_OTHER], family) == {HTTP_OTHER: False}
    assert reach(stage.tiefighter, stage.deathstar, [HTTP], family) == {HTTP: False}


@pytest.mark.parametrize(
    "cidrs",
    [{4: "203.0.113.0/24", 6: "2001:db8:113::/48"}, {4: "203.0.113.7/32", 6: "2001:db8:113::7/128"}],
    ids=["network", "address"],
)
def test_cidr_admits_the_addresses_in_it(stage: Stage, cidrs: dict[int, str], family: int) -> None:
    stage.enforce(cnp("cidr", XWING, egress=[{"toCIDR": list(cidrs.values()), "toPorts": ports(HTTP)}]))
    assert reach(stage.xwing, stage.internet, [HTTP, TCP], family) == {HTTP: True, TCP: False}
    assert reach(stage.xwing, stage.falcon, [HTTP], family) == {HTTP: False}


def test_cidr_except_takes_addresses_out(stage: Stage, family: int) -> None:
    sets = [
        {"cidr": "203.0.0.0/16", "except": ["203.0.113.0/29"]},
        {"cidr": "2001:db8::/32", "except": ["2001:db8:113::/125"]},
    ]
    stage.enforce(cnp("except", XWING, egress=[{"toCIDRSet": sets}]))
    assert reach(stage.xwing, stage.internet, [HTTP, TCP], family) == {HTTP: False, TCP: False}


def test_cidr_does_not_select_pods(stage: Stage, family: int) -> None:
    stage.enforce(cnp("cidr", XWING, egress=[{"toCIDR": ["0.0.0.0/0", "::/0"]}]))
    assert reach(stage.xwing, stage.internet, [HTTP], family) == {HTTP: True}
    assert reach(stage.xwing, stage.deathstar, [HTTP], family) == {HTTP: False}


@pytest.mark.parametrize("client", ["falcon", "internet"])
def test_client_from_another_node_meets_http_rules_through_the_hairpin(stage: Stage, client: str, family: int) -> None:
    pod = getattr(stage, client)
    peers: dict[str, dict[str, Any]] = {
        "falcon": {"fromEndpoints": from_endpoints({"class": "falcon"})},
        "internet": {"fromEntities": ["world"]},
    }
    stage.enforce(cnp("l7", DEATHSTAR, ingress=[{**peers[client], "toPorts": http({"method": "GET", "path": "/v1/.*"})}]))
    allowed = pod.http(stage.deathstar.url(HTTP, "/v1/exhaust", family))
    assert (allowed.status, allowed.json["peer"][0]) == (200, pod.address(family))
    assert pod.http(stage.deathstar.url(HTTP, "/v2", family)).status == 403
    connection = pod.connect(stage.deathstar.url(HTTP, family=family), "h2")
    assert [connection.request(path).status for path in ("/v1/a", "/v2", "/v1/b")] == [200, 403, 200]
    connection.close()


@pytest.mark.parametrize("server", ["falcon", "internet"])
def test_request_to_another_node_meets_http_rules_and_its_answer_finds_the_way_back(
    stage: Stage, server: str, family: int
) -> None:
    pod = getattr(stage, server)
    peers: dict[str, dict[str, Any]] = {
        "falcon": {"toEndpoints": from_endpoints({"class": "falcon"})},
        "internet": {"toEntities": ["world"]},
    }
    stage.enforce(cnp("l7", XWING, egress=[{**peers[server], "toPorts": http({"method": "GET", "path": "/v1/.*"})}]))
    allowed = stage.xwing.http(pod.url(HTTP, "/v1/a", family))
    assert (allowed.status, allowed.json["peer"][0]) == (200, stage.xwing.address(family))
    assert stage.xwing.http(pod.url(HTTP, "/v2", family)).status == 403
    assert reach(stage.xwing, pod, [TCP], family) == {TCP: False}


def test_http_to_the_host_meets_the_pods_egress_rules(stage: Stage, family: int) -> None:
    stage.enforce(cnp("l7", XWING, egress=[{"toEntities": ["host"], "toPorts": http({"path": "/ok"}, port=HOST_HTTP)}]))
    assert stage.xwing.http(stage.host.url(HOST_HTTP, "/ok", family)).status == 200
    assert stage.xwing.http(stage.host.url(HOST_HTTP, "/no", family)).status == 403


def test_udp_to_the_world_by_cidr(stage: Stage, family: int) -> None:
    cidrs = ["203.0.113.0/24", "2001:db8:113::/48"]
    stage.enforce(cnp("udp", XWING, egress=[{"toCIDR": cidrs, "toPorts": ports(UDP, protocol="UDP")}]))
    assert reach(stage.xwing, stage.internet, [UDP], family, "UDP") == {UDP: True}
    assert reach(stage.xwing, stage.deathstar, [UDP], family, "UDP") == {UDP: False}
