"""Verdicts that the kernel gives alone: who may reach which port, by labels, protocol and port."""

from __future__ import annotations

import pytest

from tests.support.pod import Failed
from tests.support.stage import (
    DEATHSTAR,
    DENIED_SECONDS,
    GRPC,
    HTTP,
    HTTP_OTHER,
    TCP,
    TIEFIGHTER,
    UDP,
    XWING,
    Stage,
    cnp,
    from_endpoints,
    network_policy,
    policy,
    ports,
    reach,
)

pytestmark = [pytest.mark.root, pytest.mark.envoy]


def test_without_policy_everything_passes_in_both_directions(stage: Stage, family: int) -> None:
    stage.enforce()
    assert reach(stage.xwing, stage.deathstar, [HTTP, TCP], family) == {HTTP: True, TCP: True}
    assert reach(stage.xwing, stage.deathstar, [UDP], family, "UDP") == {UDP: True}
    assert reach(stage.falcon, stage.deathstar, [HTTP], family) == {HTTP: True}
    assert reach(stage.deathstar, stage.internet, [HTTP], family) == {HTTP: True}
    assert stage.xwing.ping(stage.deathstar.address(family))


def test_ingress_rule_admits_its_peers_on_its_port_only(stage: Stage, family: int) -> None:
    stage.enforce(cnp("rule1", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints({"org": "empire"}), "toPorts": ports(HTTP)}]))
    assert reach(stage.tiefighter, stage.deathstar, [HTTP, HTTP_OTHER, TCP], family) == {
        HTTP: True,
        HTTP_OTHER: False,
        TCP: False,
    }
    assert reach(stage.xwing, stage.deathstar, [HTTP, HTTP_OTHER], family) == {HTTP: False, HTTP_OTHER: False}
    assert reach(stage.falcon, stage.deathstar, [HTTP], family) == {HTTP: False}
    assert reach(stage.tiefighter, stage.deathstar, [UDP], family, "UDP") == {UDP: False}


def test_replies_and_the_other_direction_need_no_rule(stage: Stage, family: int) -> None:
    stage.enforce(cnp("rule1", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(TIEFIGHTER)}]))
    # The deathstar itself may call anyone: no policy selects its egress, and answers to it are no ingress.
    assert reach(stage.deathstar, stage.internet, [HTTP, TCP], family) == {HTTP: True, TCP: True}
    assert reach(stage.deathstar, stage.internet, [UDP], family, "UDP") == {UDP: True}
    connection = stage.tiefighter.connect(stage.deathstar.url(TCP, family=family), "tcp")
    assert connection.exchange(b"x" * 200_000) == b"x" * 200_000
    connection.close()


def test_one_empty_ingress_rule_is_default_deny(stage: Stage) -> None:
    stage.enforce(cnp("lock", DEATHSTAR, ingress=[{}]))
    for family in (4, 6):
        assert reach(stage.tiefighter, stage.deathstar, [HTTP, TCP], family) == {HTTP: False, TCP: False}
        assert not stage.tiefighter.ping(stage.deathstar.address(family), timeout=DENIED_SECONDS)


def test_empty_selector_admits_the_whole_namespace_and_nobody_else(stage: Stage, family: int) -> None:
    stage.enforce(cnp("namespace", DEATHSTAR, ingress=[{"fromEndpoints": [{}]}]))
    assert reach(stage.xwing, stage.deathstar, [HTTP], family) == {HTTP: True}
    assert reach(stage.falcon, stage.deathstar, [HTTP], family) == {HTTP: True}
    assert reach(stage.internet, stage.deathstar, [HTTP], family) == {HTTP: False}


def test_match_expressions_choose_peers(stage: Stage, family: int) -> None:
    expression = {"key": "class", "operator": "NotIn", "values": ["xwing", "falcon"]}
    stage.enforce(cnp("expressions", DEATHSTAR, ingress=[{"fromEndpoints": [{"matchExpressions": [expression]}]}]))
    assert reach(stage.tiefighter, stage.deathstar, [HTTP], family) == {HTTP: True}
    assert reach(stage.xwing, stage.deathstar, [HTTP], family) == {HTTP: False}


def test_deny_rule_beats_allow_rule(stage: Stage, family: int) -> None:
    stage.enforce(
        cnp(
            "mixed",
            DEATHSTAR,
            ingress=[{"fromEndpoints": [{}]}],
            ingressDeny=[{"fromEndpoints": from_endpoints(XWING), "toPorts": ports(HTTP)}],
        )
    )
    assert reach(stage.xwing, stage.deathstar, [HTTP, HTTP_OTHER], family) == {HTTP: False, HTTP_OTHER: True}
    assert reach(stage.tiefighter, stage.deathstar, [HTTP, HTTP_OTHER], family) == {HTTP: True, HTTP_OTHER: True}


def test_without_default_deny_a_policy_only_takes_away_what_it_denies(stage: Stage, family: int) -> None:
    stage.enforce(
        cnp(
            "soft",
            DEATHSTAR,
            enableDefaultDeny={"ingress": False},
            ingressDeny=[{"fromEndpoints": from_endpoints(XWING), "toPorts": ports(TCP)}],
        )
    )
    assert reach(stage.xwing, stage.deathstar, [HTTP, TCP], family) == {HTTP: True, TCP: False}
    assert reach(stage.tiefighter, stage.deathstar, [HTTP, TCP], family) == {HTTP: True, TCP: True}


def test_egress_rule_holds_for_local_remote_and_outside_servers(stage: Stage, family: int) -> None:
    stage.enforce(
        cnp("egress", XWING, egress=[{"toEndpoints": from_endpoints(DEATHSTAR, {"class": "falcon"}), "toPorts": ports(HTTP)}])
    )
    assert reach(stage.xwing, stage.deathstar, [HTTP, HTTP_OTHER], family) == {HTTP: True, HTTP_OTHER: False}
    assert reach(stage.xwing, stage.falcon, [HTTP], family) == {HTTP: True}
    assert reach(stage.xwing, stage.internet, [HTTP, TCP], family) == {HTTP: False, TCP: False}
    assert reach(stage.tiefighter, stage.internet, [HTTP], family) == {HTTP: True}


def test_both_sides_must_agree(stage: Stage, family: int) -> None:
    stage.enforce(
        cnp("egress", XWING, egress=[{"toEndpoints": from_endpoints(DEATHSTAR), "toPorts": ports(HTTP, HTTP_OTHER)}]),
        cnp("ingress", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(XWING), "toPorts": ports(HTTP, TCP)}]),
    )
    assert reach(stage.xwing, stage.deathstar, [HTTP, HTTP_OTHER, TCP], family) == {HTTP: True, HTTP_OTHER: False, TCP: False}


def test_udp_is_judged_by_port(stage: Stage, family: int) -> None:
    stage.enforce(
        cnp("udp", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(XWING), "toPorts": ports(UDP, protocol="UDP")}]),
    )
    assert reach(stage.xwing, stage.deathstar, [UDP], family, "UDP") == {UDP: True}
    assert reach(stage.tiefighter, stage.deathstar, [UDP], family, "UDP") == {UDP: False}
    assert reach(stage.xwing, stage.deathstar, [TCP], family) == {TCP: False}


def test_protocol_any_covers_tcp_and_udp(stage: Stage, family: int) -> None:
    stage.enforce(cnp("any", DEATHSTAR, ingress=[{"toPorts": ports(TCP, UDP, protocol="ANY")}]))
    assert reach(stage.xwing, stage.deathstar, [TCP, HTTP], family) == {TCP: True, HTTP: False}
    assert reach(stage.xwing, stage.deathstar, [UDP], family, "UDP") == {UDP: True}


def test_icmp_passes_only_where_a_rule_names_its_type(stage: Stage, family: int) -> None:
    def ping() -> bool:
        return bool(stage.xwing.ping(stage.deathstar.address(family), timeout=DENIED_SECONDS))

    fields = [{"family": "IPv4", "type": 8}, {"family": "IPv6", "type": "EchoRequest"}]
    stage.enforce(cnp("icmp", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(XWING), "icmps": [{"fields": fields}]}]))
    assert ping()
    assert not stage.tiefighter.ping(stage.deathstar.address(family), timeout=DENIED_SECONDS)
    assert reach(stage.xwing, stage.deathstar, [HTTP], family) == {HTTP: False}
    stage.enforce(cnp("icmp", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(XWING), "toPorts": ports(HTTP)}]))
    assert not ping()


def test_port_range_ends_where_it_says(stage: Stage, family: int) -> None:
    port_range = [{"ports": [{"port": str(HTTP_OTHER), "endPort": GRPC - 1, "protocol": "TCP"}]}]
    stage.enforce(cnp("range", DEATHSTAR, ingress=[{"toPorts": port_range}]))
    stage.deathstar.serve_tcp(GRPC - family)
    assert reach(stage.xwing, stage.deathstar, [HTTP, HTTP_OTHER, GRPC - family, GRPC], family) == {
        HTTP: False,
        HTTP_OTHER: True,
        GRPC - family: True,
        GRPC: False,
    }


def test_named_port_means_the_port_that_the_endpoint_gives_the_name(stage: Stage, family: int) -> None:
    stage.enforce(cnp("named", DEATHSTAR, ingress=[{"toPorts": ports("http")}]))
    assert reach(stage.xwing, stage.deathstar, [HTTP, HTTP_OTHER], family) == {HTTP: True, HTTP_OTHER: False}


def test_kubernetes_network_policy_is_enforced(stage: Stage, family: int) -> None:
    stage.enforce(
        network_policy(
            "knp",
            DEATHSTAR,
            policyTypes=["Ingress"],
            ingress=[
                {"from": [{"podSelector": {"matchLabels": TIEFIGHTER}}], "ports": [{"port": "http", "protocol": "TCP"}]},
                {"from": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.128/25"]}}], "ports": [{"port": TCP}]},
                {"from": [{"ipBlock": {"cidr": "2001:db8:113::/48"}}], "ports": [{"port": TCP, "endPort": TCP + 5}]},
            ],
        )
    )
    assert reach(stage.tiefighter, stage.deathstar, [HTTP, TCP], family) == {HTTP: True, TCP: False}
    assert reach(stage.xwing, stage.deathstar, [HTTP, TCP], family) == {HTTP: False, TCP: False}
    assert reach(stage.internet, stage.deathstar, [HTTP, TCP], family) == {HTTP: False, TCP: True}


def test_clusterwide_policy_reaches_into_the_namespace(stage: Stage, family: int) -> None:
    spec = {
        "endpointSelector": {"matchLabels": DEATHSTAR},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"io.kubernetes.pod.namespace": "default", **XWING}}]}],
    }
    stage.enforce(policy("wide", spec, kind="CiliumClusterwideNetworkPolicy", namespace=None))
    assert reach(stage.xwing, stage.deathstar, [HTTP], family) == {HTTP: True}
    assert reach(stage.tiefighter, stage.deathstar, [HTTP], family) == {HTTP: False}


def test_policy_of_another_namespace_is_no_concern_of_this_one(stage: Stage, family: int) -> None:
    spec = {"endpointSelector": {"matchLabels": DEATHSTAR}, "ingress": [{}]}
    stage.enforce(policy("elsewhere", spec, namespace="elsewhere"))
    assert reach(stage.xwing, stage.deathstar, [HTTP], family) == {HTTP: True}


def test_large_datagrams_in_fragments_follow_the_verdict(stage: Stage, family: int) -> None:
    stage.enforce(
        cnp("udp", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints(XWING), "toPorts": ports(UDP, protocol="UDP")}])
    )
    payload = b"x" * 4000
    answer = stage.xwing.udp(stage.deathstar.address(family), UDP, payload)
    assert len(answer["data"]) == len(payload)
    denied = stage.tiefighter.start(
        "udp", 1, host=stage.deathstar.address(family), port=UDP, data="eHh4" * 1500, timeout=DENIED_SECONDS
    )
    with pytest.raises(Failed, match="timeout"):
        denied.result()


def test_a_policy_that_takes_a_permission_away_stops_an_established_connection(stage: Stage, family: int) -> None:
    allow = cnp("rule1", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints({"org": "empire"}, {"org": "alliance"})}])
    stage.enforce(allow)
    connections = [pod.connect(stage.deathstar.url(TCP, family=family), "tcp") for pod in (stage.tiefighter, stage.xwing)]
    assert [connection.exchange(b"before") for connection in connections] == [b"before", b"before"]
    stage.enforce(cnp("rule1", DEATHSTAR, ingress=[{"fromEndpoints": from_endpoints({"org": "empire"})}]))
    assert connections[0].exchange(b"after") == b"after"
    with pytest.raises(Failed):
        connections[1].exchange(b"after", timeout=DENIED_SECONDS)
    for connection in connections:
        connection.close()
